"""Digitised solids whose volume and area are known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import special


def ellipsoid(
    axes: Sequence[float],
    *,
    voxel_size: Sequence[float] = (1, 1, 1),
    offset: Sequence[float] = (0, 0, 0),
    rotation: np.ndarray | None = None,
) -> np.ndarray:
    """Voxels whose centre is inside an ellipsoid with these semi-axes, with a margin of two."""
    n = [int(np.ceil(max(axes) / v)) + 2 for v in voxel_size]
    lines = [(np.arange(-k, k + 1) - o) * v for k, v, o in zip(n, voxel_size, offset, strict=True)]
    points = np.stack(np.meshgrid(*lines, indexing='ij'), -1)
    if rotation is not None:
        points = points @ rotation
    return ((points / np.asarray(axes)) ** 2).sum(-1) <= 1


def ellipsoid_area(axes: Sequence[float]) -> float:
    """Exact area by Carlson's symmetric elliptic integral (DLMF 19.33.1)."""
    inverse = [axis**-2.0 for axis in axes]
    return float(4 * np.pi * np.prod(axes) * special.elliprg(*inverse))
