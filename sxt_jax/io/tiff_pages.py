"""The skeleton of a TIFF file: that all its pages, and all their data, are there."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from sxt_jax.core.errors import InputError

# Bytes of a value by TIFF type: byte, ascii, short, long, rational, … , 13 IFD, 16–18 BigTIFF.
_TYPE_BYTES = np.array([0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8])


def count_pages(path: Path) -> int:
    """Number of pages of a TIFF file, all of them complete.

    Raises:
      InputError: no TIFF file, or a page or one of its fields lies beyond the end of the file.
    """
    size = os.path.getsize(path)
    with path.open('rb') as file:
        order, big, offset = _read_start(path, file, size)
        seen: set[int] = set()
        while offset:
            if offset in seen:
                raise InputError(path, 'its pages point in a circle', 'an intact TIFF file')
            seen.add(offset)
            offset = _next_page(path, file, size, offset, order, big)
    return len(seen)


def _truncated(path: Path, size: int, what: str) -> InputError:
    return InputError(path, f'is truncated at {size} bytes ({what} missing)', 'a whole TIFF file')


def _read_start(path: Path, file: BinaryIO, size: int) -> tuple[str, bool, int]:
    """Byte order, whether BigTIFF, and where the first page is."""
    head = file.read(16)
    order = {b'II': '<', b'MM': '>'}.get(head[:2])
    if order is None or len(head) < 8:
        raise InputError(path, f'is no TIFF file ({size} bytes)', 'a whole TIFF file')
    version = struct.unpack(order + 'H', head[2:4])[0]
    if version == 42:
        offset = struct.unpack(order + 'I', head[4:8])[0]
    elif version == 43 and len(head) == 16:
        offset = struct.unpack(order + 'Q', head[8:16])[0]
    else:
        raise InputError(path, f'is no TIFF file (version {version})', 'a whole TIFF file')
    if not offset:
        raise _truncated(path, size, 'first page')
    return order, version == 43, offset


def _next_page(path: Path, file: BinaryIO, size: int, offset: int, order: str, big: bool) -> int:
    """Check the fields of the page at `offset`; where the next page is (0: nowhere)."""
    count_format, entry_bytes, inline = ('Q', 20, 8) if big else ('H', 12, 4)
    pointer = 'Q' if big else 'I'
    n_bytes = struct.calcsize(order + count_format)
    if offset + n_bytes > size:
        raise _truncated(path, size, 'a page')
    file.seek(offset)
    n = struct.unpack(order + count_format, file.read(n_bytes))[0]
    if offset + n_bytes + n * entry_bytes + inline > size:
        raise _truncated(path, size, 'a page')
    number = order + ('u8' if big else 'u4')
    entry = np.dtype(
        [('code', order + 'u2'), ('type', order + 'u2'), ('n', number), ('at', number)]
    )
    entries = np.frombuffer(file.read(n * entry_bytes), entry)
    kinds = np.where(entries['type'] < len(_TYPE_BYTES), entries['type'], 0)
    bytes_ = entries['n'].astype(np.int64) * _TYPE_BYTES[kinds]
    if np.any((bytes_ > inline) & (entries['at'].astype(np.int64) + bytes_ > size)):
        raise _truncated(path, size, 'fields of a page')
    return int(struct.unpack(order + pointer, file.read(inline))[0])


def check_extents(path: Path, series: Any) -> None:
    """Raise unless the data of every page of a tifffile series lie within the file."""
    size = os.path.getsize(path)
    if series.dataoffset is not None:
        if series.dataoffset + series.nbytes > size:
            raise _truncated(path, size, 'slices')
        return
    for number, page in enumerate(series.pages):
        if page is None:
            raise InputError(path, f'slice {number} is missing', 'all slices in one file')
        ends = np.add(page.dataoffsets, page.databytecounts)
        if len(ends) == 0 or min(page.databytecounts) == 0:
            raise _truncated(path, size, f'data of slice {number}')
        if ends.max() > size and page.parent.filehandle.path == str(path):
            raise _truncated(path, size, f'data of slice {number}')
