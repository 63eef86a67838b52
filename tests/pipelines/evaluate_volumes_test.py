"""Evaluation of files: numbers, notes, refusals, and the script as users start it."""

import csv
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import Volume
from sxt_jax.data.classes import Classes, parse_classes
from sxt_jax.io import read_volume, write_volume
from sxt_jax.pipelines import segment_volume
from sxt_jax.pipelines.evaluate_volumes import Options, evaluate_volumes
from sxt_jax.pipelines.evaluation import Case, find_cases, predict_with_checkpoint
from sxt_jax.pipelines.evaluation_report import report, save_evaluation

SIZE = (40.0, 20.0, 20.0)
SHAPE = (16, 24, 28)
ROOT = Path(__file__).parents[2]


def ball(radius: float, centre: Sequence[float] = (8, 12, 13)) -> np.ndarray:
    z, y, x = np.ogrid[tuple(map(slice, SHAPE))]
    r2 = ((z - centre[0]) * 2) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2
    return r2 < radius**2


def write(path: Path, data: np.ndarray, **facts) -> Path:
    path.parent.mkdir(exist_ok=True)
    write_volume(path, Volume(data, **{'voxel_size_nm': SIZE, **facts}))
    return path


@pytest.fixture(name='folder')
def _folder(tmp_path: Path) -> Path:
    """Three volumes: truth a cell with a nucleus, prediction one voxel aside and a bit small."""
    rng = np.random.default_rng(0)
    names = {0: 'background', 1: 'cytoplasm', 2: 'nucleus'}
    for i in range(3):
        truth = (ball(8 + i) + 0).astype(np.uint8)
        truth[ball(4)] = 2
        prediction = ball(7.6 + i, (8, 12, 14)).astype(np.uint8)
        prediction[ball(4, (8, 13, 13))] = 2
        image = 0.1 + 0.2 * (truth > 0) + rng.normal(0, 0.02, SHAPE)
        write(tmp_path / 'truth' / f'c{i}.labels.tif', truth, class_names=names)
        write(tmp_path / 'predicted' / f'c{i}.tif', prediction)
        write(tmp_path / 'images' / f'c{i}.mrc', image.astype(np.float32))
    return tmp_path


def column(table: dict, name: str, *, method: str = 'prediction', of: str = 'cytoplasm') -> list:
    chosen = (table['method'] == method) & (table['class'] == of)
    return table[name][chosen].tolist()


def test_scores_sizes_and_tests_of_a_set(folder: Path) -> None:
    cases = find_cases(folder / 'truth', prediction=folder / 'predicted')
    assert [case.name for case in cases] == ['c0', 'c1', 'c2']
    result = evaluate_volumes(cases)
    for i, value in enumerate(column(result.scores, 'dice')):
        true = ball(8 + i) & ~ball(4)
        found = ball(7.6 + i, (8, 12, 14)) & ~ball(4, (8, 13, 13))
        assert value == pytest.approx(2 * (true & found).sum() / (true.sum() + found.sum()))
        volume = column(result.scores, 'volume_um3_truth')[i]
        assert volume == pytest.approx(true.sum() * 1.6e-5)
    nucleus = column(result.scores, 'surface_um2_truth', of='nucleus')
    assert nucleus[0] == pytest.approx(4 * np.pi * 0.08**2, rel=0.1)
    chosen = (result.summary['class'] == 'cytoplasm') & (result.summary['measure'] == 'dice')
    dice = column(result.scores, 'dice')
    assert result.summary['mean'][chosen] == pytest.approx([np.mean(dice)])
    assert result.summary['sd'][chosen] == pytest.approx([np.std(dice, ddof=1)])
    assert result.summary['n'][chosen] == 3

    from scipy import stats

    tested = (result.tests['class'] == 'cytoplasm') & (result.tests['measure'] == 'volume_um3')
    sides = (column(result.scores, f'volume_um3_{side}') for side in ('prediction', 'truth'))
    assert result.tests['p'][tested] == pytest.approx([stats.ttest_rel(*sides).pvalue])
    assert not result.notes


def test_perfect_prediction(folder: Path) -> None:
    result = evaluate_volumes(find_cases(folder / 'truth', prediction=folder / 'truth'))
    for name in ('dice', 'iou', 'precision', 'recall', 'accuracy', 'f1'):
        assert (result.scores[name] == 1).all()
    assert (result.tests['p'] == 1).all()


