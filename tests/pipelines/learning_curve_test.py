"""Nested training sets without copies, trainings that are done once, and what the curve tells."""

import csv
import dataclasses
import json

import numpy as np
import pytest

from configs import acseg, cellpose3d
from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import Volume
from sxt_jax.io import pair, read_volume, write_volume
from sxt_jax.pipelines import scored_trainings
from sxt_jax.pipelines.evaluation import find_cases
from sxt_jax.pipelines.learning_curve import measure_scores
from sxt_jax.pipelines.learning_curve_fit import (
    average_tomograms,
    check_reached,
    fit_curves,
    join_tables,
    read_scores,
    report,
    save_curves,
)
from sxt_jax.pipelines.scored_trainings import draw_pairs, link_pairs
from tests.launch.processes import write_balls
from tests.metrics.statistics_test import SIZES, TABLE_1


def volume(seed):
    return Volume(np.random.default_rng(seed).integers(0, 9, (3, 4, 5)).astype(np.uint8))


def write_pairs(folder, *, images, labels, n=3):
    for i in range(n):
        write_volume(folder / images.format(i), volume(i))
        write_volume(folder / labels.format(i), volume(100 + i))


@pytest.mark.parametrize(
    ('images', 'labels'),
    [
        ('images/c{}.tif', 'labels/c{}.mrc'),
        ('imagesTr/c{}_0000.nrrd', 'labelsTr/c{}.npy'),
        ('c{}.tif', 'c{}.labels.tif'),
        ('images/c{}.zarr', 'labels/c{}_labels.zarr'),
    ],
)
def test_a_subset_is_found_as_the_whole_is(tmp_path, images, labels):
    write_pairs(tmp_path / 'all', images=images, labels=labels)
    pairs = pair(tmp_path / 'all')
    chosen = [pairs[2], pairs[0]]
    for _ in range(2):  # a second time changes nothing
        link_pairs(chosen, tmp_path / 'some')
    found = {p.name: p for p in pair(tmp_path / 'some')}
    assert set(found) == {p.name for p in chosen}
    for p in chosen:
        for name in ('image', 'labels'):
            linked, original = getattr(found[p.name], name), getattr(p, name)
            assert linked.resolve() == original.resolve()
            np.testing.assert_array_equal(read_volume(linked).data, read_volume(original).data)
    (tmp_path / 'some' / 'images').mkdir(exist_ok=True)
    (tmp_path / 'some' / 'images' / 'other.tif').touch()
    (tmp_path / 'some' / 'other.tif').touch()
    with pytest.raises(InputError, match='holds other files'):
        link_pairs(chosen, tmp_path / 'some')


def test_pairs_of_one_name_are_told_apart_by_marks(tmp_path):
    for folder, n in (('a', 2), ('b', 1)):
        write_pairs(tmp_path / folder, images='x{}.tif', labels='x{}.labels.tif', n=n)
    write_volume(tmp_path / 'c' / 'imagesTr' / 'x0_0000.nrrd', volume(7))
    write_volume(tmp_path / 'c' / 'labelsTr' / 'x0.npy', volume(8))
    pairs = [p for folder in 'abc' for p in pair(tmp_path / folder)]
    link_pairs(pairs, tmp_path / 'some', marks=['a_', 'a_', 'b_', 'c_'])
    found = pair(tmp_path / 'some')
    assert [p.name for p in found] == ['a_x0', 'a_x1', 'b_x0', 'c_x0']
    for p, original in zip(found, pairs, strict=True):
        assert p.image.resolve() == original.image.resolve()
        assert p.labels.resolve() == original.labels.resolve()


def test_files_that_hold_image_and_labels_are_linked_once(tmp_path):
    h5py = pytest.importorskip('h5py')
    for i in range(3):
        (tmp_path / 'all').mkdir(exist_ok=True)
        with h5py.File(tmp_path / 'all' / f'c{i}.h5', 'w') as file:
            file['raw'], file['truth'] = volume(i).data, volume(100 + i).data
    pairs = pair(tmp_path / 'all', label_dataset='truth')
    link_pairs(pairs[:2], tmp_path / 'some')
    found = pair(tmp_path / 'some', label_dataset='truth')
    assert [p.name for p in found] == ['c0', 'c1']
    np.testing.assert_array_equal(read_volume(found[1].labels).data, volume(101).data)


