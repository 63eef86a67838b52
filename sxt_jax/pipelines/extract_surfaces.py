"""Surfaces of the objects in a file of labels: smooth, split, mesh, repair, write, draw."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from absl import logging

from sxt_jax.core.atomic import atomic_path, check_writable
from sxt_jax.core.devices import usable_cores
from sxt_jax.core.errors import InputError
from sxt_jax.core.progress import progress_bar
from sxt_jax.io import write_table
from sxt_jax.measure import (
    Surface,
    is_closed,
    repair,
    smooth_along_z,
    surface_mesh,
    write_surface,
)
from sxt_jax.measure.surface_files import write_surfaces
from sxt_jax.pipelines.labelled_objects import Choice, Objects, read_objects
from sxt_jax.plots import save_figure, surface_scene
from sxt_jax.plots.render import View
from sxt_jax.plots.scene import random_colours

FORMATS = ('obj', 'stl', 'ply')
# Single voxels close to others had 42 triangles each at most (random masks, unequal sides).
_FACES_PER_VOXEL = 48
_LARGE_VOXELS = 2**25  # a thread takes some twenty bytes a voxel


@dataclasses.dataclass(frozen=True)
class Options:
    """How surfaces are made and shown.

    Attributes:
      z_smoothing: depth in slices of `measure.smooth_along_z`; 0: none.
      min_faces: objects with fewer triangles are left out.
      format: of the files in a folder, one of `FORMATS`; None: the first.
      picture: whether to draw the scene.
      view: from where.
      seed: of its colours.
    """

    z_smoothing: int = 2
    min_faces: int = 1000
    format: str | None = None
    picture: bool = True
    view: View = dataclasses.field(default_factory=View)
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Extraction:
    """What was written: files by what they are, and how many objects and triangles."""

    files: dict[str, Path]
    n_objects: int
    n_faces: int


def extract_surfaces(
    source: str | Path,
    output: str | Path,
    *,
    choice: Choice | None = None,
    options: Options | None = None,
) -> Extraction:
    """Write the surfaces of objects, a table of them and a picture.

    As Dyhr et al. 2023 (3D Volumetric Reconstruction), but split by the connectivity of voxels: a
    hollow object stays one with its inner wall, and the surface of each encloses its own volume.

    Args:
      source: a file of labels.
      output: a name ending in .obj, .stl or .ply for all surfaces in one file, with table (.csv)
        and picture (.png) beside it; or a new folder, for a file an object. In one file, OBJ has
        a group an object, and PLY the colours of the picture.
      choice: which objects.
      options: how.

    Raises:
      InputError: no voxel size, nothing to make a surface of, or an output that cannot be written.
    """
    choice, options, output = choice or Choice(), options or Options(), Path(output)
    _check(options, output)
    objects = read_objects(source, choice, z_smoothing=options.z_smoothing)
    depth = options.z_smoothing if choice.instances else 0  # masks are smooth before they part
    surfaces = make_surfaces(objects, z_smoothing=depth, min_faces=options.min_faces)
    if not surfaces:
        found = f'none of {len(objects.boxes)} objects has {options.min_faces} faces'
        raise InputError(source, found, 'larger objects, or a smaller --min_faces')
    logging.info(
        '%d objects, %d more have fewer than %d faces',
        len(surfaces), len(objects.boxes) - len(surfaces), options.min_faces,
    )  # fmt: skip
    table = surface_table(surfaces, objects)
    del objects  # before the picture, which takes as much
    files = _write(surfaces, table, output, options)
    return Extraction(files, len(surfaces), sum(len(s.faces) for s in surfaces.values()))


def make_surfaces(
    objects: Objects, *, z_smoothing: int = 0, min_faces: int = 0
) -> dict[int, Surface]:
    """Closed surfaces of objects with at least `min_faces` triangles, by id.

    Args:
      objects: which.
      z_smoothing: depth of `measure.smooth_along_z` on each object by itself.
      min_faces: least number of triangles.
    """

    alone = threading.Lock()  # large ones share the cores themselves

    def one(label: int) -> Surface | None:
        mask, start = objects.mask(label), [s.start for s in objects.boxes[label]]
        if z_smoothing:
            mask, start[0] = _smooth_object(objects, label, z_smoothing)
        if _FACES_PER_VOXEL * np.count_nonzero(mask) < max(min_faces, 1):
            return None
        with alone if mask.size > _LARGE_VOXELS else contextlib.nullcontext():
            surface = surface_mesh(mask, voxel_size_nm=objects.voxel_size_nm, origin=start)
        if not is_closed(surface):
            surface = repair(surface)
        return surface if len(surface.faces) >= min_faces else None

    labels = sorted(objects.boxes)
    with ThreadPoolExecutor(usable_cores()) as pool:
        made = pool.map(one, labels)
        bar = progress_bar(made, total=len(labels), unit='object', desc='surfaces')
        return {label: s for label, s in zip(labels, bar, strict=True) if s is not None}


def _smooth_object(objects: Objects, label: int, depth: int) -> tuple[np.ndarray, int]:
    """An instance smoothed along z, and the slice at which its array begins.

    Slices around it belong to it, for only those at the ends of the volume are not smoothed.
    """
    box = objects.boxes[label]
    start = max(0, box[0].start - depth)
    stop = min(len(objects.instances), box[0].stop + depth)
    mask = objects.instances[(slice(start, stop), *box[1:])] == label
    return smooth_along_z(mask, depth=depth), start


def _check(options: Options, output: Path) -> None:
    if options.format not in (None, *FORMATS):
        raise InputError('--format', repr(options.format), f'one of {", ".join(FORMATS)}')
    if options.format and _is_file(output) and output.suffix[1:].lower() != options.format:
        raise InputError('--format', f'{options.format}, with {output.name}', 'a folder, or none')
    for name in ('z_smoothing', 'min_faces'):
        if getattr(options, name) < 0:
            raise InputError(f'--{name}', f'{getattr(options, name)}', 'a number from 0')
    if output.suffix and output.suffix[1:].lower() not in FORMATS and not output.is_dir():
        raise InputError(output, 'the suffix', f'a folder, or one of .{", .".join(FORMATS)}')
    if _is_file(output) and output.is_dir():
        raise InputError(output, 'is a folder', 'the name of a file')
    if not _is_file(output) and output.is_dir() and any(output.iterdir()):
        raise InputError(output, 'has files in it', 'a new or empty folder')
    check_writable(output.parent)


def _is_file(output: Path) -> bool:
    return output.suffix[1:].lower() in FORMATS


def _write(
    surfaces: dict[int, Surface], table: dict[str, list], output: Path, options: Options
) -> dict[str, Path]:
    if _is_file(output):
        _write_scene(output, surfaces, options)
        files = {'surface': output, 'table': output.with_suffix('.csv')}
        write_table(files['table'], table)
        _draw(surfaces, output.with_suffix('.png'), options)
        return files | ({'picture': output.with_suffix('.png')} if options.picture else {})
    with atomic_path(output) as folder:
        folder.mkdir()
        suffix = options.format or FORMATS[0]
        for name, surface in zip(_names(surfaces), surfaces.values(), strict=True):
            write_surface(folder / f'{name}.{suffix}', surface)
        write_table(folder / 'objects.csv', table)
        _draw(surfaces, folder / 'scene.png', options)
    files = {'surfaces': output, 'table': output / 'objects.csv'}
    return files | ({'picture': output / 'scene.png'} if options.picture else {})


def _write_scene(path: Path, surfaces: dict[int, Surface], options: Options) -> None:
    """All surfaces in one file, named and coloured where the format can, as in the picture."""
    colours = random_colours(len(surfaces), seed=options.seed)
    write_surfaces(path, list(surfaces.values()), names=_names(surfaces), colours=colours)


def _names(labels: Collection[int]) -> list[str]:
    digits = len(str(max(labels)))
    return [f'object_{label:0{digits}d}' for label in labels]


def _draw(surfaces: dict[int, Surface], path: Path, options: Options) -> None:
    if options.picture:
        scene = surface_scene(list(surfaces.values()), view=options.view, seed=options.seed)
        save_figure(path, scene)


def surface_table(surfaces: dict[int, Surface], objects: Objects) -> dict[str, list]:
    """One row a surface: id, triangles, volume, area, their ratio, where, and whether it is cut.

    Volume and area are those of the triangles.
    """
    columns: dict[str, list] = {'label': list(surfaces)}
    columns['n_faces'] = [len(s.faces) for s in surfaces.values()]
    volumes, areas = (
        [getattr(s, n) for s in surfaces.values()] for n in ('volume_um3', 'area_um2')
    )
    columns['volume_um3'], columns['surface_um2'] = volumes, areas
    columns['surface_to_volume_per_um'] = [a / v for a, v in zip(areas, volumes, strict=True)]
    for i, axis in enumerate('zyx'):
        columns[f'{axis}_start'] = [objects.boxes[label][i].start for label in surfaces]
        columns[f'{axis}_stop'] = [objects.boxes[label][i].stop for label in surfaces]
    columns['touches_border'] = [objects.touches_border(label) for label in surfaces]
    return columns
