"""Every problem of a data set is found, at once, and a good one has none."""

from __future__ import annotations

import csv
import functools
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from sxt_jax import io
from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import Volume, slabs
from sxt_jax.data.classes import parse_classes
from sxt_jax.pipelines import check_data
from sxt_jax.pipelines.check_data import check_pairs, check_volumes
from sxt_jax.pipelines.check_report import Problem

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
    'negative': ((image(), labels().astype('i2') - 1),
                 'label values -1 are negative; expected values from 0 on, or the one of '
                 'unlabelled voxels as ignored (--ignore_label, --config.data.ignore_value)',
                 'labels'),
    'minus zero': ((image() * -0.0, labels()), 'is constant: every voxel is 0', 'images'),
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
    assert check_pairs(tmp_path, classes=parse_classes('cell=5'), ignore_label=255).problems == ()
    assert 'label values 255' in str(
        check_pairs(tmp_path, classes=parse_classes('cell=5')).problems
    )


def test_merged_values_are_known_and_zero_may_be_a_class(tmp_path):
    put(tmp_path, 'a', image(), np.array([0, 5, 200], 'u1')[labels()])
    groups = 'background=5+200,wall=0'
    assert check_pairs(tmp_path, classes=parse_classes(groups)).problems == ()
    assert check_pairs(tmp_path, classes=parse_classes('cell=rest')).problems == ()
    put(tmp_path, 'a', image(), np.zeros((8, 9, 10), 'u1'))
    assert check_pairs(tmp_path, classes=parse_classes(groups)).problems == ()
    put(tmp_path, 'a', image(), np.full((8, 9, 10), 5, 'u1'))
    errors = check_pairs(tmp_path, classes=parse_classes(groups)).errors
    assert [e.message for e in errors] == ['labels are empty: background only']


@pytest.mark.parametrize('values', [[0, 255], [255]])
def test_labels_with_nothing_but_ignored_voxels_are_empty(values, tmp_path):
    put(tmp_path, 'a', image(), np.resize(values, (8, 9, 10)).astype('u1'))
    assert told(check_pairs(tmp_path, ignore_label=255)) == {
        ('a.tif', 'labels are empty: background and ignored voxels (255) only')
    }
    assert check_pairs(tmp_path, ignore_label=254).errors == ()


def test_negative_labels_may_be_ignored_or_a_class(tmp_path):
    put(tmp_path, 'a', image(), labels().astype('i2') - 1)
    for allowed in ({'ignore_label': -1}, {'classes': parse_classes('air=-1,cell=1')}):
        assert check_pairs(tmp_path, **allowed).problems == ()
    errors = told(check_pairs(tmp_path, classes=parse_classes('cell=7')))
    assert {text.split(';')[0] for _, text in errors} == {
        'label values -1 are negative', 'label values 1 outside the class list 0 7',
    }  # fmt: skip


@pytest.mark.parametrize(('n', 'warned'), [(64, False), (65, True), (640, True)])
def test_many_label_values_look_like_instances(n, warned, tmp_path):
    put(tmp_path, 'a', image(), (np.arange(720).reshape(8, 9, 10) % n).astype('u2'))
    text = f'{n} label values: these look like instances, each would be a class'
    report = check_pairs(tmp_path)
    assert told(report, 'warning') == ({('a.tif', text)} if warned else set())
    assert report.errors == ()
    assert check_pairs(tmp_path, n_classes=n).problems == ()  # the user knows


def test_few_label_values_look_like_classes(tmp_path):
    put(tmp_path, 'a', image(), labels())
    put(tmp_path, 'b', image(1), np.where(labels(1) == 2, 2000, labels(1)).astype('u2') + 1)
    message = 'labels 1 2 only: these look like classes, not ids of cells'
    assert told(check_pairs(tmp_path, instances=True), 'warning') == {('a.tif', message)}
    put(tmp_path, 'a', image(), np.arange(720).reshape(8, 9, 10).astype('u2'))
    assert check_pairs(tmp_path, instances=True).problems == ()


def test_a_gap_in_the_slices_is_a_warning(tmp_path):
    for folder, data in (('images', image()), ('labels', labels())):
        for i in (1, 2, 4):
            io.write_volume(tmp_path / folder / f'a/s_{i:03}.tif', Volume(data[i : i + 1], SIZE))
    message = ('a', 'the numbering of the slices leaves out 3')
    for report in (check_pairs(tmp_path), check_volumes(tmp_path / 'images')):
        assert told(report, 'warning') == {message}
        assert report.errors == ()
    assert len(check_pairs(tmp_path).problems) == 2


