"""AmiraMesh (Avizo) lattices, read only: label and gray-value fields with their materials."""

from __future__ import annotations

import math
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import Volume, VoxelSize
from sxt_jax.io.lazy import MappedFile, check_size, lazy_view, reading
from sxt_jax.io.units import to_voxel_size

SUFFIXES = ('.am', '.labels', '.amiramesh')
_KIND = 'AmiraMesh file'
_MAX_HEADER = 2**22
_TYPES = {'byte': 'u1', 'short': 'i2', 'ushort': 'u2', 'int': 'i4', 'float': 'f4', 'double': 'f8'}
_FIELD = re.compile(
    r'^\s*Lattice\s*\{\s*(\w+)(?:\[(\d+)\])?\s+(\w+)\s*\}\s*=?\s*@(\d+)(?:\((\w+),\s*(\d+)\))?',
    re.M,
)


def open_amira(path: Path, *, dataset: str | None = None, level: int = 0) -> Volume:
    """Open a lattice: raw binary as a memory map; run lengths, zlib and ASCII loaded.

    The bounding box spans voxel centres, so a voxel is (max − min)/(n − 1) wide; its size is known
    only where the file tells the unit (`Units { Coordinates "nm" }`). Label value k is the k-th
    material.

    Args:
      dataset: name of the field where there are several, e.g. 'Labels'.

    Raises:
      InputError: no AmiraMesh lattice, another coordinate type than uniform, or a truncated file.
    """
    del level
    with reading(path, _KIND):
        header, start = _read_header(path)
        n = re.search(r'define\s+Lattice\s+(\d+)\s+(\d+)\s+(\d+)', header)
        if n is None:
            raise InputError(path, 'no lattice of three axes', 'an AmiraMesh volume')
        x, y, z = (int(g) for g in n.groups())
        coordinates = re.search(r'CoordType\s+"(\w+)"', header)
        if coordinates and coordinates[1].lower() != 'uniform':
            raise InputError(path, f'{coordinates[1]} coordinates', 'uniform coordinates')
        field = _choose_field(path, header, dataset)
        array = _read_field(path, header, start, field, (z, y, x))
        size, metadata = _voxel_size(header, (z, y, x))
        axes = 'zyx' if len(array.shape) == 3 else 'zyxc'
        data = lazy_view(array, order=tuple(range(len(array.shape))), where=path, kind=_KIND)
        return Volume(data, size, axes, _materials(header), metadata)


def _read_header(path: Path) -> tuple[str, int]:
    """The text before the data, and where the data section starts."""
    with path.open('rb') as file:
        head = file.read(_MAX_HEADER)
    if not re.match(rb'#\s*(AmiraMesh|Avizo)', head):
        raise InputError(path, f'is no AmiraMesh file ({len(head)} bytes)', 'an AmiraMesh volume')
    data = re.search(rb'\n@\d+[ \t]*\r?\n', head)
    if data is None:
        raise InputError(path, 'is truncated: no data section', 'a whole AmiraMesh file')
    return head[: data.start() + 1].decode('latin-1'), data.start() + 1


def _choose_field(path: Path, header: str, dataset: str | None) -> tuple[str, ...]:
    fields = [m.groups(default='') for m in _FIELD.finditer(header)]
    names = [f[2] for f in fields]
    if dataset is None and len(fields) == 1:
        return fields[0]
    if dataset in names:
        return fields[names.index(dataset)]
    found = f'no field {dataset!r}' if dataset else f'{len(fields)} lattice fields'
    raise InputError(path, found, f'dataset= one of {names}' if names else 'a lattice field')


