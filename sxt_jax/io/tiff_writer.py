"""Writing TIFF page by page: ImageJ stacks where ImageJ knows the dtype, else OME-TIFF."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from sxt_jax.io.layout import Layout
from sxt_jax.io.tiff_metadata import imagej_description, ome_description, resolution_tags

DTYPES = tuple(np.dtype(t) for t in ('u1', 'i1', 'u2', 'i2', 'u4', 'i4', 'f4', 'f8'))
SLAB_DEPTH = 1
_IMAGEJ_DTYPES = tuple(np.dtype(t) for t in ('u1', 'u2', 'f4'))
_CLASSIC_BYTES = 2**32 - 2**26  # offsets in classic TIFF have 32 bits; the rest is for the pages


@contextlib.contextmanager
def create_tiff(path: Path, layout: Layout) -> Iterator[Callable[[np.ndarray], None]]:
    """Write a TIFF file; BigTIFF (with OME metadata: ImageJ has none there) from 4 GB on."""
    big = layout.nbytes > _CLASSIC_BYTES
    imagej = layout.dtype in _IMAGEJ_DTYPES and not big
    first: dict[str, Any] = {
        'description': imagej_description(layout) if imagej else ome_description(layout)
    }
    if resolution_tags(layout) and imagej:
        first |= {'resolution': resolution_tags(layout), 'resolutionunit': 'NONE'}
    options: dict[str, Any] = {'photometric': 'minisblack', 'metadata': None, 'software': False}
    if layout.compression:
        options['compression'] = 'zlib'
    with tifffile.TiffWriter(path, bigtiff=big) as file:

        def append(slab: np.ndarray) -> None:
            nonlocal first
            planes = np.moveaxis(slab, 3, 1) if 'c' in layout.axes else slab
            for plane in planes.reshape((-1, *layout.shape[1:3])):
                file.write(np.ascontiguousarray(plane), **options, **first)
                first = {}

        yield append