def test_files_are_named_once_in_messages(tmp_path):
    put(tmp_path, 'c0', image(), labels())
    io.write_volume(tmp_path / 'images/c0.npy', Volume(image()))
    twin = f'error: {tmp_path}/images/c0.tif: has the same stem as c0.npy; expected one file a stem'
    assert [str(p) for p in check_pairs(tmp_path).problems] == [twin]
    io.write_volume(tmp_path / 'many.h5', Volume(image()), dataset='a')
    for report in (check_volumes(f'{tmp_path}/many.h5::zz'),
                   check_volumes(tmp_path / 'many.h5', dataset='zz')):  # fmt: skip
        (problem,) = report.problems
        assert str(problem) == f"error: {tmp_path}/many.h5: no dataset 'zz'; expected one of ['a']"
        assert report.entries[0].name == 'many'


def test_a_data_set_of_a_file_without_is_an_error(tmp_path):
    io.write_volume(tmp_path / 'a.mrc', Volume(image(), SIZE))
    (problem,) = check_volumes(tmp_path / 'a.mrc', dataset='raw').problems
    assert "no data set 'raw'" in str(problem)
    assert check_volumes(tmp_path, dataset='raw').problems == ()  # meant for other files of it


def test_a_bad_entry_of_a_folder_does_not_stop_the_others(tmp_path):
    io.write_volume(tmp_path / 'a.tif', Volume(image(), SIZE))
    (tmp_path / 'b.tif').symlink_to(tmp_path / 'nowhere.tif')
    for i in (8, 9):
        io.write_volume(tmp_path / f'c/s{i}.tif', Volume(image(0, (1, 5, i)), SIZE))
    report = check_volumes(tmp_path)
    assert [(e.name, e.shape is not None) for e in report.entries] == [
        ('a', True), ('b', False), ('c', False),
    ]  # fmt: skip
    assert {p.file.relative_to(tmp_path).as_posix() for p in report.errors} == {'b.tif', 'c/s9.tif'}


def test_summary_counts_in_words(tmp_path):
    put(tmp_path, 'a', image() * 0, labels(), size=None)
    assert check_volumes(tmp_path / 'images').summary == '1 file, 1 error, 1 warning'
    assert check_pairs(tmp_path).summary == '2 files, 1 error, 1 warning'
    assert check_volumes(tmp_path / 'gone').summary == '0 files, 1 error, 0 warnings'


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
    monkeypatch.setattr(check_data, 'slabs', functools.partial(slabs, max_bytes=2**18))
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
    run = launch(f'--input={tmp_path}/images', f'--labels={tmp_path}/labels', '--instances')
    assert run.returncode == 2
    assert 'labels/a.h5: labels are empty: background only' in run.stdout
    assert 'Traceback' not in run.stderr


@pytest.mark.process
def test_launch_check_tells_what_is_wrong_with_pairs_and_flags(tmp_path):
    put(tmp_path / 'twins', 'c0', image(), labels())
    io.write_volume(tmp_path / 'twins/images/c0.npy', Volume(image()))
    for name in ('images', 'labels'):
        (tmp_path / 'empty' / name).mkdir(parents=True)
    for folder, words in (('twins', 'images/c0.tif: has the same stem as c0.npy'),
                          ('empty', 'images: no volumes here')):  # fmt: skip
        run = launch(f'--input={tmp_path / folder}')
        assert run.returncode == 2
        assert words in run.stdout
        assert '0 files, 1 error, 0 warnings' in run.stdout


REFUSE_FLAGS = """
import sys
from absl import flags
from launch import check
from sxt_jax.core.errors import InputError

for flag in sys.argv[2:]:
    flags.FLAGS.unparse_flags()
    for name in ('patch', 'n_classes', 'instances'):
        flags.FLAGS[name].unparse()
    flags.FLAGS(['check', sys.argv[1], *flag.split(';')])
    try:
        status = check.main([])
    except InputError as error:
        print(flag, error, sep='|')
    else:
        print(flag, status, sep='|')
"""


@pytest.mark.process
def test_flags_of_launch_check(tmp_path):
    put(tmp_path, 'a', image(), labels())
    wrong = ['--patch=1,2', '--patch=8,8,0', '--patch=8,8,-8', '--patch=a,b,c', '--patch=8,8,8,8',
             '--patch=', '--patch=8.5,8,8', '--n_classes=0', '--n_classes=-3']  # fmt: skip
    both, alone = '--n_classes=3;--instances', f'--input={tmp_path}/images;--instances'
    others = ['--patch=8,8, 8', both, alone]
    run = subprocess.run(
        [sys.executable, '-c', REFUSE_FLAGS, f'--input={tmp_path}', *wrong, *others],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    told = dict(line.split('|') for line in run.stdout.splitlines() if '|' in line)
    assert told.pop('--patch=8,8, 8') == '0'
    assert told.pop(both) == '--n_classes: 3; expected from 1 on, without --instances'
    assert told.pop(alone).startswith('--instances: no labels in ')
    assert list(told) == wrong
    for flag, text in told.items():
        name, _, value = flag.partition('=')
        assert text.startswith(f'{name}: {value or "nothing"}; expected ')