def test_larger_sets_contain_the_smaller_ones():
    pairs = list('abcdefgh')
    for repeat in range(3):
        sets = [draw_pairs(pairs, n, seed=5, repeat=repeat) for n in (1, 3, 8)]
        assert sets[2][:3] == sets[1]
        assert sets[1][:1] == sets[0]
        assert sorted(sets[2]) == pairs
    orders = {tuple(draw_pairs(pairs, 8, seed=s, repeat=r)) for s in (0, 1) for r in (0, 1)}
    assert len(orders) == 4


@pytest.fixture(name='data')
def _data(tmp_path):
    write_balls(tmp_path / 'train', n=4)
    write_balls(tmp_path / 'others', n=6)
    for folder in ('images', 'labels'):
        (tmp_path / 'test' / folder).mkdir(parents=True)
        for i in (4, 5):
            name = f'{folder}/ball_{i}.tif'
            (tmp_path / 'others' / name).rename(tmp_path / 'test' / name)
    config = acseg.get_config('smoke')
    config.data.train = str(tmp_path / 'train')
    return config, tmp_path


@pytest.fixture(name='trained')
def _trained(monkeypatch):
    """In the place of networks: predictions that lack a share of 1 / (2 n) of the truth."""
    trained = []

    def train(config, workdir):
        trained.append((sorted(p.name for p in pair(config.data.train)), config.seed))
        workdir.mkdir(parents=True)

    def predict(checkpoint, truth, image, output, **datasets):
        n = len(pair(checkpoint.parent / 'train'))
        cases = find_cases(truth)
        for case in cases:
            labels = read_volume(case.truth)
            places = np.flatnonzero(labels.data)
            labels.data.flat[places[: round(len(places) / (2 * n))]] = 0
            write_volume(output / case.truth.name, labels)
        found = [dataclasses.replace(c, prediction=output / c.truth.name) for c in cases]
        return found, None

    monkeypatch.setattr(scored_trainings, 'train_network', train)
    monkeypatch.setattr(scored_trainings, 'predict_with_checkpoint', predict)
    return trained


def test_every_size_is_trained_once_and_more_may_follow(data, trained):
    config, folder = data
    table = measure_scores(config, folder / 'test', folder / 'out', sizes=[3, 1])
    names = [f'ball_{i}' for i in range(4)]
    assert [len(found) for found, _ in trained] == [1, 3]
    assert set(trained[0][0]) < set(trained[1][0]) < set(names)
    missing = 1 / (2 * table['n_tomograms'])
    np.testing.assert_allclose(table['dice'], (2 - 2 * missing) / (2 - missing), atol=2e-3)
    assert table['name'].tolist() == ['ball_4', 'ball_5'] * 2
    assert set(table['class']) == {'class 1'}
    # Interrupted before its last score was written, then asked for more.
    (folder / 'out' / '003_tomograms_repeat_0' / 'scores.csv').unlink()
    (folder / 'out' / '003_tomograms_repeat_0' / 'training').rmdir()
    more = measure_scores(config, folder / 'test', folder / 'out', sizes=[1, 3, 4], repeats=2)
    assert [len(found) for found, _ in trained[2:]] == [3, 4, 1, 3, 4]
    assert trained[2] == trained[1]
    assert [seed for _, seed in trained[2:]] == [0, 0, 1, 1, 1]
    assert [len(values) for values in more.values()] == [12] * len(more)
    again = read_scores(folder / 'out' / 'scores.csv')
    for name, values in more.items():
        np.testing.assert_array_equal(again[name], values)
    last = (folder / 'out' / 'scores.csv').read_text().splitlines()[-1]
    assert last.startswith('network,class 1,4,1,ball_5,0.')
    points = average_tomograms(more)
    assert points['n_tomograms'].tolist() == [1, 3, 4] * 2
    assert points['dice'][0] == pytest.approx(more['dice'][:2].mean())
    assert config.data.train == str(folder / 'train')  # the caller's config is as it was
    note = folder / 'out' / 'experiment.json'
    known = json.loads(note.read_text())
    del known['config']['data']['folds']  # a field that there was not yet
    note.write_text(json.dumps(known))
    measure_scores(config, folder / 'test', folder / 'out', sizes=[1, 3])
    assert len(trained) == 7
    config.epochs += 1
    with pytest.raises(InputError, match='another --output'):
        measure_scores(config, folder / 'test', folder / 'out', sizes=[1, 3])


