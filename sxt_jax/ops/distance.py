"""Squared Euclidean distance to a mask, as far as it is wanted."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from sxt_jax.core.errors import InputError


@functools.partial(jax.jit, static_argnames=('limit', 'voxel_size'))
def squared_distance(
    mask: jax.Array, *, limit: float, voxel_size: tuple[float, ...] | None = None
) -> jax.Array:
    """Squared distance from each voxel to the nearest voxel of the mask, up to a limit.

    One pass per axis takes the least of squared step plus value over all steps within the limit
    (lower envelopes, Felzenszwalb & Huttenlocher, Theory of Computing 8:415, 2012, here of bounded
    reach); whatever is further than that cannot come back below the limit.

    Args:
      mask: [z, y, x] or [y, x] bool.
      limit: largest distance that is told, static, in voxels or in the unit of `voxel_size`.
      voxel_size: static sides of a voxel per axis; None: ones.

    Returns:
      Exact where the distance is at most `limit`; elsewhere one value above limit². Without
      `voxel_size` int32 in voxels² and floor(limit²) + 1 beyond the limit, otherwise float32 and
      infinity beyond it.

    Raises:
      InputError: another rank, dtype, limit or voxel size.
    """
    _check(mask, limit, voxel_size)
    sides = (1,) * mask.ndim if voxel_size is None else voxel_size
    exact = voxel_size is None
    # Decimal fractions such as 3 × 0.1 against 0.3 must not lose the outermost voxel.
    squared = math.floor(limit**2) if exact else limit**2 * (1 + 1e-6)
    beyond = squared + 1 if exact else math.inf
    # The narrowest type that holds two such values: the passes take as long as their bytes.
    dtype = jnp.float32 if not exact else jnp.int16 if squared < 2**14 - 1 else jnp.int32
    found = jnp.where(mask, 0, beyond).astype(dtype)
    for axis, side in enumerate(sides):
        found = _pass(found, axis, side, math.floor(math.sqrt(squared) / side), beyond)
    found = jnp.where(found > squared, jnp.asarray(beyond, dtype), found)
    return found.astype(jnp.int32) if exact else found


def _check(mask: jax.Array, limit: float, voxel_size: tuple[float, ...] | None) -> None:
    if mask.ndim not in (2, 3):
        raise InputError('mask', f'array {list(mask.shape)}', '[z, y, x] or [y, x]')
    if mask.dtype != bool:
        raise InputError('mask', f'dtype {mask.dtype}', 'a mask of bool')
    if not 0 <= limit < 2**15:
        raise InputError('limit', f'{limit}', 'a number from 0 to 32767')
    if voxel_size is not None and len(voxel_size) != mask.ndim:
        raise InputError('voxel_size', f'{voxel_size}', f'{mask.ndim} numbers')
    if voxel_size is not None and not all(0 < side < math.inf for side in voxel_size):
        raise InputError('voxel_size', f'{voxel_size}', 'positive numbers')


def _pass(found: jax.Array, axis: int, side: float, reach: int, beyond: float) -> jax.Array:
    """Least of (side · step)² + found at that step along one axis."""
    reach = min(reach, found.shape[axis] - 1)
    pads = [(reach, reach, 0) if a == axis else (0, 0, 0) for a in range(found.ndim)]
    padded = lax.pad(found, jnp.asarray(beyond, found.dtype), pads)

    def nearer(step: jax.Array, least: jax.Array) -> jax.Array:
        cost = (step * side) ** 2
        for start in (reach - step, reach + step):
            moved = lax.dynamic_slice_in_dim(padded, start, found.shape[axis], axis)
            least = jnp.minimum(least, moved + cost.astype(found.dtype))
        return least

    return lax.fori_loop(1, reach + 1, nearer, found)
