"""Predictions on bins of pixels, back on the pixels: slice by slice, whatever the stack's depth."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from sxt_jax.inference.apply import Finish, Heads


@partial(jax.jit, static_argnames=('binning', 'sides', 'finish'))
def enlarge_slices(
    heads: Heads, *, binning: tuple[int, int, int], sides: tuple[int, int], finish: Finish
) -> Heads:
    """Heads interpolated bilinearly from bins to pixels, and then finished.

    Bin i of n pixels covers the pixels from n·i on; beyond the centres of the outermost bins their
    values are repeated.

    Args:
      heads: of [z, y / n, x / m, k] bins.
      binning: (1, n, m) pixels of a bin.
      sides: (y, x) pixels; the last bins may reach beyond them.
      finish: of heads of pixels, such as `keep_classes`; the same function for the same work.
    """
    return finish({name: _enlarge(head, binning, sides) for name, head in heads.items()})


def _enlarge(x: jax.Array, binning: Sequence[int], sides: tuple[int, int]) -> jax.Array:
    for axis in (1, 2):
        x = _grow(x, axis, binning[axis])
    return x[:, : sides[0], : sides[1]]


def _grow(x: jax.Array, axis: int, n: int) -> jax.Array:
    """Sums of shifted images: a product with a matrix would be dense, and its weights nearly 0."""
    if n == 1:
        return x
    side = x.shape[axis]
    first, last = (lax.slice_in_dim(x, i, i + 1, axis=axis) for i in (0, side - 1))
    before = jnp.concatenate([first, lax.slice_in_dim(x, 0, side - 1, axis=axis)], axis)
    behind = jnp.concatenate([lax.slice_in_dim(x, 1, side, axis=axis), last], axis)
    places = [(i + 0.5) / n - 0.5 for i in range(n)]
    pixels = [x + abs(place) * ((before if place < 0 else behind) - x) for place in places]
    longer = [n * m if a == axis else m for a, m in enumerate(x.shape)]
    return jnp.stack(pixels, axis + 1).reshape(longer)
