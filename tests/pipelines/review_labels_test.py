"""Review of predictions: which slices, which outcomes, and what is refused."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import Volume
from sxt_jax.io import write_volume
from sxt_jax.pipelines.labelled_objects import Choice
from sxt_jax.pipelines.review_labels import (
    Options,
    choose_slices,
    count_outcomes,
    review_files,
    split_outcomes,
)

SIZE = (20.0, 10.0, 10.0)
SHAPE = (9, 20, 30)


def _stacks() -> tuple[np.ndarray, np.ndarray]:
    """Prediction and corrected labels: 6 TP, 2 FN, 1 FP, 1 predicted artefact in slices 2 to 6."""
    prediction, corrected = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    slices = slice(2, 7)
    prediction[slices, 5, 5:11], corrected[slices, 5, 5:13] = 1, 1
    prediction[slices, 10, 20] = 1
    prediction[slices, 15, 25], corrected[slices, 15, 25:28] = 1, 4
    prediction[8, :, 3] = 1  # not corrected
    return prediction, corrected


@pytest.fixture(name='paths', scope='module')
def _paths(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    folder = tmp_path_factory.mktemp('review')
    prediction, corrected = _stacks()
    image = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    paths = folder / 'prediction.h5', folder / 'corrected.h5', folder / 'image.h5'
    for path, data in zip(paths, (prediction, corrected, image), strict=True):
        write_volume(path, Volume(data, SIZE))
    return paths


def _rows(path: Path) -> list[dict[str, str]]:
    with open(path, encoding='utf-8') as file:
        return list(csv.DictReader(file))


def test_percentages_of_all_labelled_pixels(paths: tuple, tmp_path: Path) -> None:
    options = Options(n_slices=3, artefact_value=4)
    made = review_files(*paths, tmp_path / 'sheet.png', options=options)
    rows = _rows(made.files['slices'])
    assert len(rows) == 3
    assert {int(row['z']) for row in rows} <= {2, 3, 4, 5, 6}
    for row in rows:
        assert [row[f'{name}_pixels'] for name in made.summary['outcome']] == ['6', '2', '1', '1']
        assert row['labelled_pixels'] == '10'
    summary = {row['outcome']: row for row in _rows(made.files['summary'])}
    assert float(summary['true_positive']['mean']) == pytest.approx(60)
    assert float(summary['artefact']['mean']) == pytest.approx(10)
    assert float(summary['false_negative']['sd']) == 0
    assert made.files['sheet'].read_bytes()[:4] == b'\x89PNG'


def test_tidied_predictions_and_marks_as_a_class(paths: tuple, tmp_path: Path) -> None:
    """Single voxels of one column are objects of five voxels; the border goes from both stacks."""
    cases = (
        (Choice(class_='1', min_size=6), {'true_positive': 6, 'false_positive': 0}),
        (Choice(class_='1', erode=1.0), {'true_positive': 0, 'false_negative': 8}),
        (Choice(class_='1', crop_border=6), {'true_positive': 0}),
    )
    for choice, expected in cases[:2]:
        options = Options(n_slices=1, choice=choice)
        made = review_files(*paths, tmp_path / 'sheet.png', options=options)
        for name, count in expected.items():
            assert made.slices[f'{name}_pixels'].tolist() == [count], choice
    with pytest.raises(InputError, match='smaller --crop_border'):
        review_files(*paths, tmp_path / 'x.png', options=Options(choice=cases[2][0]))
    options = Options(n_slices=9, choice=Choice(class_='1', crop_border=3))
    made = review_files(*paths, tmp_path / 'sheet.png', options=options)
    assert made.slices['z'].tolist() == [3, 4, 5]


def test_slices_are_spread_and_depend_on_the_seed() -> None:
    usable = np.zeros(300, bool)
    usable[50:250] = True
    chosen = choose_slices(usable, 20, seed=1)
    assert usable[chosen].all()
    assert ((chosen - 50) // 10).tolist() == list(range(20))
    np.testing.assert_array_equal(chosen, choose_slices(usable, 20, seed=1))
    assert (chosen != choose_slices(usable, 20, seed=2)).any()
    assert choose_slices(usable[:53], 20).tolist() == [50, 51, 52]


def test_outcomes_part_the_labelled_pixels() -> None:
    rng = np.random.default_rng(0)
    prediction, label = rng.random((40, 40)) < 0.4, rng.integers(0, 3, (40, 40))
    outcomes = split_outcomes(prediction, label == 1, label == 2)
    total = np.sum(list(outcomes.values()), axis=0)
    np.testing.assert_array_equal(total, (prediction | (label == 1)).astype(int))
    row = count_outcomes(outcomes)
    assert sum(v for k, v in row.items() if k.endswith('_percent')) == pytest.approx(100)
    assert row['artefact_pixels'] == np.count_nonzero(prediction & (label == 2))
    nothing = np.zeros((2, 2), bool)
    assert np.isnan(count_outcomes(split_outcomes(nothing, nothing, None))['artefact_percent'])


def test_what_is_wrong_is_told_and_nothing_written(paths: tuple, tmp_path: Path) -> None:
    prediction, corrected, image = paths
    write_volume(tmp_path / 'small.h5', Volume(np.ones((3, 4, 5), np.uint8), SIZE))
    write_volume(tmp_path / 'empty.h5', Volume(np.zeros(SHAPE, np.uint8), SIZE))
    before = sorted(tmp_path.rglob('*'))
    small, empty = tmp_path / 'small.h5', tmp_path / 'empty.h5'
    marked = Options(artefact_value=4)
    cases = (
        ((prediction, corrected, small), 'a.png', marked, 'small.h5: shape'),
        ((small, corrected, image), 'a.png', marked, 'small.h5: shape'),
        ((empty, corrected, image), 'a.png', marked, 'all are 0'),
        ((prediction, empty, image), 'a.png', Options(), 'all are 0'),
        ((prediction, corrected, image), 'a.png', Options(), 'artefacts as --artefact_value'),
        ((prediction, corrected, image), 'a.png', Options(artefact_value=7), 'artefact_value=7'),
        ((prediction, corrected, image), 'a.png', Options(artefact_value=0), '--artefact_value: 0'),
        ((prediction, corrected, image), 'a.png', Options(n_slices=0), '--n_slices: 0'),
        ((prediction, corrected, image), 'a.csv', marked, 'a name ending in'),
        ((prediction, corrected, tmp_path / 'none.h5'), 'a.png', marked, 'none.h5'),
    )
    for sources, name, options, told in cases:
        with pytest.raises(InputError, match=told):
            review_files(*sources, tmp_path / name, options=options)
    assert sorted(tmp_path.rglob('*')) == before
