"""MRC, REC, ST and MAP files: the CCP-EM MRC2014 format and its bare and IMOD relatives.

Cheng et al. 2015, J. Struct. Biol. 192:146. Sections, rows and columns are z, y, x unless the
header maps them otherwise; y is never flipped. Cells are in Å in the file.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE

from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import Volume, VoxelSize
from sxt_jax.io.layout import Layout
from sxt_jax.io.lazy import MappedFile, check_size, lazy_view
from sxt_jax.io.units import to_voxel_size

SUFFIXES = ('.mrc', '.rec', '.st', '.map', '.ali')
DTYPES = tuple(np.dtype(t) for t in ('i1', 'i2', 'u2', 'f2', 'f4'))
SLAB_DEPTH = 1
_MODES = {0: 'i1', 1: 'i2', 2: 'f4', 6: 'u2', 12: 'f2'}
_IMOD_STAMP = 1146047817
_KIND = 'MRC file'


def open_mrc(path: Path, *, dataset: str | None = None, level: int = 0) -> Volume:
    """Open an MRC file as a memory map.

    Headers without `MAP ` stamp or cell (as written at soft X-ray microscopes) are accepted, with
    an unknown voxel size.

    Raises:
      InputError: no MRC file, fewer bytes than promised, or a mode that is no real number.
    """
    del dataset, level
    size = path.stat().st_size
    check_size(path, size, HEADER_DTYPE.itemsize, 'MRC')
    header = _read_header(path)
    n = tuple(int(header[k]) for k in ('nz', 'ny', 'nx'))
    dtype = _dtype(path, header)
    offset = HEADER_DTYPE.itemsize + max(0, int(header['nsymbt']))
    check_size(path, size, offset + math.prod(n) * dtype.itemsize, 'MRC')
    array = MappedFile(path, dtype, offset, n)
    data = lazy_view(array, order=_axis_order(path, header), where=path, kind=_KIND)
    return Volume(
        data, _voxel_size(header), metadata={'format': 'MRC', 'mode': int(header['mode'])}
    )


def _read_header(path: Path) -> Any:
    """The header in the byte order in which mode and sizes make sense."""
    with path.open('rb') as file:
        raw = file.read(HEADER_DTYPE.itemsize)
    plausible = []
    for order in '<>':
        header = np.frombuffer(raw, HEADER_DTYPE.newbyteorder(order))[0]
        sizes = [int(header[k]) for k in ('nx', 'ny', 'nz')]
        # Modes are below 128, so that only mode 0 reads the same in both orders.
        if 0 <= header['mode'] < 128 and min(sizes) > 0 and int(header['nsymbt']) < 2**30:
            plausible.append((math.prod(sizes), order, header))
    if not plausible:
        raise InputError(path, 'has no MRC header', 'an MRC, REC, ST or MAP volume')
    # In the wrong order a size below 65536 reads as a multiple of it.
    return min(plausible, key=lambda p: p[:2])[2]


def _dtype(path: Path, header: Any) -> np.dtype:
    mode = int(header['mode'])
    if mode not in _MODES:
        raise InputError(path, f'MRC mode {mode}', f'one of the modes {sorted(_MODES)}')
    if mode == 0 and _is_unsigned(header):
        return np.dtype('u1')
    return np.dtype(_MODES[mode]).newbyteorder(header.dtype['mode'].byteorder)


def _is_unsigned(header: Any) -> bool:
    """Whether mode 0 means uint8: IMOD says so in a flag, old files by their extremes only."""
    order = header.dtype['mode'].byteorder
    stamp, flags = np.frombuffer(
        header['extra2'].tobytes()[40:48], np.dtype('i4').newbyteorder(order)
    )
    if stamp == _IMOD_STAMP:
        return not flags & 1
    if int(header['nversion']) >= 20140:
        return False
    return bool(header['dmin'] >= 0 and header['dmax'] > 127)


def _axis_order(path: Path, header: Any) -> tuple[int, int, int]:
    """File axis (section, row, column) that holds z, y and x."""
    maps = [int(header[k]) for k in ('maps', 'mapr', 'mapc')]
    if maps == [0, 0, 0]:
        return 0, 1, 2
    if sorted(maps) != [1, 2, 3]:
        raise InputError(path, f'axis map {maps[::-1]}', 'a permutation of 1, 2, 3')
    return maps.index(3), maps.index(2), maps.index(1)


def _voxel_size(header: Any) -> VoxelSize | None:
    grid = [int(header[k]) for k in ('mz', 'my', 'mx')]
    cell = [float(header['cella'][k]) for k in 'zyx']
    if min(grid) <= 0:
        return None
    return to_voxel_size([c / g for c, g in zip(cell, grid, strict=True)], ['Å'] * 3)


@contextlib.contextmanager
def create_mrc(path: Path, layout: Layout) -> Iterator[Callable[[np.ndarray], None]]:
    """Write an MRC file slab by slab.

    Raises:
      InputError: the volume has channels.
    """
    if layout.axes != 'zyx':
        raise InputError(layout.path, 'MRC files have no channels', '.tif, .h5, .zarr or .npy')
    statistics = _Statistics()
    with path.open('wb') as file:
        file.write(_header(layout).tobytes())

        def append(slab: np.ndarray) -> None:
            statistics.add(slab)
            file.write(np.ascontiguousarray(slab, layout.dtype.newbyteorder('<')).tobytes())

        yield append
        file.seek(0)
        file.write(_header(layout, statistics).tobytes())


class _Statistics:
    """Running extremes and moments of what has been written."""

    def __init__(self) -> None:
        self.low, self.high, self.n, self.sum, self.squares = np.inf, -np.inf, 0, 0.0, 0.0

    def add(self, slab: np.ndarray) -> None:
        for plane in slab:  # slice by slice: float64 takes up to eight times the memory
            values = plane.astype(np.float64)
            self.low, self.high = min(self.low, values.min()), max(self.high, values.max())
            self.n, self.sum = self.n + plane.size, self.sum + float(values.sum())
            self.squares += float(np.square(values).sum())

    def fields(self) -> dict[str, float]:
        mean = self.sum / self.n
        rms = max(0.0, self.squares / self.n - mean**2) ** 0.5
        return {'dmin': self.low, 'dmax': self.high, 'dmean': mean, 'rms': rms}


def _header(layout: Layout, statistics: _Statistics | None = None) -> np.ndarray:
    header = np.zeros((), HEADER_DTYPE.newbyteorder('<'))
    z, y, x = layout.shape
    mode = next(m for m, t in _MODES.items() if np.dtype(t) == layout.dtype)
    fields: dict[str, Any] = {
        'nx': x, 'ny': y, 'nz': z, 'mode': mode, 'mx': x, 'my': y, 'mz': z,
        'mapc': 1, 'mapr': 2, 'maps': 3, 'ispg': 1, 'nversion': 20141, 'map': b'MAP ',
        'machst': (0x44, 0x44, 0, 0), 'dmin': 0, 'dmax': -1, 'dmean': -2, 'rms': -1, 'nlabl': 0,
    }  # fmt: skip
    for key, value in fields.items():
        header[key] = value
    if layout.voxel_size_nm is not None:
        for key, n, nm in zip('zyx', layout.shape, layout.voxel_size_nm, strict=True):
            header['cella'][key] = n * nm * 10
    for key in ('alpha', 'beta', 'gamma'):
        header['cellb'][key] = 90
    for key, number in (statistics.fields() if statistics else {}).items():
        header[key] = number
    return header
