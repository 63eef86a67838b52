"""Which slices to label by hand next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from sxt_jax.core.slicing import ORIENTATIONS
from sxt_jax.core.volume import slabs
from sxt_jax.labelling.votes import UNVISITED


class Suggestion(NamedTuple):
    """A slice that is worth labelling.

    Attributes:
      plane: 'xy', 'xz' or 'yz'.
      number: of the slice along z, y or x, from 0.
      voxels: how many uncertain voxels it would settle, each counted by its uncertainty.
    """

    plane: str
    number: int
    voxels: float


def suggest_slices(
    uncertainty: np.ndarray, labelled: Mapping[str, Sequence[int]], *, n: int
) -> list[Suggestion]:
    """The slices in which one more hand-labelled slice would help most, best first.

    A labelled slice settles what is uncertain in it and, less so with the distance, around it, up
    to half of the usual distance of labelled slices. One after the other, the slice that settles
    most is chosen. Voxels where no walk came do not count: mostly they are background. How good the
    choice is, `benchmarks.suggested_slices` measures.

    Args:
      uncertainty: [z, y, x] uint8 in 255ths (`interpolate`).
      labelled: the slices by plane that are labelled already (`labelled_slices`); slices of these
        planes are suggested.
      n: how many, if there are as many that would settle anything.
    """
    order = [axes[0] for axes in (ORIENTATIONS[plane] for plane in labelled)]
    profiles = _profiles(uncertainty)
    rest = {p: profiles[axis].copy() for p, axis in zip(labelled, order, strict=True)}
    weights = {p: _influence(len(rest[p]), labelled[p]) for p in rest}
    for plane, numbers in labelled.items():
        rest[plane][list(numbers)] = 0
    chosen: list[Suggestion] = []
    while len(chosen) < n:
        gains = {plane: weights[plane] @ rest[plane] for plane in rest}
        for plane, numbers in labelled.items():
            gains[plane][list(numbers)] = 0
        plane = max(gains, key=lambda p: gains[p].max())
        number = int(gains[plane].argmax())
        if gains[plane][number] <= 0:
            break
        chosen.append(Suggestion(plane, number, float(gains[plane][number])))
        rest[plane] = rest[plane] * (1 - weights[plane][number])
    return chosen


def _profiles(uncertainty: np.ndarray) -> list[np.ndarray]:
    """Uncertain voxels of each slice along z, y and x."""
    along_z, others = [], []
    for slab in slabs(uncertainty):
        known = np.where(slab < UNVISITED, slab, 0)
        along_z.append(known.sum((1, 2), dtype=np.float64))
        others.append([known.sum(axes, dtype=np.float64) for axes in ((0, 2), (0, 1))])
    y, x = (np.sum(parts, 0) for parts in zip(*others, strict=True))
    return [profile / 255 for profile in (np.concatenate(along_z), y, x)]


def _influence(n: int, labelled: Sequence[int]) -> np.ndarray:
    """[n, n] share of what is uncertain in a slice that labelling another one settles."""
    ends = np.array([-1, *labelled, n])
    reach = max(1.0, float(np.median(np.diff(ends))) / 2)
    distance = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    return np.asarray(np.clip(1 - distance / reach, 0, 1))