def _read_field(
    path: Path, header: str, start: int, field: tuple[str, ...], shape: tuple[int, ...]
) -> np.ndarray | MappedFile:
    kind, channels, _, mark, coding, n_coded = field
    if kind not in _TYPES:
        raise InputError(path, f'field type {kind}', f'one of {list(_TYPES)}')
    if channels and int(channels) > 1:
        shape = (*shape, int(channels))
    order = '<' if 'LITTLE' in header[:200].upper() else '>'
    dtype = np.dtype(order + _TYPES[kind])
    offset = _data_offset(path, start, int(mark))
    if 'ASCII' in header[:200].upper():
        return _read_ascii(path, offset, dtype.newbyteorder('='), shape)
    n_bytes = math.prod(shape) * dtype.itemsize
    size = path.stat().st_size
    check_size(path, size, offset + (int(n_coded) if coding else n_bytes), 'Amira')
    if not coding:
        return MappedFile(path, dtype, offset, shape)
    with path.open('rb') as file:
        file.seek(offset)
        coded = file.read(int(n_coded))
    data = _decode(path, coding, coded, n_bytes)
    if len(data) != n_bytes:
        raise InputError(path, f'{len(data)} bytes after {coding}', f'{n_bytes} bytes')
    return np.frombuffer(data, dtype).reshape(shape)


def _data_offset(path: Path, start: int, mark: int) -> int:
    """Where the data after the line `@mark` begin."""
    pattern = re.compile(rb'(?:^|\n)@%d[ \t]*\r?\n' % mark)
    with path.open('rb') as file:
        file.seek(start)
        offset, tail = start, b''
        while block := file.read(_MAX_HEADER):
            if found := pattern.search(tail + block):
                return offset - len(tail) + found.end()
            offset, tail = offset + len(block), block[-32:]
    raise InputError(path, f'is truncated: no data @{mark}', 'a whole AmiraMesh file')


def _read_ascii(path: Path, offset: int, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    with path.open('rb') as file:
        file.seek(offset)
        text = file.read().split(b'\n@')[0]
    n = math.prod(shape)
    words = text.split()
    # A cut last number cannot be told from a whole one, so the line must have ended.
    if len(words) != n or not text[-1:].isspace():
        raise InputError(path, f'is truncated: {len(words)} numbers', f'{n} numbers and a line end')
    return np.array(words, np.float64).astype(dtype).reshape(shape)


def _decode(path: Path, coding: str, coded: bytes, n_bytes: int) -> bytes:
    if coding.lower() == 'hxzip':
        return zlib.decompress(coded)
    if coding.lower() == 'hxbyterle':
        return _decode_runs(coded, n_bytes)
    raise InputError(path, f'coding {coding}', 'HxByteRLE or HxZip')


def _decode_runs(coded: bytes, n_bytes: int) -> bytes:
    """HxByteRLE: a byte n ≤ 127 repeats the next one n times, n > 127 copies the next n − 128."""
    result = bytearray()
    i, end = 0, len(coded)
    while i < end and len(result) < n_bytes:
        n = coded[i]
        if n > 127:
            result += coded[i + 1 : i + 1 + (n & 127)]
            i += 1 + (n & 127)
        else:
            result += coded[i + 1 : i + 2] * n
            i += 2
    return bytes(result)


def _voxel_size(
    header: str, shape: tuple[int, int, int]
) -> tuple[VoxelSize | None, dict[str, Any]]:
    metadata: dict[str, Any] = {'format': 'AmiraMesh'}
    box = re.search(r'BoundingBox\s+((?:[-+\d.eE]+\s*){6})', header)
    if box is None:
        return None, metadata
    x0, x1, y0, y1, z0, z1 = (float(v) for v in box[1].split())
    spans = (z1 - z0, y1 - y0, x1 - x0)
    spacing = [s / max(1, n - 1) for s, n in zip(spans, shape, strict=True)]
    unit = re.search(r'Coordinates\s+"([^"]*)"', header)
    size = to_voxel_size(spacing, [unit[1] if unit else None] * 3)
    if size is None:
        metadata['spacing_without_unit'] = spacing
    return size, metadata


def _materials(header: str) -> dict[int, str] | None:
    """Names of the blocks directly within `Materials { … }`, in order."""
    start = re.search(r'\bMaterials\s*\{', header)
    if start is None:
        return None
    names, depth = [], 1
    for token in re.finditer(r'"[^"]*"|([\w.\-]+)\s*\{|([{}])', header[start.end() :]):
        if token[1] and depth == 1:
            names.append(token[1])
        if token[1] or token[2] == '{':
            depth += 1
        elif token[2] == '}':
            depth -= 1
        if depth == 0:
            break
    return dict(enumerate(names)) or None