def test_classes_are_those_of_all_tomograms(data, trained):
    config, folder = data
    rare = read_volume(folder / 'train' / 'labels' / 'ball_3.tif')
    rare.data[0, 0, 0] = 7
    write_volume(folder / 'train' / 'labels' / 'ball_3.tif', rare)
    seen = []
    train = scored_trainings.train_network
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            scored_trainings,
            'train_network',
            lambda config, workdir: (seen.append(config.data.classes), train(config, workdir)),
        )
        measure_scores(config, folder / 'test', folder / 'out', sizes=[1, 2])
    assert seen == ['background=0, class 1=1, class 7=7'] * 2
    note = json.loads((folder / 'out' / 'experiment.json').read_text())
    assert note['config']['data']['train'] == [f'ball_{i}' for i in range(4)]


def test_what_makes_no_curve_is_told_before_any_training(data, trained):
    config, folder = data

    def told(what, test='test', **options):
        with pytest.raises(InputError, match=what):
            measure_scores(config, folder / test, folder / 'out', **options)

    told('sizes: 2, 2; expected two or more', sizes=[2, 2])
    told('sizes: none', sizes=[])
    told('sizes: 0, 2', sizes=[0, 2])
    told('sizes: 5; expected at most the 4 pairs', sizes=[2, 5])
    told('repeats: 0', sizes=[1, 2], repeats=0)
    told('is a training tomogram too', test='train', sizes=[1, 2])
    told('does not exist', test='nowhere', sizes=[1, 2])
    config.data.folds = 3
    told('folds: 3, with a smallest training of 2', sizes=[2, 4])
    config.data.folds, config.data.validation = 0, str(folder / 'test')
    told('validation: .*expected none', sizes=[1, 2])
    config.data.validation, config.data.task = '', 'ball=ball'
    told('task: .*expected config.data.classes: trainings see links', sizes=[1, 2])
    config = cellpose3d.get_config()
    config.data.train = str(folder / 'train')
    told('config of classes', sizes=[1, 2])
    assert not trained
    assert not (folder / 'out').exists()


def write_table_1(path, *, sd=True):
    lines = ['method,n_tomograms,dice' + (',sd' if sd else '')]
    for method, (dice, spread) in TABLE_1.items():
        for row in zip(SIZES, np.array(dice) / 100, np.array(spread) / 100, strict=True):
            lines.append(','.join([method, *(f'{v:.4f}' for v in row[: 2 + sd])]))
    path.write_text('\n'.join(lines) + '\n', encoding='utf-8-sig')  # as spreadsheets do


def test_the_published_table_tells_the_published_number(tmp_path):
    write_table_1(tmp_path / 't.csv')
    points = average_tomograms(read_scores(tmp_path / 't.csv'))
    fits = fit_curves(points, targets=[0.9, 0.98])
    assert fits['method'].tolist() == ['smart', 'smart', 'manual', 'manual']
    assert int(fits['n_needed'][3]) == 95
    assert (fits['low'] <= fits['n_needed']).all()
    assert (fits['n_needed'] <= fits['high']).all()
    text = report(points, fits)
    assert ['manual', 'all', '0.98', '95.6'] in [line.split()[:4] for line in text.splitlines()]
    assert 'note: 95.6 tomograms for all (manual) are more than the 43 measured' in text
    assert '0.9387' in text
    table, figure = save_curves(points, fits, tmp_path / 'out')
    assert figure.stat().st_size > 5000
    with table.open(newline='', encoding='utf-8') as file:
        rows = list(csv.DictReader(file))
    assert float(rows[3]['n_needed']) == fits['n_needed'][3]
    write_table_1(tmp_path / 't.csv', sd=False)
    plain = fit_curves(read_scores(tmp_path / 't.csv'), targets=[0.98])
    assert plain['n_needed'][1] == pytest.approx(90.6, abs=0.05)


