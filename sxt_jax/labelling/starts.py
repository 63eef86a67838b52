"""Where the walks of smart interpolation start: the voxels of hand-labelled slices."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sxt_jax.core.errors import InputError
from sxt_jax.core.slicing import ORIENTATIONS, turn
from sxt_jax.labelling.walks import Starts

_LEAST_VARIANCE = 1.0  # of gray values from 0 to 255
_AXES = ('z', 'zyx')


def find_starts(
    image: np.ndarray, sparse_labels: np.ndarray, *, axes: str = 'z'
) -> dict[int, Starts]:
    """The starts of each label, background included.

    As in Biomedisa (Lösel et al. 2020; `read_labeled_slices` and the kernels of its released code):
    a slice with any label is a labelled one, and all of its voxels start walks of their label, 0 is
    background; negative labels start none. σ² is the mean squared difference to the gray value over
    those of the 3 × 3 pixels in the slice that have the same label, at least 1. Around the volume
    lies background of gray value 0, which counts in σ² of background at the border.

    Args:
      image: [z, y, x] uint8.
      sparse_labels: [z, y, x] integers.
      axes: 'z', labelled slices are xy; or 'zyx', they are xy, xz and yz: then what is labelled
        only one voxel thick within a slice belongs to a slice that crosses it, and does not make
        this one labelled.

    Returns:
      By label from 0 up, where it occurs, its starts: slice after slice, orientation after
      orientation. A voxel in which slices cross starts once.

    Raises:
      InputError: shapes differ, or other axes.
    """
    if image.shape != sparse_labels.shape or image.ndim != 3:
        found = f'image {list(image.shape)} and labels {list(sparse_labels.shape)}'
        raise InputError('sparse labels', found, 'the same shape [z, y, x]')
    if axes not in _AXES:
        raise InputError('axes', repr(axes), f'one of {_AXES}')
    parts: dict[int, list[Starts]] = {}
    index = np.arange(image.size, dtype=np.int32).reshape(image.shape)
    for order in list(ORIENTATIONS.values())[: len(axes)]:
        turned = tuple(np.asarray(turn(a, order)[...]) for a in (image, sparse_labels, index))
        for z in np.flatnonzero(_labelled(turned[1], crossed=len(axes) > 1)):
            for label, starts in _of_slice(*(array[z] for array in turned)):
                parts.setdefault(label, []).append(starts)
    return {label: _once(parts[label]) for label in sorted(parts)}


def _once(parts: list[Starts]) -> Starts:
    """All of them in one; of voxels that lie in several slices the first start."""
    voxels, gray, variances = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    first = np.sort(np.unique(voxels, return_index=True)[1])
    return Starts(voxels[first], gray[first], variances[first])


def _labelled(labels: np.ndarray, *, crossed: bool) -> np.ndarray:
    """[n] bool which slices are labelled ones."""
    present = labels != 0
    if crossed:
        for axis in (1, 2):
            edges = np.diff(present.astype(np.int8), axis=axis) != 0
            before = np.insert(edges, 0, False, axis)
            behind = np.insert(edges, edges.shape[axis], False, axis)
            present = present & ~(before & behind)
    return np.asarray(present.any((1, 2)))


def _of_slice(
    gray: np.ndarray, labels: np.ndarray, index: np.ndarray
) -> Iterator[tuple[int, Starts]]:
    """Labels of a slice with their starts."""
    height, width = gray.shape
    values = gray.astype(np.float32)
    around, ids = np.pad(values, 1), np.pad(labels, 1)
    total, count = np.zeros_like(values), np.zeros_like(values)
    for y in range(3):
        for x in range(3):
            window = slice(y, y + height), slice(x, x + width)
            same = ids[window] == labels
            total += np.where(same, np.square(values - around[window]), 0)
            count += same
    variances = np.maximum(total / count, _LEAST_VARIANCE)
    for label in np.unique(labels[labels >= 0]):
        here = labels == label
        yield int(label), Starts(index[here], values[here], variances[here])
