"""Baselines without learning: Otsu's threshold and an adaptive one (scikit-image)."""

from __future__ import annotations

from typing import Any

import numpy as np
from skimage import filters

from sxt_jax.core.errors import InputError

SIDES = ('auto', 'brighter', 'darker')
_BLOCKS_PER_AXIS = 4


def otsu(image: Any, *, foreground: str = 'auto', name: str = 'image') -> np.ndarray:
    """Two classes by one threshold for the volume: Otsu 1979, on a histogram of 256 bins.

    Args:
      image: [z, y, x] gray values.
      foreground: 'brighter' or 'darker' than the threshold; 'auto': the side of Otsu's threshold
        on which less than half of the volume's outer faces is.
      name: of the image, for errors.

    Returns:
      [z, y, x] bool.

    Raises:
      InputError: the image is constant, has voxels that are not finite, or is not a volume.
    """
    gray = _check(image, foreground, name)
    bright = gray > filters.threshold_otsu(gray)
    return bright if _is_brighter(gray, foreground) else ~bright


def adaptive(image: Any, *, foreground: str = 'auto', name: str = 'image') -> np.ndarray:
    """Two classes by a threshold for each voxel: the Gaussian-weighted mean around it.

    The neighbourhood is a quarter of the volume along each axis (`threshold_local`).

    Args:
      image: [z, y, x] gray values.
      foreground: as for `otsu`.
      name: of the image, for errors.

    Returns:
      [z, y, x] bool.

    Raises:
      InputError: as for `otsu`.
    """
    gray = _check(image, foreground, name)
    block = tuple(max(3, n // _BLOCKS_PER_AXIS) // 2 * 2 + 1 for n in gray.shape)
    bright = gray > filters.threshold_local(gray, block)
    return bright if _is_brighter(gray, foreground) else ~bright


METHODS = {'otsu': otsu, 'adaptive': adaptive}


def _check(image: Any, foreground: str, name: str) -> np.ndarray:
    gray = np.asarray(image)
    if gray.ndim != 3:
        raise InputError(name, f'shape {gray.shape}', 'one channel [z, y, x] for thresholding')
    if foreground not in SIDES:
        raise InputError('foreground', repr(foreground), f'one of {SIDES}')
    gray = gray.astype(np.float32)
    if not np.isfinite(gray).all():
        raise InputError(name, 'voxels that are not finite', 'finite gray values')
    if gray.min() == gray.max():
        raise InputError(name, f'all voxels are {gray.min()}', 'an image with contrast')
    return gray


def _is_brighter(gray: np.ndarray, foreground: str) -> bool:
    """Whether foreground is the bright side, told by Otsu's threshold at the outer faces."""
    if foreground != 'auto':
        return foreground == 'brighter'
    faces = [gray.take(end, axis=axis).ravel() for axis in range(3) for end in (0, -1)]
    return bool(np.mean(np.concatenate(faces) > filters.threshold_otsu(gray)) <= 0.5)
