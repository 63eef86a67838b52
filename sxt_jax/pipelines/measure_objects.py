"""Tables of measures from files of labels: of filopodia, of any objects, of classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sxt_jax import measure
from sxt_jax.core.atomic import check_writable
from sxt_jax.core.errors import InputError
from sxt_jax.core.progress import progress_bar
from sxt_jax.io import list_volumes, open_volume, pair, write_table
from sxt_jax.pipelines.labelled_objects import (
    Choice,
    Objects,
    check_choice,
    find_value,
    open_labels,
    read_objects,
    voxel_size_of,
)
from sxt_jax.plots import dot_panels, save_figure

Columns = dict[str, np.ndarray]
KINDS = ('filopodia', 'objects', 'classes')
PANELS = {
    'section_first_axis_nm': ('2-D first axis', 'nm'),
    'section_second_axis_nm': ('2-D second axis', 'nm'),
    'section_perimeter_nm': ('2-D perimeter', 'nm'),
    'surface_to_volume_per_um': ('surface to volume', 'µm⁻¹'),
    'major_axis_nm': ('3-D first axis', 'nm'),
    'middle_axis_nm': ('3-D second axis', 'nm'),
    'surface_um2': ('surface area', 'µm²'),
    'volume_um3': ('volume', 'µm³'),
}


@dataclasses.dataclass(frozen=True)
class Measured:
    """What was written: files by what they are, the table, and objects left out for the border."""

    files: dict[str, Path]
    table: Columns
    n_cut: int = 0


def measure_files(
    source: str | Path,
    output: str | Path,
    *,
    kind: str,
    choice: Choice | None = None,
    image: str | Path | None = None,
    fill: bool = True,
) -> Measured:
    """Write a table of measures of one file of labels, or of all files of a folder together.

    'filopodia': `measure.filopodia` of the objects that lie inside of their volume, a second table
    (.sections.csv) with every section, and the dot plots of Dyhr et al. 2023 (.png). 'objects':
    `measure.objects`. 'classes': `measure.classes`. The first column of each is the file's name.

    Args:
      source: a file of labels, or a folder of them.
      output: a name ending in .csv or .json.
      kind: one of `KINDS`.
      choice: which objects; of 'classes' only the class.
      image: tomograms with absorption coefficients in µm⁻¹, paired by name; not for filopodia.
      fill: of filopodia, see there.

    Raises:
      InputError: nothing to measure, no voxel size, or an output that cannot be written.
    """
    choice, output = choice or Choice(), Path(output)
    _check(kind, output, choice, image)
    paths = list_volumes(source, dataset=choice.dataset)
    images = {p.labels: p.image for p in pair(image, source)} if image else {}
    bar = progress_bar(paths, unit='file', desc='measuring', disable=len(paths) < 2)
    found = [_measure(path, kind, choice, images.get(path), fill) for path in bar]
    tables = [_named(path, tables[0]) for path, tables in zip(paths, found, strict=True)]
    table = _stack(tables)
    n_cut = sum(tables[2] for tables in found)
    if not len(table['name']):
        raise InputError(source, f'all {n_cut} objects touch the border', 'objects inside of it')
    files = {'table': output}
    write_table(output, table)
    if kind == 'filopodia':
        files['sections'] = output.with_name(f'{output.stem}.sections{output.suffix}')
        parts = [_named(path, tables[1]) for path, tables in zip(paths, found, strict=True)]
        write_table(files['sections'], _stack(parts))
        files['figure'] = output.with_suffix('.png')
        save_figure(files['figure'], dot_panels(table, PANELS, title=f'n = {len(table["name"])}'))
    return Measured(files, table, n_cut)


def _check(kind: str, output: Path, choice: Choice, image: Any) -> None:
    if kind not in KINDS:
        raise InputError('--kind', repr(kind), f'one of {", ".join(KINDS)}')
    if output.suffix.lower() not in ('.csv', '.json') or output.is_dir():
        raise InputError(output, 'not the name of a table', 'a name ending in .csv or .json')
    if kind == 'filopodia' and image:
        raise InputError('--image', 'given, for filopodia', '--kind=objects or classes')
    if kind == 'classes' and (
        choice != Choice(choice.class_, dataset=choice.dataset, voxel_size_nm=choice.voxel_size_nm)
    ):
        raise InputError('--kind=classes', 'options for objects', 'only --class')
    check_choice(choice)
    check_writable(output.parent)


def _measure(
    path: Path, kind: str, choice: Choice, image: Path | None, fill: bool
) -> tuple[Columns, Columns, int]:
    """The table of one file, the table of its sections, and how many objects the border cuts."""
    if kind == 'classes':
        return _measure_classes(path, choice, image), {}, 0
    objects = read_objects(path, choice)
    size = objects.voxel_size_nm
    if kind == 'objects':
        gray = _read_image(image, objects.instances.shape)
        return measure.objects(_kept(objects), voxel_size_nm=size, image=gray), {}, 0
    found = measure.filopodia(objects.instances, voxel_size_nm=size, boxes=objects.boxes, fill=fill)
    return found.objects, found.sections, found.n_cut


def _measure_classes(path: Path, choice: Choice, image: Path | None) -> Columns:
    volume = open_labels(path, dataset=choice.dataset)
    size = voxel_size_of(volume, path, choice.voxel_size_nm)
    names = dict(volume.class_names or {})
    labels = volume.load().data
    values = np.unique(labels)
    if choice.class_ is not None:
        values = np.array([find_value(path, values[values != 0].tolist(), names, choice.class_)])
    names = {int(v): names.get(int(v), f'class {v}') for v in values if v}
    if not names:
        raise InputError(path, 'no voxel with a label: all are 0', 'labels of classes')
    gray = _read_image(image, labels.shape)
    return measure.classes(labels, voxel_size_nm=size, class_names=names, image=gray)


def _kept(objects: Objects) -> np.ndarray:
    """Instances without the objects that are left out."""
    keep = np.zeros(int(objects.instances.max()) + 1, bool)
    keep[list(objects.boxes)] = True
    return (
        objects.instances
        if keep[1:].all()
        else np.where(keep[objects.instances], objects.instances, 0)
    )


def _read_image(path: Path | None, shape: tuple[int, ...]) -> np.ndarray | None:
    if path is None:
        return None
    volume = open_volume(path)
    if volume.data.shape != shape:
        raise InputError(path, f'shape {volume.data.shape}', f'{shape} as the labels')
    return volume.load().data


def _named(path: Path, table: Columns) -> Columns:
    n = len(next(iter(table.values()), ()))
    return {'name': np.full(n, path.name, dtype=object), **table}


def _stack(tables: list[Columns]) -> Columns:
    return {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}


def summarise_measures(table: Columns) -> Iterator[str]:
    """A line a measure of `PANELS`: mean ± SD over the objects."""
    from sxt_jax.plots.dots import mean_and_sd

    for name, (what, unit) in PANELS.items():
        yield f'{what + ":":20}{mean_and_sd(np.asarray(table[name], dtype=float))} {unit}'
