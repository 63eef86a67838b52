"""Look over a data set before any work is done: one table, and all problems at once.

Every file is read once, slab by slab, so that volumes larger than memory can be checked.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sxt_jax import io
from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import Volume, VoxelSize, equal_sides, equal_voxel_sizes, slabs
from sxt_jax.data.classes import Classes, count_values
from sxt_jax.io import Pair
from sxt_jax.pipelines.check_report import (
    Entry,
    Problem,
    Report,
    Role,
    Severity,
    shorten,
    size_text,
    times,
)

_MANY_LABELS = 64  # more values than any of the systems has classes
_FEW_LABELS = 2  # cells of which few volumes have no more


@dataclasses.dataclass(frozen=True)
class _Rules:
    """What is asked of the files."""

    values: frozenset[int] | None
    patch: tuple[int, ...] | None
    isotropic: bool = False
    ignored: frozenset[int] = frozenset()
    instances: bool = False
    classes: Classes | None = None


def check_volumes(
    paths: str | Path | Iterable[str | Path],
    *,
    dataset: str | None = None,
    patch: Sequence[int] | None = None,
    isotropic: bool = False,
    on_file: Callable[[Path], Any] | None = None,
) -> Report:
    """Check volumes that have no labels: readable, finite, not constant, alike.

    Args:
      paths: volumes, or folders of volumes.
      dataset: which one, in HDF5 files and OME-Zarr.
      patch: (z, y, x) that training or inference will cut out.
      isotropic: whether cubic voxels are assumed.
      on_file: called with each file before it is read.
    """
    paths = [paths] if isinstance(paths, (str, Path)) else list(paths)
    problems: list[Problem] = []
    entries: list[Entry] = []
    rules = _Rules(None, tuple(patch) if patch else None, isotropic)
    for path in paths:
        try:
            files = io.list_volumes(path, dataset=dataset)
        except InputError as error:
            problems.append(_from_error(error))
            continue
        for file in files:
            name = io.split_dataset(file)[0].stem
            entries.append(_check_file(file, name, 'image', None, rules, problems, on_file))
    _check_set(entries, problems)
    return Report(tuple(entries), tuple(problems))


def check_pairs(
    images: str | Path,
    labels: str | Path | None = None,
    *,
    dataset: str | None = None,
    label_dataset: str | None = None,
    n_classes: int | None = None,
    classes: Classes | None = None,
    ignore_label: int | None = None,
    patch: Sequence[int] | None = None,
    isotropic: bool = False,
    instances: bool = False,
    on_file: Callable[[Path], Any] | None = None,
) -> Report:
    """Check images with labels, paired as `io.pair` does.

    Args:
      images, labels, dataset, label_dataset: folders or files, and data sets in them (see
        `io.pair`).
      n_classes: label values must be below it.
      classes: label values must be among theirs.
      ignore_label: one value more that is allowed.
      patch: (z, y, x) that training will cut out.
      isotropic: whether cubic voxels are assumed.
      instances: whether label values are ids of objects, not classes.
      on_file: called with each file before it is read.
    """
    try:
        pairs, unpaired = io.find_pairs(
            images, labels, dataset=dataset, label_dataset=label_dataset
        )
    except InputError as error:
        return Report((), (_from_error(error),))
    problems = [Problem('error', u.file, f'has no partner; expected {u.looked_for}')
                for u in unpaired]  # fmt: skip
    ignored = frozenset() if ignore_label is None else frozenset({ignore_label})
    values = _allowed_values(n_classes, classes, ignored)
    sides = tuple(patch) if patch else None
    rules = _Rules(values, sides, isotropic, ignored, instances, classes)
    entries: list[Entry] = []
    for one in pairs:
        entries += _check_both(one, rules, problems, on_file)
    if not pairs:
        problems.append(Problem('error', Path(images), 'no image has labels'))
    _check_set([e for e in entries if e.role == 'image'], problems)
    return Report(tuple(entries), tuple(problems))


def check_cells(
    pairs: Sequence[Pair],
    *,
    classes: Sequence[Classes],
    voxel_sizes_nm: Sequence[VoxelSize | None],
    patch: Sequence[int] | None = None,
    on_file: Callable[[Path], Any] | None = None,
) -> Report:
    """As `check_pairs`, of pairs whose label values each have meanings of their own.

    Args:
      pairs: cells of a library.
      classes: what the label values of each mean.
      voxel_sizes_nm: of each, by whatever told them.
      patch, on_file: as of `check_pairs`.
    """
    sides = tuple(patch) if patch else None
    entries: list[Entry] = []
    problems: list[Problem] = []
    for one, meant, size in zip(pairs, classes, voxel_sizes_nm, strict=True):
        ignored = meant.ignored_values
        values = _allowed_values(None, meant, ignored)
        rules = _Rules(values, sides, ignored=ignored, classes=meant)
        both = _check_both(one, rules, problems, on_file)
        entries += [dataclasses.replace(entry, voxel_size_nm=size) for entry in both]
    _check_set([e for e in entries if e.role == 'image'], problems)
    return Report(tuple(entries), tuple(problems))


def _allowed_values(
    n_classes: int | None, classes: Classes | None, ignored: frozenset[int]
) -> frozenset[int] | None:
    values = frozenset(range(n_classes or 0)) if classes is None else classes.known_values
    return values | ignored if values else None


def _check_both(
    one: Pair, rules: _Rules, problems: list[Problem], on_file: Callable[[Path], Any] | None
) -> tuple[Entry, Entry]:
    """What an image and its labels hold; their problems are appended."""
    image = _check_file(one.image, one.name, 'image', one.labels, rules, problems, on_file)
    truth = _check_file(one.labels, one.name, 'labels', one.image, rules, problems, on_file)
    _check_pair(image, truth, problems)
    return image, truth


def _from_error(error: InputError) -> Problem:
    message = f'{error.found}; expected {error.expected}' if error.expected else error.found
    return Problem('error', Path(error.where), ' '.join(message.split()))


def _check_file(
    file: Path,
    name: str,
    role: Role,
    partner: Path | None,
    rules: _Rules,
    problems: list[Problem],
    on_file: Callable[[Path], Any] | None,
) -> Entry:
    """What a file holds; its problems are appended."""
    if on_file is not None:
        on_file(file)
    entry = Entry(name, file, role, partner)
    try:
        volume = io.open_volume(file)
        entry = dataclasses.replace(
            entry, format=str(volume.metadata.get('format', '')), shape=tuple(volume.data.shape),
            dtype=str(volume.dtype), axes=volume.axes, voxel_size_nm=volume.voxel_size_nm,
        )  # fmt: skip
        if (missing := volume.metadata.get('missing_slice')) is not None:
            message = f'the numbering of the slices leaves out {missing}'
            problems.append(Problem('warning', file, message))
        entry = dataclasses.replace(entry, **_scan(volume, count=role == 'labels'))
    except InputError as error:
        problems.append(_from_error(error))
        return entry
    judge = _judge_image if role == 'image' else _judge_labels
    problems += [Problem(severity, file, message) for severity, message in judge(entry, rules)]
    return entry


def _scan(volume: Volume, *, count: bool) -> dict[str, Any]:
    """Extremes, NaNs, infinities and, of integers, the voxels of each value: slab by slab."""
    low, high, n_nan, n_inf = np.inf, -np.inf, 0, 0
    counts: Counter[int] = Counter()
    for slab in slabs(volume.data):
        if slab.dtype.kind == 'f':
            n_nan += int(np.isnan(slab).sum())
            n_inf += int(np.isinf(slab).sum())
            slab = slab[np.isfinite(slab)]
        if slab.size:
            low, high = min(low, slab.min().item()), max(high, slab.max().item())
            if count:
                found = count_values(slab)
                count = found is not None
                counts.update(found or {})
    seen = low <= high
    return {
        'minimum': low + 0 if seen else None, 'maximum': high + 0 if seen else None,  # -0 is 0
        'n_nan': n_nan, 'n_inf': n_inf, 'label_counts': counts if count else None,
    }  # fmt: skip


def _judge_image(entry: Entry, rules: _Rules) -> list[tuple[Severity, str]]:
    found = _judge_finite(entry)
    if entry.minimum is not None and entry.minimum == entry.maximum and not found:
        found.append(('error', f'is constant: every voxel is {entry.minimum:g}'))
    shape = (entry.shape or ())[:3]
    if rules.patch and any(n < p for n, p in zip(shape, rules.patch, strict=False)):
        found.append(
            ('warning', f'shape {times(shape)} is smaller than a patch {times(rules.patch)}: '
             'it will be padded')
        )  # fmt: skip
    size = entry.voxel_size_nm
    if rules.isotropic and size and not equal_sides(size):
        found.append(('warning', f'voxels of {size_text(size)} nm are not cubic, which is assumed'))
    return found


def _judge_finite(entry: Entry) -> list[tuple[Severity, str]]:
    found: list[tuple[Severity, str]] = []
    if entry.n_nan or entry.n_inf:
        found.append(('error', f'{entry.n_nan} NaN and {entry.n_inf} infinite voxels'))
    return found


def _judge_labels(entry: Entry, rules: _Rules) -> list[tuple[Severity, str]]:
    found = _judge_finite(entry)
    if entry.axes != 'zyx':
        found.append(('error', f'labels have axes {entry.axes}; expected zyx'))
    counts = entry.label_counts
    if counts is None:
        found.append(('error', 'labels are not integers'))
        return found
    values = sorted(set(counts) - rules.ignored)
    if all(_is_background(value, rules) for value in values):
        told = ', '.join(str(value) for value in sorted(rules.ignored & counts.keys()))
        ignored = f' and ignored voxels ({told})' if told else ''
        # A slice among others may well hold nothing.
        severity: Severity = 'warning' if entry.shape and entry.shape[0] == 1 else 'error'
        found.append((severity, f'labels are empty: background{ignored} only'))
    return found + _judge_values(values, rules)


def _is_background(value: int, rules: _Rules) -> bool:
    return value == 0 if rules.classes is None else rules.classes.is_background(value)


def _judge_values(values: Sequence[int], rules: _Rules) -> list[tuple[Severity, str]]:
    found: list[tuple[Severity, str]] = []
    if rules.classes is not None and rules.values is None:
        return found  # any value is of some class
    outside = [v for v in values if rules.values is None or v not in rules.values]
    negative = [v for v in outside if v < 0]
    if negative:
        found.append(
            ('error', f'label values {shorten(negative)} are negative; expected values from 0 on, '
             'or the one of unlabelled voxels as ignored (--ignore_label, '
             '--config.data.ignore_value)')
        )  # fmt: skip
    if rules.values is not None and (others := [v for v in outside if v >= 0]):
        found.append(
            ('error', f'label values {shorten(others)} outside the class list '
             f'{shorten(sorted(rules.values))}')
        )  # fmt: skip
    if outside and len(values) > _MANY_LABELS and not rules.instances:
        message = f'{len(values)} label values: these look like instances, each would be a class'
        found.append(('warning', message))
    cells = [v for v in values if v > 0]
    if rules.instances and 0 < len(cells) <= _FEW_LABELS:
        message = f'labels {shorten(cells)} only: these look like classes, not ids of cells'
        found.append(('warning', message))
    return found


def _check_pair(image: Entry, labels: Entry, problems: list[Problem]) -> None:
    if image.shape is None or labels.shape is None:
        return
    if image.shape[:3] != labels.shape[:3]:
        message = (
            f'shape {times(labels.shape[:3])} differs from {times(image.shape[:3])} of its image '
            f'{image.file.name}'
        )
        problems.append(Problem('error', labels.file, message))
    if not equal_voxel_sizes(image.voxel_size_nm, labels.voxel_size_nm):
        message = (
            f'voxel size {size_text(labels.voxel_size_nm)} nm differs from '
            f'{size_text(image.voxel_size_nm)} nm of its image {image.file.name}'
        )
        problems.append(Problem('warning', labels.file, message))


def _check_set(images: Sequence[Entry], problems: list[Problem]) -> None:
    """Compare the images that could be read with the first of them."""
    read = [e for e in images if e.shape is not None]
    if not read:
        return
    first = read[0]
    sized = next((e for e in read if e.voxel_size_nm), None)
    for entry in read[1:]:
        if entry.dtype != first.dtype:
            message = f'dtype {entry.dtype} differs from {first.dtype} of {first.file.name}'
            problems.append(Problem('warning', entry.file, message))
        if _channels(entry) != _channels(first):
            message = (
                f'{_channels(entry)} channels; expected {_channels(first)} as {first.file.name}'
            )
            problems.append(Problem('error', entry.file, message))
        if sized and not equal_voxel_sizes(entry.voxel_size_nm, sized.voxel_size_nm):
            message = (
                f'voxel size {size_text(entry.voxel_size_nm)} nm differs from '
                f'{size_text(sized.voxel_size_nm)} nm of {sized.file.name}'
            )
            problems.append(Problem('warning', entry.file, message))
    unsized = [e for e in read if e.voxel_size_nm is None]
    if unsized:
        message = f'voxel size unknown (of {len(unsized)} of {len(read)} images)'
        problems.append(Problem('warning', unsized[0].file, message))


def _channels(entry: Entry) -> int:
    return entry.shape[3] if entry.shape is not None and len(entry.shape) > 3 else 1
