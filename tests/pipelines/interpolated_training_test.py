"""From labelled slices to a curve: interpolated labels teach no less than the slices alone."""

import numpy as np
import pytest

from benchmarks import interpolated_training
from benchmarks.interpolated_training import UNLABELLED, Experiment
from sxt_jax.io import pair, read_volume
from sxt_jax.pipelines.learning_curve_fit import fit_curves

SIDE, EVERY = 48, 16
NETWORK = {
    'model.filters': (8, 16),
    'model.pool_sizes': ((2, 2, 2),),
    'model.norm_momentum': 0.8,
    'batch_size': 2,
    'epochs': 12,
    'checkpoint.evaluate_every': 12,
    'data.steps_per_epoch': 0,  # as published: an epoch of more tomograms is longer
    'optimizer.learning_rate': 5e-3,
}


@pytest.fixture(scope='module')
def result(tmp_path_factory):
    shape = {'every': EVERY, 'side': SIDE, 'seed': 200, 'n_test': 1}
    experiment = Experiment(sizes=(1, 2), repeats=1, fields=NETWORK, **shape)
    folder = tmp_path_factory.mktemp('experiment')
    methods = ('sparse', 'interpolated')
    return *interpolated_training.run(experiment, folder, methods=methods), folder / 'data'


def dice_of(points, method):
    chosen = (points['method'] == method) & (points['class'] == 'cytoplasm')
    return dict(zip(points['n_tomograms'][chosen], points['dice'][chosen], strict=True))


@pytest.mark.slow
def test_interpolated_labels_teach_no_less_than_sparse_ones(result):
    points, records, _ = result
    sparse, interpolated = (dice_of(points, method) for method in ('sparse', 'interpolated'))
    assert set(sparse) == set(interpolated) == {1, 2}
    for n in sparse:
        assert interpolated[n] >= sparse[n] - 0.01
    (first, *_) = [r for r in records if (r['method'], r['class']) == ('interpolated', 'cytoplasm')]
    assert first['label_dice'] > 0.95
    assert interpolated[2] > 0.9


@pytest.mark.slow
def test_the_curve_tells_how_many_tomograms_are_needed(result):
    points, *_ = result
    of_class = points['class'] == 'cytoplasm'
    measured = {name: values[of_class] for name, values in points.items()}
    found = dice_of(points, 'interpolated')
    between = (found[1] + found[2]) / 2
    fits = fit_curves(measured, targets=[found[1], between, found[2]])
    needed = fits['n_needed'][fits['method'] == 'interpolated']
    assert needed[[0, 2]] == pytest.approx([1, 2], abs=1e-3)
    assert 1 < needed[1] < 2


@pytest.mark.slow
def test_labels_of_each_method(result):
    """Slices labelled by hand are the same in all; elsewhere nothing, a guess, or the truth."""
    *_, data = result
    given = np.zeros(SIDE, bool)
    for p in pair(data / 'images', data / 'dense'):
        labels = {
            method: read_volume(data / method / p.labels.name).data
            for method in interpolated_training.METHODS
        }
        here = (labels['sparse'] != UNLABELLED).all((1, 2))
        assert np.diff(np.flatnonzero(here)).tolist() == [EVERY] * (SIDE // EVERY - 1)
        assert (labels['sparse'][~here] == UNLABELLED).all()
        for made in labels.values():
            np.testing.assert_array_equal(made[here], labels['dense'][here])
        assert not np.array_equal(labels['interpolated'], labels['dense'])
        given |= here
    assert given.sum() > SIDE // EVERY  # they are others in each tomogram


def record(method, n, mean, **more):
    found = {'method': method, 'class': 'cell', 'n_tomograms': n, 'every': 8, 'mean_dice': mean}
    return {'benchmark': 'interpolated_training', 'sd_dice': 0.01, 'smoke': False, **found, **more}


def test_the_table_has_a_row_for_each_number_of_tomograms():
    records = [
        record('sparse', 2, 0.5),
        record('sparse', 2, 0.8),  # newer
        record('interpolated', 2, 0.9, sd_dice=None),
        record('dense', 4, 0.95),
        record('sparse', 9, 0.1, smoke=True),
    ]
    heads, *rows = interpolated_training.table_rows(records)
    assert heads == ('labelled slices', 'class', 'tomograms', 'sparse', 'interpolated', 'dense')
    assert rows == [
        ('every 8th', 'cell', '2', '0.800 ± 0.010', '0.900', ''),
        ('every 8th', 'cell', '4', '', '', '0.950 ± 0.010'),
    ]


def test_the_smallest_gain_is_of_means_over_repeats():
    points = {
        'method': np.array(['sparse'] * 3 + ['interpolated'] * 3),
        'class': np.array(['cell'] * 6),
        'n_tomograms': np.array([1, 1, 2] * 2),
        'dice': np.array([0.5, 0.7, 0.8, 0.9, 0.5, 0.95]),
    }
    assert interpolated_training.smallest_gain(points) == pytest.approx(0.1)
