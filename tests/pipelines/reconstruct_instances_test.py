"""Instances from files of flows: voxel sizes, conventions of others, one slice, what is told."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import Volume
from sxt_jax.instances import labels_to_flows
from sxt_jax.io import read_volume, write_volume
from sxt_jax.pipelines.reconstruct_instances import reconstruct_file

SHAPE = (18, 24, 40)
SIZE = (20.0, 20.0, 20.0)


def _labels():
    labels = np.zeros(SHAPE, np.int32)
    for i, centre in enumerate([(9, 11, 10), (9, 12, 26)], 1):
        away = np.indices(SHAPE) - np.reshape(centre, (3, 1, 1, 1))
        labels[np.square(away).sum(0) <= 49] = i
    return labels


def test_own_file_keeps_voxel_size(tmp_path):
    labels = _labels()
    both = np.concatenate([(labels > 0)[..., None], labels_to_flows(labels, kind='tanh')], -1)
    write_volume(tmp_path / 'in.tif', Volume(both.astype(np.float32), SIZE, axes='zyxc'))
    assert reconstruct_file([tmp_path / 'in.tif'], tmp_path / 'out.tif', cell_radius=7) == 2
    found = read_volume(tmp_path / 'out.tif')
    np.testing.assert_array_equal(found.data, labels)
    assert found.dtype == np.uint16
    assert found.voxel_size_nm == pytest.approx(SIZE)


def test_by_blocks(tmp_path):
    labels = _labels()
    both = np.concatenate([(labels > 0)[..., None], labels_to_flows(labels, kind='tanh')], -1)
    write_volume(tmp_path / 'in.tif', Volume(both.astype(np.float32), SIZE, axes='zyxc'))
    options = {'cell_radius': 7, 'block': (20, 10, 16)}
    assert reconstruct_file([tmp_path / 'in.tif'], tmp_path / 'out.tif', **options) == 2
    np.testing.assert_array_equal(read_volume(tmp_path / 'out.tif').data, labels)


def test_files_of_cellpose3d(tmp_path):
    labels = _labels()
    flows = -np.asarray(labels_to_flows(labels, kind='tanh'))
    paths = [tmp_path / f'pred{i}.tif' for i in range(4)]
    for path, image in zip(paths, [labels > 0, *np.moveaxis(flows, -1, 0)], strict=True):
        tifffile.imwrite(path, image.astype(np.float32), metadata={'axes': 'ZYX'})
    options = {'foreground': paths[0], 'away': True, 'cell_radius': 7}
    assert reconstruct_file(paths[1:], tmp_path / 'out.h5', **options) == 2
    np.testing.assert_array_equal(read_volume(tmp_path / 'out.h5').data, labels)


def test_one_slice(tmp_path):
    labels = _labels()[9]
    flows = np.asarray(labels_to_flows(labels, kind='heat'))
    both = np.concatenate([(labels > 0)[..., None], flows], -1)[None].astype(np.float32)
    write_volume(tmp_path / 'in.tif', Volume(both, SIZE, axes='zyxc'))
    assert reconstruct_file([tmp_path / 'in.tif'], tmp_path / 'out.tif', cell_radius=7) == 2
    np.testing.assert_array_equal(read_volume(tmp_path / 'out.tif').data, labels[None])


def test_what_is_wrong_is_told_and_nothing_written(tmp_path):
    flows = np.zeros((4, 5, 6, 3), np.float32)
    write_volume(tmp_path / 'flows.h5', Volume(flows, axes='zyxc'))
    write_volume(tmp_path / 'small.h5', Volume(flows[:3, ..., 0]))
    write_volume(tmp_path / 'nan.h5', Volume(np.where(flows == 0, np.nan, flows), axes='zyxc'))
    write_volume(tmp_path / 'mask.h5', Volume(np.ones((4, 5, 6), np.uint8)))
    for name, output, foreground, told in (
        ('flows.h5', 'out.tif', None, 'no foreground'),
        ('flows.h5', 'out.tif', 'small.h5', 'small.h5'),
        ('nan.h5', 'out.tif', 'mask.h5', 'NaN or infinity'),
        ('none.h5', 'out.tif', 'mask.h5', 'none.h5'),
        ('flows.h5', 'out.png', 'mask.h5', 'out.png'),
    ):
        with pytest.raises(InputError, match=told):
            reconstruct_file(
                [tmp_path / name],
                tmp_path / output,
                cell_radius=3,
                foreground=None if foreground is None else tmp_path / foreground,
            )
        assert not (tmp_path / output).exists()
