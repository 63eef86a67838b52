"""Reading TIFF: plain, BigTIFF, ImageJ, OME, compressed; one file or a folder of slices.

tifffile gives a truncated ImageJ or compressed stack as a single slice, so the chain of pages, the
extent of their data and the number of slices that the metadata promise are verified here first.
"""

from __future__ import annotations

import itertools
import math
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from absl import logging

from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import Volume, VoxelSize
from sxt_jax.io.lazy import LazyArray, MappedFile, OneSlice, lazy_view, reading
from sxt_jax.io.tiff_metadata import declared_planes, read_class_names, read_voxel_size
from sxt_jax.io.tiff_pages import check_extents, count_pages

SUFFIXES = ('.tif', '.tiff', '.btf', '.tf8')
_KIND = 'TIFF file'
_IMAGEJ_MAX_CHANNELS = 7


def open_tiff(
    path: Path, *, dataset: str | None = None, level: int = 0, channels_first: bool = False
) -> Volume:
    """Open a TIFF file, or a folder of 2-D ones in natural order, page by page.

    Args:
      dataset: number of the image series where a file holds several.
      level: level of an image pyramid.
      channels_first: four axes of which the first two have no name are channels and slices;
        otherwise they are refused.

    Raises:
      InputError: truncated or no TIFF, several series, axes that make no volume.
    """
    if path.is_dir():
        return _open_folder(path)
    return _open_file(path, dataset, level, channels_first=channels_first)[0]


def _open_file(
    path: Path, dataset: str | None = None, level: int = 0, *, channels_first: bool = False
) -> tuple[Volume, tifffile.TiffFile]:
    """The volume, and the open file that its data are read from."""
    with reading(path, _KIND):
        n_pages = count_pages(path)
        file = tifffile.TiffFile(path)
        full = _choose_series(path, file, dataset)
        if not 0 <= level < len(full.levels):
            raise InputError(path, f'no level {level}', f'0 to {len(full.levels) - 1}')
        series = full.levels[level]
        _check_complete(path, file, full, n_pages)
        if series.dtype is None or np.dtype(series.dtype).kind not in 'biuf':
            raise InputError(path, f'dtype {series.dtype}', 'real numbers')
        axes, order = _volume_axes(path, series, channels_first)
        data = _lazy_data(path, file, series, order)
        size = read_voxel_size(file, n_slices=data.shape[0])
        if size is not None and level:
            size = _scaled(size, _spatial(full, order), _spatial(series, order))
        metadata = {'format': f'TIFF ({series.kind})', 'level': level}
        return Volume(data, size, axes, read_class_names(file), metadata), file


def _scaled(size: VoxelSize, full: Sequence[int], level: Sequence[int]) -> VoxelSize:
    """Voxel size of a pyramid level from that of full resolution."""
    z, y, x = (s * a / b for s, a, b in zip(size, full, level, strict=True))
    return z, y, x


def _spatial(series: Any, order: Sequence[int | None]) -> list[int]:
    return [1 if a is None else series.shape[a] for a in order[:3]]


def _choose_series(path: Path, file: Any, dataset: str | None) -> Any:
    n = len(file.series)
    if dataset is None and n != 1:
        shapes = [s.shape for s in file.series[:5]]
        raise InputError(path, f'{n} image series of shapes {shapes}', f'dataset="0" to "{n - 1}"')
    number = dataset or '0'
    if not number.isdecimal() or int(number) >= n:
        raise InputError(path, f'no image series {number!r}', f'a number from 0 to {n - 1}')
    return file.series[int(number)]


def _check_complete(path: Path, file: Any, series: Any, n_pages: int) -> None:
    """Raise unless all slices that the metadata promise are in the file."""
    if len(file.pages) != n_pages and len(file.pages) > 1:
        raise InputError(path, f'{len(file.pages)} readable pages', f'{n_pages} pages')
    planes = math.prod(series.shape) // max(1, math.prod(series.keyframe.shape))
    declared = declared_planes(file, series)
    if declared is not None and planes != declared:
        raise InputError(
            path, f'is truncated: {planes} slices', f'{declared} slices, as its metadata promise'
        )
    for one in series.levels:
        check_extents(path, one)


def _volume_axes(
    path: Path, series: Any, channels_first: bool
) -> tuple[str, tuple[int | None, ...]]:
    """'zyx' or 'zyxc', and the series axis that holds each (None: there is none)."""
    axes, shape = series.axes, series.shape
    if series.kind == 'imagej' and axes == 'CYX' and shape[0] > _IMAGEJ_MAX_CHANNELS:
        axes = 'ZYX'  # tifffile names the slices of a stack channels unless told otherwise
    at: dict[str, int] = {}
    spare = []
    for i, (axis, n) in enumerate(zip(axes, shape, strict=True)):
        name = {'Z': 'z', 'Y': 'y', 'X': 'x', 'C': 'c', 'S': 'c'}.get(axis)
        if n == 1 and name not in ('y', 'x'):
            continue
        if name is None or name in at:
            spare.append(i)
        else:
            at[name] = i
    if channels_first and len(spare) == 2 and not {'z', 'c'} & at.keys():
        at['c'] = spare.pop(0)
    if 'z' not in at and len(spare) == 1 and axes[spare[0]] not in 'CS':
        at['z'] = spare.pop()  # pages without a named axis, or a stack saved as a time series
    if spare or 'y' not in at or 'x' not in at:
        raise InputError(
            path, f'axes {axes} of shape {tuple(shape)}',
            'a volume: slices, rows, columns and at most one channel axis',
        )  # fmt: skip
    names = 'zyxc' if 'c' in at else 'zyx'
    return names, tuple(at.get(a) for a in names)


