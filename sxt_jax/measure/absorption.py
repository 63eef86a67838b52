"""Absorption of an object: soft X-ray voxels are linear absorption coefficients (LAC)."""

from __future__ import annotations

import numpy as np


def lac_per_um(image: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation (of the voxels, not of the mean) over a mask.

    Args:
      image: [z, y, x] linear absorption coefficients in µm⁻¹.
      mask: [z, y, x] bool, at least one voxel set.
    """
    values = image[mask].astype(np.float64)
    return float(values.mean()), float(values.std())
