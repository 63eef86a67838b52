"""From hits to labels: each voxel has the label whose walks came by most often."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from sxt_jax.core.box import Box

T = TypeVar('T')
SURE, UNSURE, UNVISITED = 0, 254, 255
_CHUNK_VOXELS = 2**18  # a few arrays of them stay in the caches


def elect(hits: np.ndarray, ids: Sequence[int], labels: np.ndarray) -> int:
    """Set the label with most hits in each voxel, the first of equal ones; 0 where there are none.

    Args:
      hits: [k, z, y, x] int32 hits of k labels.
      ids: the k labels.
      labels: [z, y, x] integers, changed in place.

    Returns:
      How many voxels have another label than before.
    """
    values = np.asarray(ids, labels.dtype)

    def work(here: slice) -> int:
        winner = find_winners(hits[:, here], values)
        changed = int(np.count_nonzero(winner != labels[here]))
        labels[here] = winner
        return changed

    return sum(_over_slabs(work, labels.shape))


def find_winners(hits: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """The label with most hits of [k, …] in each voxel, in the dtype of `ids`, as in `elect`."""
    return np.where(hits.any(0), ids[hits.argmax(0)], ids.dtype.type(0))


def measure_uncertainty(hits: np.ndarray) -> np.ndarray:
    """How undecided the election is: 1 − (1 − h₃/h₁)(1 − h₂/h₁) of the most hits h₁ ≥ h₂ ≥ h₃.

    Args:
      hits: [k, z, y, x] int32 hits of k labels.

    Returns:
      [z, y, x] uint8, in 255ths up to 254; 255 where no walk came, of which nothing is known. (The
      released code has 0 there.)
    """
    uncertainty = np.empty(hits.shape[1:], np.uint8)

    def work(here: slice) -> None:
        first, second, third = _highest(hits[:, here])
        visited = first > 0
        share = 1 / np.where(visited, first, 1).astype(np.float32)
        sure = (1 - second * share) * (1 - third * share)
        levels = np.minimum(np.rint(255 * (1 - sure)), UNSURE)
        uncertainty[here] = np.where(visited, levels, UNVISITED)

    _over_slabs(work, uncertainty.shape)
    return uncertainty


def box_of_hits(hits: np.ndarray) -> Box:
    """The smallest box that holds all hits of [k, z, y, x]; of size 0 where there are none."""
    shape = hits.shape[1:]

    def work(here: slice) -> list[np.ndarray]:
        visited = np.any(hits[:, here], 0)
        return [np.any(visited, axis=axes) for axes in ((1, 2), (0, 2), (0, 1))]

    parts = _over_slabs(work, shape)
    seen = [np.concatenate([part[0] for part in parts])]
    seen += [np.any([part[axis] for part in parts], 0) for axis in (1, 2)]
    if not seen[0].any():
        return Box((0, 0, 0), (0, 0, 0))
    ends = [np.flatnonzero(line)[[0, -1]] for line in seen]
    return Box(tuple(int(a) for a, _ in ends), tuple(int(b) + 1 for _, b in ends))


def _highest(votes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The three highest counts of each voxel, [k, …]."""
    zero = np.zeros(votes.shape[1:], votes.dtype)
    first, second, third = zero, zero, zero
    for count in votes:
        first, rest = np.maximum(first, count), np.minimum(first, count)
        second, rest = np.maximum(second, rest), np.minimum(second, rest)
        third = np.maximum(third, rest)
    return first, second, third


def _over_slabs(work: Callable[[slice], T], shape: tuple[int, ...]) -> list[T]:
    """What `work` returns for consecutive slices of a volume, on all cores."""
    depth = max(1, _CHUNK_VOXELS // int(np.prod(shape[1:])))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(work, _slabs(shape[0], depth)))


def _slabs(n: int, depth: int) -> Iterator[slice]:
    return (slice(z, min(n, z + depth)) for z in range(0, n, depth))
