"""One improvement of a displacement field between two expanded images.

Farnebäck (SCIA 2003), sections 3 and 4, as OpenCV does it: where a pixel is displaced to, the
second expansion is interpolated; both give a 2×2 system of equations for the displacement; its
terms are averaged over a window, and it is solved. Near the border equations weigh less. What is
displaced out of the image is taken to be as curved there as here, and level.

Displacements and expansions are planes [y, x], not channels, so that vectors run along x.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from sxt_jax.ops.polynomial_expansion import Expansion, correlate, gaussian_weights

Planes = tuple[jax.Array, jax.Array]  # displacements along y and along x
_AT_BORDER = np.array([0.14, 0.14, 0.4472, 0.4472, 0.4472])
_DAMPING = 1e-3  # of the determinant


class Target(NamedTuple):
    """Between which pixels something is displaced to.

    Attributes:
      corner: int32 flat index of the upper left of the four around, −1 where not all are inside.
      dy, dx: float32 how far behind that one, 0 … 1.
    """

    corner: jax.Array
    dy: jax.Array
    dx: jax.Array


def improve(
    first: Expansion, second: Expansion, flow: Planes, *, window: int, gaussian: bool
) -> Planes:
    """A displacement field after one more iteration.

    Args:
      first, second: expansions of the images.
      flow: as it is so far.
      window: side of the window in pixels; an even one is a pixel wider.
      gaussian: whether pixels near its centre weigh more.
    """
    height, width = flow[0].shape
    y = jnp.arange(height, dtype=jnp.float32)[:, None] + flow[0]
    x = jnp.arange(width, dtype=jnp.float32) + flow[1]
    target = find_target(y, x, height, width)
    # Barriers: on a GPU the interpolation is not done anew for each term, nor a term for each tap.
    moved = Expansion(
        *lax.optimization_barrier([interpolate(p.reshape(-1), target, width) for p in second])
    )
    weight = jnp.asarray(border_weights(height))[:, None] * jnp.asarray(border_weights(width))
    terms = list(make_terms(first, moved, target.corner >= 0, flow, weight))
    taps = window_weights(window, gaussian=gaussian)
    for axis in (0, 1):
        terms = [
            correlate(term, taps, axis=axis, mode='edge')
            for term in lax.optimization_barrier(terms)
        ]
    return solve(lax.optimization_barrier(terms))


def find_target(y: jax.Array, x: jax.Array, height: int, width: int) -> Target:
    """Where (y, x), float32, lie in an image of these sides."""
    top, left = jnp.floor(y), jnp.floor(x)
    inside = (top >= 0) & (top < height - 1) & (left >= 0) & (left < width - 1)
    corner = top.astype(jnp.int32) * width + left.astype(jnp.int32)
    return Target(jnp.where(inside, corner, -1), y - top, x - left)


def interpolate(values: jax.Array, target: Target, width: int) -> jax.Array:
    """Bilinear; any finite value where the target is not inside.

    Args:
      values: [y·x] of an image.
      target: [...].
      width: of the image.
    """
    corner, dy, dx = jnp.maximum(target.corner, 0), target.dy, target.dx

    def at(offset: int) -> jax.Array:
        # Without bounds to check it is vectorised on a CPU.
        return values.at[corner + offset].get(mode='promise_in_bounds')

    upper = (1 - dx) * at(0) + dx * at(1)
    lower = (1 - dx) * at(width) + dx * at(width + 1)
    return (1 - dy) * upper + dy * lower


def make_terms(
    first: Expansion, moved: Expansion, inside: jax.Array, flow: Planes, weight: jax.Array
) -> tuple[jax.Array, ...]:
    """Terms of the equations G d = h, unaveraged: G's yy, yx and xx, h's y and x.

    Args:
      first: expansion of the first image.
      moved: of the second one, where pixels are displaced to.
      inside: whether that is inside.
      flow: the displacements.
      weight: of the equations.
    """
    # The matrix A of the mean quadratic part has half of yx on either side of its diagonal.
    yy = jnp.where(inside, (first.yy + moved.yy) / 2, first.yy) * weight
    xx = jnp.where(inside, (first.xx + moved.xx) / 2, first.xx) * weight
    yx = jnp.where(inside, (first.yx + moved.yx) / 4, first.yx / 2) * weight
    y = (first.y - jnp.where(inside, moved.y, 0)) / 2 * weight + yy * flow[0] + yx * flow[1]
    x = (first.x - jnp.where(inside, moved.x, 0)) / 2 * weight + yx * flow[0] + xx * flow[1]
    return (
        yy * yy + yx * yx,
        (yy + xx) * yx,
        xx * xx + yx * yx,
        yy * y + yx * x,
        yx * y + xx * x,
    )


def solve(terms: Sequence[jax.Array]) -> Planes:
    """Displacements from averaged terms; 0 where an image is flat."""
    yy, yx, xx, y, x = terms
    scale = 1 / (yy * xx - yx * yx + _DAMPING)
    return (xx * y - yx * x) * scale, (yy * x - yx * y) * scale


def window_weights(window: int, *, gaussian: bool) -> np.ndarray:
    """[2·(window // 2) + 1]; those of a box of even side sum up to more than 1, as in OpenCV."""
    radius = window // 2
    if gaussian:
        return gaussian_weights(radius, 0.3 * radius)
    return np.full(2 * radius + 1, 1 / window)


def border_weights(n: int) -> np.ndarray:
    """[n] float32: how much equations weigh along an axis."""
    weights = np.ones(n)
    k = min(n, len(_AT_BORDER))
    weights[:k] *= _AT_BORDER[:k]
    weights[n - k :] *= _AT_BORDER[:k][::-1]
    return weights.astype(np.float32)
