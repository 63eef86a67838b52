"""True labels of a library's cells, whose values have names of their own, as classes of a task."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import logging

from sxt_jax.core.errors import InputError
from sxt_jax.data.classes import Classes
from sxt_jax.data.label_task import parse_task
from sxt_jax.data.library import Library, library_folder, read_cell
from sxt_jax.data.value_names import material_key
from sxt_jax.io import Pair, open_volume
from sxt_jax.pipelines.evaluation import Case
from sxt_jax.pipelines.task_cells import match_cells


@dataclasses.dataclass(frozen=True)
class TaskTruth:
    """Cases that can be scored in a task.

    Attributes:
      cases: those whose truth has all classes of the task.
      classes: of the task, as predictions are written.
      of_truth: what the label values of each file of true labels mean.
      notes: which cases were left out, and why.
    """

    cases: tuple[Case, ...]
    classes: Classes
    of_truth: Mapping[Path, Classes]
    notes: tuple[str, ...] = ()


def read_task_truth(
    cases: Sequence[Case],
    text: str,
    *,
    truth: str | Path,
    field: str,
    rest: str = 'background',
    ignore_value: int | None = None,
) -> TaskTruth:
    """Merge the true labels of each case by the names that its own values have.

    Args:
      cases: each with an image or a prediction.
      text: the task, see `data.label_task.parse_task`.
      truth: the file or folder the cases are from, up to which `materials.yaml` is looked for.
      field: or flag the task is from, for errors.
      rest, ignore_value: see `LabelTask.classes_of`.

    Raises:
      InputError: the task does not read, a truth has values without names, none has all classes, or
        a prediction names its values otherwise.
    """
    task = parse_task(text, field=field)
    top = library_folder(truth)
    cells = tuple(read_cell(_pair(case), top) for case in cases)
    match = match_cells(Library(top, cells), task, field=field, new_names=True)
    kept = tuple(case for case, cell in zip(cases, cells, strict=True) if cell in match.cells)
    notes = [f'{name} left out: it lacks {" and ".join(c)}' for name, c in match.missing.items()]
    for note in notes:
        logging.warning('%s', note)
    for case in kept:
        _check_prediction(case, task.classes)
    options: dict[str, Any] = {'rest': rest, 'ignore_value': ignore_value}
    meant = {cell.pair.labels: task.classes_of(cell, **options) for cell in match.cells}
    for path, classes in meant.items():
        logging.info('%s: %s', path, classes)
    return TaskTruth(kept, task.classes, meant, tuple(notes))


def _pair(case: Case) -> Pair:
    image = case.image or case.prediction
    assert image is not None
    return Pair(image, case.truth, case.name)


def _check_prediction(case: Case, classes: Classes) -> None:
    """A prediction that names its values names those of the task."""
    names = open_volume(case.prediction).class_names if case.prediction else None
    for value, name in (names or {}).items():
        expected = classes.value_names.get(value, name)
        if value and material_key(expected) != material_key(name):
            told = f'{value} {expected}, as the task has it'
            raise InputError(case.prediction, f'value {value} is {name}', told)
