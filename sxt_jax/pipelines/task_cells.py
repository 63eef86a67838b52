"""The cells of a library that serve a task, as training takes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from absl import logging

from sxt_jax.core.errors import InputError
from sxt_jax.core.progress import progress_bar
from sxt_jax.core.volume import Volume, VoxelSize, equal_voxel_sizes
from sxt_jax.data.classes import Classes
from sxt_jax.data.datasets import open_pairs
from sxt_jax.data.label_task import RESTS, LabelTask, parse_task
from sxt_jax.data.library import Cell, Library, read_library
from sxt_jax.io import Pair
from sxt_jax.pipelines.check_report import size_text
from sxt_jax.pipelines.config_fields import working_shape

FIELD = 'config.data.task'
_CHOICES = {
    'task_missing': ('skip', 'refuse'),
    'task_rest': RESTS,
    'task_voxel_sizes': ('equal', 'any'),
}
_SHOWN = 8  # cells in a message


@dataclasses.dataclass(frozen=True)
class Match:
    """Which cells serve a task.

    Attributes:
      cells: those that have all its classes.
      missing: names of the classes that each of the others does not have.
    """

    cells: tuple[Cell, ...]
    missing: Mapping[str, tuple[str, ...]]


@dataclasses.dataclass(frozen=True)
class TaskCells:
    """Cells to train on, and the meaning of their labels.

    Attributes:
      task: what they serve.
      cells: that have all its classes.
      classes: what the label values of each cell mean; their names are the same.
    """

    task: LabelTask
    cells: tuple[Cell, ...]
    classes: tuple[Classes, ...]

    @property
    def pairs(self) -> list[Pair]:
        """Their files."""
        return [cell.pair for cell in self.cells]

    def open(self) -> list[tuple[Volume, Volume]]:
        """Image and labels of each, not yet read, with the voxel size that the library tells."""
        volumes = open_pairs(self.pairs)
        sizes = [cell.voxel_size_nm for cell in self.cells]
        return [
            (dataclasses.replace(image, voxel_size_nm=size), labels)
            for size, (image, labels) in zip(sizes, volumes, strict=True)
        ]


def check_task(config: Any) -> None:
    """Whether the task and its options can be read.

    Raises:
      InputError: naming the field.
    """
    fields = config.data
    if not fields.task:
        for name, choices in _CHOICES.items():
            if fields[name] != choices[0]:
                found = f'{fields[name]!r}, without a task'
                raise InputError(f'config.data.{name}', found, 'config.data.task with it')
        return
    for name, choices in _CHOICES.items():
        if fields[name] not in choices:
            raise InputError(f'config.data.{name}', repr(fields[name]), f'one of {choices}')
    if fields.classes:
        found = f'{fields.classes!r}, with the task {fields.task!r}'
        raise InputError('config.data.classes', found, 'one of them')
    task = parse_task(fields.task, field=FIELD)
    if task.rest is not None and fields.task_rest != RESTS[0]:
        found = f'{fields.task_rest!r}, with rest in {fields.task!r}'
        raise InputError('config.data.task_rest', found, 'one of them')


def check_no_task(config: Any, what: str) -> None:
    """Whether labels that are no classes are asked to be some.

    Args:
      config: an experiment.
      what: is learnt, for the message.

    Raises:
      InputError: naming the field.
    """
    for name in ('classes', 'task'):
        if config.data[name]:
            found = f'{config.data[name]!r}, with {what}'
            raise InputError(f'config.data.{name}', found, 'nothing: labels are ids of cells')


def match_cells(library: Library, task: LabelTask, *, field: str, new_names: bool = False) -> Match:
    """The cells of a library that have all classes of a task.

    Args:
      library: to choose from.
      task: its classes.
      field: or flag the task is from, for errors.
      new_names: whether the task may name materials that no cell of the library has, as where
        there is another library to train on.

    Raises:
      InputError: materials that the library does not know, or no cell that has all classes. What
        the library has is told.
    """
    has = f'what there is in {library.root}: {library}'
    unknown = [name for name in task.materials if name not in library.spellings]
    if unknown and not new_names:
        found = f'no cell has a material called {" or ".join(unknown)}'
        raise InputError(field, found, has)
    missing = {cell.name: task.missing(cell) for cell in library.cells}
    cells = tuple(cell for cell in library.cells if not missing[cell.name])
    lacking = {name: classes for name, classes in missing.items() if classes}
    if not cells:
        found = f'no cell has all classes of {task} ({_listed(lacking)})'
        raise InputError(field, found, has)
    return Match(cells, lacking)


def check_voxel_sizes(cells: Sequence[Cell], *, field: str) -> None:
    """Whether cells are of one voxel size, as far as it is known.

    Raises:
      InputError: telling which cells are of which.
    """
    groups: dict[VoxelSize, list[str]] = {}
    for cell in cells:
        size = cell.voxel_size_nm
        if size is not None:
            same = next((s for s in groups if equal_voxel_sizes(s, size)), size)
            groups.setdefault(same, []).append(cell.name)
    if len(groups) > 1:
        told = '; '.join(f'{size_text(size)} nm: {_first(g)}' for size, g in groups.items())
        expected = (
            'one voxel size, or all resized to one config.data.working_shape, or '
            "config.data.task_voxel_sizes='any'"
        )
        raise InputError(field, f'cells with voxels of several sizes ({told})', expected)


def select_cells(config: Any, images: str, labels: str, *, new_names: bool = False) -> TaskCells:
    """The cells of a folder that serve the config's task.

    Args:
      config: an experiment with a task.
      images, labels: folders, as `io.pair` takes them; without `labels` with the folders within.
      new_names: as of `match_cells`.

    Raises:
      InputError: an error of `match_cells` or `check_voxel_sizes`, a volume that cannot be read,
        label values without a name; by option, cells or materials that do not fit.
    """
    fields, task = config.data, parse_task(config.data.task, field=FIELD)
    with progress_bar(unit='cell', desc='indexing', inner=True) as bar:
        library = read_library(
            images,
            labels or None,
            dataset=fields.dataset or None,
            label_dataset=fields.label_dataset or None,
            on_cell=lambda _: bar.update(),
        )
    if library.faults:
        raise library.faults[0]
    match = match_cells(library, task, field=FIELD, new_names=new_names)
    left_out = {name: f'lacks {" and ".join(classes)}' for name, classes in match.missing.items()}
    left_out |= {str(u.file): 'has no partner' for u in library.unpaired}
    if left_out and fields.task_missing == 'refuse':
        name, why = next(iter(left_out.items()))
        more = f' ({len(left_out) - 1} more do not fit the task)' if len(left_out) > 1 else ''
        raise InputError(name, f'{why}{more}', "all to fit, or config.data.task_missing='skip'")
    for name, why in left_out.items():
        logging.warning('Left out: %s %s', name, why)
    if working_shape(config) is None and fields.task_voxel_sizes == 'equal':
        check_voxel_sizes(match.cells, field=FIELD)
    options: dict[str, Any] = {'rest': fields.task_rest, 'ignore_value': fields.ignore_value}
    classes = tuple(task.classes_of(cell, **options) for cell in match.cells)
    for cell, found_classes in zip(match.cells, classes, strict=True):
        logging.info('%s: %s', cell.name, found_classes)
    return TaskCells(task, match.cells, classes)


def _listed(missing: Mapping[str, tuple[str, ...]]) -> str:
    return _first([f'{name} lacks {" and ".join(classes)}' for name, classes in missing.items()])


def _first(names: Sequence[str]) -> str:
    more = [f'{len(names) - _SHOWN} more'] if len(names) > _SHOWN else []
    return ', '.join([*names[:_SHOWN], *more])
