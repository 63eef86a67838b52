"""NumPy files with their side file, and NRRD against pynrrd."""

from __future__ import annotations

import json

import nrrd
import numpy as np
import pytest

from sxt_jax import io
from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import Volume
from tests.io.samples import VOXEL_SIZE_NM, ramp


def test_side_file_of_npy(tmp_path):
    path, side = tmp_path / 'a.npy', tmp_path / 'a.npy.json'
    io.write_volume(path, Volume(ramp(), VOXEL_SIZE_NM))
    np.testing.assert_array_equal(np.load(path), ramp())
    assert json.loads(side.read_text())['voxel_size_nm'] == list(VOXEL_SIZE_NM)
    assert io.list_volumes(tmp_path) == [path]
    io.write_volume(path, Volume(ramp()))
    assert not side.exists()  # it would give the new volume the old voxel size
    assert io.read_volume(path).voxel_size_nm is None


@pytest.mark.parametrize('text', ['{"shape": [1, 2, 3]}', '{"voxel_size_nm": [0, 1, 1]}',
                                  '{"voxel_size_nm": [1, 1]}', '[1', '7'])  # fmt: skip
def test_wrong_side_file_is_refused(text, tmp_path):
    np.save(tmp_path / 'a.npy', ramp())
    (tmp_path / 'a.npy.json').write_text(text)
    with pytest.raises(InputError, match=r'a\.npy'):
        io.read_volume(tmp_path / 'a.npy')


def test_arrays_that_are_no_volume_are_refused(tmp_path):
    for data, reason in ((np.zeros(5), 'axes'), (np.zeros((2, 2, 2, 2)), 'axes'),
                         (np.zeros((2, 2, 2), 'c8'), 'real numbers'),
                         (np.zeros((0, 2, 2)), 'empty|cannot be read')):  # fmt: skip
        np.save(tmp_path / 'a.npy', data)
        with pytest.raises(InputError, match=reason):
            io.read_volume(tmp_path / 'a.npy')
    np.save(tmp_path / 'a.npy', np.array([[[{}]]], object), allow_pickle=True)
    with pytest.raises(InputError, match='cannot be read'):
        io.read_volume(tmp_path / 'a.npy')  # pickles run code


def test_npz_names(tmp_path):
    np.savez(tmp_path / 'a.npz', cells=ramp(), angles=np.arange(3))
    np.testing.assert_array_equal(io.read_volume(tmp_path / 'a.npz').data, ramp())
    np.savez(tmp_path / 'a.npz', a=ramp(), b=ramp(dtype='u2'))
    with pytest.raises(InputError, match=r"\['a', 'b'\]"):
        io.read_volume(tmp_path / 'a.npz')
    assert io.read_volume(tmp_path / 'a.npz', dataset='b').dtype == np.uint16
    with pytest.raises(InputError, match="no array 'c'"):
        io.read_volume(tmp_path / 'a.npz', dataset='c')


def test_our_npz_for_numpy(tmp_path):
    io.write_volume(tmp_path / 'a.npz', Volume(ramp(), VOXEL_SIZE_NM))
    with np.load(tmp_path / 'a.npz') as archive:
        np.testing.assert_array_equal(archive['data'], ramp())
        np.testing.assert_array_equal(archive['voxel_size_nm'], VOXEL_SIZE_NM)


@pytest.mark.parametrize('compression', [True, False])
def test_our_nrrd_for_pynrrd(compression, tmp_path):
    io.write_volume(
        tmp_path / 'a.nrrd', Volume(ramp(dtype='i2'), VOXEL_SIZE_NM), compression=compression
    )
    data, header = nrrd.read(str(tmp_path / 'a.nrrd'), index_order='C')
    np.testing.assert_array_equal(data, ramp())
    np.testing.assert_array_equal(np.diag(header['space directions'])[::-1], VOXEL_SIZE_NM)
    assert header['space units'] == ['nm'] * 3


@pytest.mark.parametrize('encoding', ['raw', 'gzip', 'bzip2'])
@pytest.mark.parametrize('dtype', ['u1', 'i2', 'u4', 'i8', 'f4', 'f8'])
def test_nrrd_by_pynrrd(encoding, dtype, tmp_path):
    facts = {'encoding': encoding, 'spacings': [30, 20, 50], 'units': ['nm'] * 3}
    nrrd.write(str(tmp_path / 'a.nrrd'), ramp(dtype=dtype), facts, index_order='C')
    found = io.open_volume(tmp_path / 'a.nrrd')
    assert found.voxel_size_nm == (50, 20, 30)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found.load().data, ramp())
    np.testing.assert_array_equal(found.data[1:3, 2:5, :4], ramp()[1:3, 2:5, :4])


