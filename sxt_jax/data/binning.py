"""Volumes seen with larger voxels: what a network sees of more context than fits it.

Networks of slices see pixels binned (1, y, x), networks of volumes voxels binned (z, y, x).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sxt_jax.core.volume import ArrayLike, VoxelSize

Binning = tuple[int, int, int]
NO_BINNING: Binning = (1, 1, 1)


class _Binned:
    """An array of bins of another (an `ArrayLike`), read with them window by window.

    The last bin of an axis holds what is left of it.

    Args:
      data: [z, y, x] or [z, y, x, c], in memory or lazily read.
      binning: (z, y, x) voxels of a bin.
    """

    def __init__(self, data: ArrayLike, binning: Binning, dtype: Any) -> None:
        self._data, self._binning, self.dtype = data, binning, np.dtype(dtype)
        self.shape = (*binned_shape(data.shape[:3], binning), *data.shape[3:])

    def __getitem__(self, index: Any) -> np.ndarray:
        index = index if isinstance(index, tuple) else (index,)
        wide: list[Any] = []
        for axis, part in enumerate(index):
            if axis < 3:
                start, stop, _ = part.indices(self.shape[axis])
                n = self._binning[axis]
                part = slice(start * n, min(stop * n, self._data.shape[axis]))
            wide.append(part)
        wide += [slice(None)] * (len(self.shape) - len(wide))
        return self._bin(np.asarray(self._data[tuple(wide)]))

    def _bin(self, voxels: np.ndarray) -> np.ndarray:
        raise NotImplementedError


class BinnedMean(_Binned):
    """Means over bins, float32: the gray values of an image."""

    def __init__(self, data: ArrayLike, binning: Binning) -> None:
        super().__init__(data, binning, np.float32)

    def _bin(self, voxels: np.ndarray) -> np.ndarray:
        return bin_mean(voxels, self._binning)


class BinnedNearest(_Binned):
    """The voxel in the middle of each bin: labels, and ids of objects.

    Args:
      data: [z, y, x], in memory or lazily read.
      binning: (z, y, x) voxels of a bin.
      is_unlabelled: which values stand for no label, or None. Where the voxel in the middle has
        none, the nearest one of the bin that has a label stands for it: of slices labelled here
        and there, every one is seen.
    """

    def __init__(
        self,
        data: ArrayLike,
        binning: Binning,
        is_unlabelled: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        super().__init__(data, binning, data.dtype)
        self._is_unlabelled = is_unlabelled

    def _bin(self, voxels: np.ndarray) -> np.ndarray:
        found = self._pick(voxels, tuple(n // 2 for n in self._binning))
        if self._is_unlabelled is None:
            return found
        found = np.ascontiguousarray(found)
        missing = np.flatnonzero(self._is_unlabelled(found))
        for place in self._other_places():
            if not len(missing):
                break
            values = self._pick(voxels, place).ravel()[missing]
            labelled = ~self._is_unlabelled(values)
            found.reshape(-1)[missing[labelled]] = values[labelled]
            missing = missing[~labelled]
        return found

    def _pick(self, voxels: np.ndarray, place: Sequence[int]) -> np.ndarray:
        """The voxel at one place of each bin; of bins that end before, the last."""
        z, y, x = (
            np.minimum(np.arange(0, n, size) + p, n - 1)
            for n, size, p in zip(voxels.shape[:3], self._binning, place, strict=True)
        )
        return voxels[z][:, y][:, :, x]

    def _other_places(self) -> list[tuple[int, ...]]:
        """All places in a bin but the middle, those near to it first."""
        middle = tuple(n // 2 for n in self._binning)
        places = itertools.product(*(range(n) for n in self._binning))
        return sorted(places, key=lambda place: math.dist(place, middle))[1:]


def bin_mean(voxels: np.ndarray, binning: Binning) -> np.ndarray:
    """Means over bins; those at the far border may hold fewer voxels.

    Args:
      voxels: [z, y, x] or [z, y, x, c].
      binning: (z, y, x) voxels of a bin.

    Returns:
      [⌈z / l⌉, ⌈y / n⌉, ⌈x / m⌉] or with [c], float32.
    """
    for axis in (0, 1, 2):  # sums of whole slices and rows are contiguous
        voxels = _axis_mean(voxels, axis, binning[axis])
    return voxels.astype(np.float32, copy=False)


def _axis_mean(voxels: np.ndarray, axis: int, size: int) -> np.ndarray:
    if size == 1:
        return voxels
    n = voxels.shape[axis]
    whole = n // size
    before, after = voxels.shape[:axis], voxels.shape[axis + 1 :]
    place: tuple[Any, ...] = (slice(None),) * axis
    inside = voxels[(*place, slice(0, whole * size))].reshape(*before, whole, size, *after)
    means = np.empty((*before, math.ceil(n / size), *after), np.float32)
    sums = means[(*place, slice(0, whole))]
    for i in range(size):  # np.mean of a short axis in the middle is ten times slower
        np.add(sums if i else 0, inside[(*place, slice(None), i)], out=sums, casting='unsafe')
    sums /= size
    if whole * size < n:
        rest = voxels[(*place, slice(whole * size, n))]
        means[(*place, whole)] = rest.mean(axis, dtype=np.float32)
    return means


def binned_shape(shape: Sequence[int], binning: Binning) -> tuple[int, int, int]:
    """(z, y, x) of the bins that cover a volume of that shape."""
    z, y, x = (-(-n // size) for n, size in zip(shape, binning, strict=True))
    return z, y, x


def binned_voxel_size(size: VoxelSize | None, binning: Binning) -> VoxelSize | None:
    """Of a bin; None where the voxel's is not known."""
    if size is None:
        return None
    z, y, x = (side * n for side, n in zip(size, binning, strict=True))
    return z, y, x


def bin_image(data: ArrayLike, binning: Binning) -> ArrayLike:
    """An image as `BinnedMean`; itself without binning."""
    return data if binning == NO_BINNING else BinnedMean(data, binning)


def bin_labels(
    data: ArrayLike,
    binning: Binning,
    is_unlabelled: Callable[[np.ndarray], np.ndarray] | None = None,
) -> ArrayLike:
    """Labels as `BinnedNearest`; themselves without binning."""
    return data if binning == NO_BINNING else BinnedNearest(data, binning, is_unlabelled)
