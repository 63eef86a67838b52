"""Convolution of small images with large kernels on a CPU: one product of columns of all taps.

Where a kernel has more numbers than all that its taps see, as at the coarsest levels of a U-Net,
time goes with reading the kernel. Here it is read in the order in which it is stored, and its
gradient is written so: it is not mirrored, which takes longer than the product does.

Arrays are [b, (z,) y, x, c], kernels [(kz,) ky, kx, c_in, c_out]; convolutions have a stride of 1,
transposed ones of 2; everything is computed in float32.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

Pads = Sequence[tuple[int, int]]


def conv(x: jax.Array, kernel: jax.Array, pads: Pads) -> jax.Array:
    """Convolution; pads are (before, after) per axis, from 0 on.

    Returns:
      [b, (z',) y', x', c_out] in the dtype of `x`.
    """
    columns = _columns(x, kernel.shape[:-2], pads)
    matrix = kernel.astype(jnp.float32).reshape(-1, kernel.shape[-1])
    made = columns.reshape(-1, matrix.shape[0]) @ matrix
    return made.reshape(*columns.shape[:-1], kernel.shape[-1]).astype(x.dtype)


def input_gradient(
    kernel: jax.Array, gradient: jax.Array, sides: Sequence[int], pads: Pads
) -> jax.Array:
    """Gradient of an image of these sides: what every tap gives back, added where it looked.

    Returns:
      [b, *sides, c_in] in the dtype of `gradient`.
    """
    window, (c_in, c_out) = kernel.shape[:-2], kernel.shape[-2:]
    matrix = kernel.astype(jnp.float32).reshape(-1, c_out)
    flat = gradient.astype(jnp.float32).reshape(-1, c_out)
    back = lax.dot_general(flat, matrix, (((1,), (1,)), ((), ())))
    back = back.reshape(*gradient.shape[:-1], math.prod(window), c_in)
    parts = []
    for i, tap in enumerate(_taps(window)):
        # Output o has tap t on voxel o − before + t.
        starts = [t - a for t, (a, _) in zip(tap, pads, strict=True)]
        ends = zip(sides, gradient.shape[1:-1], starts, strict=True)
        place = [(start, n - m - start, 0) for n, m, start in ends]
        parts.append(_padded(back[..., i, :], place))
    return functools.reduce(jnp.add, parts).astype(gradient.dtype)


def kernel_gradient(
    x: jax.Array, gradient: jax.Array, window: Sequence[int], pads: Pads
) -> jax.Array:
    """Gradient of a kernel of these sides.

    Returns:
      [*window, c_in, c_out] float32.
    """
    columns = _columns(x, window, pads)
    left = columns.reshape(-1, columns.shape[-1])
    right = gradient.astype(jnp.float32).reshape(-1, gradient.shape[-1])
    product = lax.dot_general(left, right, (((0,), (0,)), ((), ())))
    return product.reshape(*window, x.shape[-1], gradient.shape[-1])


def _columns(x: jax.Array, window: Sequence[int], pads: Pads) -> jax.Array:
    """What every tap sees, [b, (z',) y', x', taps·c_in] float32."""
    padded = jnp.pad(x.astype(jnp.float32), [(0, 0), *pads, (0, 0)])
    sides = [max(n - k + 1, 0) for n, k in zip(padded.shape[1:-1], window, strict=True)]
    return jnp.concatenate([_shifted(padded, tap, sides) for tap in _taps(window)], -1)


def _padded(x: jax.Array, around: Sequence[tuple[int, int, int]]) -> jax.Array:
    """`lax.pad` of the spatial axes, with zeros."""
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *around, (0, 0, 0)])


def _taps(window: Sequence[int]) -> itertools.product[tuple[int, ...]]:
    return itertools.product(*map(range, window))


def _shifted(x: jax.Array, start: Sequence[int], sides: Sequence[int]) -> jax.Array:
    """x[:, start : start + sides]."""
    cut = (slice(i, i + n) for i, n in zip(start, sides, strict=True))
    return x[:, *cut]


def conv_transpose(x: jax.Array, kernel: jax.Array, padding: Pads) -> jax.Array:
    """Transposed convolution of stride 2; padding as in `conv_transpose.conv_transpose`.

    Returns:
      [b, (2z,) 2y, 2x, c_out] in the dtype of `x`.
    """
    matrices = _matrices(kernel)
    flat = x.astype(jnp.float32).reshape(1, -1, x.shape[-1])
    flat = jnp.broadcast_to(flat, (matrices.shape[0], *flat.shape[1:]))
    # One product for all taps: 8² 3072→512 24 for 43 ms, whose matrices are cut out and copied.
    made = lax.dot_general(flat, matrices, (((2,), (1,)), ((0,), (0,))))
    made = made.reshape(-1, *x.shape[:-1], kernel.shape[-1])
    parts = []
    for of_tap, tap in zip(made, _taps(kernel.shape[:-2]), strict=True):
        # Voxel i of the image is seen with tap t from voxel 2·i + before − t.
        place = [(a - t, 1 - a + t, 1) for t, (a, _) in zip(tap, padding, strict=True)]
        parts.append(_padded(of_tap, place))
    return functools.reduce(jnp.add, parts).astype(x.dtype)


def conv_transpose_gradients(
    x: jax.Array, kernel: jax.Array, gradient: jax.Array, padding: Pads
) -> tuple[jax.Array, jax.Array]:
    """Gradients of the image and of the kernel of a transposed convolution."""
    window, sides = kernel.shape[:-2], x.shape[1:-1]
    around = [(k - 1 - a, k - 1 - b, 0) for k, (a, b) in zip(window, padding, strict=True)]
    padded = _padded(gradient.astype(jnp.float32), around)
    seen = []
    for tap in _taps(window):
        cut = (slice(k - 1 - t, None, 2) for k, t in zip(window, tap, strict=True))
        found = _shifted(padded[:, *cut], [0] * len(sides), sides)
        seen.append(found.reshape(-1, found.shape[-1]))
    # Tap by tap, unlike above: 16² 2560→256 31 for 94 ms.
    back = [g @ matrix.T for g, matrix in zip(seen, _matrices(kernel), strict=True)]
    of_x = functools.reduce(jnp.add, back).reshape(x.shape).astype(x.dtype)
    # Turned round once: products of columns with columns are half as fast.
    rows = x.astype(jnp.float32).reshape(-1, x.shape[-1]).T
    rows = jnp.broadcast_to(rows, (len(seen), *rows.shape))
    of_kernel = lax.dot_general(rows, jnp.stack(seen), (((2,), (1,)), ((0,), (0,))))
    return of_x, of_kernel.reshape(kernel.shape).astype(kernel.dtype)


def _matrices(kernel: jax.Array) -> jax.Array:
    """The kernel as [taps, c_in, c_out] float32."""
    return kernel.astype(jnp.float32).reshape(-1, *kernel.shape[-2:])
