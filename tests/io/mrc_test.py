"""MRC and its relatives against mrcfile and headers made by hand."""

from __future__ import annotations

import itertools

import mrcfile
import numpy as np
import pytest
from mrcfile.dtypes import HEADER_DTYPE

from sxt_jax import io
from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import Volume
from tests.io.samples import VOXEL_SIZE_NM, noise, ramp


def bare_file(path, data, mode, *, order='<', **fields):
    """A file as written at soft X-ray microscopes: sizes and mode, nothing else."""
    header = np.zeros((), HEADER_DTYPE.newbyteorder(order))
    header['nz'], header['ny'], header['nx'] = data.shape
    header['mode'] = mode
    for key, value in fields.items():
        header[key] = value
    path.write_bytes(header.tobytes() + data.astype(data.dtype.newbyteorder(order)).tobytes())


@pytest.mark.parametrize('dtype', ['i1', 'i2', 'u2', 'f2', 'f4'])
def test_ours_is_valid_for_mrcfile(dtype, tmp_path):
    data = ramp((5, 6, 7), dtype) // 2
    io.write_volume(tmp_path / 'a.mrc', Volume(data, VOXEL_SIZE_NM))
    assert dtype == 'f2' or mrcfile.validate(tmp_path / 'a.mrc')  # its own sums overflow in f2
    with mrcfile.open(tmp_path / 'a.mrc') as file:
        np.testing.assert_array_equal(file.data, data)
        assert file.is_volume()
        sizes = [file.voxel_size[k] for k in 'zyx']
        np.testing.assert_allclose(sizes, np.multiply(VOXEL_SIZE_NM, 10), rtol=1e-6)


@pytest.mark.parametrize('dtype', ['i1', 'i2', 'u2', 'f2', 'f4'])
def test_mrcfile_s_is_ours(dtype, tmp_path):
    data = ramp((5, 6, 7), dtype) // 2
    with mrcfile.new(tmp_path / 'a.rec') as file:
        file.set_data(data)
        file.voxel_size = (100, 200, 300)  # x, y, z in Å
    found = io.read_volume(tmp_path / 'a.rec')
    np.testing.assert_array_equal(found.data, data)
    assert found.dtype == dtype
    np.testing.assert_allclose(found.voxel_size_nm, (30, 20, 10), rtol=1e-6)


@pytest.mark.parametrize('order', ['<', '>'])
@pytest.mark.parametrize(('mode', 'dtype'), [(0, 'i1'), (1, 'i2'), (2, 'f4'), (6, 'u2')])
def test_bare_headers_of_either_byte_order(order, mode, dtype, tmp_path):
    data = ramp((3, 40, 50), dtype) // 2
    bare_file(tmp_path / 'a.mrc', data, mode, order=order)
    found = io.read_volume(tmp_path / 'a.mrc')
    np.testing.assert_array_equal(found.data, data)
    assert found.voxel_size_nm is None
    assert found.dtype.isnative


def imod(flags):
    extra = np.zeros(21, 'i4')
    extra[10:12] = 1146047817, flags
    return extra.tobytes()


@pytest.mark.parametrize(
    ('fields', 'dtype'),
    [
        ({}, 'i1'),
        ({'nversion': 20140, 'dmax': 200}, 'i1'),  # the standard says signed
        ({'dmax': 200}, 'u1'),  # before the standard; signed bytes do not reach 200
        ({'extra2': imod(0)}, 'u1'),
        ({'extra2': imod(1)}, 'i1'),
        ({'extra2': imod(0), 'nversion': 20140}, 'u1'),
    ],
)
def test_sign_of_mode_zero(fields, dtype, tmp_path):
    bare_file(tmp_path / 'a.mrc', noise((3, 4, 5)), 0, **fields)
    found = io.read_volume(tmp_path / 'a.mrc')
    assert found.dtype == dtype
    np.testing.assert_array_equal(found.data, noise((3, 4, 5)).view(dtype))


@pytest.mark.parametrize('order', list(itertools.permutations((1, 2, 3))))
def test_axis_maps_are_turned_to_zyx(order, tmp_path):
    """Columns, rows and sections may be any of x = 1, y = 2, z = 3."""
    zyx = noise((4, 5, 6), 'u2')
    file_axes = [3 - k for k in order[::-1]]  # [z, y, x] axis of sections, rows, columns
    bare_file(
        tmp_path / 'a.mrc', np.ascontiguousarray(zyx.transpose(file_axes)), 6,
        mapc=order[0], mapr=order[1], maps=order[2],
    )  # fmt: skip
    lazy = io.open_volume(tmp_path / 'a.mrc').data
    np.testing.assert_array_equal(lazy[:, :, :], zyx)
    np.testing.assert_array_equal(lazy[1:3, 2:, :4], zyx[1:3, 2:, :4])


def test_impossible_axis_map_is_refused(tmp_path):
    bare_file(tmp_path / 'a.mrc', ramp((3, 4, 5)), 0, mapc=1, mapr=1, maps=2)
    with pytest.raises(InputError, match='axis map'):
        io.read_volume(tmp_path / 'a.mrc')


@pytest.mark.parametrize('mode', [3, 4, 101, 77])
def test_other_modes_are_refused(mode, tmp_path):
    bare_file(tmp_path / 'a.mrc', ramp((3, 4, 5), 'f4'), mode)
    with pytest.raises(InputError, match=f'mode {mode}'):
        io.read_volume(tmp_path / 'a.mrc')


def test_extended_header_is_skipped(tmp_path):
    data = ramp((3, 4, 5), 'f4')
    bare_file(tmp_path / 'a.mrc', data, 2, nsymbt=80)
    content = (tmp_path / 'a.mrc').read_bytes()
    (tmp_path / 'a.mrc').write_bytes(content[:1024] + b'x' * 80 + content[1024:])
    np.testing.assert_array_equal(io.read_volume(tmp_path / 'a.mrc').data, data)


def test_integers_take_the_narrowest_mode_that_holds_them(tmp_path):
    for maximum, dtype in ((100, 'i1'), (255, 'i2'), (40000, 'u2'), (70000, 'f4')):
        labels = np.array([0, maximum], 'i8').reshape(1, 1, 2)
        io.write_volume(tmp_path / 'a.mrc', Volume(labels))
        assert io.read_volume(tmp_path / 'a.mrc').dtype == dtype
