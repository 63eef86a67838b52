"""Compare predicted label volumes with true ones: scores, sizes, and tests over the set."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sxt_jax.core.errors import InputError
from sxt_jax.core.progress import progress_bar
from sxt_jax.core.volume import VoxelSize
from sxt_jax.data.classes import IGNORE_INDEX, Classes, count_labels, find_classes
from sxt_jax.data.value_names import material_key
from sxt_jax.io import open_volume
from sxt_jax.measure import volume_and_surface
from sxt_jax.metrics import confusion, paired_t_test, scores
from sxt_jax.pipelines import thresholding
from sxt_jax.pipelines.evaluation import (
    Case,
    Columns,
    groups,
    open_labels,
    open_truth,
    summarise,
    to_columns,
)

SCORES = ('dice', 'iou', 'precision', 'recall', 'accuracy', 'f1')
SIZES = ('volume_um3', 'surface_um2', 'surface_to_volume_per_um')
TESTED = ('volume_um3', 'surface_to_volume_per_um')
FOREGROUND = Classes(('background', 'foreground'), (0, 1))
_SLAB_VOXELS = 2**27  # counts of a slab stay far below the 2³¹ of int32


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What `evaluate_volumes` found, as tables.

    Attributes:
      scores: one row a volume, method and class: `SCORES`, and `SIZES` of prediction and truth.
      summary: one row a method, class and column of `scores`: n, mean, sd over the volumes.
      tests: one row a method, class and measure of `TESTED`: paired t-test, prediction − truth.
      notes: what the reader must know, such as sizes left out for want of a voxel size.
    """

    scores: Columns
    summary: Columns
    tests: Columns
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Options:
    """How to compare.

    Attributes:
      baselines: of 'otsu', 'adaptive'; they need images.
      foreground: side of the threshold that is foreground, for the baselines.
      classes: the class list; None: the labels that occur in the truth or that a file names.
        Predictions hold the values that are written (`Classes.as_written`).
      of_truth: what label values mean in files of true labels, where not as in `classes`: classes
        of the same names, such as cells of a library have.
      ignore_label: true label of voxels to leave out.
      voxel_size_nm: (z, y, x), instead of what the files say.
    """

    baselines: Sequence[str] = ()
    foreground: str = 'auto'
    classes: Classes | None = None
    of_truth: Mapping[Path, Classes] = dataclasses.field(default_factory=dict)
    ignore_label: int | None = None
    voxel_size_nm: VoxelSize | None = None


def evaluate_volumes(cases: Sequence[Case], *, options: Options | None = None) -> Evaluation:
    """Score every case and summarise the set.

    Voxels with the ignored true label are left out of scores and sizes. Sizes are NaN where no
    voxel size is known. With baselines and several classes, predictions are also scored as
    'foreground' (any class), for that is all a threshold can tell.

    Args:
      cases: at least one, each with a prediction, or with an image if there are baselines.
      options: how to compare.

    Raises:
      InputError: shapes or voxel sizes of a case differ, a label is not in the class list, labels
        are not whole numbers, a truth is empty, or a baseline lacks its image.
    """
    options = options or Options()
    _check_cases(cases, options)
    classes = options.classes or _detect_classes(cases, options.ignore_label)
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    for case in progress_bar(cases, unit='volume', desc='scoring', disable=len(cases) < 2):
        truth, size = _read_truth(case, classes, options)
        if size is None:
            notes.append(f'{case.truth}: no voxel size, so no volumes and surfaces')
        for method, found, known in _segmentations(case, truth, classes, options):
            true = truth if known is classes else np.sign(truth)
            measured = _compare(found, true, known, size)
            rows += [{'name': case.name, 'method': method, **row} for row in measured]
    table = to_columns(rows)
    tests, remarks = _test(table)
    summary = to_columns(summarise(table, keys=('method', 'class')))
    return Evaluation(table, summary, tests, (*notes, *remarks))


def _check_cases(cases: Sequence[Case], options: Options) -> None:
    if not cases:
        raise InputError('evaluation', 'nothing to compare', 'predictions, or images')
    unknown = set(options.baselines) - set(thresholding.METHODS)
    if unknown:
        raise InputError('baselines', f'{sorted(unknown)}', f'some of {list(thresholding.METHODS)}')
    for case in cases:
        if not options.baselines and case.prediction is None:
            raise InputError(case.truth, 'no prediction', 'a prediction, or a baseline to score')
        if options.baselines and case.image is None:
            raise InputError(case.truth, 'no image for the baselines', 'one image a truth')


