"""Polynomials of second degree fitted around every pixel of an image.

Farnebäck, "Two-frame motion estimation based on polynomial expansion", SCIA 2003, section 2.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


class Expansion(NamedTuple):
    """image(at + (dy, dx)) ≈ … + y·dy + x·dx + yy·dy² + xx·dx² + yx·dy·dx, [y, x] float32 each."""

    y: jax.Array
    x: jax.Array
    yy: jax.Array
    xx: jax.Array
    yx: jax.Array


def expand(image: jax.Array, *, n: int, sigma: float) -> Expansion:
    """The polynomial around every pixel; beyond the border the outermost pixel is repeated.

    A least-squares fit with Gaussian weights, which are separable: with moments m₂ and m₄ of the
    weights along an axis, dy, dx, dy·dx, dy² − m₂ and dx² − m₂ do not correlate with each other,
    so each coefficient is a weighted sum of the pixels.

    Args:
      image: [y, x] float32.
      n: neighbours on each side.
      sigma: standard deviation of the weights in pixels.
    """
    places = np.arange(-n, n + 1)
    weights = gaussian_weights(n, sigma)
    m2, m4 = (weights * places**2).sum(), (weights * places**4).sum()
    moments = [weights * places**k for k in range(3)]
    down = [correlate(image, moment, axis=0, mode='edge') for moment in moments]

    def along(k: int, power: int) -> jax.Array:
        return correlate(down[k], moments[power], axis=1, mode='edge')

    mean = along(0, 0)
    return Expansion(
        along(1, 0) / m2,
        along(0, 1) / m2,
        (along(2, 0) - m2 * mean) / (m4 - m2 * m2),
        (along(0, 2) - m2 * mean) / (m4 - m2 * m2),
        along(1, 1) / (m2 * m2),
    )


def gaussian_weights(radius: int, sigma: float) -> np.ndarray:
    """[2·radius + 1] float64, of sum 1."""
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return weights / weights.sum()


def correlate(
    image: jax.Array, weights: Sequence[float] | np.ndarray, *, axis: int, mode: str
) -> jax.Array:
    """The sum of an image's shifts times the weights.

    Args:
      image: [y, x] floating point.
      weights: an odd number of them.
      axis: along which it is shifted.
      mode: how `jnp.pad` goes on beyond the border.
    """
    n, radius = image.shape[axis], len(weights) // 2
    around = [(radius, radius) if i == axis else (0, 0) for i in range(image.ndim)]
    # The barrier keeps a GPU from making what is padded anew for each of its shifts.
    padded = lax.optimization_barrier(jnp.pad(image, around, mode=mode))
    shifts = (lax.slice_in_dim(padded, i, i + n, axis=axis) for i in range(len(weights)))
    return functools.reduce(
        jnp.add, [float(w) * shifted for w, shifted in zip(weights, shifts, strict=True)]
    )
