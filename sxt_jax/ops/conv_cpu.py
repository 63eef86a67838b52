"""How 3-D convolution is computed on a CPU: 2-D convolutions and matrix products of slabs.

XLA:CPU has a fast 2-D convolution only. Measured on 2 cores of
an AMD EPYC (Zen 5), JAX 0.10.2, 2026-11-21, kernel 3³, float32, GFLOP/s of forward · gradient of
the kernel (gradient of the input as forward):

  grid, channels                1×64³ 32→32   1×32³ 64→64   2×16³ 128→128   2×4³ 512→512
  XLA 3-D convolution              38 · 23       44 · 25        148 ·  -        213 ·  -
  3 depth taps, whole volume       78 · 37      180 · 129       338 · 178       172 · 133
  3 taps stacked as channels       60 · 26      170 · 92        334 ·  -        165 ·  -
  27 taps as one product           11 · 10       34 · 26         87 · 62        283 · 149
  3 depth taps, slab by slab      162 · -       202 · -         357 ·  -        105 ·  -
  9 × 3 shifts as one product       - · 129       - · 188         - · 289         - · 119
so the last two lines are what is done, with slabs of the size that fits the caches (a fresh page of
memory costs more than the arithmetic on it). One input channel behaves alike (17 against 2).
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

# Voxels handled at once, from the measurements above.
_FORWARD_VOXELS = 16384
_KERNEL_GRADIENT_VOXELS = 4096


def lax_conv(
    x: jax.Array, kernel: jax.Array, strides: Sequence[int], pads: Sequence[tuple[int, int]]
) -> jax.Array:
    """XLA's convolution of channels-last arrays, 2-D or 3-D.

    Args:
      x: [b, (z,) y, x, c_in].
      kernel: [(kz,) ky, kx, c_in, c_out].
      strides, pads: one per axis; pads are (before, after).
    """
    spec = ('NHWC', 'HWIO', 'NHWC') if x.ndim == 4 else ('NDHWC', 'DHWIO', 'NDHWC')
    return lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=spec)


def depth_taps(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    pads: Sequence[tuple[int, int]],
) -> jax.Array:
    """3-D convolution as the sum over depth taps of 2-D convolutions of all sections at once."""
    x = _pad_depth(x, pads[0])
    n_z = (x.shape[1] - kernel.shape[0]) // strides[0] + 1
    total = jnp.zeros((), jnp.float32)
    for i in range(kernel.shape[0]):
        sections = x[:, i : i + (n_z - 1) * strides[0] + 1 : strides[0]]
        flat = sections.reshape(-1, *x.shape[2:])
        total = total + lax_conv(flat, kernel[i], strides[1:], pads[1:])
    return total.reshape(x.shape[0], n_z, *total.shape[1:]).astype(x.dtype)


def _pad_depth(x: jax.Array, pad: tuple[int, int]) -> jax.Array:
    """Zeros before and after along z; negative numbers cut, as in `lax.conv_general_dilated`."""
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), (*pad, 0), *[(0, 0, 0)] * 3])


def _slab_depth(shape: Sequence[int], n_voxels: int) -> int:
    """The largest divisor of the depth that keeps a slab of [b, z, y, x, …] below `n_voxels`."""
    b, z, y, x = shape[:4]
    fits = [d for d in range(1, z + 1) if z % d == 0 and b * d * y * x <= n_voxels]
    return max(fits, default=1)


def conv(
    x: jax.Array, kernel: jax.Array, strides: Sequence[int], pads: Sequence[tuple[int, int]]
) -> jax.Array:
    """3-D convolution, slab by slab along z: sums over depth taps of 2-D convolutions.

    Args:
      x: [b, z, y, x, c_in].
      kernel: [kz, ky, kx, c_in, c_out]; sums are kept in float32.
      strides, pads: one per axis; pads are (before, after) and may be negative (cut) along z.

    Returns:
      [b, z', y', x', c_out] in the dtype of `x`.
    """
    dtype = x.dtype
    x, kernel = x.astype(jnp.float32), kernel.astype(jnp.float32)
    if set(strides) != {1}:
        return depth_taps(x, kernel, strides, pads).astype(dtype)
    x = _pad_depth(x, pads[0])
    k = kernel.shape[0]
    sides = (
        n + sum(p) - w + 1
        for n, p, w in zip(x.shape[2:4], pads[1:], kernel.shape[1:3], strict=True)
    )
    shape = (x.shape[0], x.shape[1] - k + 1, *sides, kernel.shape[-1])
    depth = _slab_depth(shape, _FORWARD_VOXELS)

    def add_slab(i: jax.Array, out: jax.Array) -> jax.Array:
        slab = lax.dynamic_slice_in_dim(x, i * depth, depth + k - 1, axis=1)
        y = depth_taps(slab, kernel, (1, 1, 1), ((0, 0), *pads[1:]))
        return lax.dynamic_update_slice_in_dim(out, y.astype(dtype), i * depth, axis=1)

    return lax.fori_loop(0, shape[1] // depth, add_slab, jnp.zeros(shape, dtype))


def input_gradient(
    x: jax.Array, kernel: jax.Array, gradient: jax.Array, *, pads: Sequence[tuple[int, int]]
) -> jax.Array:
    """Convolution of the gradient with the mirrored kernel."""
    mirrored = jnp.flip(kernel, (0, 1, 2)).swapaxes(3, 4)
    back = tuple((k - 1 - a, k - 1 - b) for k, (a, b) in zip(kernel.shape, pads, strict=False))
    return conv(gradient, mirrored, (1, 1, 1), back)


def kernel_gradient(
    x: jax.Array, kernel: jax.Array, gradient: jax.Array, *, pads: Sequence[tuple[int, int]]
) -> jax.Array:
    """Products of x and gradient at every shift, slab by slab.

    Shifts along z and y are stacked as columns of x, those along x as columns of the gradient: one
    matrix product of [voxels, kz·ky·c_in] and [voxels, kx·c_out] then has all shifts in it.
    """
    kz, ky, kx, c_in, c_out = kernel.shape
    _, n_z, n_y, n_x, _ = gradient.shape
    x = jnp.pad(x.astype(jnp.float32), ((0, 0), *pads, (0, 0)))
    gradient = gradient.astype(jnp.float32)
    wide = jnp.pad(gradient, ((0, 0), (0, 0), (0, 0), (kx - 1, kx - 1), (0, 0)))
    n_wide = n_x + kx - 1
    depth = _slab_depth(gradient.shape, _KERNEL_GRADIENT_VOXELS)

    def add_slab(i: jax.Array, total: jax.Array) -> jax.Array:
        voxels = lax.dynamic_slice_in_dim(x, i * depth, depth + kz - 1, axis=1)
        slab = lax.dynamic_slice_in_dim(wide, i * depth, depth, axis=1)
        rows = [voxels[:, a : a + depth, b : b + n_y] for a in range(kz) for b in range(ky)]
        columns = [slab[:, :, :, kx - 1 - c : kx - 1 - c + n_wide] for c in range(kx)]
        left = jnp.concatenate(rows, -1).reshape(-1, kz * ky * c_in)
        right = jnp.concatenate(columns, -1).reshape(-1, kx * c_out)
        return total + lax.dot_general(left, right, (((0,), (0,)), ((), ())))

    total = lax.fori_loop(
        0, n_z // depth, add_slab, jnp.zeros((kz * ky * c_in, kx * c_out), jnp.float32)
    )
    total = total.reshape(kz, ky, c_in, kx, c_out).transpose(0, 1, 3, 2, 4)
    return total.astype(kernel.dtype)
