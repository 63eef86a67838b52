"""TIFF by other writers: axes, units, folders, pyramids; and what others make of ours."""

from __future__ import annotations

import hypothesis
import numpy as np
import pytest
import tifffile
from hypothesis import strategies as st

from sxt_jax import io
from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import Volume
from sxt_jax.io import tiff_metadata, tiff_writer
from tests.io.samples import VOXEL_SIZE_NM, noise, ramp


@pytest.mark.parametrize(
    ('unit', 'nm'),
    [('nm', 1), ('um', 1e3), ('micron', 1e3), ('\\u00B5m', 1e3), ('mm', 1e6), ('angstrom', 0.1),
     ('A', 0.1), ('cm', 1e7), ('pixel', None), ('px', None), ('furlong', None)],
)  # fmt: skip
def test_imagej_units(unit, nm, tmp_path):
    tifffile.imwrite(
        tmp_path / 'a.tif', ramp(), imagej=True, resolution=(1 / 0.03, 1 / 0.02),
        metadata={'axes': 'ZYX', 'spacing': 0.05, 'unit': unit},
    )  # fmt: skip
    size = io.read_volume(tmp_path / 'a.tif').voxel_size_nm
    if nm is None:
        assert size is None
    else:
        np.testing.assert_allclose(size, np.array([0.05, 0.02, 0.03]) * nm, rtol=1e-6)


@pytest.mark.parametrize(
    ('unit', 'nm'),
    [('nm', 1), (None, 1e3), ('µm', 1e3), ('mm', 1e6), ('Å', 0.1), ('pixel', None),
     ('reference frame', None)],
)  # fmt: skip
def test_ome_units(unit, nm, tmp_path):
    sizes = {'PhysicalSizeZ': 0.05, 'PhysicalSizeY': 0.02, 'PhysicalSizeX': 0.03}
    units = {f'{key}Unit': unit for key in sizes} if unit else {}
    tifffile.imwrite(
        tmp_path / 'a.ome.tif', ramp(), ome=True, metadata={'axes': 'ZYX', **sizes, **units}
    )
    size = io.read_volume(tmp_path / 'a.ome.tif').voxel_size_nm
    if nm is None:
        assert size is None
    else:
        np.testing.assert_allclose(size, np.array([0.05, 0.02, 0.03]) * nm, rtol=1e-9)


def test_spacing_that_is_left_out(tmp_path):
    """ImageJ omits a spacing of 1; tifffile omits an unknown one."""
    for program, known in (('1.53t', True), ('1.11a', False)):
        with tifffile.TiffWriter(tmp_path / 'a.tif') as file:
            text = f'ImageJ={program}\nimages=3\nslices=3\nunit=nm\n'
            for plane in ramp((3, 6, 7)):
                file.write(plane, description=text, metadata=None, resolution=(0.1, 0.05))
                text = ''
        size = io.read_volume(tmp_path / 'a.tif').voxel_size_nm
        assert size == ((1.0, 20.0, 10.0) if known else None)


def test_printing_resolution_is_no_voxel_size(tmp_path):
    tifffile.imwrite(tmp_path / 'a.tif', ramp(), resolution=(300, 300), resolutionunit='INCH')
    assert io.read_volume(tmp_path / 'a.tif').voxel_size_nm is None


@hypothesis.settings(max_examples=200, deadline=None)
@hypothesis.given(st.floats(1e-2, 1e8))
def test_resolution_rationals_are_exact_enough(size):
    numerator, denominator = tiff_metadata._rational(size)
    assert 0 < numerator < 2**32
    assert 0 < denominator < 2**32
    assert abs(denominator / numerator / size - 1) < 1e-9


@pytest.mark.parametrize(
    ('shape', 'options', 'expected'),
    [
        ((4, 3, 6, 7), {'imagej': True, 'metadata': {'axes': 'ZCYX'}}, (0, 2, 3, 1)),
        ((3, 4, 6, 7), {'ome': True, 'metadata': {'axes': 'CZYX'}}, (1, 2, 3, 0)),
        ((4, 3, 6, 7), {'ome': True, 'metadata': {'axes': 'ZCYX'}}, (0, 2, 3, 1)),
        ((4, 6, 7, 3), {'photometric': 'rgb'}, (0, 1, 2, 3)),
        ((4, 6, 7, 3), {'imagej': True, 'photometric': 'rgb', 'metadata': {'axes': 'ZYXS'}},
         (0, 1, 2, 3)),
    ],
)  # fmt: skip
@pytest.mark.parametrize('compression', [None, 'zlib'])
def test_channels_become_the_last_axis(shape, options, expected, compression, tmp_path):
    data = ramp(shape)
    tifffile.imwrite(tmp_path / 'a.tif', data, compression=compression, **options)
    volume = io.open_volume(tmp_path / 'a.tif')
    assert volume.axes == 'zyxc'
    np.testing.assert_array_equal(volume.load().data, data.transpose(expected))
    window = volume.data[1:3, 2:5, 1:4, 1:3]
    np.testing.assert_array_equal(window, data.transpose(expected)[1:3, 2:5, 1:4, 1:3])


