"""Shape of one object from its mask and its surface."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage, spatial

from sxt_jax.measure.surface import Surface

_MOST_POINTS = 20_000  # of a hull; its time and memory go with those on it, 1 kB each
_BINS = 64  # along each side of a cube of directions
_LABELLED = 1 << 22  # pixels at a time
_WITHIN_SLICES = ndimage.generate_binary_structure(3, 1)
_WITHIN_SLICES[[0, 2]] = False


def centroid_and_covariance(
    mask: np.ndarray, *, voxel_size_nm: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Centroid and second central moments of the voxels, taken as solid bricks.

    A brick of edge a has variance a²/12 about its own centre, which is added on the diagonal.

    Args:
      mask: [z, y, x] bool, at least one voxel set.
      voxel_size_nm: edge lengths (z, y, x) in nm.

    Returns:
      [3] centroid (z, y, x) in nm from the centre of the array's first voxel, [3, 3] covariance
      in nm².
    """
    size = np.asarray(voxel_size_nm, dtype=np.float64)
    # Sums along one axis hold all that moments of order two need, and are small.
    planes = [mask.sum(axis=axis, dtype=np.int64) for axis in range(3)]
    n = int(planes[0].sum())
    lines = [planes[1].sum(1), planes[0].sum(1), planes[0].sum(0)]
    index = [np.arange(extent, dtype=np.float64) for extent in mask.shape]
    centre = np.array([i @ line for i, line in zip(index, lines, strict=True)]) / n
    offset = [i - c for i, c in zip(index, centre, strict=True)]
    covariance = np.diag([o**2 @ line / n + 1 / 12 for o, line in zip(offset, lines, strict=True)])
    for a, b in ((0, 1), (0, 2), (1, 2)):
        plane = planes[3 - a - b]
        covariance[a, b] = covariance[b, a] = offset[a] @ plane @ offset[b] / n
    return centre * size, covariance * np.outer(size, size)


def ellipsoid_axes_nm(covariance_nm2: np.ndarray) -> np.ndarray:
    """[3] full axis lengths, longest first, of the solid ellipsoid with that covariance.

    A solid ellipsoid with semi-axis a has variance a²/5 along it, so the axis is 2 √(5 λ).
    """
    eigenvalues = np.linalg.eigvalsh(covariance_nm2)[::-1]
    return 2 * np.sqrt(5 * np.maximum(eigenvalues, 0))


def sphericity(volume_um3: float, surface_um2: float) -> float:
    """Area of the ball of the same volume over the object's: π^(1/3) (6 V)^(2/3) / A."""
    return float(np.pi ** (1 / 3) * (6 * volume_um3) ** (2 / 3) / surface_um2)


def solidity(surface: Surface) -> float:
    """Volume inside the surface over that of its convex hull, V / V_hull, at most 1.

    Of more than 20,000 vertices only the outermost of each of 24,576 directions are taken, by which
    the hull of a ball loses 0.03 %.
    """
    points = surface.vertices_nm
    if len(points) > _MOST_POINTS:
        points = _outermost(points)
    return min(1.0, surface.volume_um3 / (spatial.ConvexHull(points).volume * 1e-9))


def filled(mask: np.ndarray) -> np.ndarray:
    """The mask with the background that it encloses: from which no path of faces leads outside.

    Args:
      mask: [z, y, x] bool; what lies beyond it is outside.
    """
    parts, _ = ndimage.label(np.pad(~mask, 1, constant_values=True))
    return (parts != parts[0, 0, 0])[1:-1, 1:-1, 1:-1]


def fenestrated_percent(mask: np.ndarray) -> float:
    """(V_filled − V)/V_filled in %: what cavities take of the volume.

    Machireddy et al. 2023, eq. 8. A pore that is open to the outside, as the hole of a ring, is no
    cavity.

    Args:
      mask: [z, y, x] bool, at least one voxel set.
    """
    return 100 * (1 - np.count_nonzero(mask) / np.count_nonzero(filled(mask)))


def fenestrated_in_slices_percent(mask: np.ndarray) -> float:
    """As `fenestrated_percent`, of what is enclosed within single slices: pores across them count.

    Args:
      mask: [z, y, x] bool, at least one voxel set.
    """
    n_filled, n_planes = 0, max(1, _LABELLED // mask[0].size)
    for z in range(0, len(mask), n_planes):
        outside = np.pad(~mask[z : z + n_planes], ((0, 0), (1, 1), (1, 1)), constant_values=True)
        parts, _ = ndimage.label(outside, _WITHIN_SLICES)
        n_filled += int(np.count_nonzero((parts != parts[:, :1, :1])[:, 1:-1, 1:-1]))
    return 100 * (1 - np.count_nonzero(mask) / n_filled)


def circular_variance(surface: Surface, *, centroid_nm: np.ndarray) -> float:
    """Σ (‖p − C‖ − µ)² / (|S| µ²) over the surface, 0 for a sphere.

    Machireddy et al. 2023. Vertices p are weighted by the area around them, so that the value
    does not depend on where the triangles are small.
    """
    areas = surface.triangle_areas_nm2() / 3
    weights = np.zeros(len(surface.vertices_nm))
    for corner in range(3):
        weights += np.bincount(surface.faces[:, corner], areas, len(weights))
    radius = np.linalg.norm(surface.vertices_nm - centroid_nm, axis=1)
    mean = np.average(radius, weights=weights)
    return float(np.average((radius - mean) ** 2, weights=weights) / mean**2)


def _outermost(points: np.ndarray) -> np.ndarray:
    """The points that are farthest from the middle in their direction.

    Directions are binned on the faces of a cube: a point is in the bin of its largest coordinate
    and of the ratios of the others to it.
    """
    offset = points - points.mean(0)
    squared = np.einsum('ij,ij->i', offset, offset)
    axis = np.abs(offset).argmax(1)
    largest = np.take_along_axis(offset, axis[:, None], 1)
    largest[largest == 0] = 1  # the middle itself
    others = (axis[:, None] + [1, 2]) % 3
    # Equal angles, not equal ratios: bins of ratios would be four times wider in the middle.
    angle = np.arctan(np.take_along_axis(offset, others, 1) / largest) / (np.pi / 2) + 0.5
    u, v = np.minimum((angle * _BINS).astype(np.int32), _BINS - 1).T
    face = 2 * axis + (largest[:, 0] > 0)
    key = (face * _BINS + u) * _BINS + v
    order = np.lexsort((squared, key))
    last = np.append(np.diff(key[order]) > 0, True)
    return points[order[last]]
