"""Shape of one object from its mask and its surface."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import spatial

from sxt_jax.measure.surface import Surface


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
    """Volume inside the surface over that of its convex hull, V / V_hull, at most 1."""
    hull = spatial.ConvexHull(surface.vertices_nm)
    return surface.volume_um3 / (hull.volume * 1e-9)


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
