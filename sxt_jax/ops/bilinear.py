"""Bilinear interpolation of 2-D feature maps [b, y, x, c], in both conventions of PyTorch.

With `align_corners` the outermost pixel centres stay where they are; without, pixel i of n covers
[i, i + 1) / n of the side, and beyond the outermost centres the outermost pixel is repeated.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def upsample_bilinear(x: jax.Array, *, align_corners: bool) -> jax.Array:
    """Every side doubled, as torch.nn.functional.interpolate(scale_factor=2, mode='bilinear').

    Each pixel makes two: a mixture with the one before it, and with the one after it. Sums of
    shifted images need neither gathers, whose gradients scatter, nor products with zeros.

    Args:
      x: [b, y, x, c] floating point.
      align_corners: the convention, see above.

    Returns:
      [b, 2y, 2x, c] in the dtype of `x`; computed in float32.
    """
    y = x.astype(jnp.float32)
    for axis in (1, 2):
        y = _double(y, axis, align_corners)
    return y.astype(x.dtype)


def _double(x: jax.Array, axis: int, align_corners: bool) -> jax.Array:
    n = x.shape[axis]
    i = np.arange(n)
    # Output 2i lies before input i by this share of a pixel, output 2i + 1 behind it.
    before = i / (2 * n - 1) if align_corners else np.full(n, 0.25)
    after = (n - 1 - i) / (2 * n - 1) if align_corners else np.full(n, 0.25)
    shape = [n if a == axis else 1 for a in range(x.ndim)]
    w_before, w_after = (jnp.asarray(w.reshape(shape), x.dtype) for w in (before, after))
    first, last = (lax.slice_in_dim(x, k, k + 1, axis=axis) for k in (0, n - 1))
    previous = jnp.concatenate([first, lax.slice_in_dim(x, 0, n - 1, axis=axis)], axis)
    following = jnp.concatenate([lax.slice_in_dim(x, 1, n, axis=axis), last], axis)
    pair = [x + w_before * (previous - x), x + w_after * (following - x)]
    doubled = [2 * side if a == axis else side for a, side in enumerate(x.shape)]
    return jnp.stack(pair, axis + 1).reshape(doubled)


def resize_bilinear(x: jax.Array, sides: Sequence[int], *, align_corners: bool) -> jax.Array:
    """Other sides, as torch.nn.functional.interpolate(size=sides, mode='bilinear').

    For few channels or small maps: a matrix product per axis. Maps that shrink are not smoothed
    first.

    Args:
      x: [b, y, x, c] floating point.
      sides: (y, x) wanted.
      align_corners: the convention, see above.

    Returns:
      [b, *sides, c] in the dtype of `x`; computed in float32.
    """
    y, x_ = (_matrix(n, m, align_corners) for n, m in zip(x.shape[1:3], sides, strict=True))
    found = jnp.einsum(
        'iy,jx,byxc->bijc', y, x_, x.astype(jnp.float32), precision=lax.Precision.HIGHEST
    )
    return found.astype(x.dtype)


def _matrix(n: int, m: int, align_corners: bool) -> np.ndarray:
    """[m, n]: what each of m new pixels takes from n old ones."""
    if align_corners:
        places = np.arange(m) * ((n - 1) / max(m - 1, 1))
    else:
        places = (np.arange(m) + 0.5) * (n / m) - 0.5
    distance = np.abs(np.clip(places, 0, n - 1)[:, None] - np.arange(n))
    return np.maximum(1 - distance, 0).astype(np.float32)
