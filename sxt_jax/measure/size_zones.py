"""Gray-level size zones: connected parts of one gray level, counted by level and size.

Thibault, Angulo & Meyer, IEEE Trans. Biomed. Eng. 61:630 (2014); Machireddy et al. 2023, eq. 14–15.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from skimage import measure


class SizeZones(NamedTuple):
    """The zones of an object one by one: a matrix of level and size is mostly zeros.

    Attributes:
      levels: [n] int64 gray level of each, from 0.
      sizes: [n] int64 voxels of each.
    """

    levels: np.ndarray
    sizes: np.ndarray


def size_zones(levels: np.ndarray, mask: np.ndarray) -> SizeZones:
    """The zones of a mask: its parts of equal level, joined through faces, edges and corners.

    Args:
      levels: [z, y, x] integers from 0.
      mask: [z, y, x] bool.
    """
    # scikit-image joins equal values in one pass; a labelling for each level takes five times that.
    marked = np.where(mask, levels.astype(np.int32) + 1, 0)
    zones, n = measure.label(marked, background=0, return_num=True, connectivity=3)
    of_voxel = zones[mask]
    level = np.zeros(n + 1, np.int64)
    level[of_voxel] = levels[mask]
    return SizeZones(level[1:], np.bincount(of_voxel, minlength=n + 1)[1:])


def size_zone_features(zones: SizeZones) -> dict[str, float]:
    """Zones per voxel, small-zone high-gray emphasis, and the centroid of the size-zone matrix.

    N_z/N; Σ P i²/j² / N_z over the gray levels i, counted from 1, and the sizes j (Machireddy et
    al. print it without j², which would not tell small zones); Σ P j / N_z and Σ P i / N_z. By
    definition, the centroid of the sizes is the inverse of the zones per voxel.

    Args:
      zones: at least one.
    """
    gray = zones.levels + 1.0
    return {
        'zones_per_voxel': len(zones.sizes) / float(zones.sizes.sum()),
        'small_zone_high_gray': float(np.mean((gray / zones.sizes) ** 2)),
        'zone_size_centroid_voxels': float(np.mean(zones.sizes)),
        'zone_gray_centroid': float(np.mean(gray)),
    }
