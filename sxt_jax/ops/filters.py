"""Linear filters of images in 2-D and 3-D."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def gaussian_filter(
    image: jax.Array, sigma: float | Sequence[float], *, truncate: float = 4.0
) -> jax.Array:
    """Gaussian smoothing, axis by axis; beyond the border the image is mirrored, edge included.

    Equal to `scipy.ndimage.gaussian_filter` with its default mode 'reflect', float32.

    Args:
      image: [(z,) y, x] or any number of axes, real.
      sigma: standard deviation in voxels, one for all axes or one each; 0 leaves an axis alone.
      truncate: standard deviations after which the kernel ends.

    Raises:
      ValueError: a negative sigma, or not one per axis.
    """
    sigmas = (sigma,) * image.ndim if isinstance(sigma, (int, float)) else tuple(sigma)
    if len(sigmas) != image.ndim or min(sigmas, default=0) < 0:
        raise ValueError(f'sigma {sigma} for an image of {image.ndim} axes: expected one each, ≥ 0')
    image = image.astype(jnp.float32)
    for axis, s in enumerate(sigmas):
        radius = gaussian_radius(s, truncate=truncate)
        if radius:
            image = _correlate(image, _weights(s, radius), axis)
    return image


def gaussian_radius(sigma: float, *, truncate: float = 4.0) -> int:
    """How many voxels `gaussian_filter` looks in each direction."""
    return int(truncate * sigma + 0.5)


def _weights(sigma: float, radius: int) -> np.ndarray:
    places = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (places / sigma) ** 2)
    return weights / weights.sum()


def _correlate(image: jax.Array, weights: np.ndarray, axis: int) -> jax.Array:
    """The sum of the image's shifts times the weights."""
    n, radius = image.shape[axis], len(weights) // 2
    around = [(radius, radius) if i == axis else (0, 0) for i in range(image.ndim)]
    padded = jnp.pad(image, around, mode='symmetric')
    shifts = (lax.slice_in_dim(padded, i, i + n, axis=axis) for i in range(len(weights)))
    return functools.reduce(
        jnp.add, [float(w) * shifted for w, shifted in zip(weights, shifts, strict=True)]
    )
