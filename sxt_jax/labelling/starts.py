"""Where the walks of smart interpolation start: the voxels of hand-labelled slices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from sxt_jax.core.errors import InputError
from sxt_jax.core.slicing import ORIENTATIONS, Order, turn
from sxt_jax.core.volume import ArrayLike
from sxt_jax.labelling.gray import PER_GRAY
from sxt_jax.labelling.random_walk import Starts

_LEAST_VARIANCE = 1.0 * PER_GRAY**2  # 1 of gray values from 0 to 255
_AXES = {'z': ('xy',), 'zyx': ('xy', 'xz', 'yz')}
_SLICES = 16  # looked at together


def find_starts(
    levels: ArrayLike, sparse_labels: np.ndarray, *, axes: str = 'z', unlabelled: int | None = None
) -> dict[int, Starts]:
    """The starts of each label, background included.

    As in Biomedisa (Lösel et al. 2020; `read_labeled_slices` and the kernels of its released code):
    all voxels of a labelled slice start walks of their label, 0 is background; negative labels
    start none. σ² is the mean squared difference to the gray value over those of the 3 × 3 pixels
    in the slice that have the same label, at least 1. Around the volume lies background of gray
    value 0, which counts in σ² of background at the border.

    Args:
      levels: [z, y, x] uint16 gray levels (`GrayLevels`); labelled slices are read.
      sparse_labels: [z, y, x] integers.
      axes, unlabelled: see `labelled_slices`; voxels of the value `unlabelled` start no walks.

    Returns:
      By label from 0 up, where it occurs, its starts. A voxel in which slices cross starts once, as
      in the first orientation.

    Raises:
      InputError: shapes differ, labels that are no integers, or other axes.
    """
    shape = tuple(levels.shape)
    if sparse_labels.shape != shape or sparse_labels.dtype.kind not in 'iu':
        found = f'{sparse_labels.dtype} {list(sparse_labels.shape)}'
        raise InputError(
            'sparse labels', found, f'integers of the shape of the image {list(shape)}'
        )
    parts: dict[int, list[Starts]] = {}
    for plane, numbers in labelled_slices(sparse_labels, axes=axes, unlabelled=unlabelled).items():
        order = ORIENTATIONS[plane]
        for number in numbers:
            gray, labels = (
                np.asarray(turn(a, order)[number : number + 1, :, :])[0].astype(dtype)
                for a, dtype in ((levels, np.float32), (sparse_labels, np.int64))
            )
            if unlabelled is not None:
                labels[labels == unlabelled] = -1
            for label, starts in _of_slice(gray, labels, _voxels(number, shape, order)):
                parts.setdefault(label, []).append(starts)
    return {label: _join(parts.pop(label), crossed=axes != 'z') for label in sorted(parts)}


def labelled_slices(
    sparse_labels: np.ndarray, *, axes: str = 'z', unlabelled: int | None = None
) -> dict[str, list[int]]:
    """Which slices of a volume are labelled ones.

    Args:
      sparse_labels: [z, y, x] integers.
      axes: 'z', labelled slices are xy; or 'zyx', they are xy, xz and yz: then what is labelled
        only one voxel thick within a slice belongs to a slice that crosses it, and does not make
        this one labelled.
      unlabelled: value of voxels without a label; 0 is background then wherever it is. None: slices
        of nothing but 0 are the unlabelled ones.

    Returns:
      Numbers of the slices by plane: 'xy', and 'xz' (along y) and 'yz' (along x) of axes 'zyx'.
    """
    if axes not in _AXES:
        raise InputError('axes', repr(axes), f'one of {tuple(_AXES)}')
    nothing = 0 if unlabelled is None else unlabelled
    found = {}
    for plane in _AXES[axes]:
        turned = sparse_labels.transpose(ORIENTATIONS[plane])
        parts = (turned[z : z + _SLICES] != nothing for z in range(0, len(turned), _SLICES))
        labelled = [_is_labelled(part, crossed=len(axes) > 1) for part in parts]
        found[plane] = np.flatnonzero(np.concatenate(labelled)).tolist()
    return found


def given_voxels(
    sparse_labels: np.ndarray, *, axes: str = 'z', unlabelled: int | None = None
) -> Iterator[tuple[tuple[Any, ...], np.ndarray]]:
    """Each labelled slice: its index in the volume, and a mask of which of its voxels have labels.

    Args:
      sparse_labels, axes, unlabelled: see `labelled_slices`.
    """
    for plane, numbers in labelled_slices(sparse_labels, axes=axes, unlabelled=unlabelled).items():
        for number in numbers:
            index: tuple[Any, ...] = (*(slice(None),) * ORIENTATIONS[plane][0], number)
            labels = sparse_labels[index]
            yield index, (labels >= 0) & (labels != unlabelled)


def _is_labelled(present: np.ndarray, *, crossed: bool) -> np.ndarray:
    """[n] bool which of n slices are labelled ones."""
    if crossed:
        for axis in (1, 2):
            if present.shape[axis] > 1:
                # Outside of the volume there are no labels.
                padded = np.pad(present, [(int(a == axis),) * 2 for a in range(3)])
                n = present.shape[axis]
                before, behind = (np.take(padded, np.arange(n) + k, axis) for k in (0, 2))
                present = present & (before | behind)
    return np.asarray(present.any((1, 2)))


def _voxels(number: int, shape: tuple[int, ...], order: Order) -> np.ndarray:
    """[rows, columns] int64 flat index of the voxels of a slice."""
    lengths = [int(np.prod(shape[axis + 1 :])) for axis in range(3)]
    first, rows, columns = (np.arange(shape[axis]) * lengths[axis] for axis in order)
    return np.asarray(first[number] + rows[:, None] + columns)


def _of_slice(
    gray: np.ndarray, labels: np.ndarray, voxels: np.ndarray
) -> Iterator[tuple[int, Starts]]:
    """Labels of a slice with their starts."""
    height, width = gray.shape
    around, ids = np.pad(gray, 1), np.pad(labels, 1)
    total, count = np.zeros_like(gray), np.zeros_like(gray)
    for y in range(3):
        for x in range(3):
            window = slice(y, y + height), slice(x, x + width)
            same = ids[window] == labels
            total += np.where(same, np.square(gray - around[window]), 0)
            count += same
    variances = np.maximum(total / count, _LEAST_VARIANCE)
    for label in np.unique(labels[labels >= 0]):
        here = labels == label
        yield int(label), Starts(voxels[here], gray[here], variances[here])


def _join(parts: list[Starts], *, crossed: bool) -> Starts:
    """All of them in one, in the order of the voxels; of voxels in several slices the first."""
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    if not crossed:
        return Starts(*columns)
    voxels, first = np.unique(columns[0], return_index=True)
    return Starts(voxels, *(column[first] for column in columns[1:]))
