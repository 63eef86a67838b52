"""No truncation of any file of any writer is read as if it were whole."""

from __future__ import annotations

from pathlib import Path

import h5py
import mrcfile
import nrrd
import numpy as np
import pytest
import tensorstore as ts
import tifffile

from sxt_jax import io
from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import Volume
from tests.io.samples import FORMATS, amira_header, noise, run_lengths

FRACTIONS = (0, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
SHAPE = (12, 32, 32)


def smooth() -> np.ndarray:
    """A volume that compresses well: cut files keep most of their pages."""
    return (np.indices(SHAPE).sum(0) // 8).astype('u1')


def tiff(**options):
    return lambda path, data: tifffile.imwrite(path, data, **options)


def tiff_pages(path, data):
    with tifffile.TiffWriter(path) as file:
        for plane in data:
            file.write(plane, contiguous=False, metadata=None)


def imagej_one_page(path, data):
    """As ImageJ itself writes large stacks: a single page, all slices behind it."""
    text = f'ImageJ=1.53t\nimages={len(data)}\nslices={len(data)}\nunit=nm\nspacing=2.0\n'
    with tifffile.TiffWriter(path) as file:
        file.write(data[0], metadata=None, description=text, resolution=(0.1, 0.1))
    with path.open('ab') as file:
        with tifffile.TiffFile(path) as tif:
            end = tif.pages[0].dataoffsets[0] + data[0].nbytes
        file.truncate(end)
        file.write(data[1:].tobytes())


def hdf5(**options):
    def write(path, data):
        with h5py.File(path, 'w') as file:
            file.create_dataset('t0/channel0', data=data, **options)

    return write


def mrc(path, data):
    with mrcfile.new(path) as file:
        file.set_data(data.astype('f4'))


def nrrd_as(encoding):
    return lambda path, data: nrrd.write(str(path), data, {'encoding': encoding}, index_order='C')


def amira(coding):
    def write(path, data):
        raw = data.tobytes()
        coded = {'': raw, 'HxByteRLE': run_lengths(raw), 'HxZip': __import__('zlib').compress(raw)}
        told = f'({coding},{len(coded[coding])})' if coding else ''
        path.write_bytes(amira_header(data.shape, coding=told) + coded[coding])

    return write


def amira_text(path, data):
    head = amira_header(data.shape, start='# AmiraMesh 3D ASCII 2.0')
    path.write_bytes(head + b'\n'.join(b'%d' % v for v in data.ravel()) + b'\n')


FOREIGN = {
    'plain.tif': tiff(),
    'bare.tif': tiff(metadata=None),
    'one_page.tif': tiff(truncate=True),
    'deflate.tif': tiff(compression='zlib'),
    'bare_deflate.tif': tiff(compression='zlib', metadata=None),
    'lzw.tif': tiff(compression='lzw'),
    'zstd.tif': tiff(compression='zstd', predictor=2),
    'tiles.tif': tiff(compression='zlib', tile=(16, 16)),
    'imagej.tif': tiff(imagej=True, metadata={'axes': 'ZYX'}),
    'imagej_deflate.tif': tiff(imagej=True, compression='zlib', metadata={'axes': 'ZYX'}),
    'imagej_big_endian.tif': tiff(imagej=True, byteorder='>', metadata={'axes': 'ZYX'}),
    'imagej_one_page.tif': imagej_one_page,
    'ome.tif': tiff(ome=True, metadata={'axes': 'ZYX'}),
    'ome_deflate.tif': tiff(ome=True, compression='zlib', metadata={'axes': 'ZYX'}),
    'big.tif': tiff(bigtiff=True),
    'big_deflate.tif': tiff(bigtiff=True, compression='zlib'),
    'pages.tif': tiff_pages,
    'mrcfile.mrc': mrc,
    'contiguous.h5': hdf5(),
    'chunked.h5': hdf5(chunks=(4, 16, 16), compression='gzip'),
    'latest.h5': hdf5(chunks=(4, 16, 16)),
    'numpy.npy': lambda path, data: np.save(path, data),
    'fortran.npy': lambda path, data: np.save(path, np.asfortranarray(data)),
    'numpy.npz': lambda path, data: np.savez(path, data=data),
    'deflate.npz': lambda path, data: np.savez_compressed(path, data=data),
    'raw.nrrd': nrrd_as('raw'),
    'gzip.nrrd': nrrd_as('gzip'),
    'bzip2.nrrd': nrrd_as('bzip2'),
    'raw.am': amira(''),
    'runs.am': amira('HxByteRLE'),
    'zip.am': amira('HxZip'),
    'text.am': amira_text,
}
OWN = {
    f'own_{dtype}_{compression}{suffix}': lambda path, data, d=dtype, c=compression: (
        io.write_volume(path, Volume(data.astype(d), (1, 2, 3)), compression=c)
    )
    for suffix in FORMATS
    if suffix != '.zarr'
    for dtype in ('u1', 'i4')
    for compression in (True, False)
}


def assert_truncations_raise(path: Path, read) -> None:
    whole = path.read_bytes()
    for fraction in FRACTIONS:
        path.write_bytes(whole[: int(len(whole) * fraction)])
        with pytest.raises(InputError) as info:
            read()
        assert '\n' not in str(info.value), f'at {fraction}'
        assert path.name in str(info.value) or path.parent.name in str(info.value)
    path.write_bytes(whole)


@pytest.mark.parametrize('name', [*FOREIGN, *OWN])
@pytest.mark.parametrize('compressible', [True, False])
def test_truncated_files_raise(name, compressible, tmp_path):
    data = smooth() if compressible else noise(SHAPE)
    path = tmp_path / name
    (FOREIGN | OWN)[name](path, data)
    np.testing.assert_array_equal(io.read_volume(path).data, data)
    assert_truncations_raise(path, lambda: io.read_volume(path))


@pytest.mark.parametrize('version', ['0.4', '0.5'])
@pytest.mark.parametrize('compression', [True, False])
@pytest.mark.parametrize('data', [noise((20, 30, 300)), np.zeros((20, 30, 300), 'u2')])
def test_truncated_and_missing_files_of_our_zarr_raise(version, compression, data, tmp_path):
    path = tmp_path / 'a.zarr'
    io.write_volume(path, Volume(data, (1, 2, 3)), version=version, compression=compression)
    np.testing.assert_array_equal(io.read_volume(path).data, data)
    files = [f for f in path.rglob('*') if f.is_file()]
    assert len(files) >= 6  # four chunks, metadata of image and array
    for file in files:
        assert_truncations_raise(file, lambda: io.read_volume(path))
        content = file.read_bytes()
        file.unlink()
        if file.name != '.zattrs' or file.parent == path:  # the array's only counts the chunks
            with pytest.raises(InputError):
                io.read_volume(path)
        file.write_bytes(content)


def test_bit_flips_in_our_zarr_raise(tmp_path):
    path = tmp_path / 'a.zarr'
    io.write_volume(path, Volume(noise((20, 30, 300)), (1, 2, 3)))
    rng = np.random.default_rng(0)
    chunks = sorted(f for f in path.rglob('*') if f.is_file() and f.name != 'zarr.json')
    assert len(chunks) == 4
    for file in chunks:
        content = file.read_bytes()
        for _ in range(10):
            broken = bytearray(content)
            broken[rng.integers(len(broken))] ^= 1 << rng.integers(8)
            file.write_bytes(broken)
            with pytest.raises(InputError):
                io.read_volume(path)
        file.write_bytes(content)


@pytest.mark.parametrize('driver', ['zarr', 'zarr3'])
def test_foreign_zarr_chunks(driver, tmp_path):
    path = tmp_path / 'a.zarr'
    data = noise((8, 16, 16), 'u2')
    store = ts.open(
        {'driver': driver, 'kvstore': {'driver': 'file', 'path': f'{path}/'}},
        create=True, shape=data.shape, dtype=ts.uint16, chunk_layout=ts.ChunkLayout(
            chunk_shape=(4, 16, 16)),
    ).result()  # fmt: skip
    store.write(data).result()
    np.testing.assert_array_equal(io.read_volume(path).data, data)
    chunk = next(f for f in sorted(path.rglob('*')) if f.name in ('0.0.0', '0') and f.is_file())
    assert_truncations_raise(chunk, lambda: io.read_volume(path))
    chunk.unlink()  # by the specification, a missing chunk is the fill value
    found = io.read_volume(path).data
    assert np.all(found[:4] == 0)
    np.testing.assert_array_equal(found[4:], data[4:])


def test_truncated_slice_of_a_folder_raises(tmp_path):
    for i, plane in enumerate(noise(SHAPE)[:3]):
        tifffile.imwrite(tmp_path / f's{i}.tif', plane, compression='zlib')
    assert io.read_volume(tmp_path).shape == (3, 32, 32)
    assert_truncations_raise(tmp_path / 's1.tif', lambda: io.read_volume(tmp_path))


def test_truncated_detached_data_raises(tmp_path):
    data = noise(SHAPE)
    for encoding, name in (('raw', 'a.raw'), ('gzip', 'a.raw.gz')):
        nrrd.write(str(tmp_path / 'a.nhdr'), data, {'encoding': encoding}, index_order='C')
        np.testing.assert_array_equal(io.read_volume(tmp_path / 'a.nhdr').data, data)
        assert_truncations_raise(tmp_path / name, lambda: io.read_volume(tmp_path / 'a.nhdr'))