@pytest.mark.parametrize(
    ('facts', 'expected'),
    [
        ({'space': 'left-posterior-superior'}, (3e6, 2e6, 1e6)),  # 3D Slicer: mm
        ({'space dimension': 3, 'space units': ['um', 'um', 'um']}, (3e3, 2e3, 1e3)),
        ({'space dimension': 3}, None),
    ],
)
def test_units_of_space_directions(facts, expected, tmp_path):
    header = {**facts, 'space directions': np.diag([-1.0, -2.0, 3.0])}
    nrrd.write(str(tmp_path / 'a.nrrd'), ramp(), header, index_order='C')
    found = io.read_volume(tmp_path / 'a.nrrd')
    assert found.voxel_size_nm == expected
    np.testing.assert_array_equal(found.data, ramp())
    assert found.metadata.get('spacing_without_unit') == (None if expected else [3, 2, 1])


def test_permuted_space_directions_are_turned(tmp_path):
    """The fastest axis of the file runs along z."""
    zyx = ramp()
    header = {
        'space dimension': 3, 'space units': ['nm'] * 3,
        'space directions': [[0, 0, 5.0], [0, 4.0, 0], [3.0, 0, 0]],
    }  # fmt: skip
    nrrd.write(str(tmp_path / 'a.nrrd'), zyx, header, index_order='F')
    found = io.read_volume(tmp_path / 'a.nrrd')
    np.testing.assert_array_equal(found.data, zyx)
    assert found.voxel_size_nm == (5, 4, 3)


def test_nrrd_with_channels_by_others(tmp_path):
    header = {'kinds': ['vector', 'domain', 'domain', 'domain']}
    nrrd.write(str(tmp_path / 'a.nrrd'), ramp((3, 4, 5, 2)), header, index_order='C')
    found = io.read_volume(tmp_path / 'a.nrrd')
    assert found.axes == 'zyxc'
    np.testing.assert_array_equal(found.data, ramp((3, 4, 5, 2)))


def test_nrrd_image_becomes_one_slice(tmp_path):
    nrrd.write(str(tmp_path / 'a.nrrd'), ramp((6, 7)), index_order='C')
    np.testing.assert_array_equal(io.read_volume(tmp_path / 'a.nrrd').data, ramp((1, 6, 7)))


def test_text_nrrd_is_refused(tmp_path):
    nrrd.write(str(tmp_path / 'a.nrrd'), ramp(), {'encoding': 'ascii'}, index_order='C')
    with pytest.raises(InputError, match='raw, gzip or bzip2'):
        io.read_volume(tmp_path / 'a.nrrd')


def test_advice_of_numpy_does_not_reach_users(tmp_path):
    objects = np.array([[[{}]]], object)
    np.save(tmp_path / 'a.npy', objects, allow_pickle=True)
    np.savez(tmp_path / 'a.npz', allow_pickle=True, data=objects)
    np.savez(tmp_path / 'b.npz', allow_pickle=True, first=objects, second=ramp())
    for name in ('text.npy', 'text.npz'):
        (tmp_path / name).write_text('this is a shopping list\n')
    np.savez(tmp_path / 'archive.npz', ramp())
    (tmp_path / 'archive.npz').rename(tmp_path / 'archive.npy')
    np.save(tmp_path / 'array.npy', ramp())
    (tmp_path / 'array.npy').rename(tmp_path / 'array.npz')
    for name, reason in (
        ('a.npy', 'Python objects'), ('a.npz', 'Python objects'), ('b.npz', 'Python objects'),
        ('text.npy', r'is no NumPy file \(24 bytes\)'), ('text.npz', 'is no NumPy archive'),
        ('archive.npy', 'is no NumPy file'), ('array.npz', 'is no NumPy archive'),
    ):  # fmt: skip
        with pytest.raises(InputError, match=reason) as info:
            io.read_volume(tmp_path / name)
        assert 'pickle' not in str(info.value)
        assert 'trust' not in str(info.value)
    found = io.read_volume(tmp_path / 'b.npz', dataset='second').data
    np.testing.assert_array_equal(found, ramp())


def test_a_link_to_a_detached_header_finds_its_data(tmp_path):
    nrrd.write(str(tmp_path / 'a.nhdr'), ramp(), index_order='C')
    (tmp_path / 'links').mkdir()
    link = tmp_path / 'links' / 'b.nhdr'
    link.symlink_to(tmp_path / 'a.nhdr')
    np.testing.assert_array_equal(io.read_volume(link).data, ramp())
