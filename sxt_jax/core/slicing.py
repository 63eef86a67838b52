"""The three ways in which a volume is cut into slices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sxt_jax.core.volume import ArrayLike

# Plane → which axes of the volume are the slices, their rows and their columns. z is never a
# column: the slices are those of Cellpose (cellpose/core.py of cellpose 2.2.3, `_run_3D`).
Order = tuple[int, int, int]
ORIENTATIONS: dict[str, Order] = {'xy': (0, 1, 2), 'xz': (1, 0, 2), 'yz': (2, 0, 1)}


class _Turned:
    """A lazily read volume with its axes in another order (an `ArrayLike`)."""

    def __init__(self, data: ArrayLike, order: Order) -> None:
        self._data, self.dtype = data, data.dtype
        self._order = (*order, *range(3, len(data.shape)))
        self.shape = tuple(data.shape[axis] for axis in self._order)

    def __getitem__(self, index: Any) -> np.ndarray:
        asked = index if isinstance(index, tuple) else (index,)
        parts = [slice(None)] * len(self.shape)
        for axis, part in zip(self._order, asked, strict=False):
            parts[axis] = part
        return np.asarray(self._data[tuple(parts)]).transpose(self._order)


def planes(shape: Sequence[int]) -> dict[str, Order]:
    """The orientations in which a volume of that shape has slices: of one slice, only its own."""
    return ORIENTATIONS if shape[0] > 1 else {'xy': ORIENTATIONS['xy']}


def turn(data: ArrayLike, order: Order) -> ArrayLike:
    """A volume with its axes in another order, without copying or reading it.

    Args:
      data: [z, y, x] or [z, y, x, c]; channels stay last.
      order: which of the axes z, y, x becomes each of the new ones.

    Returns:
      A view of a numpy array, or an `ArrayLike` that turns what it reads.
    """
    if order == (0, 1, 2):
        return data
    if isinstance(data, np.ndarray):
        return data.transpose(*order, *range(3, data.ndim))
    return _Turned(data, order)
