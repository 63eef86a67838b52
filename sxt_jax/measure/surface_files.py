"""Surfaces as files for viewers: OBJ, STL and PLY.

All hold the vertices in x, y, z order in nm, with the centre of voxel (0, 0, 0) as origin, and
triangles that turn counter-clockwise seen from outside.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from sxt_jax.core.atomic import atomic_path
from sxt_jax.core.errors import InputError
from sxt_jax.measure.surface import Surface

_UNITS = 'x y z in nm; origin at the centre of the first voxel'
_STL_HEADER = 80  # bytes


def write_surface(path: str | Path, surface: Surface) -> None:
    """Write a surface, in the format of the suffix.

    OBJ (text, Wavefront), STL (binary, float32, with facet normals) and PLY (binary little
    endian, float32 vertices, int32 faces). Units and order: see the top of this file.

    Raises:
      InputError: another suffix, or the file cannot be written.
    """
    writer = _WRITERS.get(Path(path).suffix.lower())
    if writer is None:
        raise InputError(path, 'not a surface format', f'a name ending in {", ".join(_WRITERS)}')
    with atomic_path(path) as temporary, open(temporary, 'wb') as file:
        writer(file, surface)


def _xyz(surface: Surface) -> np.ndarray:
    return np.ascontiguousarray(surface.vertices_nm[:, ::-1])


def _write_obj(file: BinaryIO, surface: Surface) -> None:
    file.write(f'# {_UNITS}\n'.encode())
    np.savetxt(file, _xyz(surface), fmt='v %.9g %.9g %.9g')
    np.savetxt(file, surface.faces + 1, fmt='f %d %d %d')  # OBJ counts from 1


def _write_stl(file: BinaryIO, surface: Surface) -> None:
    facet = np.dtype([('normal', '<f4', 3), ('vertices', '<f4', (3, 3)), ('attribute', '<u2')])
    facets = np.zeros(len(surface.faces), facet)
    facets['normal'] = surface.normals_xyz()
    facets['vertices'] = _xyz(surface)[surface.faces]
    file.write(f'binary STL, {_UNITS}'.encode().ljust(_STL_HEADER))
    file.write(np.uint32(len(facets)).astype('<u4').tobytes())
    file.write(facets.tobytes())


def _write_ply(file: BinaryIO, surface: Surface) -> None:
    header = ['ply', 'format binary_little_endian 1.0', f'comment {_UNITS}']
    header += [f'element vertex {len(surface.vertices_nm)}']
    header += [f'property float {axis}' for axis in 'xyz']
    header += [f'element face {len(surface.faces)}', 'property list uchar int vertex_indices']
    file.write('\n'.join([*header, 'end_header', '']).encode())
    file.write(_xyz(surface).astype('<f4').tobytes())
    faces = np.zeros(len(surface.faces), np.dtype([('n', 'u1'), ('vertices', '<i4', 3)]))
    faces['n'], faces['vertices'] = 3, surface.faces
    file.write(faces.tobytes())


_WRITERS: dict[str, Callable[[BinaryIO, Surface], None]] = {
    '.obj': _write_obj,
    '.stl': _write_stl,
    '.ply': _write_ply,
}
