"""Where the cells of a label image lie: boxes, centroids and the voxels that stand for centres."""

from __future__ import annotations

import dataclasses

import numpy as np
from jax.typing import ArrayLike
from scipy import ndimage

from sxt_jax.core.errors import InputError

SLAB = 2**22  # voxels looked at together


@dataclasses.dataclass(frozen=True)
class Cells:
    """The cells of a label image, numbered 1 … n in the order of their ids.

    Attributes:
      labels: [z, y, x] or [y, x] int32, 0 background, 1 … n.
      ids: [n] the ids that the cells had.
      start, stop: [n, rank] int, box of all voxels of the cell, start ≤ i < stop.
      count: [n] int, voxels.
      centroid: [n, rank] float64, mean voxel index.
    """

    labels: np.ndarray
    ids: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    count: np.ndarray
    centroid: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def rank(self) -> int:
        return self.labels.ndim

    @property
    def extent(self) -> np.ndarray:
        """[n, rank] sides of the boxes in voxels."""
        return self.stop - self.start


def find_cells(labels: ArrayLike) -> Cells:
    """Boxes and centroids of all cells, in a few passes over the image and no loop over cells.

    Args:
      labels: [z, y, x] or [y, x] integers ≥ 0, 0 background; ids need not be contiguous. All
        voxels of an id are one cell, connected or not.

    Raises:
      InputError: another rank, values that are not integers, or negative ones.
    """
    image = np.asarray(labels)
    if image.ndim not in (2, 3):
        raise InputError('labels', f'shape {image.shape}', '[z, y, x] or [y, x]')
    if image.dtype.kind not in 'iu':
        raise InputError('labels', f'dtype {image.dtype}', 'integers')
    if image.size and image.min() < 0:
        raise InputError('labels', f'{image.min()} among them', 'ids ≥ 0')
    image, ids = _renumbered(image)
    boxes = ndimage.find_objects(image, max(1, len(ids)))[: len(ids)]
    bounds = np.array([[(s.start, s.stop) for s in box] for box in boxes], np.int64)
    bounds = bounds.reshape(len(ids), image.ndim, 2)
    count, centroid = _centroids(image, len(ids))
    return Cells(image, ids, bounds[..., 0], bounds[..., 1], count, centroid)


def centres(cells: Cells) -> np.ndarray:
    """[n, rank] int64: the voxel from which heat spreads in each cell, always one of its own.

    As in cellpose/dynamics.py (MouseLand/cellpose, 849ca11f). 3-D: the voxel of the cell that is
    closest to the centroid. 2-D: the pixel closest to the centroid rounded (half to even, counted
    from the corner of the box). The first in raster order on ties.
    """
    if cells.rank == 3:
        target = cells.centroid
    else:
        target = cells.start + np.rint(cells.centroid - cells.start)
    # The closest of all voxels, and of several the first; if it is the cell's, no search is needed.
    centre = np.ceil(target - 0.5).astype(np.int64)
    outside = cells.labels[tuple(centre.T)] != np.arange(1, len(cells) + 1)
    if outside.any():
        centre[outside] = _closest_voxels(cells.labels, target, outside)
    return centre


def _renumbered(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The image with ids 1 … n as int32, and the [n] ids that they were."""
    top = int(image.max(initial=0))
    if top > max(image.size, 2**20):  # too long for a table
        ids, numbers = np.unique(image, return_inverse=True)
        shift = 0 if ids[0] == 0 else 1
        return (numbers.reshape(image.shape) + shift).astype(np.int32), ids[ids > 0]
    present = np.zeros(top + 1, bool)
    present[image.ravel()] = True
    present[0] = False
    ids = np.flatnonzero(present)
    if len(ids) == top:
        return image.astype(np.int32), ids
    return np.cumsum(present, dtype=np.int32)[image], ids


def _centroids(image: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Voxels and mean index of each cell; sums are of integers, so exact in float64."""
    count, sums = np.zeros(n + 1, np.int64), np.zeros((image.ndim, n + 1))
    # A few million voxels at a time: lists of indices take many times the memory of the image.
    step = max(1, SLAB // max(1, image[:1].size))
    for first in range(0, len(image), step):
        slab = image[first : first + step]
        voxels = np.flatnonzero(slab)
        number = slab.ravel()[voxels]
        count += np.bincount(number, minlength=n + 1)
        for axis, index in enumerate(np.unravel_index(voxels, slab.shape)):
            index = index + first if axis == 0 else index
            sums[axis] += np.bincount(number, weights=index, minlength=n + 1)
    return count[1:], sums[:, 1:].T / count[1:, None]


def _closest_voxels(image: np.ndarray, target: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """[wanted cells, rank] voxel of the cell closest to its target, the first one on ties."""
    row = np.concatenate([[-1], np.where(wanted, np.cumsum(wanted) - 1, -1)])
    voxels = np.flatnonzero(row[image.ravel()] >= 0)
    row_of_voxel = row[image.ravel()[voxels]]
    target = target[wanted]
    distance = np.zeros(len(voxels))
    for axis, index in enumerate(np.unravel_index(voxels, image.shape)):
        distance += (index - target[row_of_voxel, axis]) ** 2
    smallest = np.full(len(target), np.inf)
    np.minimum.at(smallest, row_of_voxel, distance)
    # Squared distances to a centroid of n voxels differ by 1 / n or not at all.
    ties = np.flatnonzero(distance <= smallest[row_of_voxel] + 1e-9)[::-1]
    closest = np.zeros(len(target), np.int64)
    closest[row_of_voxel[ties]] = voxels[ties]  # backwards: the first one stays
    return np.stack(np.unravel_index(closest, image.shape), axis=-1)