def _lazy_data(path: Path, file: Any, series: Any, order: tuple[int | None, ...]) -> LazyArray:
    offset = series.dataoffset
    if offset is not None:  # uncompressed and in one run: a window is read without its pages
        dtype = np.dtype(series.dtype).newbyteorder(file.byteorder)
        array: Any = MappedFile(path, dtype, offset, series.shape)
        file.close()
    else:
        array = _Pages(series)
    if order[0] is None:  # no z axis: one slice
        array = OneSlice(array)
        order = (0, *(a + 1 for a in order[1:] if a is not None))
    return lazy_view(array, order=tuple(a for a in order if a is not None), where=path, kind=_KIND)


class _Pages:
    """A series of which only the pages in a window are decoded."""

    def __init__(self, series: Any) -> None:
        self.shape, self.dtype = tuple(series.shape), np.dtype(series.dtype)
        self._pages = series.pages
        n, self._n_lead = 1, 0
        while n < len(self._pages):
            n *= self.shape[self._n_lead]
            self._n_lead += 1
        lead = self.shape[: self._n_lead]
        self._numbers = np.arange(len(self._pages)).reshape(lead)
        self._lock = threading.Lock()  # one file handle for all readers

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        numbers = self._numbers[index[: self._n_lead]]
        inner = index[self._n_lead :]
        shape = tuple(s.stop - s.start for s in inner)
        planes = np.empty((numbers.size, *shape), self.dtype)
        for plane, number in zip(planes, numbers.ravel(), strict=True):
            plane[...] = self._read(int(number), inner)
        return planes.reshape((*numbers.shape, *shape))

    def _read(self, number: int, inner: tuple[slice, ...]) -> np.ndarray:
        with self._lock:
            page = self._pages[number].asarray()
        return page.reshape(self.shape[self._n_lead :])[inner]


def natural_order(path: Path) -> list[Any]:
    """Sort key under which `slice10` comes after `slice9`."""
    parts = re.split(r'(\d+)', path.name.lower())
    return [(1, int(p), '') if p.isdigit() else (0, 0, p) for p in parts]


def slice_files(folder: Path) -> list[Path]:
    """The TIFF files of a folder in natural order."""
    files = [p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES]
    return sorted((p for p in files if not p.name.startswith('.')), key=natural_order)


def is_slice_folder(folder: Path) -> bool:
    """Whether a folder holds 2-D TIFF files of one shape: the slices of a volume."""
    files = slice_files(folder)
    try:
        shapes = {_slice_shape(p) for p in files}
    except (InputError, OSError, tifffile.TiffFileError):
        return False
    return len(files) > 1 and len(shapes) == 1 and None not in shapes


def holds_single_pages(folder: Path) -> bool:
    """Whether the TIFF files of a folder that can be read, two at least, are 2-D ones."""
    n = 0
    for path in slice_files(folder):
        try:
            if _slice_shape(path) is None:
                return False
        except (InputError, OSError, tifffile.TiffFileError):
            continue
        n += 1
    return n > 1


def first_missing(files: Sequence[Path]) -> int | None:
    """The first number that the names of slices leave out, as 3 in `s_1 s_2 s_4`; None if none.

    Names are compared where they differ from the one before in one number only. The smallest
    advance is the step.
    """
    names = [re.split(r'(\d+)', path.stem.lower()) for path in files]
    pairs = [p for one, other in itertools.pairwise(names) if (p := _advance(one, other))]
    step = min((b - a for a, b in pairs), default=0)
    return next((a + step for a, b in pairs if b - a > step), None)


def _advance(one: Sequence[str], other: Sequence[str]) -> tuple[int, int] | None:
    """The only number in which two split names differ, in the one and the other."""
    changed = [(a, b) for a, b in itertools.zip_longest(one, other, fillvalue='') if a != b]
    if len(changed) != 1 or not all(n.isdecimal() for n in changed[0]):
        return None
    a, b = (int(n) for n in changed[0])
    return (a, b) if b > a else None


def _slice_shape(path: Path) -> tuple[int, ...] | None:
    """Shape of a TIFF file of one page, None of others."""
    if count_pages(path) != 1:
        return None
    with tifffile.TiffFile(path) as file:
        series = file.series
        one = len(series) == 1 and series[0].ndim == 2
        return series[0].shape if one and declared_planes(file, series[0]) in (None, 1) else None


def _open_folder(folder: Path) -> Volume:
    files = slice_files(folder)
    if not files:
        raise InputError(folder, 'no TIFF files in this folder', 'slices of a volume')
    first, file = _open_file(files[0])
    file.close()
    for path in files:
        one, file = _open_file(path)
        file.close()  # a thousand slices would be a thousand open files
        if one.data.shape != (1, *first.data.shape[1:]) or one.dtype != first.dtype:
            raise InputError(
                path, f'{one.dtype} {one.data.shape}',
                f'a 2-D slice like {files[0].name}: {first.dtype} {first.data.shape[1:]}',
            )  # fmt: skip

    def read_slice(path: Path, window: tuple[slice, ...]) -> np.ndarray:
        one, file = _open_file(path)
        with file:
            return one.data[window]

    def read(slices: tuple[slice, ...]) -> np.ndarray:
        window = (slice(0, 1), *slices[1:])
        return np.concatenate([read_slice(p, window) for p in files[slices[0]]])

    data = LazyArray(
        (len(files), *first.data.shape[1:]), first.dtype, read, where=folder, kind='TIFF folder'
    )
    metadata: dict[str, Any] = {'format': 'TIFF slices', 'n_files': len(files)}
    missing = first_missing(files)
    if missing is not None:
        logging.warning('%s: the numbering of the slices leaves out %d', folder, missing)
        metadata['missing_slice'] = missing
    return Volume(data, first.voxel_size_nm, first.axes, first.class_names, metadata)
