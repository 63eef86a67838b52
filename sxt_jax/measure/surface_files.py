"""Surfaces as files for viewers: OBJ, STL and PLY.

All hold the vertices in x, y, z order in nm, with the centre of voxel (0, 0, 0) as origin, and
triangles that turn counter-clockwise seen from outside. They are written a chunk at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from sxt_jax.core.atomic import atomic_path
from sxt_jax.core.errors import InputError
from sxt_jax.measure.surface import Surface

_UNITS = 'x y z in nm; origin at the centre of the first voxel'
_STL_HEADER = 80  # bytes
_CHUNK = 1 << 15  # rows


def write_surface(path: str | Path, surface: Surface) -> None:
    """Write a surface, in the format of the suffix: see `write_surfaces`."""
    write_surfaces(path, [surface])


def write_surfaces(
    path: str | Path,
    surfaces: Sequence[Surface],
    *,
    names: Sequence[str] | None = None,
    colours: np.ndarray | None = None,
) -> None:
    """Write surfaces into one file, in the format of the suffix.

    OBJ (text, Wavefront), STL (binary, float32, with facet normals) and PLY (binary little
    endian, float32 vertices, int32 faces). Units and order: see the top of this file.

    Args:
      path: ending in .obj, .stl or .ply.
      surfaces: one after the other.
      names: of each, without spaces; OBJ has them as groups, STL and PLY have no place for them.
      colours: [n, 3] RGB in [0, 1] of each; PLY has them as colours of vertices, the others none.

    Raises:
      InputError: another suffix, or the file cannot be written.
    """
    writer = _WRITERS.get(Path(path).suffix.lower())
    if writer is None:
        raise InputError(path, 'not a surface format', f'a name ending in {", ".join(_WRITERS)}')
    with atomic_path(path) as temporary, open(temporary, 'wb') as file:
        writer(file, surfaces, names, colours)


def _chunks(rows: np.ndarray) -> Iterator[np.ndarray]:
    return (rows[i : i + _CHUNK] for i in range(0, len(rows), _CHUNK))


def _starts(surfaces: Sequence[Surface]) -> list[int]:
    """The number of each surface's first vertex in the file."""
    return np.cumsum([0, *(len(s.vertices_nm) for s in surfaces)]).tolist()[:-1]


def _write_obj(
    file: BinaryIO,
    surfaces: Sequence[Surface],
    names: Sequence[str] | None,
    colours: np.ndarray | None,
) -> None:
    file.write(f'# {_UNITS}\n'.encode())
    for i, (surface, start) in enumerate(zip(surfaces, _starts(surfaces), strict=True)):
        if names is not None:
            file.write(f'g {names[i]}\n'.encode())
        for vertices in _chunks(surface.vertices_nm[:, ::-1]):
            _write_rows(file, 'v %.9g %.9g %.9g\n', vertices)
        for faces in _chunks(surface.faces):
            _write_rows(file, 'f %d %d %d\n', faces + (start + 1))  # OBJ counts from 1


def _write_rows(file: BinaryIO, line: str, rows: np.ndarray) -> None:
    # One format for all rows of a chunk: a tenth of the time of np.savetxt.
    file.write(((line * len(rows)) % tuple(rows.reshape(-1).tolist())).encode())


def _write_stl(
    file: BinaryIO,
    surfaces: Sequence[Surface],
    names: Sequence[str] | None,
    colours: np.ndarray | None,
) -> None:
    facet = np.dtype([('normal', '<f4', 3), ('vertices', '<f4', (3, 3)), ('attribute', '<u2')])
    file.write(f'binary STL, {_UNITS}'.encode().ljust(_STL_HEADER))
    file.write(np.uint32(sum(len(s.faces) for s in surfaces)).astype('<u4').tobytes())
    for surface in surfaces:
        for faces in _chunks(surface.faces):
            facets = np.zeros(len(faces), facet)
            facets['normal'] = surface.some_normals_xyz(faces)
            facets['vertices'] = surface.vertices_nm[faces][..., ::-1]
            file.write(facets.tobytes())


def _write_ply(
    file: BinaryIO,
    surfaces: Sequence[Surface],
    names: Sequence[str] | None,
    colours: np.ndarray | None,
) -> None:
    header = ['ply', 'format binary_little_endian 1.0', f'comment {_UNITS}']
    header += [f'element vertex {sum(len(s.vertices_nm) for s in surfaces)}']
    header += [f'property float {axis}' for axis in 'xyz']
    if colours is not None:
        header += [f'property uchar {name}' for name in ('red', 'green', 'blue')]
    header += [f'element face {sum(len(s.faces) for s in surfaces)}']
    header += ['property list uchar int vertex_indices']
    file.write('\n'.join([*header, 'end_header', '']).encode())
    vertex = np.dtype([('xyz', '<f4', 3)] + [('rgb', 'u1', 3)] * (colours is not None))
    for i, surface in enumerate(surfaces):
        for vertices in _chunks(surface.vertices_nm):
            rows = np.empty(len(vertices), vertex)
            rows['xyz'] = vertices[:, ::-1]
            if colours is not None:
                rows['rgb'] = np.round(255 * colours[i])
            file.write(rows.tobytes())
    for surface, start in zip(surfaces, _starts(surfaces), strict=True):
        for faces in _chunks(surface.faces):
            rows = np.empty(len(faces), np.dtype([('n', 'u1'), ('vertices', '<i4', 3)]))
            rows['n'], rows['vertices'] = 3, faces + start
            file.write(rows.tobytes())


_Writer = Callable[[BinaryIO, Sequence[Surface], Sequence[str] | None, np.ndarray | None], None]
_WRITERS: dict[str, _Writer] = {'.obj': _write_obj, '.stl': _write_stl, '.ply': _write_ply}
