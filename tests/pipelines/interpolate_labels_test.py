"""Dense labels of files: names and voxel sizes, folders, what is told of bad input."""

from __future__ import annotations

import numpy as np
import pytest

from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import Volume
from sxt_jax.io import read_volume, write_volume
from sxt_jax.pipelines import interpolate_labels
from sxt_jax.pipelines.interpolate_labels import Options, interpolate_files

SHAPE = (12, 16, 18)
SIZE = (30.0, 20.0, 20.0)
NAMES = {0: 'background', 4: 'cell', 9: 'bead'}
FAST = Options(n_steps=40, n_walks=4)


def _scene(shift=0):
    """Image, true labels and those of three slices."""
    truth = np.zeros(SHAPE, np.uint8)
    truth[1:11, 3:12, 3 + shift : 10 + shift], truth[2:9, 12:15, 2:6] = 4, 9
    noise = np.random.default_rng(shift).normal(0, 5, SHAPE)
    image = (truth * 10 + 50 + noise).astype(np.float32)
    sparse = np.zeros_like(truth)
    sparse[[2, 5, 9]] = truth[[2, 5, 9]]
    return image, truth, sparse


def _write(folder, name='a.tif', shift=0):
    image, truth, sparse = _scene(shift)
    write_volume(folder / 'images' / name, Volume(image, SIZE))
    write_volume(folder / 'labels' / name, Volume(sparse, SIZE, class_names=NAMES))
    return truth, sparse


def _run(folder, output, options=FAST, **others):
    return interpolate_files(
        folder / 'images', folder / 'labels', output, options=options, **others
    )


@pytest.mark.parametrize('name', ['a.tif', 'a.zarr', 'a.mrc'])
def test_one_tomogram(tmp_path, name):
    truth, _ = _write(tmp_path, name)
    output = tmp_path / f'dense{name[1:]}'
    (outcome,) = _run(tmp_path, output, Options(n_steps=40, n_walks=4, uncertainty=True))
    assert outcome.files == (output, tmp_path / 'uncertainty' / output.name)
    dense = read_volume(output)
    assert np.mean(dense.data == truth) > 0.97
    assert dense.voxel_size_nm == pytest.approx(SIZE)
    assert name == 'a.mrc' or dense.class_names == NAMES
    uncertainty = read_volume(outcome.files[1])
    assert uncertainty.shape == SHAPE
    assert (uncertainty.data.min(), uncertainty.data.max()) == (0, 255)


def test_a_folder_whose_labels_can_be_trained_on(tmp_path):
    truths = [_write(tmp_path, f'{n}.tif', shift)[0] for shift, n in enumerate('ab')]
    (tmp_path / 'labels' / 'b.tif').rename(tmp_path / 'labels' / 'b.labels.tif')
    outcomes = _run(tmp_path, tmp_path / 'dense')
    assert [o.files for o in outcomes] == [(tmp_path / 'dense' / f'{n}.tif',) for n in 'ab']
    for outcome, truth in zip(outcomes, truths, strict=True):
        assert np.mean(read_volume(outcome.files[0]).data == truth) > 0.97


def test_one_bad_file_does_not_cost_the_others(tmp_path):
    for shift, name in enumerate(('a.tif', 'b.tif', 'c.tif')):
        _write(tmp_path, name, shift)
    bad = read_volume(tmp_path / 'images' / 'a.tif').data
    bad[3, 4, 5] = np.nan
    write_volume(tmp_path / 'images' / 'a.tif', Volume(bad))
    write_volume(tmp_path / 'labels' / 'b.tif', Volume(np.zeros(SHAPE, np.uint8)))
    first, second, third = _run(tmp_path, tmp_path / 'dense')
    assert first.error.startswith(f'{tmp_path / "images" / "a.tif"}: 1 or more voxels are NaN')
    assert second.error.startswith(f'{tmp_path / "labels" / "b.tif"}: no labelled slice')
    assert not third.error
    assert [p.name for p in (tmp_path / 'dense').iterdir()] == ['c.tif']


