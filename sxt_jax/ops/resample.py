"""Volumes on another grid: separable, one axis after the other.

Voxel i of n covers [i, i + 1) / n of the volume's side on either grid (half-pixel centres), so
that volumes keep their place: the convention of OpenCV's INTER_LINEAR, scikit-image and
PyTorch's align_corners=False. Beyond the outermost centres the outermost voxel is repeated.
Volumes that shrink are not smoothed first unless `antialias` is asked for. What Biomedisa does
instead is in `resample_opencv`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_SLAB_BYTES = 2**24  # of the old volume, as float32, at once in `resize_slabs`


def resize(
    volume: Any, shape: Sequence[int], *, method: str = 'linear', antialias: bool = False
) -> jax.Array:
    """A volume interpolated at another shape.

    Args:
      volume: [z, y, x] or [z, y, x, c].
      shape: (z, y, x) wanted.
      method: 'linear' (trilinear; float32 result) or 'nearest' (values and dtype kept).
      antialias: 'linear' only: along axes that shrink, average over the width of a new voxel
        instead of reading between two old ones.

    Returns:
      [*shape] or [*shape, c].

    Raises:
      ValueError: ranks or options do not fit, or a dtype of 64 bits would be cut to 32.
    """
    return resize_rows(volume, shape, 0, shape[0], method=method, antialias=antialias)


def resize_rows(
    volume: Any,
    shape: Sequence[int],
    z_start: int,
    z_stop: int,
    *,
    method: str = 'linear',
    antialias: bool = False,
) -> jax.Array:
    """The rows z_start ≤ z < z_stop of `resize(volume, shape)`, computed alone.

    Interpolates a result slab by slab that as a whole would not fit the memory; one compilation
    serves all slabs of the same depth.

    Args:
      volume: [z, y, x] or [z, y, x, c], whole.
      shape: (z, y, x) of the whole result.
      z_start: first row wanted.
      z_stop: row after the last one wanted.
      method: as of `resize`.
      antialias: as of `resize`.

    Returns:
      [z_stop − z_start, y, x] or [z_stop − z_start, y, x, c].

    Raises:
      ValueError: as `resize`, or rows outside the result.
    """
    _check(volume, shape, method, antialias)
    if not 0 <= z_start < z_stop <= shape[0]:
        raise ValueError(f'rows {z_start} to {z_stop} of a result of shape {tuple(shape)}')
    sides = volume.shape[:3]
    rows = np.arange(z_start, z_stop)
    if method == 'nearest':
        z, y, x = (_nearest(n, m) for n, m in zip(sides, shape, strict=True))
        size = min(sides[0], int(np.ceil((len(rows) - 1) * sides[0] / shape[0])) + 1)
        start = min(int(z[rows[0]]), sides[0] - size)
        return _take(_slice(volume, start, size), z[rows] - start, y, x)
    start, matrix = _band(sides[0], shape[0], rows, antialias)
    part = _slice(volume, start, matrix.shape[1])
    y, x = (
        _matrix(n, m, np.arange(m), antialias) for n, m in zip(sides[1:], shape[1:], strict=True)
    )
    return apply_weights(part, matrix, y, x)


def resize_slabs(volume: Any, shape: Sequence[int], *, method: str = 'linear') -> np.ndarray:
    """`resize` in host memory, slab by slab: of a lazily read volume only slabs are ever held.

    Args:
      volume: [z, y, x] or [z, y, x, c], in memory or lazily read.
      shape: (z, y, x) wanted.
      method: as of `resize`.

    Returns:
      [*shape] or [*shape, c].

    Raises:
      ValueError: as `resize`.
    """
    _check(volume, shape, method, False)
    dtype = np.float32 if method == 'linear' else volume.dtype
    result = np.empty((*shape, *volume.shape[3:]), dtype)
    row_bytes = 4 * math.prod(volume.shape[1:]) * max(1.0, volume.shape[0] / shape[0])
    depth = int(np.clip(_SLAB_BYTES / row_bytes, 1, shape[0]))
    for z in range(0, shape[0], depth):
        stop = min(z + depth, shape[0])
        result[z:stop] = resize_rows(volume, shape, z, stop, method=method)
    return result


def _check(volume: Any, shape: Sequence[int], method: str, antialias: bool) -> None:
    if len(volume.shape) not in (3, 4) or len(shape) != 3:
        raise ValueError(
            f'volume of shape {volume.shape} to {tuple(shape)}: expected [z, y, x] or '
            '[z, y, x, c] to (z, y, x)'
        )
    if min(shape) < 1 or min(volume.shape) < 1:
        raise ValueError(f'volume of shape {volume.shape} to {tuple(shape)}: empty')
    if method not in ('linear', 'nearest'):
        raise ValueError(f"method is {method!r}, not 'linear' or 'nearest'")
    if method == 'nearest' and antialias:
        raise ValueError("antialias is for method 'linear'")
    dtype = np.dtype(volume.dtype)
    if method == 'nearest' and jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise ValueError(f'volume is {dtype}, of which JAX would keep 32 bits: convert it first')


def _centres(n: int, m: int) -> np.ndarray:
    """Where the centres of m voxels lie among those of n."""
    return (np.arange(m) + 0.5) * (n / m) - 0.5


def _nearest(n: int, m: int) -> np.ndarray:
    """Integer arithmetic: a centre on the border of two voxels belongs to the upper one."""
    return (2 * np.arange(m, dtype=np.int64) + 1) * n // (2 * m)


def _matrix(n: int, m: int, rows: np.ndarray, antialias: bool) -> np.ndarray:
    """[rows, n] weights of the old voxels in the new ones."""
    width = max(1.0, n / m) if antialias else 1.0
    at = np.clip(_centres(n, m), 0, n - 1)[rows, None]
    weights = np.maximum(0, 1 - np.abs(np.arange(n) - at) / width)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def _band(n: int, m: int, rows: np.ndarray, antialias: bool) -> tuple[int, np.ndarray]:
    """(first old row needed, weights from there on): as many rows for all slabs of that depth."""
    reach = max(1.0, n / m) if antialias else 1.0
    size = min(n, int(np.ceil((len(rows) - 1) * n / m + 2 * reach)) + 1)
    first = int(np.floor(np.clip(_centres(n, m), 0, n - 1)[rows[0]] - reach)) + 1
    start = min(max(first, 0), n - size)
    return start, _matrix(n, m, rows, antialias)[:, start : start + size]


@jax.jit
def _take(volume: jax.Array, z: jax.Array, y: jax.Array, x: jax.Array) -> jax.Array:
    return volume[z][:, y][:, :, x]


def _slice(volume: Any, start: int, size: int) -> Any:
    if isinstance(volume, jax.Array):
        return lax.dynamic_slice_in_dim(volume, start, size)
    return volume[start : start + size]  # only these rows go to the device


@jax.jit
def apply_weights(volume: jax.Array, z: jax.Array, y: jax.Array, x: jax.Array) -> jax.Array:
    """Products with one matrix an axis; those that shrink most first, to keep little in between.

    Dense products although few weights are not 0: on all devices they are faster than gathers.

    Args:
      volume: [z, y, x] or [z, y, x, c].
      z: [z', z] weights of the old voxels in the new ones.
      y: [y', y].
      x: [x', x].

    Returns:
      [z', y', x'] or [z', y', x', c], float32.
    """
    volume = volume.astype(jnp.float32)
    matrices = (z, y, x)
    for axis in sorted(range(3), key=lambda a: matrices[a].shape[0] / matrices[a].shape[1]):
        matrix = matrices[axis]
        if axis == 0:  # one product [m, n] · [n, y·x·c]
            flat = jnp.matmul(matrix, volume.reshape(volume.shape[0], -1), precision='highest')
            volume = flat.reshape(matrix.shape[0], *volume.shape[1:])
        else:
            moved = lax.dot_general(
                volume, matrix, (((axis,), (1,)), ((), ())), precision='highest'
            )
            volume = jnp.moveaxis(moved, -1, axis)
    return volume
