"""Flow volumes as this library, Cellpose and Cellpose3D save them."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import Volume
from sxt_jax.io import read_flows, write_volume

FLOWS = np.random.default_rng(0).normal(size=(6, 7, 8, 3)).astype(np.float32)
FOREGROUND = np.random.default_rng(1).random((6, 7, 8), np.float32)


def test_own_file_with_and_without_foreground(tmp_path):
    for name, data in (
        ('flows.h5', FLOWS),
        ('both.tif', np.concatenate([FOREGROUND[..., None], FLOWS], -1)),
    ):
        write_volume(tmp_path / name, Volume(data, (20.0, 10.0, 10.0), axes='zyxc'))
        found = read_flows([tmp_path / name])
        np.testing.assert_array_equal(found.flows.data, FLOWS)
        assert found.flows.voxel_size_nm == pytest.approx((20, 10, 10))
        if name == 'flows.h5':
            assert found.foreground is None
        else:
            np.testing.assert_array_equal(found.foreground, FOREGROUND)


def test_tiff_of_cellpose_with_channels_first_and_without_names(tmp_path):
    path = tmp_path / 'cells_dP_cp_masks.tif'
    tifffile.imwrite(path, np.moveaxis(FLOWS, -1, 0))
    np.testing.assert_array_equal(read_flows([path]).flows.data, FLOWS)


@pytest.mark.filterwarnings('ignore:.*stored as RGB')
def test_training_flows_of_cellpose_for_one_slice(tmp_path):
    path = tmp_path / 'cells_flows.tif'
    labels = np.arange(56, dtype=np.float32).reshape(7, 8)
    image = np.stack([labels, labels > 9, FLOWS[0, ..., 1], FLOWS[0, ..., 2]])
    tifffile.imwrite(path, image.astype(np.float32))
    found = read_flows([path])
    np.testing.assert_array_equal(found.flows.data, FLOWS[:1, ..., 1:])
    np.testing.assert_array_equal(found.foreground, (labels > 9)[None])


def test_files_of_components_in_any_order_and_sign(tmp_path):
    paths = []
    for axis, name in ((2, 'pred1.tif'), (1, 'pred2.tif'), (0, 'pred3.tif')):
        paths.append(tmp_path / name)
        tifffile.imwrite(paths[-1], -FLOWS[..., axis], metadata={'axes': 'ZYX'})
    found = read_flows(paths, components='xyz', away=True)
    np.testing.assert_array_equal(found.flows.data, FLOWS)


@pytest.mark.filterwarnings('ignore:.*stored as RGB')
def test_what_is_no_flow_volume_is_told(tmp_path):
    gray, other = tmp_path / 'gray.tif', tmp_path / 'other.tif'
    tifffile.imwrite(gray, FOREGROUND, metadata={'axes': 'ZYX'})
    tifffile.imwrite(other, FOREGROUND[:4], metadata={'axes': 'ZYX'})
    two = tmp_path / 'two.tif'
    tifffile.imwrite(two, np.moveaxis(FLOWS[..., :2], -1, 0))
    cut = tmp_path / 'cut.tif'
    tifffile.imwrite(cut, np.moveaxis(FLOWS, -1, 0))
    cut.write_bytes(cut.read_bytes()[:-900])
    for paths, options, told in (
        ([gray], {}, 'one channel'),
        ([gray, gray, other], {}, 'expected'),
        ([gray] * 4, {}, '4 files'),
        ([two], {}, '2 channels'),
        ([cut], {}, 'cut.tif'),
        ([two], {'components': 'zyz'}, "'zyz'"),
    ):
        with pytest.raises(InputError, match=told):
            read_flows(paths, **options)