def test_voxels_without_a_label_by_value_and_labels_as_floats(tmp_path):
    image, truth, sparse = _scene()
    sparse = np.where(sparse.any((1, 2), keepdims=True), sparse, 255).astype(np.float32)
    sparse[5, :, 12:] = 255  # a part of a slice
    write_volume(tmp_path / 'images' / 'a.tif', Volume(image))
    write_volume(tmp_path / 'labels' / 'a.tif', Volume(sparse))
    options = Options(n_steps=40, n_walks=4, ignore_value=255, keep_slices=True)
    (outcome,) = _run(tmp_path, tmp_path / 'dense.tif', options)
    dense = read_volume(outcome.files[0]).data
    assert 255 not in dense
    assert np.mean(dense == truth) > 0.95
    np.testing.assert_array_equal(dense[sparse != 255], sparse[sparse != 255])
    write_volume(tmp_path / 'labels' / 'a.tif', Volume(sparse + np.float32(0.5)))
    (outcome,) = _run(tmp_path, tmp_path / 'dense.tif', options)
    assert 'whole numbers' in outcome.error


def test_small_objects_go_and_given_slices_stay(tmp_path):
    _, sparse = _write(tmp_path)
    sparse[2, 0, 17] = 4  # one voxel, that walks and cleaning would lose
    write_volume(tmp_path / 'labels' / 'a.tif', Volume(sparse))
    clean = {'n_steps': 40, 'n_walks': 4, 'clean': 0.2, 'fill': 0.2}
    _run(tmp_path, tmp_path / 'dense.tif', Options(**clean))
    assert read_volume(tmp_path / 'dense.tif').data[2, 0, 17] == 0
    _run(tmp_path, tmp_path / 'dense.tif', Options(**clean, keep_slices=True))
    given = [2, 5, 9]
    np.testing.assert_array_equal(read_volume(tmp_path / 'dense.tif').data[given], sparse[given])


def test_slices_are_suggested_between_the_labelled_ones(tmp_path):
    _write(tmp_path)
    (outcome,) = _run(tmp_path, tmp_path / 'dense.tif', Options(n_steps=40, suggest_slices=2))
    numbers = [s.number for s in outcome.suggestions]
    assert len(set(numbers)) == 2
    assert not set(numbers) & {2, 5, 9}


def test_hits_go_to_disk_where_memory_is_short(tmp_path, monkeypatch):
    _write(tmp_path)
    _run(tmp_path, tmp_path / 'in_memory.tif')
    monkeypatch.setattr(interpolate_labels, 'free_host_bytes', lambda: 1000)
    _run(tmp_path, tmp_path / 'new' / 'on_disk.tif')
    found = [read_volume(tmp_path / f'{name}.tif').data for name in ('in_memory', 'new/on_disk')]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize(
    ('output', 'options', 'told'),
    [
        ('images', FAST, 'a folder of the inputs'),
        ('labels/a.tif', FAST, 'a file of the input'),
        ('dense.am', FAST, 'a file for 1 results'),
        ('dense', Options(clean=2), 'clean'),
        ('dense', Options(settled=-1), 'settled'),
        ('dense', Options(published_smoothing=True), 'published_smoothing'),
        ('dense', Options(suggest_slices=-1), 'suggest_slices'),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_done(tmp_path, output, options, told):
    _write(tmp_path)
    with pytest.raises(InputError, match=told):
        _run(tmp_path, tmp_path / output, options)


def test_labels_of_another_shape(tmp_path):
    _, sparse = _write(tmp_path)
    write_volume(tmp_path / 'labels' / 'a.tif', Volume(sparse[1:]))
    (outcome,) = _run(tmp_path, tmp_path / 'dense')
    assert 'labels of shape [11, 16, 18]' in outcome.error