def test_curves_that_do_not_get_there_are_told(tmp_path):
    points = {
        'method': np.array(['m'] * 6),
        'class': np.array(['cell'] * 3 + ['bead'] * 3),
        'n_tomograms': np.array([2.0, 4, 8] * 2),
        'dice': np.array([0.5, 0.7, 0.9, 0.6, 0.5, 0.4]),
    }
    fits = fit_curves(points, targets=[0.95])
    assert np.isfinite(fits['n_needed']).tolist() == [True, False]
    assert '∞' in report(points, fits)
    save_curves(points, fits, tmp_path)
    check_reached(fits)
    falling = {name: values[3:] for name, values in points.items()}
    fits = fit_curves(falling, targets=[0.95, 0.97])
    save_curves(falling, fits, tmp_path)
    with pytest.raises(InputError, match=r'Dice 0\.95, 0\.97, which no curve reaches'):
        check_reached(fits)
    assert np.isinf(fit_curves(falling, targets=[0.65])['n_needed']).all()  # but at 0 by the curve
    assert fit_curves(falling, targets=[0.35])['n_needed'] == 0
    short = {name: values[:2] for name, values in points.items()}
    fits = fit_curves(short, targets=[0.95])
    assert np.isnan(fits['low']).all()
    assert '–' in report(short, fits)


def test_scores_that_are_missing_or_of_several_tables():
    first = {'method': np.array(['a', 'a']), 'dice': np.array([0.5, np.nan]), 'x': np.arange(2)}
    second = {'method': np.array(['b']), 'dice': np.array([0.7])}
    joined = join_tables([first, second])
    assert list(joined) == ['method', 'dice']
    assert average_tomograms(joined)['method'].tolist() == ['a', 'b']


@pytest.mark.parametrize(
    ('text', 'told'),
    [
        ('n,dice\n1,0.5\n', 'no column n_tomograms among'),
        ('', 'no column n_tomograms and dice'),
        ('n_tomograms,dice\n', 'no rows'),
        ('n_tomograms,dice\n1,abc\n', "line 2: dice 'abc'; expected a number"),
        ('n_tomograms,dice\n1,0.5\n-1,0.5\n', "line 3: n_tomograms '-1'"),
        ('n_tomograms,dice\n1,0.5\n,0.5\n', "line 3: n_tomograms ''"),
    ],
)
def test_tables_that_cannot_be_read(tmp_path, text, told):
    (tmp_path / 't.csv').write_text(text)
    with pytest.raises(InputError, match=told):
        read_scores(tmp_path / 't.csv')


@pytest.mark.parametrize(
    ('text', 'targets', 'told'),
    [
        ('n_tomograms,dice\n5,90.0\n10,94.0\n', [0.95], 'Dice in 0 … 1'),
        ('n_tomograms,dice\n5,0.9\n5,0.94\n', [0.95], 'Dice of 5 tomograms only'),
        ('n_tomograms,dice\n5,0.9\n10,0.94\n', [1.0], 'target: 1; expected Dice between'),
        ('n_tomograms,dice\n5,0.9\n10,0.94\n', [95], 'target: 95'),
        ('n_tomograms,dice\n5,0.9\n10,0.94\n', [], 'target: none'),
    ],
)
def test_scores_that_make_no_curve(tmp_path, text, targets, told):
    (tmp_path / 't.csv').write_text(text)
    with pytest.raises(InputError, match=told):
        fit_curves(average_tomograms(read_scores(tmp_path / 't.csv')), targets=targets)
    with pytest.raises(InputError, match='is no file'):
        read_scores(tmp_path / 'nowhere.csv')
