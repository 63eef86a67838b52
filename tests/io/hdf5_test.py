"""HDF5: which data set, which axes, which voxel size."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest

from sxt_jax import io
from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import Volume
from tests.io.samples import ramp


def write(path, datasets, **attributes):
    with h5py.File(path, 'w') as file:
        for name, data in datasets.items():
            file[name] = data
            file[name].attrs.update(attributes)


@pytest.mark.parametrize('name', ['t0/channel0', 'data', 'processed/result/data', 'volume'])
def test_known_names_come_first(name, tmp_path):
    write(tmp_path / 'a.h5', {'other': ramp((2, 2, 2)), name: ramp(), 'z/more': ramp((3, 3, 3))})
    found = io.read_volume(tmp_path / 'a.h5')
    np.testing.assert_array_equal(found.data, ramp())
    assert found.metadata['dataset'] == name


def test_only_volume_is_taken_among_smaller_data_sets(tmp_path):
    write(tmp_path / 'a.h5', {'angles': np.arange(5), 'flat': ramp((3, 4)), 'deep/raw': ramp()})
    np.testing.assert_array_equal(io.read_volume(tmp_path / 'a.h5').data, ramp())


def test_several_volumes_are_listed(tmp_path):
    write(tmp_path / 'a.h5', {'raw': ramp(), 'label': ramp(dtype='u2')})
    with pytest.raises(InputError, match=r"\['label', 'raw'\]"):
        io.read_volume(tmp_path / 'a.h5')
    assert io.read_volume(tmp_path / 'a.h5', dataset='label').dtype == np.uint16
    assert io.read_volume(f'{tmp_path}/a.h5::raw').dtype == np.uint8
    with pytest.raises(InputError, match="no dataset 'rwa'"):
        io.read_volume(tmp_path / 'a.h5', dataset='rwa')


def test_file_without_voxels(tmp_path):
    write(tmp_path / 'a.h5', {'angles': np.arange(5)})
    with pytest.raises(InputError, match='no dataset with voxels'):
        io.read_volume(tmp_path / 'a.h5')


def test_voxel_size_attributes(tmp_path):
    write(tmp_path / 'a.h5', {'data': ramp()}, element_size_um=[0.235, 0.15, 0.15])
    size = io.read_volume(tmp_path / 'a.h5').voxel_size_nm
    np.testing.assert_allclose(size, (235, 150, 150), rtol=1e-12)
    write(tmp_path / 'b.h5', {'data': ramp()}, voxel_size_nm=[10.0, 9.8, 9.8])
    assert io.read_volume(tmp_path / 'b.h5').voxel_size_nm == (10, 9.8, 9.8)


def tags(axes):
    return json.dumps({'axes': [{'key': a} for a in axes]})


@pytest.mark.parametrize('told', ['axes', 'axistags', 'labels'])
@pytest.mark.parametrize('axes', ['czyx', 'zyxc', 'xyzc', 'tzyxc'])
def test_axes_are_turned_as_told(told, axes, tmp_path):
    zyxc = ramp((4, 5, 6, 3), 'u2')
    source = zyxc.transpose(['zyxc'.index(a) for a in axes if a != 't'])
    source = source[None] if 't' in axes else source
    with h5py.File(tmp_path / 'a.h5', 'w') as file:
        item = file.create_dataset('data', data=source)
        if told == 'labels':
            for dimension, name in zip(item.dims, axes, strict=True):
                dimension.label = name
        else:
            item.attrs[told] = axes if told == 'axes' else tags(axes)
    volume = io.open_volume(tmp_path / 'a.h5')
    assert volume.axes == 'zyxc'
    np.testing.assert_array_equal(volume.load().data, zyxc)
    np.testing.assert_array_equal(volume.data[1:3, :2, 4:, 1:], zyxc[1:3, :2, 4:, 1:])


def test_untold_axes_of_four_are_refused_unless_one_is_single(tmp_path):
    write(tmp_path / 'a.h5', {'data': ramp((2, 5, 6, 7))})
    with pytest.raises(InputError, match='not told'):
        io.read_volume(tmp_path / 'a.h5')
    for shape in ((1, 5, 6, 7), (5, 6, 7, 1)):
        write(tmp_path / 'b.h5', {'data': ramp().reshape(shape)})
        np.testing.assert_array_equal(io.read_volume(tmp_path / 'b.h5').data, ramp())


def test_image_becomes_one_slice(tmp_path):
    write(tmp_path / 'a.h5', {'data': ramp((6, 7))})
    volume = io.open_volume(tmp_path / 'a.h5')
    np.testing.assert_array_equal(volume.load().data, ramp((1, 6, 7)))
    np.testing.assert_array_equal(volume.data[:, 2:4, 3:], ramp((1, 6, 7))[:, 2:4, 3:])


def test_complex_and_text_are_refused(tmp_path):
    write(tmp_path / 'a.h5', {'data': ramp(dtype='c8')})
    with pytest.raises(InputError, match='real numbers'):
        io.read_volume(tmp_path / 'a.h5')


def test_data_set_name_and_readability_for_h5py(tmp_path):
    io.write_volume(tmp_path / 'a.h5', Volume(ramp(), (1, 2, 3)), dataset='t0/channel0')
    with h5py.File(tmp_path / 'a.h5') as file:
        np.testing.assert_array_equal(file['t0/channel0'][()], ramp())
        np.testing.assert_array_equal(
            file['t0/channel0'].attrs['element_size_um'], [1e-3, 2e-3, 3e-3]
        )


def test_writing_a_data_set_does_not_remove_others(tmp_path):
    write(tmp_path / 'a.h5', {'raw': ramp()})
    with pytest.raises(InputError, match=r"holds \['raw'\] already"):
        io.write_volume(tmp_path / 'a.h5', Volume(ramp()), dataset='label')
    np.testing.assert_array_equal(io.read_volume(tmp_path / 'a.h5').data, ramp())