@pytest.mark.parametrize(
    ('shape', 'options', 'axes'),
    [
        ((6, 7), {}, 'YX'),
        ((6, 7), {'imagej': True}, 'YX'),
        ((1, 6, 7), {}, 'QYX'),
        ((5, 6, 7), {'imagej': True, 'metadata': {'axes': 'TYX'}}, 'TYX'),
        ((12, 6, 7), {'imagej': True}, 'CYX'),  # tifffile calls the slices channels
        ((1, 5, 6, 7), {'ome': True, 'metadata': {'axes': 'TZYX'}}, 'TZYX'),
    ],
)
@pytest.mark.parametrize('compression', [None, 'zlib'])
def test_stacks_become_volumes(shape, options, axes, compression, tmp_path):
    tifffile.imwrite(tmp_path / 'a.tif', ramp(shape), compression=compression, **options)
    volume = io.read_volume(tmp_path / 'a.tif')
    assert volume.axes == 'zyx'
    np.testing.assert_array_equal(volume.data, ramp(shape).reshape((-1, 6, 7)))


@pytest.mark.parametrize(
    ('shape', 'options'),
    [
        ((2, 5, 6, 7), {}),
        ((2, 3, 6, 7), {'imagej': True, 'metadata': {'axes': 'TZYX'}}),
        ((2, 3, 6, 7), {'ome': True, 'metadata': {'axes': 'TZYX'}}),
    ],
)
def test_ambiguous_axes_are_refused(shape, options, tmp_path):
    tifffile.imwrite(tmp_path / 'a.tif', ramp(shape), **options)
    with pytest.raises(InputError, match='axes'):
        io.read_volume(tmp_path / 'a.tif')


def test_one_of_several_series_is_chosen_by_number(tmp_path):
    with tifffile.TiffWriter(tmp_path / 'a.tif') as file:
        file.write(ramp((2, 6, 7)))
        file.write(noise((5, 8, 9)))
    with pytest.raises(InputError, match='2 image series'):
        io.read_volume(tmp_path / 'a.tif')
    chosen = io.read_volume(tmp_path / 'a.tif', dataset='1')
    np.testing.assert_array_equal(chosen.data, noise((5, 8, 9)))
    assert io.read_volume(f'{tmp_path}/a.tif::0').shape == (2, 6, 7)
    for number in ('2', 'first'):
        with pytest.raises(InputError, match='no image series'):
            io.read_volume(tmp_path / 'a.tif', dataset=number)


def test_levels_of_a_pyramid(tmp_path):
    data = noise((3, 32, 48))
    facts = {f'PhysicalSize{a}': s for a, s in zip('ZYX', (5.0, 2.0, 3.0), strict=True)}
    with tifffile.TiffWriter(tmp_path / 'a.ome.tif', ome=True) as file:
        file.write(data, subifds=1, metadata={'axes': 'ZYX', **facts})
        file.write(data[:, ::2, ::2], subfiletype=1)
    assert io.read_volume(tmp_path / 'a.ome.tif').voxel_size_nm == (5e3, 2e3, 3e3)
    small = io.read_volume(tmp_path / 'a.ome.tif', level=1)
    np.testing.assert_array_equal(small.data, data[:, ::2, ::2])
    assert small.voxel_size_nm == (5e3, 4e3, 6e3)
    with pytest.raises(InputError, match='no level 2'):
        io.read_volume(tmp_path / 'a.ome.tif', level=2)


def test_folder_of_slices_in_natural_order(tmp_path):
    data = noise((12, 6, 7))
    for i, plane in enumerate(data):
        tifffile.imwrite(
            tmp_path / f'slice{i}.tif', plane, compression='zlib' if i % 2 else None,
            imagej=True, resolution=(0.1, 0.1), metadata={'unit': 'nm', 'spacing': 20.0},
        )  # fmt: skip
    volume = io.open_volume(tmp_path)
    assert volume.voxel_size_nm == (20.0, 10.0, 10.0)
    np.testing.assert_array_equal(volume.load().data, data)
    np.testing.assert_array_equal(volume.data[8:11, 2:4, 1:], data[8:11, 2:4, 1:])
    tifffile.imwrite(tmp_path / 'slice5.tif', noise((6, 8)))
    with pytest.raises(InputError, match=r'slice5\.tif'):
        io.open_volume(tmp_path)


