"""Evaluation of ids of cells: numbers known by hand, notes, refusals, and the script."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import Volume
from sxt_jax.data.targets import CELLS
from sxt_jax.io import write_volume
from sxt_jax.pipelines import evaluate_instances_report, segment_volume
from sxt_jax.pipelines.evaluate_instances import evaluate_instances
from sxt_jax.pipelines.evaluate_instances_report import report, save_evaluation
from sxt_jax.pipelines.evaluation import Case, find_cases
from sxt_jax.pipelines.evaluation_request import Request, evaluate
from tests.launch.processes import call, run

SIZE = (50.0, 40.0, 20.0)  # of a voxel: 4e-5 µm³


def write(path: Path, data: np.ndarray, size=SIZE, **facts) -> Path:
    path.parent.mkdir(exist_ok=True)
    write_volume(path, Volume(data, size, **facts))
    return path


def truth() -> np.ndarray:
    """Three cells of 24 voxels."""
    ids = np.zeros((2, 6, 12), np.uint32)
    ids[:, :, :2], ids[:, :, 4:6], ids[:, :, 8:10] = 7, 70_000, 9
    return ids


def prediction() -> np.ndarray:
    """The first cell, half of the second, not the third, and one that is none."""
    ids = np.zeros((2, 6, 12), np.uint32)
    ids[:, :, :2], ids[:, :3, 4:6], ids[:, :, 11] = 3, 4, 5
    return ids


@pytest.fixture(name='folder')
def _folder(tmp_path: Path) -> Path:
    """Two volumes: one as above, one in which all is right."""
    write(tmp_path / 'truth' / 'a.labels.tif', truth())
    write(tmp_path / 'truth' / 'b.tif', truth()[::-1])
    write(tmp_path / 'found' / 'a.tif', prediction())
    write(tmp_path / 'found' / 'b.nrrd', 2 * truth()[::-1])
    write(tmp_path / 'other' / 'a.tif', np.minimum(truth(), 1).astype(np.uint8))
    write(tmp_path / 'other' / 'b.tif', prediction())
    return tmp_path


def score(folder: Path, *names: str, **options):
    methods = {
        name: find_cases(folder / 'truth', prediction=folder / name) for name in names or ['found']
    }
    return evaluate_instances(methods, **options)


def test_scores_of_a_volume_are_those_counted_by_hand(folder: Path) -> None:
    scores = score(folder).scores
    first = {name: values[0] for name, values in scores.items()}
    assert (first['name'], first['method']) == ('a', 'found')
    assert (first['n_true'], first['n_predicted']) == (3, 3)
    assert first['dice'] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert first['dice_sd'] == pytest.approx(np.std([1, 2 / 3, 0], ddof=1))
    assert first['ap50'] == 2 / 4  # two right, one wrong, one missed
    assert [first[f'ap{i}'] for i in range(55, 100, 5)] == [1 / 5] * 9
    assert first['ap'] == pytest.approx((2 / 4 + 9 / 5) / 10)
    assert (first['pq'], first['sq'], first['rq']) == pytest.approx((1 / 3, 1, 1 / 3))
    # Half of the second cell is split off: a bit for a third of the voxels. What is missed of the
    # second and the third, 12 and 24 voxels, is joined.
    assert first['voi_split_bits'] == pytest.approx(1 / 3)
    joined = -(np.log2(1 / 3) / 3 + np.log2(2 / 3) * 2 / 3)
    assert first['voi_merge_bits'] == pytest.approx(joined / 2)
    pairs = 24**2 + 12**2 + 36
    assert first['adapted_rand_error'] == pytest.approx(1 - 2 * pairs / (pairs + 3 * 24**2))
    second = {name: values[1] for name, values in scores.items()}
    assert [second[name] for name in ('dice', 'ap', 'pq', 'rq', 'sq')] == [1] * 5
    assert second['voi_split_bits'] == second['voi_merge_bits'] == 0
    assert second['adapted_rand_error'] == 0


def test_every_cell_has_a_row_and_every_method_a_summary(folder: Path) -> None:
    result = score(folder, 'found', 'other')
    cells = {name: values[:3].tolist() for name, values in result.cells.items()}
    assert cells.pop('volume_um3') == pytest.approx([24 * 4e-5] * 3)
    assert cells.pop('dice') == pytest.approx([1, 0, 2 / 3])
    assert cells.pop('iou') == pytest.approx([1, 0, 1 / 2])
    assert cells == {
        'name': ['a'] * 3, 'method': ['found'] * 3, 'true_id': [7, 9, 70_000],
        'predicted_id': [3, 0, 4], 'voxels': [24] * 3,
    }  # fmt: skip
    assert len(result.cells['dice']) == 12

    def summary(method: str, measure: str) -> list[float]:
        table = result.summary
        (row,) = np.flatnonzero((table['method'] == method) & (table['measure'] == measure))
        return [table[name][row] for name in ('n', 'mean', 'sd')]

    means = np.array([5 / 9, 1])
    assert summary('found', 'dice') == pytest.approx([2, means.mean(), means.std(ddof=1)])
    dice = np.array([1, 0, 2 / 3, 1, 1, 1])
    assert summary('found', 'dice_per_cell') == pytest.approx([6, dice.mean(), dice.std(ddof=1)])
    assert summary('other', 'n_predicted')[:2] == [2, 2]
    assert summary('other', 'dice_per_cell')[1] < dice.mean()


def test_what_is_printed_and_saved(folder: Path) -> None:
    result = score(folder, 'found', 'other')
    text = report(result)
    assert 'found, all 6 true cells: Dice 0.778 ± 0.404, median 1.000, 1 not found at all' in text
    assert [line.split()[:4] for line in text.splitlines()[1:3]] == [
        ['a', 'found', '3', '3'], ['b', 'found', '3', '3'],
    ]  # fmt: skip
    files = save_evaluation(result, folder / 'out')
    assert sorted(path.name for path in files) == sorted(p.name for p in (folder / 'out').iterdir())
    with (folder / 'out' / 'cells.csv').open(encoding='utf-8') as file:
        assert [row['true_id'] for row in csv.DictReader(file)] == ['7', '9', '70000'] * 4
    saved = json.loads((folder / 'out' / 'scores.json').read_text(encoding='utf-8'))
    assert saved['scores'][0]['ap50'] == 0.5
    assert len(saved['notes']) == len(result.notes)


def test_box_plots_are_by_volume_or_by_method(folder: Path, monkeypatch) -> None:
    drawn = []
    boxes = 'sxt_jax.pipelines.evaluate_instances_report.cell_score_boxes'
    monkeypatch.setattr(boxes, drawn.append)
    monkeypatch.setattr('sxt_jax.pipelines.evaluate_instances_report.save_figure', lambda *_: None)
    save_evaluation(score(folder), folder / 'one')
    save_evaluation(score(folder, 'found', 'other'), folder / 'two')
    assert [{name: len(dice) for name, dice in boxes.items()} for boxes in drawn] == [
        {'a': 3, 'b': 3}, {'found': 6, 'other': 6},
    ]  # fmt: skip


@pytest.mark.parametrize('ignored', [255, -1])
def test_ignored_voxels_are_no_cells_and_hide_the_prediction(folder: Path, ignored: int) -> None:
    true = truth().astype(np.int32)
    true[:, :, 8:] = ignored  # where the third cell is, and the one that is none
    paths = write(folder / 'c.nrrd', true), folder / 'found' / 'a.tif'
    result = evaluate_instances({'m': [Case('c', *paths)]}, ignore_label=ignored)
    assert (result.scores['n_true'], result.scores['n_predicted']) == ([2], [2])
    assert result.cells['dice'] == pytest.approx([1, 2 / 3])


def test_volumes_are_read_in_parts(folder: Path, monkeypatch) -> None:
    whole = score(folder, ignore_label=9)
    monkeypatch.setattr('sxt_jax.metrics.contingency._SLAB_VOXELS', 72)
    monkeypatch.setattr(Volume, 'load', None)
    parts = score(folder, ignore_label=9)
    for tables in (whole.scores, parts.scores), (whole.cells, parts.cells):
        for name in tables[0]:
            np.testing.assert_array_equal(tables[0][name], tables[1][name])


def test_ids_may_be_stored_as_floats(folder: Path) -> None:
    write(folder / 'truth' / 'a.labels.tif', truth().astype(np.float32))
    write(folder / 'found' / 'a.tif', prediction().astype(np.float64))
    assert score(folder).scores['ap50'].tolist() == [0.5, 1]


def test_notes_tell_what_looks_odd(folder: Path) -> None:
    assert score(folder).notes == ()
    classes = write(folder / 'x.tif', truth(), class_names={0: 'none', 7: 'nucleus'})
    few = write(folder / 'y.npy', np.minimum(prediction(), 1), size=None)
    both = evaluate_instances({'m': [Case('x', classes, few)], 'n': [Case('x', classes, few)]})
    names, one = both.notes
    assert 'x.tif: its labels have names (none, nucleus), as classes have' in names
    assert 'y.npy: 1 label only, as classes have' in one
    no_size = evaluate_instances({'m': [Case('y', few, few)]})
    assert any('no voxel size' in note for note in no_size.notes)
    assert np.isnan(no_size.cells['volume_um3']).all()
    given = evaluate_instances({'m': [Case('y', few, few)]}, voxel_size_nm=SIZE)
    assert given.cells['volume_um3'] == pytest.approx([48 * 4e-5])


@pytest.mark.parametrize(
    ('true', 'found', 'told'),
    [
        (truth()[:1], prediction(), r'found\.tif: shape \(2, 6, 12\); expected \(1, 6, 12\)'),
        (truth() * 0, prediction(), r'true\.tif: no voxel with a label'),
        (truth() + 0.5, prediction(), r'true\.tif: labels that are not whole numbers'),
        (truth(), prediction() + np.float32(np.nan), r'found\.tif: labels that are not whole'),
        (truth(), prediction().astype(np.int32) - 2, r'found\.tif: label -2; expected ids'),
        (truth(), np.zeros((2, 6, 12, 2), np.uint8), r'found\.tif: 2 channels'),
    ],
)
def test_what_cannot_be_compared_is_told_in_one_line(tmp_path, true, found, told) -> None:
    paths = [tmp_path / 'true.tif', tmp_path / 'found.tif']
    for path, data in zip(paths, (true, found), strict=True):
        write_volume(path, Volume(data, SIZE, axes='zyxc'[: data.ndim]))
    with pytest.raises(InputError, match=told):
        evaluate_instances({'m': [Case('c', *paths)]})


def test_an_empty_prediction_scores_zero(folder: Path) -> None:
    write(folder / 'found' / 'a.tif', 0 * prediction())
    scores = score(folder).scores
    assert [scores[name][0] for name in ('dice', 'ap50', 'ap', 'pq', 'rq')] == [0] * 5
    assert np.isnan(scores['sq'][0])
    assert '–' in report(score(folder))


@pytest.mark.parametrize(
    ('flags', 'told'),
    [
        ({}, 'no --truth'),
        ({'truth': 'T'}, 'nothing to score'),
        ({'truth': 'T', 'checkpoint': 'W'}, '--output with it'),
        ({'truth': 'T', 'prediction': 'P', 'baselines': ['otsu'], 'instances': True}, 'baselines'),
        ({'truth': 'T', 'prediction': 'P', 'classes': 'a=1', 'instances': True}, '--classes'),
        ({'truth': 'T', 'prediction': 'P', 'cell_radius': 3.0, 'instances': True}, 'cell_radius'),
        ({'truth': 'T', 'prediction': 'P,Q/../P,P', 'instances': True}, 'each file or folder once'),
    ],
)
def test_what_makes_no_sense_is_told_before_work_begins(flags, told) -> None:
    with pytest.raises(InputError, match=told):
        evaluate(Request(**flags), tell=print)


def test_cells_are_segmented_first_with_a_checkpoint(folder: Path, monkeypatch) -> None:
    """The network is replaced by a file; segmenting itself has tests of its own."""
    asked = []

    def load(checkpoint: str, *, instances: bool, mirror: str) -> SimpleNamespace:
        assert not mirror
        asked.append((checkpoint, instances))
        return SimpleNamespace(classes=CELLS)

    def segment(segmenter, source: Path, target: Path, *, options) -> None:
        asked.append((options.instances, options.cell_radius))
        write(target, prediction())

    monkeypatch.setattr(segment_volume, 'load_segmenter', load)
    monkeypatch.setattr(segment_volume, 'segment_file', segment)
    write(folder / 'images' / 'a.mrc', np.eye(12, dtype=np.float32)[None, :6].repeat(2, 0))
    flags = {
        'truth': str(folder / 'truth' / 'a.labels.tif'), 'image': str(folder / 'images' / 'a.mrc'),
        'output': str(folder / 'out'), 'checkpoint': 'W', 'instances': True,
    }  # fmt: skip
    with pytest.raises(InputError, match='cell_radius: not given'):
        evaluate(Request(**flags), tell=print)
    told: list[str] = []
    files = evaluate(Request(**flags, cell_radius=4.0), tell=told.append)
    assert asked == [('W', True), (True, 4.0)]
    assert 'Dice 0.556' in told[0]
    assert {path.name for path in files} | {'a.mrc'} == {
        path.name for path in (folder / 'out').iterdir()
    }


def test_scores_are_told_even_if_they_cannot_be_saved(folder: Path, monkeypatch) -> None:
    def full(*_) -> None:
        raise InputError('scores.csv', 'no space left', 'room')

    monkeypatch.setattr(evaluate_instances_report, 'write_table', full)
    told: list[str] = []
    flags = {'truth': str(folder / 'truth'), 'prediction': str(folder / 'found')}
    with pytest.raises(InputError, match='no space left'):
        evaluate(Request(**flags, output=str(folder / 'out'), instances=True), tell=told.append)
    assert 'Dice' in told[0]


@pytest.mark.process
def test_the_script_compares_methods_and_tells_bad_input_in_one_line(folder: Path) -> None:
    predictions = f'--prediction={folder / "found"},{folder / "other"}'
    flags = '--instances', f'--truth={folder / "truth"}', f'--output={folder / "out"}'
    printed = run('evaluate', *flags, predictions)
    assert 'found, all 6 true cells: Dice 0.778' in printed
    assert 'note: ' in printed
    assert (folder / 'out' / 'cells.png').read_bytes().startswith(b'\x89PNG')
    (folder / 'found' / 'b.nrrd').unlink()
    printed = call('evaluate', *flags, predictions, status=2)
    assert 'Traceback' not in printed
    assert 'b.tif' in printed.strip().splitlines()[-1]
