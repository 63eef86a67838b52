"""Where the classes that an earlier stage found meet: what a surface stage learns and refines.

ACSeg's second level (Erozan et al. 2024) looks at volumes of interest along the predicted surface.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from sxt_jax.core.tiles import TileGrid
from sxt_jax.core.volume import ArrayLike
from sxt_jax.data.classes import IGNORE_INDEX
from sxt_jax.data.stage_maps import covering

_POSITIONS = 200_000  # kept of a volume, for drawing patches
_SLAB_BYTES = 2**26


def find_borders(maps: ArrayLike) -> np.ndarray:
    """Voxels next to which, of 26 neighbours, the most probable class is another.

    Wherever the class changes on a finer grid, between trilinearly enlarged probabilities, the
    voxels around are such: where eight neighbours have one class, so has all that lies between.

    Args:
      maps: [z, y, x, k] probabilities of any scale, in memory or lazily read.

    Returns:
      [z, y, x] bool.
    """
    borders = np.zeros(maps.shape[:3], bool)
    depth = max(1, _SLAB_BYTES // (4 * int(np.prod(maps.shape[1:]))))
    for start in range(0, len(borders), depth):
        first, stop = max(0, start - 1), min(start + depth, len(borders))
        rows = np.asarray(maps[first : stop + 1, :, :, :])
        classes = rows.argmax(-1).astype(np.int16)
        low, high = (f(classes, 3, mode='nearest') for f in (
            ndimage.minimum_filter, ndimage.maximum_filter
        ))  # fmt: skip
        borders[start:stop] = (low != high)[start - first : stop - first]
    return borders


@dataclasses.dataclass(frozen=True)
class Band:
    """The voxels of a stage's grid that are near to where an earlier stage's classes meet.

    Attributes:
      borders: [z', y', x'] bool on the earlier stage's grid, from `find_borders`.
      ratio: (z, y, x) voxels of that grid in one of the stage's.
      reach: how many voxels of the stage's grid the band reaches beyond them, along each axis.
      offset: where in the earlier stage's volume the stage's begins, voxels of the stage's grid.
    """

    borders: np.ndarray
    ratio: tuple[float, float, float]
    reach: int
    offset: tuple[int, int, int] = (0, 0, 0)

    def moved(self, start: Sequence[int]) -> Band:
        """The band of a part of the volume that begins there."""
        z, y, x = (a + b for a, b in zip(self.offset, start, strict=True))
        return dataclasses.replace(self, offset=(z, y, x))

    def choose_tiles(self, grid: TileGrid) -> np.ndarray:
        """[n_z, n_y, n_x] bool: which tiles of a grid over the volume touch the band."""
        return self._touched(
            [
                [(s, min(s + side, n)) for s in starts]
                for starts, side, n in zip(grid.starts, grid.tile, grid.shape, strict=True)
            ]
        )

    def voxels(self, z_start: int, z_stop: int, sides: Sequence[int]) -> np.ndarray:
        """[z_stop − z_start, y, x] bool: the band in some slices of a volume of those (y, x)."""
        spans = (range(z_start, z_stop), *(range(n) for n in sides))
        return self._touched([[(i, i + 1) for i in span] for span in spans])

    def positions(self, labels: ArrayLike, *, seed: int) -> np.ndarray:
        """[n, 3] zyx positions of a random few of the band's voxels that have a label.

        Args:
          labels: [z, y, x] class indices of the volume.
          seed: decides which.
        """
        rng = np.random.default_rng(seed)
        depth, sides = labels.shape[0], labels.shape[1:]
        step = max(1, _SLAB_BYTES // (16 * int(np.prod(sides))))
        found: list[np.ndarray] = []
        drawn: list[np.ndarray] = []
        for z in range(0, depth, step):
            stop = min(z + step, depth)
            rows = np.asarray(labels[z:stop, :, :])
            inside = self.voxels(z, stop, sides) & (rows != IGNORE_INDEX)
            places = np.argwhere(inside) + np.array((z, 0, 0))
            # Those with the smallest random numbers are kept: each voxel is as likely.
            numbers = rng.random(len(places))
            found, drawn = [*found, places], [*drawn, numbers]
            if sum(map(len, found)) > 4 * _POSITIONS or stop == depth:
                found, drawn = _smallest(np.concatenate(found), np.concatenate(drawn))
        return found[0][np.lexsort(found[0].T[::-1])].astype(np.int32)

    def _touched(self, spans: Sequence[Sequence[tuple[int, int]]]) -> np.ndarray:
        """[n_z, n_y, n_x] bool: which boxes, one of every combination of spans, touch the band."""
        found = self.borders
        for axis, (ratio, shift) in enumerate(zip(self.ratio, self.offset, strict=True)):
            n = self.borders.shape[axis]
            parts = [
                covering(start + shift - self.reach, stop + shift + self.reach, ratio, n)
                for start, stop in spans[axis]
            ]
            found = _any_within(found, parts, axis)
        return found


def _any_within(data: np.ndarray, parts: Sequence[tuple[int, int]], axis: int) -> np.ndarray:
    """Whether there is any True in parts of an axis, each (first, one past the last)."""
    if axis == 0:  # few, of the largest array
        return np.stack([data[first:stop].any(0) for first, stop in parts])
    before = [(0, 0)] * data.ndim
    before[axis] = (1, 0)
    counts = np.pad(data.cumsum(axis, np.int32), before)
    first, stop = np.array(parts).T
    return counts.take(stop, axis) > counts.take(first, axis)


def _smallest(places: np.ndarray, numbers: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    if len(numbers) > _POSITIONS:
        kept = np.argpartition(numbers, _POSITIONS)[:_POSITIONS]
        places, numbers = places[kept], numbers[kept]
    return [places], [numbers]