def test_folder_of_many_slices_keeps_no_file_open(tmp_path):
    import resource

    for i in range(60):
        tifffile.imwrite(tmp_path / f's{i}.tif', noise((4, 4)), compression='zlib')
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    import os

    used = len(os.listdir('/proc/self/fd')) if os.path.isdir('/proc/self/fd') else 100
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 20, hard))
    try:
        assert io.read_volume(tmp_path).shape == (60, 4, 4)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize('dtype', ['u1', 'u2', 'f4'])
@pytest.mark.parametrize('channels', [1, 3])
def test_tifffile_reads_our_stacks_as_imagej(dtype, channels, tmp_path):
    data = ramp((5, 6, 7, channels), dtype)
    io.write_volume(tmp_path / 'a.tif', Volume(data, VOXEL_SIZE_NM, 'zyxc'))
    with tifffile.TiffFile(tmp_path / 'a.tif') as file:
        assert file.is_imagej
        assert file.imagej_metadata['spacing'] == VOXEL_SIZE_NM[0]
        assert file.imagej_metadata['unit'] == 'nm'
        assert file.series[0].axes == ('ZCYX' if channels > 1 else 'ZYX')
        expected = np.moveaxis(data, 3, 1) if channels > 1 else data[..., 0]
        np.testing.assert_array_equal(file.asarray(), expected)


@pytest.mark.parametrize('dtype', ['i4', 'u4', 'f8', 'i1', 'i2'])
def test_tifffile_reads_our_stacks_as_ome(dtype, tmp_path):
    io.write_volume(tmp_path / 'a.tif', Volume(ramp(dtype=dtype), VOXEL_SIZE_NM))
    with tifffile.TiffFile(tmp_path / 'a.tif') as file:
        assert file.is_ome
        assert 'PhysicalSizeZ="35.31"' in file.ome_metadata
        assert file.series[0].axes == 'ZYX'
        np.testing.assert_array_equal(file.asarray(), ramp(dtype=dtype))


@pytest.mark.parametrize('dtype', ['u1', 'f8'])
def test_large_volumes_become_bigtiff(dtype, tmp_path, monkeypatch):
    monkeypatch.setattr(tiff_writer, '_CLASSIC_BYTES', 100)
    io.write_volume(tmp_path / 'a.tif', Volume(ramp(dtype=dtype), VOXEL_SIZE_NM))
    with tifffile.TiffFile(tmp_path / 'a.tif') as file:
        assert file.is_bigtiff
    found = io.read_volume(tmp_path / 'a.tif')
    np.testing.assert_array_equal(found.data, ramp(dtype=dtype))
    assert found.voxel_size_nm == VOXEL_SIZE_NM


def test_pages_in_a_circle_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / 'a.tif', ramp((6, 7)), metadata=None)
    content = bytearray((tmp_path / 'a.tif').read_bytes())
    n = int.from_bytes(content[8:10], 'little')
    content[10 + 12 * n : 14 + 12 * n] = (8).to_bytes(4, 'little')  # next page: the first
    (tmp_path / 'a.tif').write_bytes(content)
    with pytest.raises(InputError, match='circle'):
        io.read_volume(tmp_path / 'a.tif')


def test_more_slices_promised_than_there_are(tmp_path):
    with tifffile.TiffWriter(tmp_path / 'a.tif') as file:
        file.write(ramp((6, 7)), description='ImageJ=1.53t\nimages=5\nslices=5\n', metadata=None)
    with pytest.raises(InputError, match='5 slices'):
        io.read_volume(tmp_path / 'a.tif')


@pytest.mark.parametrize(
    ('names', 'missing'),
    [
        (['s_001', 's_002', 's_004'], 3),
        (['s_010', 's_020', 's_040', 's_060'], 30),
        (['z1_ch00', 'z2_ch00', 'z4_ch00'], 3),
        (['z98', 'z99', 'z0101'], 100),
        (['s_001', 's_002', 's_003'], None),
        (['s_8', 's_9', 's_10', 's_11'], None),
        (['s_10', 's_20', 's_30'], None),
        (['s_3', 's_7'], None),
        (['a_1', 'a_2', 'b_1', 'b_2', 'c'], None),
        (['left', 'right', 'up'], None),
    ],
)
def test_a_gap_in_the_numbers_of_slices_is_told(names, missing, tmp_path, caplog):
    for name in names:
        tifffile.imwrite(tmp_path / f'{name}.tif', noise((4, 5)))
    with caplog.at_level('WARNING', logger='absl'):
        volume = io.open_volume(tmp_path)
    assert volume.shape == (len(names), 4, 5)
    assert volume.metadata.get('missing_slice') == missing
    told = [r.getMessage() for r in caplog.records]
    assert told == (
        [f'{tmp_path}: the numbering of the slices leaves out {missing}'] if missing else []
    )