def _detect_classes(cases: Sequence[Case], ignore_label: int | None) -> Classes:
    """Every label that occurs in a truth or a prediction, or that one of their files names.

    Raises:
      InputError: two files have one name under different values.
    """
    counts: list[Mapping[int, int]] = []
    names: dict[int, str] = {}
    values: dict[str, tuple[set[int], Path]] = {}
    for case in cases:
        for path in (case.prediction, case.truth):
            if path is not None:
                labels = open_volume(path)
                counts.append(count_labels(labels.data, name=str(path)))
                names.update(labels.class_names or {})
                _check_names(path, labels.class_names or {}, values)
    counts.append(dict.fromkeys(names, 0))
    return find_classes(counts, value_names=names, ignore_value=ignore_label)


def _check_names(
    path: Path, names: Mapping[int, str], known: dict[str, tuple[set[int], Path]]
) -> None:
    """Add the values of each name: labels are compared by value, so names must not change theirs.

    Raises:
      InputError: a name that other files have under other values.
    """
    here: dict[str, set[int]] = {}
    for value, name in names.items():
        here.setdefault(material_key(name), set()).add(value)
    for name, values in here.items():
        others, file = known.setdefault(name, (values, path))
        if not values & others:
            found = f'{name} is value {min(values)}, and {min(others)} in {file}'
            raise InputError(path, found, f"--task='{name}={name},…' to go by names")


def _read_truth(
    case: Case, classes: Classes, options: Options
) -> tuple[np.ndarray, VoxelSize | None]:
    """Class indices (−1: ignored) of a truth, and the voxel size if any file of the case tells."""
    volume, size = open_truth(case, options.voxel_size_nm)
    known = options.of_truth.get(case.truth, classes)
    truth = known.indices(volume.load().data, name=str(case.truth))
    if not (truth > 0).any():
        raise InputError(case.truth, 'no voxel with a label', 'a truth that is not empty')
    return truth, size


def _segmentations(
    case: Case, truth: np.ndarray, classes: Classes, options: Options
) -> Iterator[tuple[str, np.ndarray, Classes]]:
    """Method, class indices and class list of everything to be compared with the truth."""
    two = classes if len(classes) == 2 else FOREGROUND
    if case.prediction is not None:
        found = open_labels(case.prediction).load().data
        prediction = classes.as_written.indices(found, name=str(case.prediction))
        prediction[truth == IGNORE_INDEX] = 0
        if (prediction == IGNORE_INDEX).any():
            where = f'the ignored label {options.ignore_label}'
            raise InputError(case.prediction, where, 'a class wherever the truth has one')
        yield 'prediction', prediction, classes
        if options.baselines and two is FOREGROUND:
            yield 'prediction', np.sign(prediction), FOREGROUND
    if options.baselines:
        image = open_volume(case.image).load()  # type: ignore[arg-type]
        for method in options.baselines:
            threshold = thresholding.METHODS[method]
            mask = threshold(image.data, foreground=options.foreground, name=str(case.image))
            yield method, (mask & (truth != IGNORE_INDEX)).astype(np.int16), two


def _compare(
    found: np.ndarray, truth: np.ndarray, classes: Classes, size: VoxelSize | None
) -> list[dict[str, Any]]:
    """Scores and sizes, one row a class other than the background."""
    columns = scores(_confusion(found, truth, len(classes)))
    rows = []
    for k in range(1, len(classes)):
        row: dict[str, Any] = {'class': classes.names[k]}
        row |= {name: float(columns[name][k]) for name in SCORES}
        for side, labels in (('prediction', found), ('truth', truth)):
            sizes = dict.fromkeys(SIZES, np.nan)
            if size is not None:
                sizes |= volume_and_surface(labels == k, voxel_size_nm=size)
            row |= {f'{name}_{side}': value for name, value in sizes.items()}
        rows.append(row)
    return rows


def _confusion(found: np.ndarray, truth: np.ndarray, n_classes: int) -> np.ndarray:
    """Counts of the whole volume, added up slab by slab."""
    depth = max(1, _SLAB_VOXELS // int(np.prod(truth.shape[1:])))
    total = np.zeros((n_classes, n_classes), np.int64)
    for z in range(0, len(truth), depth):
        part = slice(z, z + depth)
        counts = confusion(found[part], truth[part], n_classes=n_classes, ignore=IGNORE_INDEX)
        total += np.asarray(counts)
    return total


def _test(table: Columns) -> tuple[Columns, list[str]]:
    """Paired t-tests of predicted against true sizes, and a note on those that cannot be made."""
    rows, missing = [], []
    for which, chosen in groups(table, ('method', 'class')):
        for measure in TESTED:
            found, true = (table[f'{measure}_{side}'][chosen] for side in ('prediction', 'truth'))
            if np.isfinite(found - true).sum() < 2:
                missing.append(f'{measure} of {which["class"]} ({which["method"]})')
                continue
            row = {**which, 'measure': measure}
            rows.append({**row, **dataclasses.asdict(paired_t_test(found, true))})
    if not missing:
        return to_columns(rows), []
    ones = f' for {", ".join(missing)}' if rows else ''
    return to_columns(rows), [f'no paired t-test{ones}: it takes two volumes with sizes']
