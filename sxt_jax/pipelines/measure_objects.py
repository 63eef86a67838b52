"""Tables of measures from files of labels: of filopodia, of any objects, of classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

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
from sxt_jax.plots.features import feature_panels

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
OBJECT_PANELS = {
    'volume_um3': ('volume', 'µm³'),
    'surface_um2': ('surface area', 'µm²'),
    'solidity': ('solidity', ''),
    'sphericity': ('sphericity', ''),
    'circular_variance': ('circular variance', ''),
    'fenestrated_percent': ('fenestrated volume', '%'),
    'proximity': ('proximity to membrane', ''),
    'glcm_homogeneity': ('homogeneity', ''),
    'glcm_correlation': ('correlation', ''),
    'glcm_variance': ('variance', ''),
    'glcm_contrast': ('contrast', ''),
    'zones_per_voxel': ('zones per voxel', ''),
    'small_zone_high_gray': ('small-zone high-gray', ''),
    'zone_size_centroid_voxels': ('centroid of zone sizes', 'voxels'),
    'spectrum_mean_nm': ('pattern spectrum, mean', 'nm'),
    'spectrum_sd_nm': ('pattern spectrum, SD', 'nm'),
}


@dataclasses.dataclass(frozen=True)
class Extras:
    """What is measured of objects beside their shape.

    Attributes:
      texture: how textures of the image are measured; None: not at all.
      gray: the image holds gray values instead of absorption coefficients.
      inside: labels of what contains the objects, a file or a folder, paired by name: ids.
      inside_class: name or value of a class there, whose connected parts are the containers.
    """

    texture: measure.Texture | None = None
    gray: bool = False
    inside: str | Path | None = None
    inside_class: str | None = None


@dataclasses.dataclass(frozen=True)
class Measured:
    """What was written: files by what they are, the table, and objects left out for the border."""

    files: dict[str, Path]
    table: Columns
    n_cut: int = 0


def parse_texture(
    gray_range: Sequence[str] | None, n_levels: int, largest_ball: int
) -> measure.Texture:
    """How textures are measured, by flags: 'low,high' (or none), and the numbers as they are.

    Raises:
      InputError: a range that is not two numbers.
    """
    texture = measure.Texture(n_levels, largest_ball=largest_ball)
    if gray_range is None:
        return texture
    try:
        low, high = (float(word) for word in gray_range)
    except ValueError:
        raise InputError('--gray_range', ','.join(gray_range), 'two numbers low,high') from None
    return dataclasses.replace(texture, gray_range=(low, high))


def measure_files(
    source: str | Path,
    output: str | Path,
    *,
    kind: str,
    choice: Choice | None = None,
    image: str | Path | None = None,
    fill: bool = True,
    extras: Extras | None = None,
) -> Measured:
    """Write a table of measures of one file of labels, or of all files of a folder together.

    'filopodia': `measure.filopodia` of the objects that lie inside of their volume, a second table
    (.sections.csv) with every section, and the dot plots of Dyhr et al. 2023 (.png). 'objects':
    `measure.objects`, with dot plots as those of Machireddy et al. 2023; with containers also the
    columns of `measure.within`, and a second table (.containers.csv) with every container.
    'classes': `measure.classes`. The first column of each is the file's name.

    Args:
      source: a file of labels, or a folder of them.
      output: a name ending in .csv or .json.
      kind: one of `KINDS`.
      choice: which objects; of 'classes' only the class.
      image: tomograms with absorption coefficients in µm⁻¹, paired by name; not for filopodia.
      fill: of filopodia, see there.
      extras: what else is measured; of classes only `gray`.

    Raises:
      InputError: nothing to measure, no voxel size, or an output that cannot be written.
    """
    choice, output, extras = choice or Choice(), Path(output), extras or Extras()
    _check(kind, output, choice, image, extras)
    paths = list_volumes(source, dataset=choice.dataset)
    images = {p.labels: p.image for p in pair(image, source)} if image else {}
    inside = {p.labels: p.image for p in pair(extras.inside, source)} if extras.inside else {}
    bar = progress_bar(paths, unit='file', desc='measuring', disable=len(paths) < 2)
    if kind == 'objects':
        found = [_objects(p, choice, images.get(p), inside.get(p), extras) for p in bar]
    elif kind == 'classes':
        found = [(_classes(p, choice, images.get(p), extras), {}, 0) for p in bar]
    else:
        found = [_filopodia(p, choice, fill) for p in bar]
    n_cut = sum(tables[2] for tables in found)
    if not any(len(tables[0]['label']) for tables in found):
        raise InputError(source, f'all {n_cut} objects touch the border', 'objects inside of it')
    names = [path.name for path in paths]
    table = _stack([_named(n, tables[0]) for n, tables in zip(names, found, strict=True)])
    more = _stack([_named(n, tables[1]) for n, tables in zip(names, found, strict=True)])
    return Measured(_write(kind, output, table, more), table, n_cut)


def _write(kind: str, output: Path, table: Columns, more: Columns) -> dict[str, Path]:
    """Write what there is of the table, the second table and the figure."""
    files = {'table': output}
    write_table(output, table)
    if len(more) > 1:
        what = 'sections' if kind == 'filopodia' else 'containers'
        files[what] = output.with_name(f'{output.stem}.{what}{output.suffix}')
        write_table(files[what], more)
    if kind != 'classes':
        files['figure'] = output.with_suffix('.png')
        save_figure(files['figure'], _figure(kind, table))
    return files


def _figure(kind: str, table: Columns) -> Figure:
    title = f'n = {len(table["name"])}'
    if kind == 'filopodia':
        return dot_panels(table, PANELS, title=title)
    panels = {name: told for name, told in OBJECT_PANELS.items() if name in table}
    return feature_panels(table, panels, title=title)


def _check(kind: str, output: Path, choice: Choice, image: Any, extras: Extras) -> None:
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
    _check_extras(kind, image, extras)
    check_choice(choice)
    check_writable(output.parent)


def _check_extras(kind: str, image: Any, extras: Extras) -> None:
    texture, gray, inside = extras.texture is not None, extras.gray, extras.inside is not None
    for name, given in (('--texture', texture), ('--inside', inside)):
        if given and kind != 'objects':
            raise InputError(name, f'given, for {kind}', '--kind=objects')
    for name, given in (('--texture', texture), ('--gray', gray)):
        if given and not image:
            raise InputError(name, 'no --image', 'an image with the gray values')
    if extras.texture:
        measure.check_texture(extras.texture)
    if extras.inside_class is not None and not extras.inside:
        raise InputError('--inside_class', 'no --inside', 'a file of labels')


def _filopodia(path: Path, choice: Choice, fill: bool) -> tuple[Columns, Columns, int]:
    """The table of one file, that of its sections, and how many objects the border cuts."""
    objects = read_objects(path, choice)
    size = objects.voxel_size_nm
    found = measure.filopodia(objects.instances, voxel_size_nm=size, boxes=objects.boxes, fill=fill)
    return found.objects, found.sections, found.n_cut


def _objects(
    path: Path, choice: Choice, image: Path | None, inside: Path | None, extras: Extras
) -> tuple[Columns, Columns, int]:
    """The table of one file, that of its containers, and 0."""
    objects = read_objects(path, choice)
    size, instances = objects.voxel_size_nm, _kept(objects)
    gray = _read_image(image, instances.shape)
    table = measure.objects(
        instances, voxel_size_nm=size, image=gray, quantity=_quantity(extras),
        texture=extras.texture,
    )  # fmt: skip
    if inside is None:
        return table, {}, 0
    ids = extras.inside_class is None
    taken = Choice(extras.inside_class, instances=ids, voxel_size_nm=size)
    containers = read_objects(inside, taken).instances
    if containers.shape != instances.shape:
        raise InputError(inside, f'shape {containers.shape}', f'{instances.shape} as the objects')
    found = measure.within(instances, containers, voxel_size_nm=size)
    return table | found.objects, found.containers, 0


def _classes(path: Path, choice: Choice, image: Path | None, extras: Extras) -> Columns:
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
    return measure.classes(
        labels, voxel_size_nm=size, class_names=names, image=gray, quantity=_quantity(extras)
    )


def _quantity(extras: Extras) -> str:
    return 'gray' if extras.gray else 'lac_per_um'


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


def _named(name: str, table: Columns) -> Columns:
    n = len(next(iter(table.values()), ()))
    return {'name': np.full(n, name, dtype=object), **table}


def _stack(tables: list[Columns]) -> Columns:
    return {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}


def summarise_measures(table: Columns) -> Iterator[str]:
    """A line a measure of `PANELS`: mean ± SD over the objects."""
    from sxt_jax.plots.dots import mean_and_sd

    for name, (what, unit) in PANELS.items():
        yield f'{what + ":":20}{mean_and_sd(np.asarray(table[name], dtype=float))} {unit}'
