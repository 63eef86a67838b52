"""Every problem of a data set is found, at once, and a good one has none."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from sxt_jax import io
from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import Volume
from sxt_jax.pipelines import check_data
from sxt_jax.pipelines.check_data import Problem, check_pairs, check_volumes

SIZE = (10.0, 20.0, 20.0)
ROOT = Path(check_data.__file__).parents[2]


def image(seed=0, shape=(8, 9, 10), dtype='f4'):
    return (np.random.default_rng(seed).random(shape) * 100).astype(dtype)


def labels(seed=0, shape=(8, 9, 10)):
    return np.random.default_rng(seed).integers(0, 3, shape).astype('u1')


def put(root, name, image_data, label_data, *, size=SIZE, label_size=SIZE, suffix='.tif'):
    io.write_volume(root / 'images' / f'{name}{suffix}', Volume(image_data, size))
    io.write_volume(root / 'labels' / f'{name}{suffix}', Volume(label_data, label_size))


def told(report, severity='error'):
    return {(p.file.name, p.message) for p in report.problems if p.severity == severity}


def test_good_pairs_have_no_problem(tmp_path):
    put(tmp_path, 'a', image(), labels())
    put(tmp_path, 'b', image(1), labels(1), suffix='.mrc')
    report = check_pairs(tmp_path, n_classes=3, patch=(8, 8, 8))
    assert report.problems == ()
    report.raise_if_errors()
    assert [(e.name, e.role) for e in report.entries] == [
        ('a', 'image'), ('a', 'labels'), ('b', 'image'), ('b', 'labels'),
    ]  # fmt: skip
    first, truth = report.entries[:2]
    assert (first.shape, first.dtype, first.axes) == ((8, 9, 10), 'float32', 'zyx')
    np.testing.assert_allclose(first.voxel_size_nm, SIZE, rtol=1e-9)
    assert first.minimum == image().min()
    assert first.maximum == image().max()
    values, counts = np.unique(labels(), return_counts=True)
    assert truth.label_counts == dict(zip(values, counts, strict=True))


CASES = {
    'shape': ((image(), labels(shape=(8, 9, 11))),
              'shape 8×9×11 differs from 8×9×10 of its image a.tif', 'labels'),
    'empty': ((image(), labels() * 0), 'labels are empty: background only', 'labels'),
    'outside': ((image(), labels() * 2), 'label values 4 outside the class list 0 1 2', 'labels'),
    'fraction': ((image(), labels().astype('f4') / 2), 'labels are not integers', 'labels'),
    'constant': ((image() * 0 + 7, labels()), 'is constant: every voxel is 7', 'images'),
    'nan': ((np.where(image() > 99, np.nan, image()).astype('f4'), labels()),
            f'{int((image() > 99).sum())} NaN and 0 infinite voxels', 'images'),
    'inf': ((np.where(image() > 99, np.inf, image()).astype('f4'), labels()),
            f'0 NaN and {int((image() > 99).sum())} infinite voxels', 'images'),
}  # fmt: skip


@pytest.mark.parametrize('case', CASES)
def test_errors_of_one_pair(case, tmp_path):
    (image_data, label_data), message, folder = CASES[case]
    put(tmp_path, 'a', image_data, label_data)
    report = check_pairs(tmp_path, n_classes=3)
    assert [(p.severity, p.message) for p in report.problems] == [('error', message)]
    assert report.problems[0].file == tmp_path / folder / 'a.tif'
    with pytest.raises(InputError, match=r'a\.tif: '):
        report.raise_if_errors()


def test_all_problems_are_told_at_once(tmp_path):
    for name, (data, _, _) in CASES.items():
        put(tmp_path, name, *data)
    put(tmp_path, 'cut', image(), labels())
    cut = tmp_path / 'images/cut.tif'
    cut.write_bytes(cut.read_bytes()[:1000])
    io.write_volume(tmp_path / 'images/lonely.h5', Volume(image()))
    report = check_pairs(tmp_path, n_classes=3)
    errors = told(report)
    assert len(errors) == len(CASES) + 2
    assert any(name == 'cut.tif' and 'truncated' in text for name, text in errors)
    assert any(name == 'lonely.h5' and 'no partner' in text for name, text in errors)
    with pytest.raises(InputError, match=f'{len(CASES) + 1} more errors'):
        report.raise_if_errors()


def test_warnings_do_not_stop_work(tmp_path):
    put(tmp_path, 'a', image(), labels(), label_size=(10, 20, 21))
    put(tmp_path, 'b', image(1), labels(1), size=(12, 20, 20), label_size=(12, 20, 20))
    put(tmp_path, 'c', image(2, dtype='u2'), labels(2), size=None)
    report = check_pairs(tmp_path, patch=(8, 16, 8), isotropic=True)
    report.raise_if_errors()
    warnings = {text for _, text in told(report, 'warning')}
    for text in (
        'voxel size 10×20×21 nm differs from 10×20×20 nm of its image a.tif',
        'voxel size 12×20×20 nm differs from 10×20×20 nm of a.tif',
        'dtype uint16 differs from float32 of a.tif',
        'shape 8×9×10 is smaller than a patch 8×16×8: it will be padded',
        'voxels of 10×20×20 nm are not cubic, which is assumed',
        'voxel size unknown (of 1 of 3 images)',
    ):
        assert text in warnings


def test_voxel_sizes_equal_to_rounding_are_equal(tmp_path):
    put(tmp_path, 'a', image(), labels(), label_size=(10.0001, 20, 20))
    assert check_pairs(tmp_path).problems == ()


def test_class_names_and_ignored_label(tmp_path):
    values = np.array([0, 5, 255], 'u1')[labels()]
    put(tmp_path, 'a', image(), values)
    assert check_pairs(tmp_path, class_names={5: 'cell'}, ignore_label=255).problems == ()
    assert 'label values 255' in str(check_pairs(tmp_path, class_names={5: 'cell'}).problems)


def test_whole_numbers_in_float_labels_are_labels(tmp_path):
    put(tmp_path, 'a', image(), labels().astype('f4'))
    report = check_pairs(tmp_path, n_classes=3)
    assert report.problems == ()
    assert set(report.entries[1].label_counts) == {0, 1, 2}


@pytest.mark.parametrize('dtype', ['i1', 'i4', 'i8', 'u8', 'f8'])
def test_label_counts_of_any_range(dtype):
    """Against NumPy, with values too far apart for a histogram."""
    rng = np.random.default_rng(0)
    info = np.iinfo(dtype) if dtype != 'f8' else np.iinfo('i4')
    for values in ([info.min, 0, info.max], [info.min, info.min + 1], [info.max - 3, info.max]):
        data = rng.choice(np.array(values, dtype), (4, 5, 6))
        counts = check_data._scan(Volume(data), count=True)['label_counts']
        expected = zip(*np.unique(data, return_counts=True), strict=True)
        assert counts == {int(v): int(n) for v, n in expected}


def test_channels_must_agree(tmp_path):
    io.write_volume(tmp_path / 'a.tif', Volume(image(), SIZE))
    io.write_volume(tmp_path / 'b.tif', Volume(image(0, (8, 9, 10, 2)), SIZE, 'zyxc'))
    assert told(check_volumes(tmp_path)) == {('b.tif', '2 channels; expected 1 as a.tif')}


def test_labels_with_channels_are_refused(tmp_path):
    (tmp_path / 'images').mkdir()
    io.write_volume(tmp_path / 'images/a.tif', Volume(image(), SIZE))
    channels = Volume(labels(0, (8, 9, 10, 2)), SIZE, 'zyxc')
    io.write_volume(tmp_path / 'labels/a.tif', channels)
    assert told(check_pairs(tmp_path)) == {('a.tif', 'labels have axes zyxc; expected zyx')}


def test_missing_and_empty_input(tmp_path):
    for check in (check_volumes, check_pairs):
        for path in (tmp_path / 'gone', tmp_path):
            report = check(path)
            assert report.entries == ()
            assert len(report.errors) == 1
            with pytest.raises(InputError):
                report.raise_if_errors()


def test_several_paths_and_the_callback(tmp_path):
    for name in 'ab':
        io.write_volume(tmp_path / name / f'{name}.tif', Volume(image(), SIZE))
    seen = []
    report = check_volumes([tmp_path / 'a', tmp_path / 'b/b.tif'], on_file=seen.append)
    assert seen == [tmp_path / 'a/a.tif', tmp_path / 'b/b.tif']
    assert [e.file for e in report.entries] == seen
    assert report.problems == ()


def test_statistics_need_little_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(check_data, '_SLAB_BYTES', 2**18)
    peaks = []
    for n in (32, 256):
        io.write_volume(tmp_path / f'{n}.npy', Volume(labels(0, (n, 128, 128))))
        volume = io.open_volume(tmp_path / f'{n}.npy')
        tracemalloc.start()
        counts = check_data._scan(volume, count=True)['label_counts']
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert sum(counts.values()) == n * 128 * 128
    assert peaks[1] < 1.2 * peaks[0]


def test_table_is_aligned_and_columns_are_complete(tmp_path):
    put(tmp_path, 'a', image(), labels())
    put(tmp_path, 'longer_name', image(1), labels(1))
    report = check_pairs(tmp_path)
    lines = report.format_table().splitlines()
    assert len(lines) == 5
    for column in ('file', 'role', 'shape', 'voxel_size_nm', 'labels'):
        at = lines[0].index(column)
        assert all(line[at - 1] == ' ' and line[at] != ' ' for line in lines[1:])
    assert '10×20×20' in lines[1]
    assert {len(v) for v in report.columns.values()} == {4}
    assert str(Problem('error', Path('a.tif'), 'is odd')) == 'error: a.tif: is odd'


def launch(*arguments):
    return subprocess.run(
        [sys.executable, '-m', 'launch.check', *map(str, arguments)],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
    )  # fmt: skip


@pytest.mark.process
def test_launch_check(tmp_path):
    put(tmp_path, 'a', image(), labels())
    run = launch(f'--input={tmp_path}', '--n_classes=3', f'--output={tmp_path}/report.csv')
    assert run.returncode == 0, run.stderr
    assert '2 files, 0 errors, 0 warnings' in run.stdout
    with (tmp_path / 'report.csv').open(encoding='utf-8') as file:
        assert [row['role'] for row in csv.DictReader(file)] == ['image', 'labels']
    (tmp_path / 'labels/a.tif').unlink()
    io.write_volume(tmp_path / 'labels/a.h5', Volume(labels() * 0, SIZE))
    run = launch(f'--input={tmp_path}/images', f'--labels={tmp_path}/labels')
    assert run.returncode == 2
    assert 'labels/a.h5: labels are empty: background only' in run.stdout
    assert 'Traceback' not in run.stderr
