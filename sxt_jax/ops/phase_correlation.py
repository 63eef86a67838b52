"""How far one image is shifted against another, by phase correlation.

Kuglin and Hines (1975): the inverse transform of the normalised cross-power spectrum of two images
is a peak at their shift. Here high frequencies, in which slices of a stack have nothing but noise
in common, are weighted down by a Gaussian, which makes the peak one as well: a parabola through the
logarithms of its highest pixel and the neighbours gives the shift to a part of a pixel.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from sxt_jax.core.errors import InputError

PEAK_SIGMA = 1.5  # pixels: of the peak, by the weights of the frequencies
_TAPER = 0.125  # share of each side over which images fade into their mean
_TINY = 1e-12
_NOTHING = 1e-3  # a peak this low is none: a slice is empty


@jax.jit
def spectrum(image: jax.Array) -> jax.Array:
    """Transform of an image, faded into its mean at the borders.

    Args:
      image: [y, x] of any real dtype.

    Returns:
      [y, x // 2 + 1] complex64.
    """
    if image.ndim != 2 or min(image.shape) < 8:
        raise InputError('image', f'shape {image.shape}', '[y, x] of at least 8 × 8 pixels')
    image = image.astype(jnp.float32)
    rows, columns = (jnp.asarray(_taper(n)) for n in image.shape)
    return jnp.fft.rfft2((image - image.mean()) * rows[:, None] * columns)


@partial(jax.jit, static_argnames=('shape', 'max_shift'))
def shift_between(
    first: jax.Array, second: jax.Array, *, shape: tuple[int, int], max_shift: int
) -> tuple[jax.Array, jax.Array]:
    """Where what is at p in the first image is in the second: at p + shift.

    Args:
      first, second: `spectrum` of images of one shape.
      shape: (y, x) of the images.
      max_shift: pixels along either axis within which the peak is looked for.

    Returns:
      [2] float32 shift (y, x) in pixels, 0 where there is no peak; and the height of the peak, 1
      for two images that differ by a shift alone, near 0 for images that have nothing in common.
    """
    cross = second * jnp.conj(first)
    weights = jnp.asarray(_low_pass(shape))
    # How high the peak would be, were all frequencies in step.
    highest = float(_low_pass(shape, halved=False).sum()) / (shape[0] * shape[1])
    peaks = jnp.fft.irfft2(weights * cross / (jnp.abs(cross) + _TINY), s=shape) / highest
    reach = [min(max_shift, (n - 2) // 2 - 1) for n in shape]
    near = jnp.roll(peaks, (reach[0] + 1, reach[1] + 1), (0, 1))
    near = near[: 2 * reach[0] + 3, : 2 * reach[1] + 3]  # and a rim of one pixel
    inner = near[1:-1, 1:-1]
    y, x = jnp.unravel_index(jnp.argmax(inner), inner.shape)
    around = jax.lax.dynamic_slice(near, (y, x), (3, 3))
    part = jnp.stack([_vertex(around[:, 1]), _vertex(around[1])])
    whole = jnp.stack([y - reach[0], x - reach[1]]).astype(jnp.float32)
    found = around[1, 1] > _NOTHING
    return jnp.where(found, whole + part, 0.0), around[1, 1]


def _vertex(values: jax.Array) -> jax.Array:
    """Where a Gaussian through three values has its maximum, −0.5 … 0.5."""
    left, middle, right = jnp.log(jnp.maximum(values, 1e-6))
    bend = left - 2 * middle + right
    return jnp.clip(jnp.where(bend < 0, 0.5 * (left - right) / bend, 0.0), -0.5, 0.5)


def _taper(n: int) -> np.ndarray:
    """[n] float32 weights that fall to 0 at both ends as a cosine."""
    width = max(1, round(_TAPER * n))
    distance = np.minimum(np.arange(n), np.arange(n)[::-1]) + 0.5
    ramp = 0.5 - 0.5 * np.cos(np.pi * np.minimum(distance / width, 1))
    return ramp.astype(np.float32)


def _low_pass(shape: tuple[int, int], *, halved: bool = True) -> np.ndarray:
    """Gaussian weights of the frequencies of `rfft2`, or of all; that of the mean is 0."""
    y = np.fft.fftfreq(shape[0])[:, None]
    x = (np.fft.rfftfreq if halved else np.fft.fftfreq)(shape[1])
    weights = np.exp(-2 * (np.pi * PEAK_SIGMA) ** 2 * (y**2 + x**2))
    weights[0, 0] = 0
    return weights.astype(np.float32)