def test_baselines_are_scored_as_foreground(folder: Path) -> None:
    cases = find_cases(folder / 'truth', prediction=folder / 'predicted', image=folder / 'images')
    result = evaluate_volumes(cases, options=Options(baselines=('otsu', 'adaptive')))
    assert set(result.scores['method']) == {'prediction', 'otsu', 'adaptive'}
    assert min(column(result.scores, 'dice', method='otsu', of='foreground')) > 0.99
    assert len(column(result.scores, 'dice', of='foreground')) == 3
    assert column(result.scores, 'dice', method='otsu', of='nucleus') == []
    alone = find_cases(folder / 'truth', image=folder / 'images')
    only = evaluate_volumes(alone, options=Options(baselines=('otsu',)))
    assert set(only.scores['method']) == {'otsu'}


def test_two_classes_share_their_name_with_the_baselines(folder: Path) -> None:
    truth = write(folder / 'two' / 'c0.tif', ball(8).astype(np.uint8))
    cases = [Case('c0', truth, truth, folder / 'images' / 'c0.mrc')]
    result = evaluate_volumes(cases, options=Options(baselines=('otsu',)))
    assert result.scores['class'].tolist() == ['class 1', 'class 1']


def test_ignored_voxels_count_nowhere(folder: Path) -> None:
    truth = ball(8).astype(np.uint8)
    prediction = truth.copy()
    prediction[:8] = 1  # wrong, but where nobody labelled
    truth[:8] = 255
    case = Case(
        'c', write(folder / 'a' / 'c.tif', truth), write(folder / 'b' / 'c.tif', prediction)
    )
    result = evaluate_volumes([case], options=Options(ignore_label=255))
    assert result.scores['dice'].tolist() == [1]
    expected = ball(8)[8:].sum() * 1.6e-5
    assert result.scores['volume_um3_prediction'] == pytest.approx([expected])


def test_predictions_hold_what_is_written_for_merged_values(folder: Path) -> None:
    """The truth has its own values, of which 0 is the cell; the prediction those of training."""
    truth = np.where(ball(8), np.where(ball(4), 32, 0), 255).astype(np.uint8)
    case = Case(
        'c', write(folder / 'a' / 'c.tif', truth), write(folder / 'b' / 'c.tif', ball(8) + 0)
    )
    for text in ('cell=0+32,background=255', 'cell=0+32,background=rest'):
        result = evaluate_volumes([case], options=Options(classes=parse_classes(text)))
        assert result.scores['class'].tolist() == ['cell']
        assert result.scores['dice'].tolist() == [1]
    case = dataclasses.replace(case, prediction=case.truth)
    with pytest.raises(InputError, match='background=0, cell=1'):
        evaluate_volumes([case], options=Options(classes=parse_classes(text)))


def test_without_voxel_size_no_sizes_are_given(folder: Path) -> None:
    labels = ball(8).astype(np.uint8)
    path = write(folder / 'bare' / 'c.npy', labels, voxel_size_nm=None)
    case = Case('c', path, path)
    result = evaluate_volumes([case])
    assert np.isnan(result.scores['volume_um3_prediction']).all()
    assert np.isnan(result.scores['surface_to_volume_per_um_truth']).all()
    assert 'no voxel size' in result.notes[0]
    assert 'µm' not in report(result)
    given = evaluate_volumes([case], options=Options(voxel_size_nm=SIZE))
    assert given.scores['volume_um3_truth'] == pytest.approx([labels.sum() * 1.6e-5])


def test_one_volume_has_no_test_and_says_so(folder: Path) -> None:
    case = Case('c0', folder / 'truth' / 'c0.labels.tif', folder / 'predicted' / 'c0.tif')
    result = evaluate_volumes([case])
    assert result.tests == {}
    assert any('takes two volumes' in note for note in result.notes)
    assert 'note: ' in report(result)


