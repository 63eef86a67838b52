"""Smoothing of a stack of masks along z, where slices were segmented one by one."""

from __future__ import annotations

import numpy as np

from sxt_jax.core.errors import InputError


def smooth_along_z(mask: np.ndarray, *, depth: int) -> np.ndarray:
    """The weighted majority of each voxel and its neighbours in the slices above and below.

    Dyhr et al. 2023, `z_smooth` of the published code: the mean of labels −1 and 1, with the
    weights of a Gaussian (SD 1 slice) over ±`depth` slices, published 2, is above 0. The first and
    last `depth` slices stay as they are.

    Args:
      mask: [z, y, x] bool.
      depth: slices on each side, from 0, which changes nothing.

    Returns:
      [z, y, x] bool; an array of its own.

    Raises:
      InputError: a negative depth, or not three axes.
    """
    if depth < 0 or mask.ndim != 3:
        raise InputError('smooth_along_z', f'depth {depth}, shape {mask.shape}', '≥ 0, [z, y, x]')
    smooth = mask.astype(bool)
    if depth == 0:
        return smooth
    steps = np.arange(-depth, depth + 1)
    weights = np.exp(-0.5 * steps**2).astype(np.float32)
    half = weights.sum() / 2
    for z in range(depth, len(mask) - depth):
        share = np.zeros(mask.shape[1:], np.float32)
        for step, weight in zip(steps, weights, strict=True):
            share += weight * mask[z + step]
        smooth[z] = share > half
    return smooth
