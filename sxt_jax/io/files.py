"""Volumes from and to files of any format, chosen by suffix."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sxt_jax.core.atomic import TEMPORARY_MARK, atomic_path
from sxt_jax.core.box import Box
from sxt_jax.core.errors import InputError
from sxt_jax.core.processes import ALONE, Team
from sxt_jax.core.volume import Volume, VoxelSize, slabs
from sxt_jax.io import amira, hdf5, mrc, npy, nrrd, tiff, tiff_writer, zarr
from sxt_jax.io.layout import Layout, storable_dtype
from sxt_jax.io.lazy import LazyArray
from sxt_jax.io.shared import open_shared_zarr
from sxt_jax.io.writer import VolumeWriter

DATASET_MARK = '::'
PAIR_FOLDERS = (('images', 'labels'), ('imagesTr', 'labelsTr'))
_SHOWN_FOLDERS = 6
_SLAB_BYTES = 2**26


@dataclasses.dataclass(frozen=True)
class Format:
    """How files with some suffixes are read and written.

    Attributes:
      create: None of formats that are only read.
      has_datasets: whether a file may hold several volumes, of which `dataset` names one.
    """

    name: str
    suffixes: tuple[str, ...]
    open: Callable[..., Volume]
    create: Callable[..., Any] | None = None
    dtypes: tuple[np.dtype, ...] = ()
    slab_depth: int = 1
    has_datasets: bool = False


FORMATS = (
    Format('TIFF', tiff.SUFFIXES, tiff.open_tiff, tiff_writer.create_tiff,
           tiff_writer.DTYPES, tiff_writer.SLAB_DEPTH, has_datasets=True),
    Format('MRC', mrc.SUFFIXES, mrc.open_mrc, mrc.create_mrc, mrc.DTYPES, mrc.SLAB_DEPTH),
    Format('HDF5', hdf5.SUFFIXES, hdf5.open_hdf5, hdf5.create_hdf5, hdf5.DTYPES, hdf5.SLAB_DEPTH,
           has_datasets=True),
    Format('OME-Zarr', zarr.SUFFIXES, zarr.open_zarr, zarr.create_zarr,
           zarr.DTYPES, zarr.SLAB_DEPTH, has_datasets=True),
    Format('NumPy', npy.SUFFIXES, npy.open_npy, npy.create_npy, npy.DTYPES, npy.SLAB_DEPTH),
    Format('NumPy', npy.ARCHIVE_SUFFIXES, npy.open_npy, npy.create_npy, npy.DTYPES, npy.SLAB_DEPTH,
           has_datasets=True),
    Format('NRRD', nrrd.SUFFIXES, nrrd.open_nrrd, nrrd.create_nrrd, nrrd.DTYPES, nrrd.SLAB_DEPTH),
    Format('NRRD', nrrd.DETACHED_SUFFIXES, nrrd.open_nrrd),
    Format('AmiraMesh', amira.SUFFIXES, amira.open_amira, has_datasets=True),
)  # fmt: skip
SUFFIXES = tuple(s for f in FORMATS for s in f.suffixes)
WRITABLE_SUFFIXES = tuple(s for f in FORMATS if f.create for s in f.suffixes)


def split_dataset(path: str | Path) -> tuple[Path, str | None]:
    """`file.h5::raw` names a data set within a file: its two parts."""
    name, mark, dataset = str(path).partition(DATASET_MARK)
    return Path(name), dataset if mark else None


def mark_dataset(path: str | Path, dataset: str | None) -> Path:
    """`path::dataset` of any format, unless the path names a data set already."""
    named = split_dataset(path)[1]
    return Path(f'{path}{DATASET_MARK}{dataset}') if dataset and not named else Path(path)


def with_dataset(path: str | Path, dataset: str | None) -> Path:
    """`path::dataset` where files of this format usually hold several and none is named yet."""
    several = (*hdf5.SUFFIXES, *zarr.SUFFIXES, *npy.ARCHIVE_SUFFIXES)
    return mark_dataset(path, dataset) if Path(path).suffix.lower() in several else Path(path)


def find_format(path: str | Path) -> Format | None:
    """The format of a path by its suffix; None of unknown ones."""
    suffix = Path(path).suffix.lower()
    return next((f for f in FORMATS if suffix in f.suffixes), None)


def is_volume(path: str | Path) -> bool:
    """Whether a path looks like a volume: a known suffix, or a folder of TIFF slices."""
    path, _ = split_dataset(path)
    if _is_hidden(path):
        return False
    if path.suffix.lower() in zarr.SUFFIXES:
        return path.is_dir()
    if path.is_dir():
        return tiff.is_slice_folder(path)
    return path.is_file() and find_format(path) is not None


def list_volumes(directory: str | Path, *, dataset: str | None = None) -> list[Path]:
    """The volumes at a path, in natural order.

    A file, a `.zarr` folder and a folder of 2-D TIFF slices are one volume; in any other folder
    every file of a known format, `.zarr` folder and folder of slices is one. Listed as well is what
    should be a volume but cannot be opened, as links to nothing and slices of several shapes, so
    that opening tells of it. Hidden and unfinished files are left out.

    Args:
      directory: a volume or a folder of volumes; `directory::name` gives the data set as well.
      dataset: added to a volume as `path::dataset`; in a folder, to the files that may have it.

    Raises:
      InputError: there is no volume.
    """
    directory = Path(directory)
    real, named = split_dataset(directory)
    if not real.exists():
        raise InputError(real, 'does not exist', 'a volume or a folder of volumes')
    if is_volume(directory):
        return [mark_dataset(directory, dataset)]
    entries = list(real.iterdir()) if real.is_dir() else []
    found = sorted((p for p in entries if is_volume(p) or _is_spoilt(p)), key=tiff.natural_order)
    if not found:
        folders = sorted((p for p in entries if _is_plain_folder(p)), key=tiff.natural_order)
        raise InputError(real, 'no volume here', _expected_files([p.name for p in folders]))
    return [with_dataset(p, named or dataset) for p in found]


def _is_hidden(path: Path) -> bool:
    """Whether a name is hidden, or that of an unfinished file."""
    return path.name.startswith('.') or TEMPORARY_MARK in path.name


def _is_plain_folder(path: Path) -> bool:
    return path.is_dir() and not _is_hidden(path)


def _is_spoilt(path: Path) -> bool:
    """Whether an entry of a folder should be a volume, but is none that can be opened."""
    if path.is_symlink() and not path.exists():
        return not _is_hidden(path) and find_format(path) is not None
    if not _is_plain_folder(path) or path.name in (n for pair in PAIR_FOLDERS for n in pair):
        return False
    return path.suffix.lower() not in zarr.SUFFIXES and tiff.holds_single_pages(path)


def _expected_files(folders: Sequence[str]) -> str:
    expected = f'files ending in {", ".join(SUFFIXES)}'
    if not folders:
        return expected
    more = ', …' if len(folders) > _SHOWN_FOLDERS else ''
    return f'{expected}, or one of its folders {", ".join(folders[:_SHOWN_FOLDERS])}{more}'


def open_volume(path: str | Path, *, dataset: str | None = None, level: int = 0) -> Volume:
    """Open a volume; `data` stays in the file where the format allows and reads windows of it.

    2-D images become one slice, bool becomes uint8, all is in native byte order. What the header
    promises is checked against the file.

    Args:
      path: file, `.zarr` folder or folder of TIFF slices; `file::name` picks a data set.
      dataset: data set within HDF5, Zarr, `.npz` or Amira, number of the series within TIFF; other
        formats have none.
      level: resolution level within OME-Zarr and pyramidal TIFF; 0 is full resolution.

    Raises:
      InputError: no such file, no volume, no such data set, or a file that is not whole.
    """
    path, named = split_dataset(path)
    dataset = dataset or named
    if not path.exists():
        found_there = 'is a link to nothing' if path.is_symlink() else 'does not exist'
        raise InputError(path, found_there, 'a volume')
    is_slices = path.is_dir() and path.suffix.lower() not in zarr.SUFFIXES
    found = FORMATS[0] if is_slices else find_format(path)
    if found is None:
        raise InputError(path, 'is no volume', f'a file ending in {", ".join(SUFFIXES)}')
    if dataset and (is_slices or not found.has_datasets):
        kind = 'a folder of slices' if is_slices else f'this format ({found.name})'
        reason = f'no data set {dataset!r}: {kind} holds one volume'
        raise InputError(path, reason, 'its path alone')
    try:
        volume = found.open(path, dataset=dataset, level=level)
    except OSError as error:
        raise InputError(path, f'cannot be read ({error.strerror})', f'a {found.name}') from error
    except ValueError as error:  # a voxel size or axes that make no volume
        raise error if isinstance(error, InputError) else InputError(path, str(error)) from error
    if min(volume.data.shape) == 0:
        raise InputError(path, f'is empty: shape {volume.data.shape}', 'at least one voxel')
    volume.data.reopen = functools.partial(_open_data, path, dataset, level)
    return volume


def _open_data(path: Path, dataset: str | None, level: int) -> LazyArray:
    return open_volume(path, dataset=dataset, level=level).data


def read_volume(
    path: str | Path, *, dataset: str | None = None, region: Box | None = None, level: int = 0
) -> Volume:
    """Read a volume, or a region of it, into memory (see `open_volume`).

    Args:
      region: box in z, y, x, within the volume.

    Raises:
      InputError: no whole volume there, or the region reaches out of it.
    """
    volume = open_volume(path, dataset=dataset, level=level)
    if region is None:
        return volume.load()
    whole = Box.of_shape(volume.shape)
    if len(region.start) != 3 or region.intersect(whole) != region or not region.size:
        raise InputError(path, f'region {region}', f'a box within {whole}')
    return volume.with_data(volume.data[region.slices])


def write_volume(
    path: str | Path,
    volume: Volume,
    *,
    dataset: str | None = None,
    compression: bool = True,
    version: Literal['0.4', '0.5'] = '0.5',
) -> None:
    """Write a volume in the format of the suffix, atomically and slab by slab.

    Values are kept exactly or refused. Integers of a dtype that the format does not know take the
    narrowest that holds them all.

    Args:
      dataset: name of the data set in HDF5 (default `data`), `labels/<name>` in OME-Zarr.
      compression: whether to compress where the format can.
      version: OME-Zarr version.

    Raises:
      InputError: unknown suffix, values the format cannot hold, no space, or no writable folder.
    """
    path = Path(path)
    found = _writable(path)
    dtype = volume.dtype
    if dtype.kind in 'iu' and dtype not in found.dtypes:
        dtype = storable_dtype(dtype, found.dtypes, path, extent=_extent(volume))
    with open_writer(
        path, shape=volume.data.shape, dtype=dtype, voxel_size_nm=volume.voxel_size_nm,
        axes=volume.axes, class_names=volume.class_names, dataset=dataset,
        compression=compression, version=version,
    ) as writer:  # fmt: skip
        z = 0
        for slab in slabs(volume.data, max_bytes=_SLAB_BYTES):
            writer.write(z, slab)
            z += len(slab)


def _extent(volume: Volume) -> tuple[int, int]:
    pairs = [(int(slab.min()), int(slab.max())) for slab in slabs(volume.data)]
    return min(low for low, _ in pairs), max(high for _, high in pairs)


def _writable(path: Path) -> Format:
    found = find_format(path)
    if found is None or found.create is None:
        raise InputError(
            path, f'{path.suffix or "no suffix"}: not a format that is written',
            f'one of {", ".join(WRITABLE_SUFFIXES)}',
        )  # fmt: skip
    return found


@contextlib.contextmanager
def open_writer(
    path: str | Path,
    *,
    shape: Sequence[int],
    dtype: Any,
    voxel_size_nm: VoxelSize | None = None,
    axes: str = 'zyx',
    class_names: Mapping[int, str] | None = None,
    dataset: str | None = None,
    compression: bool = True,
    version: Literal['0.4', '0.5'] = '0.5',
    team: Team = ALONE,
) -> Iterator[VolumeWriter]:
    """Write a volume slab by slab; it appears at `path` once all slices are written.

    Args:
      shape: [z, y, x] or [z, y, x, c], as `axes` says.
      dtype: dtype of the voxels; the file's may be wider (see `write_volume`).
      team: the processes that write it together, all of which call this; OME-Zarr only.

    Yields:
      An object whose `write(z_start, slab)` takes consecutive slabs, of the slices `slices`.

    Raises:
      InputError: as `write_volume`. Nothing is left behind then, nor on any other exception.
    """
    path = Path(path)
    found = _writable(path)
    assert found.create is not None
    if axes not in ('zyx', 'zyxc') or len(axes) != len(shape) or min(shape) < 1:
        raise InputError(path, f'axes {axes!r} of shape {tuple(shape)}', 'a filled zyx or zyxc')
    if path.is_dir() and path.suffix.lower() not in zarr.SUFFIXES:
        raise InputError(path, 'is a folder', 'the name of a file')
    if dataset and path.suffix.lower() not in (*hdf5.SUFFIXES, *zarr.SUFFIXES):
        raise InputError(path, f'{found.name} files have no data set {dataset!r}', '.h5 or .zarr')
    if dataset and path.exists():
        _check_replaceable(path, dataset)
    layout = Layout(
        path, tuple(int(n) for n in shape), storable_dtype(np.dtype(dtype), found.dtypes, path),
        axes, voxel_size_nm, class_names, dataset, compression, version,
    )  # fmt: skip
    if team.size > 1:
        if path.suffix.lower() not in zarr.SUFFIXES:
            raise InputError(path, f'{found.name} files have one writer', '.zarr, or one process')
        with _disk_errors(), open_shared_zarr(layout, team) as writer:
            yield writer
        return
    with atomic_path(path) as temporary, _disk_errors(), found.create(temporary, layout) as to:
        writer = VolumeWriter(layout, to, slab_depth=found.slab_depth)
        yield writer
        writer.finish()


def _check_replaceable(path: Path, dataset: str) -> None:
    """Refuse to replace a file that holds more than the data set to be written."""
    if path.suffix.lower() in hdf5.SUFFIXES:
        others = [n for n in hdf5.list_datasets(path) if n != dataset.strip('/')]
    elif path.suffix.lower() in zarr.SUFFIXES:
        others = [n for n in zarr.list_images(path) if n != dataset.strip('/')]
    else:
        return
    if others:
        raise InputError(path, f'holds {others} already', 'a file of its own for each volume')


@contextlib.contextmanager
def _disk_errors() -> Iterator[None]:
    """HDF5, tensorstore and NumPy tell a full disk in words only; here as the system does."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, InputError):
            raise
        told = r'No space left|File too large|quota exceeded|requested and \d+ written'
        if re.search(told, str(error), re.I):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        raise