def test_class_missing_from_one_volume(folder: Path) -> None:
    labels = ball(8).astype(np.uint8)
    path = write(folder / 'truth' / 'c3.tif', labels)
    write(folder / 'predicted' / 'c3.tif', labels)
    result = evaluate_volumes(find_cases(folder / 'truth', prediction=folder / 'predicted'))
    nucleus = column(result.scores, 'dice', of='nucleus')
    assert path.exists()
    assert np.isnan(nucleus[3])
    chosen = (result.summary['class'] == 'nucleus') & (result.summary['measure'] == 'dice')
    assert result.summary['n'][chosen] == 3


def test_saves_what_it_found(folder: Path) -> None:
    result = evaluate_volumes(find_cases(folder / 'truth', prediction=folder / 'predicted'))
    files = save_evaluation(result, folder / 'out')
    assert sorted(p.name for p in (folder / 'out').iterdir()) == sorted(p.name for p in files)
    rows = list(csv.DictReader((folder / 'out' / 'scores.csv').open()))
    assert [float(row['dice']) for row in rows] == pytest.approx(result.scores['dice'].tolist())
    saved = json.loads((folder / 'out' / 'scores.json').read_text())
    assert set(saved) == {'scores', 'summary', 'tests', 'notes'}
    assert saved['scores'][0]['name'] == 'c0'
    assert len(saved['tests']) == len(result.tests['p'])


def test_report_is_aligned(folder: Path) -> None:
    result = evaluate_volumes(find_cases(folder / 'truth', prediction=folder / 'predicted'))
    first = report(result).split('\n\n')[0].splitlines()
    assert len(first) == 7
    assert len({len(line) for line in first}) == 1


def bad_case(folder: Path, kind: str) -> tuple[Case, Options]:
    """A case with one thing wrong; 'match' of the error is the kind's second word."""
    truth, predicted = folder / 'truth' / 'c0.labels.tif', folder / 'predicted' / 'c0.tif'
    labels = ball(8).astype(np.uint8)
    options = Options()
    if kind == 'other shape':
        predicted = write(folder / 'x' / 'c0.tif', labels[1:])
    elif kind == 'unlisted label values':
        options = Options(classes=Classes(('background', 'cytoplasm'), (0, 1)))
    elif kind == 'empty no voxel':
        truth = write(folder / 'x' / 'c0.tif', labels * 0)
    elif kind == 'fractions whole':
        truth = write(folder / 'x' / 'c0.npy', labels * 0.5)
    elif kind == 'fractions label values':
        predicted = write(folder / 'x' / 'c0.npy', labels * 0.5)
    elif kind == 'other voxels of':
        predicted = write(folder / 'x' / 'c0.tif', labels, voxel_size_nm=(40, 20, 30))
    elif kind == 'no image':
        options = Options(baselines=('otsu',))
    elif kind == 'odd baselines':
        options = Options(baselines=('magic',))
    elif kind == 'ignored label':
        options = Options(ignore_label=2)
        predicted = write(folder / 'x' / 'c0.tif', labels * 2)
    return Case('c0', truth, predicted), options


@pytest.mark.parametrize(
    'kind',
    [
        'other shape',
        'unlisted label values',
        'empty no voxel',
        'fractions whole',
        'fractions label values',
        'other voxels of',
        'no image',
        'odd baselines',
        'ignored label',
    ],
)
def test_refuses(folder: Path, kind: str) -> None:
    case, options = bad_case(folder, kind)
    with pytest.raises(InputError, match=kind.partition(' ')[2]):
        evaluate_volumes([case], options=options)


def test_a_class_that_is_nowhere_true_is_scored_where_it_is_found(folder: Path) -> None:
    """Whatever the format: TIFF names classes, MRC does not."""
    prediction = ball(8).astype(np.uint8)
    prediction[0, 0, :3] = 7
    for name in ('c0.tif', 'c0.mrc'):
        path = write(folder / 'x' / name, prediction)
        case = Case('c0', folder / 'truth' / 'c0.labels.tif', path)
        result = evaluate_volumes([case])
        assert column(result.scores, 'recall', of='class 7') == pytest.approx([np.nan], nan_ok=True)
        assert column(result.scores, 'precision', of='class 7') == [0]


