"""From hits to labels: each voxel has the label whose walks came by most often."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from sxt_jax.core.box import Box
from sxt_jax.core.devices import usable_cores

T = TypeVar('T')
Index = tuple[slice, slice, slice]
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

    def work(here: Index) -> int:
        winner = find_winners(hits[(slice(None), *here)], values)
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

    def work(here: Index) -> None:
        first, second, third = _highest(hits[(slice(None), *here)])
        visited = first > 0
        share = 1 / np.where(visited, first, 1).astype(np.float32)
        sure = (1 - second.astype(np.float32) * share) * (1 - third.astype(np.float32) * share)
        levels = np.minimum(np.rint(255 * (1 - sure)), UNSURE)
        uncertainty[here] = np.where(visited, levels, UNVISITED)

    for _ in _over_slabs(work, uncertainty.shape):
        pass
    return uncertainty


def box_of_hits(hits: np.ndarray) -> Box:
    """The smallest box that holds all hits of [k, z, y, x]; of size 0 where there are none."""
    shape = hits.shape[1:]
    seen = [np.zeros(n, bool) for n in shape]

    def work(here: Index) -> tuple[Index, np.ndarray]:
        return here, np.any(hits[(slice(None), *here)], 0)

    for here, visited in _over_slabs(work, shape):
        for axis in range(3):
            others = tuple(a for a in range(3) if a != axis)
            seen[axis][here[axis]] |= np.any(visited, axis=others)
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


def _over_slabs(work: Callable[[Index], T], shape: tuple[int, ...]) -> Iterator[T]:
    """What `work` returns for parts of a volume, on all cores."""
    with ThreadPoolExecutor(usable_cores()) as pool:
        yield from pool.map(work, _parts(shape))


def _parts(shape: tuple[int, ...]) -> Iterator[Index]:
    """Consecutive slices, or rows of one slice where it is large."""
    rows = min(shape[1], max(1, _CHUNK_VOXELS // shape[2]))
    depth = max(1, _CHUNK_VOXELS // (rows * shape[2]))
    for z in range(0, shape[0], depth):
        for y in range(0, shape[1], rows):
            yield slice(z, min(z + depth, shape[0])), slice(y, min(y + rows, shape[1])), slice(None)
