"""Pooling and up-sampling by whole factors for 2-D and 3-D images [b, (z,) y, x, c]."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def upsample(x: jax.Array, factors: Sequence[int]) -> jax.Array:
    """Nearest-neighbour up-sampling: each voxel is repeated `factors[i]` times along axis i.

    Args:
      x: [b, (z,) y, x, c].
      factors: one whole number per spatial axis.
    """
    _check_factors(x, factors)
    shape = x.shape
    split = [n for side in shape[1:-1] for n in (side, 1)]
    spread = [n for side, f in zip(shape[1:-1], factors, strict=True) for n in (side, f)]
    y = jnp.broadcast_to(x.reshape(shape[0], *split, shape[-1]), (shape[0], *spread, shape[-1]))
    sides = (n * f for n, f in zip(shape[1:-1], factors, strict=True))
    return y.reshape(shape[0], *sides, shape[-1])


def max_pool(x: jax.Array, window: Sequence[int], *, padding: str = 'VALID') -> jax.Array:
    """Maximum over windows that do not overlap (stride = window).

    Of equal voxels the first (in z, y, x order) gets the gradient, as with `lax.reduce_window` and
    TensorFlow. Gradient of 64³×32 → 32³ on 2 CPU cores (2026-11-21): 19 ms, `lax.reduce_window`
    121 ms, `jnp.max` of a reshaped array (which shares it among equals) 52 ms.

    Args:
      x: [b, (z,) y, x, c] floating point.
      window: sides per spatial axis.
      padding: 'VALID' drops incomplete windows at the far side; 'SAME' keeps all voxels, the extra
        ones split between both sides (Keras).
    """
    _check_factors(x, window)
    if padding == 'SAME':
        pads = lax.padtype_to_pads(x.shape[1:-1], window, window, 'SAME')
        x = jnp.pad(x, ((0, 0), *pads, (0, 0)), constant_values=-jnp.inf)
    elif padding == 'VALID':
        kept = (slice(0, n // w * w) for n, w in zip(x.shape[1:-1], window, strict=True))
        x = x[(slice(None), *kept)]
    else:
        raise ValueError(f"padding is {padding!r}, not 'SAME' or 'VALID'")
    return _max_pool(x, tuple(window))


def _check_factors(x: jax.Array, factors: Sequence[int]) -> None:
    if len(factors) != x.ndim - 2 or min(factors) < 1:
        raise ValueError(f'{tuple(factors)} for x of shape {x.shape}: expected one per axis, ≥ 1')


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _max_pool(x: jax.Array, window: tuple[int, ...]) -> jax.Array:
    return _split_windows(x, window).max(tuple(range(2, 2 * len(window) + 1, 2)))


def _split_windows(x: jax.Array, window: tuple[int, ...]) -> jax.Array:
    """[b, z, y, x, c] as [b, z / wz, wz, y / wy, wy, x / wx, wx, c]."""
    sides = (n for side, w in zip(x.shape[1:-1], window, strict=True) for n in (side // w, w))
    return x.reshape(x.shape[0], *sides, x.shape[-1])


def _max_pool_forward(
    x: jax.Array, window: tuple[int, ...]
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    y = _max_pool(x, window)
    return y, (x, y)


def _max_pool_backward(
    window: tuple[int, ...], residuals: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array]:
    x, y = residuals
    windows = _split_windows(x, window)
    axes = tuple(range(2, 2 * len(window) + 1, 2))
    index = jnp.zeros((1,) * windows.ndim, jnp.int32)
    for axis, w in zip(axes, window, strict=True):
        index = index * w + lax.broadcasted_iota(
            jnp.int32, (1,) * axis + (w,) + (1,) * (windows.ndim - axis - 1), axis
        )
    first = jnp.full(y.shape, -1, jnp.int32)
    for n, place in reversed(list(enumerate(np.ndindex(*window)))):
        at = tuple(p for i in place for p in (slice(None), i))
        first = jnp.where(windows[(slice(None), *at)] == y, n, first)
    chosen = jnp.expand_dims(first, axes) == index
    return (jnp.where(chosen, jnp.expand_dims(gradient, axes), 0).reshape(x.shape),)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)