def test_truths_and_images_in_named_data_sets(folder: Path) -> None:
    with h5py.File(folder / 'c0.h5', 'w') as file:
        file['t0/channel0'] = read_volume(folder / 'images' / 'c0.mrc').data
        file['t0/truth'] = read_volume(folder / 'truth' / 'c0.labels.tif').data
    path, datasets = folder / 'c0.h5', {'dataset': 't0/channel0', 'label_dataset': 't0/truth'}
    predicted = folder / 'predicted' / 'c0.tif'
    (case,) = find_cases(path, image=path, prediction=predicted, **datasets)
    (same,) = find_cases(path, **datasets)
    assert dataclasses.replace(case, prediction=None) == same
    result = evaluate_volumes([case], options=Options(baselines=('otsu',)))
    plain = evaluate_volumes([Case('c0', folder / 'truth' / 'c0.labels.tif', predicted)])
    assert column(result.scores, 'dice', of='class 1') == column(plain.scores, 'dice')


def test_refuses_a_missing_partner(folder: Path) -> None:
    (folder / 'predicted' / 'c1.tif').unlink()
    with pytest.raises(InputError, match='c1'):
        find_cases(folder / 'truth', prediction=folder / 'predicted')
    with pytest.raises(InputError):
        evaluate_volumes([])
    alone = find_cases(folder / 'truth', image=folder / 'images')
    with pytest.raises(InputError, match='no prediction'):
        evaluate_volumes(alone)


def test_probabilities_beside_predictions_are_passed_over(folder: Path) -> None:
    write(folder / 'predicted' / 'c0.probabilities.npy', np.zeros(SHAPE, np.float32))
    assert len(find_cases(folder / 'truth', prediction=folder / 'predicted')) == 3


def test_predicts_with_a_checkpoint_only_what_has_a_truth(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network is replaced by a threshold; segmenting itself has tests of its own."""

    classes = Classes(('background', 'cytoplasm', 'nucleus'), (0, 1, 2))
    segmenter = SimpleNamespace(classes=classes)

    def threshold(given: SimpleNamespace, source: Path, target: Path, **options) -> None:
        assert given is segmenter
        image = read_volume(source)
        write_volume(target, image.with_data((image.data > 0.2).astype(np.uint8)))

    monkeypatch.setattr(segment_volume, 'load_segmenter', lambda _, **options: segmenter)
    monkeypatch.setattr(segment_volume, 'segment_file', threshold)
    folders = folder / 'truth', folder / 'images', folder / 'out'
    cases, known = predict_with_checkpoint('W', *folders)
    assert known is classes
    assert [case.prediction for case in cases] == [folder / 'out' / f'c{i}.mrc' for i in range(3)]
    result = evaluate_volumes(cases, options=Options(classes=known))
    found = np.array(column(result.scores, 'recall'))
    assert (found > 0.99).all()
    for inputs in folders[:2]:
        with pytest.raises(InputError, match='inputs'):
            predict_with_checkpoint('W', *folders[:2], inputs)
    (folder / 'images' / 'c2.mrc').unlink()
    with pytest.raises(InputError, match='c2'):
        predict_with_checkpoint('W', *folders)


def start(*flags: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, '-m', 'launch.evaluate', *flags],
        cwd=ROOT,
        env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.process
def test_script_scores_and_saves(folder: Path) -> None:
    done = start(
        f'--truth={folder / "truth"}',
        f'--prediction={folder / "predicted"}',
        f'--image={folder / "images"}',
        '--baselines=otsu',
        f'--output={folder / "out"}',
    )
    assert done.returncode == 0, done.stderr
    assert 'paired t-test' in done.stdout
    assert 'cytoplasm' in done.stdout
    saved = json.loads((folder / 'out' / 'scores.json').read_text())
    assert {row['method'] for row in saved['scores']} == {'prediction', 'otsu'}
    assert (folder / 'out' / 'scores.png').read_bytes().startswith(b'\x89PNG')


@pytest.mark.process
def test_script_tells_bad_input_in_one_line(folder: Path) -> None:
    write(folder / 'predicted' / 'c1.tif', ball(8)[1:].astype(np.uint8))
    done = start(
        f'--truth={folder / "truth"}',
        f'--prediction={folder / "predicted"}',
        f'--output={folder / "out"}',
    )
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith('error: ')]
    assert 'c1.tif' in line
    assert '(15, 24, 28)' in line
    assert 'Traceback' not in done.stderr
    assert not (folder / 'out').exists()
