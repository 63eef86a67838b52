"""What a library of cells has, and which of its cells serve which task: as tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from sxt_jax.core.errors import InputError
from sxt_jax.data.label_task import LabelTask, parse_task
from sxt_jax.data.library import Cell, Library
from sxt_jax.pipelines.check_report import format_columns, size_text, times
from sxt_jax.pipelines.task_cells import check_voxel_sizes, match_cells

FLAG = '--task'


@dataclasses.dataclass(frozen=True)
class TaskReport:
    """Which cells of a library serve a task.

    Attributes:
      text: the task.
      columns: a row a cell: what it has of each class, and whether it serves; none if the task is
        wrong or asks for what the library does not know.
      n_cells: that serve.
      errors: why nothing can be trained so.
      warnings: why training would ask for more.
    """

    text: str
    columns: dict[str, list[str]]
    n_cells: int
    errors: tuple[InputError, ...]
    warnings: tuple[InputError, ...] = ()

    def __str__(self) -> str:
        lines = [f'Task {self.text}: {self.n_cells} cell{"s" * (self.n_cells != 1)}']
        lines += [format_columns(self.columns)] if self.columns else []
        lines += [f'warning: {warning}' for warning in self.warnings]
        return '\n'.join([*lines, *(f'error: {error}' for error in self.errors)])


def library_columns(library: Library) -> dict[str, list[Any]]:
    """The cells of a library as a table: files, shapes, sizes, and the values of each material.

    Values of which there are no voxels stand in brackets.
    """
    cells = library.cells
    columns: dict[str, list[Any]] = {
        'cell': [cell.name for cell in cells],
        'image': [str(cell.pair.image) for cell in cells],
        'labels': [str(cell.pair.labels) for cell in cells],
        'shape': [times(cell.shape) for cell in cells],
        'voxel_size_nm': [size_text(cell.voxel_size_nm) for cell in cells],
        'names_from': [cell.named_by or None for cell in cells],
    }
    for key, name in library.spellings.items():
        columns[name] = [_values(cell, key) for cell in cells]
    columns['unnamed'] = [_join(cell.unnamed) for cell in cells]
    columns['ignored'] = [_join(sorted(cell.ignored)) for cell in cells]
    return columns


def format_library(library: Library) -> str:
    """The table as text, without the files, and what is wrong with files."""
    columns = library_columns(library)
    shown = {name: column for name, column in columns.items() if name not in ('image', 'labels')}
    lines = [format_columns(shown)] if library.cells else []
    lines += [f'warning: {u.file}: has no partner; expected {u.looked_for}'
              for u in library.unpaired]  # fmt: skip
    return '\n'.join([*lines, *(f'error: {fault}' for fault in library.faults)])


def report_task(library: Library, text: str) -> TaskReport:
    """Which cells of a library serve a task, as `data.task` of a config tells it."""
    try:
        task = parse_task(text, field=FLAG)
    except InputError as error:
        return TaskReport(text, {}, 0, (error,))
    columns = task_columns(library, task)
    try:
        match = match_cells(library, task, field=FLAG)
    except InputError as error:
        unknown = not set(task.materials) <= library.spellings.keys()
        return TaskReport(text, {} if unknown else columns, 0, (error,))
    warnings = []
    for cell in match.cells:
        try:
            task.classes_of(cell)
        except InputError as error:
            warnings.append(error)
    try:
        check_voxel_sizes(match.cells, field=FLAG)
    except InputError as error:
        warnings.append(error)
    return TaskReport(text, columns, len(match.cells), (), tuple(warnings))


def task_columns(library: Library, task: LabelTask) -> dict[str, list[str]]:
    """A row a cell: whether it serves, and which of its materials each class is made of."""
    cells = library.cells
    columns = {
        'cell': [cell.name for cell in cells],
        'serves': ['no' if task.missing(cell) else 'yes' for cell in cells],
    }
    for name, group in zip(task.names, task.groups, strict=True):
        if group:
            columns[name] = [_members(cell, group) for cell in cells]
    return columns


def _members(cell: Cell, group: tuple[str, ...]) -> str:
    """'nucleus=1', 'euchromatin=2 heterochromatin=3'; 'lacks' where there are none."""
    found = [key for key in group if key in cell.materials]
    return ' '.join(f'{key}={_values(cell, key)}' for key in found) or 'lacks'


def _values(cell: Cell, key: str) -> str | None:
    """Label values of a material, in brackets if there are no voxels of them."""
    values = cell.values.get(key, ())
    return _join(values) if cell.occur(values) or not values else f'({_join(values)})'


def _join(values: Sequence[int]) -> str | None:
    return '+'.join(str(value) for value in values) or None
