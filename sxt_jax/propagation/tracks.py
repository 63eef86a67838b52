"""What linking finds, and how the regions of the slices get their new numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sxt_jax.core.errors import InputError
from sxt_jax.propagation.overlaps import on_accelerator

_ROWS = 32  # looked up at once: their indices stay in the cache
_DENSE_IDS = 1 << 24


@dataclasses.dataclass(frozen=True, eq=False)
class Tracks:
    """The number of every region of a stack; rows go by slice, then by id.

    Attributes:
      slice_index: [n] int64 slice of each region.
      region: [n] int64 its id in that slice.
      n_pixels: [n] int64 its size.
      track: [n] int64 its new number, the same in all slices: that of its cell, or that of an
        island that meets none; 0: taken away.
      cell_ids: [c] int64 numbers that are of cells, ascending; islands have larger ones.
      n_slices: slices that were linked, with or without regions.
    """

    slice_index: np.ndarray
    region: np.ndarray
    n_pixels: np.ndarray
    track: np.ndarray
    cell_ids: np.ndarray
    n_slices: int

    def of_slice(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids of the regions of a slice, ascending, and their new numbers."""
        first, last = np.searchsorted(self.slice_index, (index, index + 1))
        return self.region[first:last], self.track[first:last]


def relabel(
    labels_by_slice: Iterable[Any], tracks: Tracks, *, first: int = 0
) -> Iterator[np.ndarray | jax.Array]:
    """The slices with the numbers of the tracks, one at a time.

    Args:
      labels_by_slice: slices [y, x] as they were linked, all or some that follow each other.
      tracks: of `link`.
      first: place of the first of these slices in the stack.

    Returns:
      [y, x] int32 each; on the device if the slice is on an accelerator.

    Raises:
      InputError: a slice has regions that were not linked, or there are more slices.
    """
    for index, labels in enumerate(labels_by_slice, start=first):
        if not 0 <= index < tracks.n_slices:
            raise InputError('first', f'slice {index}', f'one of the {tracks.n_slices} linked')
        yield _renumbered(labels, *tracks.of_slice(index), index)


def _renumbered(
    labels: Any, regions: np.ndarray, numbers: np.ndarray, index: int
) -> np.ndarray | jax.Array:
    if not on_accelerator(labels):
        labels = np.asarray(labels)
    new: np.ndarray | jax.Array
    largest = int(regions[-1]) if len(regions) else 0
    if largest >= _DENSE_IDS:
        ids, places = np.unique(np.asarray(labels), return_inverse=True)
        found = np.searchsorted(regions, ids).clip(0, len(regions) - 1)
        known = np.where(regions[found] == ids, numbers[found], -1)
        new = np.where(ids == 0, 0, known).astype(np.int32)[places].reshape(labels.shape)
    else:
        table = np.full(largest + 2, -1, np.int32)  # the last one is for ids beyond
        table[0], table[regions] = 0, numbers
        new = _look_up(table, labels)
    if new.size and int(new.min()) < 0:
        raise InputError(f'slice {index}', 'regions that were not linked', 'the slices of link')
    return new


def _look_up(table: np.ndarray, labels: np.ndarray | jax.Array) -> np.ndarray | jax.Array:
    if isinstance(labels, jax.Array):
        return jnp.asarray(table).at[labels].get(mode='clip')
    new = np.empty(labels.shape, np.int32)
    for row in range(0, len(labels), _ROWS):
        rows = slice(row, row + _ROWS)
        np.take(table, labels[rows], out=new[rows], mode='clip')
    return new
