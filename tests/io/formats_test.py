"""What survives every format: values, dtypes, voxel sizes, axes; or is refused with a reason."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest

from sxt_jax import io
from sxt_jax.core.box import Box
from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import Volume
from tests.io.samples import FORMATS, VOXEL_SIZE_NM, amira_header, noise, ramp

DTYPES = ('?', 'u1', 'i1', 'u2', 'i2', 'u4', 'i4', 'u8', 'i8', 'f2', 'f4', 'f8')
MAXIMA = (255, 256, 65535, 65536, 2**24 + 1, 2**31, 2**40)
# MRC has no integers beyond uint16; float32 holds 2³¹ exactly but not 2²⁴ + 1. TIFF has 32 bits.
REFUSED = {
    ('.mrc', 'u4', 2**24 + 1),
    ('.mrc', 'i4', 2**24 + 1),
    ('.mrc', 'u8', 2**24 + 1),
    ('.mrc', 'i8', 2**24 + 1),
    ('.mrc', 'f8', 2**24 + 1),
    ('.tif', 'u8', 2**40),
    ('.tif', 'i8', 2**40),
}


def holds(dtype: str, maximum: int) -> bool:
    kind = np.dtype(dtype).kind
    if kind == 'f':
        return (
            maximum < float(np.finfo(dtype).max) and float(np.dtype(dtype).type(maximum)) == maximum
        )
    return kind != 'b' and maximum <= np.iinfo(dtype).max


CASES = [(s, d, m) for s, d, m in itertools.product(FORMATS, DTYPES, MAXIMA) if holds(d, m)]


@pytest.mark.parametrize('suffix', FORMATS)
def test_label_maxima_survive_exactly_or_are_refused_with_a_reason(suffix, tmp_path):
    for i, (_, dtype, maximum) in enumerate(c for c in CASES if c[0] == suffix):
        labels = np.zeros((2, 3, 4), dtype)
        labels[1, 2, 3], labels[0, 1, 2] = maximum, 1
        path = tmp_path / f'{i}{suffix}'
        if (suffix, dtype, maximum) in REFUSED:
            with pytest.raises(InputError, match=r'cannot be kept exactly .* another format'):
                io.write_volume(path, Volume(labels))
            assert not list(tmp_path.glob(f'*{i}{suffix}'))
        else:
            io.write_volume(path, Volume(labels))
            np.testing.assert_array_equal(io.read_volume(path).data, labels)


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('suffix', FORMATS)
def test_every_dtype_keeps_its_values(suffix, dtype, tmp_path):
    data = ramp(dtype=dtype)
    io.write_volume(tmp_path / f'a{suffix}', Volume(data))
    read = io.read_volume(tmp_path / f'a{suffix}').data
    np.testing.assert_array_equal(read, data)
    assert read.dtype.isnative
    if np.dtype(dtype).kind in 'iu':
        assert read.dtype.kind in 'iu'  # labels stay integers
        assert suffix == '.mrc' or read.dtype == dtype or np.dtype(dtype).itemsize == 8


def test_bool_becomes_uint8(tmp_path):
    for suffix in FORMATS:
        io.write_volume(tmp_path / f'a{suffix}', Volume(ramp() > 100))
        found = io.read_volume(tmp_path / f'a{suffix}')
        assert found.dtype in (np.uint8, np.uint16)
        np.testing.assert_array_equal(found.data, ramp() > 100)


@pytest.mark.parametrize('dtype', ['c8', 'c16', 'O', 'S3', 'M8[s]'])
@pytest.mark.parametrize('suffix', FORMATS)
def test_voxels_that_are_no_numbers_are_refused(suffix, dtype, tmp_path):
    with pytest.raises(InputError, match='real numbers'):
        io.write_volume(tmp_path / f'a{suffix}', Volume(np.zeros((2, 2, 2), dtype)))
    assert list(tmp_path.iterdir()) == []


def test_nan_and_infinity_survive(tmp_path):
    data = np.array([np.nan, np.inf, -np.inf, 1.5] * 4, 'f4').reshape(4, 2, 2)
    for suffix, dtype in itertools.product(FORMATS, ('f4', 'f8')):
        io.write_volume(tmp_path / f'a{suffix}', Volume(data.astype(dtype)))
        np.testing.assert_array_equal(io.read_volume(tmp_path / f'a{suffix}').data, data)


@pytest.mark.parametrize('first', FORMATS)
def test_voxel_size_and_axes_survive_every_pair_of_formats(first, tmp_path):
    for second, dtype in itertools.product(FORMATS, ('u1', 'u4', 'f4')):
        volume = Volume(ramp(dtype=dtype), VOXEL_SIZE_NM)
        io.write_volume(tmp_path / f'a{first}', volume)
        io.write_volume(tmp_path / f'b{second}', io.open_volume(tmp_path / f'a{first}'))
        found = io.read_volume(tmp_path / f'b{second}')
        np.testing.assert_array_equal(found.data, volume.data)
        assert found.axes == 'zyx'
        np.testing.assert_allclose(found.voxel_size_nm, VOXEL_SIZE_NM, rtol=1e-6, atol=0)


def test_channels_survive_every_pair_of_formats(tmp_path):
    formats = [f for f in FORMATS if f != '.mrc']
    for first, second in itertools.product(formats, formats):
        volume = Volume(ramp((4, 5, 6, 3), 'u2'), VOXEL_SIZE_NM, 'zyxc')
        io.write_volume(tmp_path / f'a{first}', volume)
        io.write_volume(tmp_path / f'b{second}', io.open_volume(tmp_path / f'a{first}'))
        found = io.read_volume(tmp_path / f'b{second}')
        np.testing.assert_array_equal(found.data, volume.data)
        assert found.axes == 'zyxc'
        np.testing.assert_allclose(found.voxel_size_nm, VOXEL_SIZE_NM, rtol=1e-6, atol=0)


def test_mrc_refuses_channels(tmp_path):
    with pytest.raises(InputError, match='no channels'):
        io.write_volume(tmp_path / 'a.mrc', Volume(ramp((2, 3, 4, 2)), axes='zyxc'))


@pytest.mark.parametrize('suffix', [f for f in FORMATS if f != '.mrc'])
@pytest.mark.parametrize('dtype', ['u1', 'u4'])
def test_class_names_survive(suffix, dtype, tmp_path):
    names = {1: 'cell', 7: 'noyau = été'}
    io.write_volume(tmp_path / f'a{suffix}', Volume(ramp(dtype=dtype), class_names=names))
    assert io.read_volume(tmp_path / f'a{suffix}').class_names == names


@pytest.mark.parametrize('suffix', FORMATS)
def test_unknown_voxel_size_stays_unknown(suffix, tmp_path):
    for dtype in ('u1', 'i4'):
        io.write_volume(tmp_path / f'a{suffix}', Volume(ramp(dtype=dtype)))
        assert io.read_volume(tmp_path / f'a{suffix}').voxel_size_nm is None


@pytest.mark.parametrize('suffix', FORMATS)
def test_windows_equal_those_of_the_array(suffix, tmp_path):
    data = noise((37, 21, 18), 'u2')
    io.write_volume(tmp_path / f'a{suffix}', Volume(data, VOXEL_SIZE_NM))
    lazy = io.open_volume(tmp_path / f'a{suffix}').data
    rng = np.random.default_rng(1)
    for _ in range(10):
        start = rng.integers(0, data.shape)
        stop = [int(rng.integers(a, n)) + 1 for a, n in zip(start, data.shape, strict=True)]
        box = Box(tuple(int(a) for a in start), tuple(stop))
        np.testing.assert_array_equal(lazy[box.slices], data[box.slices])
        region = io.read_volume(tmp_path / f'a{suffix}', region=box)
        np.testing.assert_array_equal(region.data, data[box.slices])
        assert region.voxel_size_nm == io.open_volume(tmp_path / f'a{suffix}').voxel_size_nm
    np.testing.assert_array_equal(lazy[-1], data[-1])
    np.testing.assert_array_equal(lazy[3, ..., 2], data[3, ..., 2])
    np.testing.assert_array_equal(np.asarray(lazy), data)
    with pytest.raises(IndexError):
        lazy[::2]


@pytest.mark.parametrize('suffix', FORMATS)
def test_what_is_read_is_the_reader_s_own(suffix, tmp_path):
    path = tmp_path / f'a{suffix}'
    io.write_volume(path, Volume(ramp()))
    first = io.read_volume(path)
    window = io.open_volume(path).data[1:3]
    assert type(first.data) is np.ndarray
    first.data[:] = 0
    window[:] = 0
    np.testing.assert_array_equal(io.read_volume(path).data, ramp())


@pytest.mark.parametrize('suffix', FORMATS)
def test_lazy_volumes_can_be_sent_to_other_processes(suffix, tmp_path):
    io.write_volume(tmp_path / f'a{suffix}', Volume(ramp(), VOXEL_SIZE_NM))
    volume = io.open_volume(tmp_path / f'a{suffix}')
    sent = pickle.loads(pickle.dumps(volume))
    np.testing.assert_array_equal(sent.data[1:4, 2:], ramp()[1:4, 2:])
    assert sent.voxel_size_nm == volume.voxel_size_nm


@pytest.mark.parametrize('box', [Box((0, 0, 0), (6, 1, 1)), Box((-1, 0, 0), (2, 1, 1)),
                                 Box((2, 2, 2), (2, 3, 3)), Box((0, 0), (1, 1))])  # fmt: skip
def test_regions_outside_are_refused(box, tmp_path):
    io.write_volume(tmp_path / 'a.tif', Volume(ramp()))
    with pytest.raises(InputError, match='region'):
        io.read_volume(tmp_path / 'a.tif', region=box)


def test_one_slice_and_one_column(tmp_path):
    for suffix, shape in itertools.product(FORMATS, ((1, 6, 7), (4, 1, 5), (3, 4, 1), (1, 1, 1))):
        data = ramp(shape, 'f4')
        io.write_volume(tmp_path / f'a{suffix}', Volume(data, VOXEL_SIZE_NM))
        found = io.read_volume(tmp_path / f'a{suffix}')
        np.testing.assert_array_equal(found.data, data)
        np.testing.assert_allclose(found.voxel_size_nm, VOXEL_SIZE_NM, rtol=1e-6, atol=0)


@pytest.mark.parametrize('name', ['a.txt', 'a', 'a.png', 'a.tif.gz', 'a.am', 'a.nhdr'])
def test_formats_that_are_not_written_are_refused_by_name(name, tmp_path):
    with pytest.raises(InputError, match=r'\.tif'):
        io.write_volume(tmp_path / name, Volume(ramp()))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('suffix', [*FORMATS, '.am', '.labels', '.nhdr', '.txt', '.rec'])
def test_files_that_are_no_volume_are_refused(suffix, tmp_path):
    path = tmp_path / f'a{suffix}'
    path.write_text('this is a shopping list\n' * 100)
    with pytest.raises(InputError) as info:
        io.read_volume(path)
    assert str(path) in str(info.value)
    assert '\n' not in str(info.value)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r'gone\.tif: does not exist'):
        io.read_volume(tmp_path / 'gone.tif')


@pytest.mark.parametrize('suffix', ['.mrc', '.rec', '.npy', '.nrrd', '.am', '.tif', '.npz'])
def test_a_data_set_that_is_not_there_is_refused(suffix, tmp_path):
    path = tmp_path / f'a{suffix}'
    if suffix == '.am':
        path.write_bytes(amira_header((5, 6, 7)) + ramp().tobytes())
    else:
        io.write_volume(path, Volume(ramp()))
    for arguments in ((f'{path}::x', None), (path, 'x')):
        with pytest.raises(InputError, match=r"no (data set|field|image series|array) 'x'"):
            io.open_volume(arguments[0], dataset=arguments[1])


def test_slices_have_no_data_set(tmp_path):
    for i in range(3):
        io.write_volume(tmp_path / f's{i}.tif', Volume(ramp((1, 4, 5))))
    assert io.read_volume(tmp_path).shape == (3, 4, 5)
    with pytest.raises(InputError, match="no data set '0': a folder of slices holds one volume"):
        io.read_volume(f'{tmp_path}::0')
