"""NRRD files (teem.sourceforge.net/nrrd/format.html): headers by pynrrd, voxels verified here."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import nrrd
import numpy as np

from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import Volume, VoxelSize
from sxt_jax.io.layout import FLOATS, INTEGERS, Layout, names_from_json, names_to_json
from sxt_jax.io.lazy import MappedFile, OneSlice, check_size, lazy_view, reading
from sxt_jax.io.units import to_voxel_size

SUFFIXES = ('.nrrd',)
DETACHED_SUFFIXES = ('.nhdr',)
DTYPES = (*INTEGERS, *FLOATS)
SLAB_DEPTH = 1
_KIND = 'NRRD file'
_TYPES = {
    'u1': 'uint8', 'i1': 'int8', 'u2': 'uint16', 'i2': 'int16', 'u4': 'uint32', 'i4': 'int32',
    'u8': 'uint64', 'i8': 'int64', 'f4': 'float', 'f8': 'double',
}  # fmt: skip
_SPATIAL_KINDS = ('domain', 'space', '???', 'none')


def open_nrrd(path: Path, *, dataset: str | None = None, level: int = 0) -> Volume:
    """Open a NRRD file: raw encoding as a memory map, others loaded.

    Axes are turned to z, y, x by their space directions where these are axis-aligned, by file
    order otherwise; directions are never flipped. Without units, sizes count as mm where the space
    is anatomical (as in 3D Slicer), else the voxel size is unknown.

    Raises:
      InputError: broken or truncated file, or axes that make no volume.
    """
    del dataset, level
    with reading(path, _KIND), path.open('rb') as file:
        header = nrrd.read_header(file)
        array: Any = _read_array(path, file, header)
        if array.dtype.kind not in 'iuf':
            raise InputError(path, f'type {header["type"]}', 'real numbers')
        # The header lists the fastest axis first; arrays list it last.
        axes, order = _axes(path, header)
        last = len(array.shape) - 1
        if last == 1:
            array, order, last = OneSlice(array), (2, 1, 0), 2
        data = lazy_view(array, order=tuple(last - i for i in order), where=path, kind=_KIND)
        names = names_from_json(header.get('class_names'))
        size = _voxel_size(header, order) if len(header['sizes']) > 2 else None
        return Volume(data, size, axes, names, {'format': 'NRRD', **_bare_spacing(header, order)})


def _read_array(path: Path, file: BinaryIO, header: Mapping[str, Any]) -> np.ndarray | MappedFile:
    dtype = nrrd.reader._determine_datatype(header)
    shape = tuple(int(n) for n in header['sizes'][::-1])
    n_bytes = math.prod(shape) * dtype.itemsize
    name = header.get('data file', header.get('datafile'))
    if name is not None:
        path = path.resolve().parent / str(name)  # a link to a header lies elsewhere
        with path.open('rb') as detached:
            return _read_voxels(path, detached, header, dtype, shape, n_bytes)
    return _read_voxels(path, file, header, dtype, shape, n_bytes)


def _read_voxels(
    path: Path,
    file: BinaryIO,
    header: Mapping[str, Any],
    dtype: np.dtype,
    shape: tuple[int, ...],
    n_bytes: int,
) -> np.ndarray | MappedFile:
    for _ in range(int(header.get('line skip', header.get('lineskip', 0)))):
        file.readline()
    skip = int(header.get('byte skip', header.get('byteskip', 0)))
    encoding = header['encoding'].lower()
    if encoding == 'raw' and skip >= 0:
        offset = file.tell() + skip
        check_size(path, path.stat().st_size, offset + n_bytes, 'NRRD')
        return MappedFile(path, dtype, offset, shape)
    if encoding in ('gzip', 'gz', 'bzip2', 'bz2') and skip >= 0:
        # Unlike pynrrd's, these readers raise where the end of the stream is missing.
        opener: Any = gzip.open if encoding.startswith('g') else bz2.open
        data = opener(file).read()
        check_size(path, len(data), skip + n_bytes, 'NRRD')
        return np.frombuffer(data, dtype, math.prod(shape), skip).reshape(shape)
    # Of text, and of data counted from the end of the file, a truncation cannot be noticed.
    raise InputError(path, f'encoding {encoding}, byte skip {skip}', 'raw, gzip or bzip2 from 0 on')


def _axes(path: Path, header: Mapping[str, Any]) -> tuple[str, tuple[int, ...]]:
    """'zyx' or 'zyxc', and the header axis (fastest first) that holds each."""
    n = len(header['sizes'])
    kinds = [str(k).lower() for k in header.get('kinds', ['domain'] * n)]
    spatial = [i for i, k in enumerate(kinds) if k in _SPATIAL_KINDS]
    other = [i for i in range(n) if i not in spatial]
    if n == 2:
        return 'zyx', (2, 1, 0)
    if len(spatial) == 4 and not other and 'space directions' in header:
        blank = [i for i, d in enumerate(header['space directions']) if np.isnan(d).any()]
        spatial, other = [i for i in spatial if i not in blank], blank
    if len(spatial) != 3 or len(other) > 1:
        raise InputError(path, f'sizes {header["sizes"]} of kinds {kinds}', 'three spatial axes')
    spatial = _by_direction(header, spatial)
    return ('zyxc', (*spatial[::-1], *other)) if other else ('zyx', tuple(spatial[::-1]))


def _by_direction(header: Mapping[str, Any], spatial: list[int]) -> list[int]:
    """Spatial axes in the order x, y, z of their directions, where these are axis-aligned."""
    if 'space directions' not in header:
        return spatial
    rows = np.abs(np.asarray([header['space directions'][i] for i in spatial], float))
    main = rows.argmax(axis=1)
    aligned = np.isfinite(rows).all() and np.allclose(rows.max(axis=1), rows.sum(axis=1), rtol=1e-6)
    if not aligned or sorted(main) != [0, 1, 2]:
        return spatial
    return [spatial[list(main).index(k)] for k in range(3)]


def _spacing(header: Mapping[str, Any], order: tuple[int, ...]) -> list[float] | None:
    if 'space directions' in header:
        return [float(np.linalg.norm(header['space directions'][i])) for i in order[:3]]
    if 'spacings' in header:
        return [float(header['spacings'][i]) for i in order[:3]]
    return None


def _voxel_size(header: Mapping[str, Any], order: tuple[int, ...]) -> VoxelSize | None:
    spacing = _spacing(header, order)
    units = header.get('space units')
    if spacing is None:
        return None
    if units is not None and len(units) == 3:
        return to_voxel_size(spacing, units[::-1])
    if 'units' in header:
        return to_voxel_size(spacing, [header['units'][i] for i in order[:3]])
    anatomical = str(header.get('space', '')).lower()
    if anatomical in ('lps', 'ras', 'las') or 'posterior' in anatomical or 'anterior' in anatomical:
        return to_voxel_size(spacing, ['mm'] * 3)
    return None


def _bare_spacing(header: Mapping[str, Any], order: tuple[int, ...]) -> dict[str, Any]:
    """Spacing whose unit the file does not tell, for the user to judge."""
    known = len(header['sizes']) == 2 or _voxel_size(header, order) is not None
    spacing = None if known else _spacing(header, order)
    return {'spacing_without_unit': spacing} if spacing else {}


@contextlib.contextmanager
def create_nrrd(path: Path, layout: Layout) -> Iterator[Callable[[np.ndarray], None]]:
    """Write a NRRD file slab by slab, as raw or gzip."""
    with path.open('wb') as file:
        file.write(_header(layout).encode())
        with contextlib.ExitStack() as stack:
            sink: Any = file
            if layout.compression:
                sink = stack.enter_context(gzip.GzipFile('', 'wb', 1, file, mtime=0))
            yield lambda slab: sink.write(
                np.ascontiguousarray(slab, layout.dtype.newbyteorder('<')).tobytes()
            )


def _header(layout: Layout) -> str:
    z, y, x = layout.shape[:3]
    channels = 'c' in layout.axes
    lead, kind, blank = ('', '', '') if not channels else (f'{layout.shape[3]} ', 'list ', 'none ')
    lines = [
        'NRRD0005',
        f'type: {_TYPES[layout.dtype.str[1:]]}',
        f'dimension: {len(layout.shape)}',
        f'sizes: {lead}{x} {y} {z}',
        f'kinds: {kind}domain domain domain',
        'endian: little',
        f'encoding: {"gzip" if layout.compression else "raw"}',
    ]
    if layout.voxel_size_nm is not None:
        sz, sy, sx = layout.voxel_size_nm
        rows = f'({sx!r},0,0) (0,{sy!r},0) (0,0,{sz!r})'
        lines[3:3] = ['space dimension: 3']
        lines += [f'space directions: {blank}{rows}', 'space units: "nm" "nm" "nm"']
    if layout.class_names:
        lines += [f'class_names:={names_to_json(layout.class_names)}']
    return '\n'.join(lines) + '\n\n'
