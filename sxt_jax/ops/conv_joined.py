"""Convolution of two images joined as channels, the coarser repeated to the grid of the other.

That is how the decoder of a U-Net begins. On a CPU nothing is repeated or joined: the convolution
is the sum of those of its two halves, and that of a repeated image is a transposed convolution of
the image itself, whose kernel is the given one summed over the two places of each voxel. A kernel
of 3³ taps then costs 8 products a voxel instead of 27. Measured on 2 cores (forward · all
gradients, ms, 2026-11-21), joined and separately:

  2×32³×64, 2×64³×32 → 32      326 · 742    252 · 386
  2×16³×128, 2×32³×64 → 64     142 · 327     87 · 173
  2×8³×256, 2×16³×128 → 128     89 · 153     51 ·  98
  2×4³×512, 2×8³×256 → 256      45 ·  89     87 ·  99
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from sxt_jax.ops.conv import conv
from sxt_jax.ops.conv_transpose import conv_transpose
from sxt_jax.ops.pool import upsample

# Coarse voxels below which the larger kernels are most of the work.
_LEAST_VOXELS = 512


def conv_joined(coarse: jax.Array, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`conv(concatenate([upsample(coarse), x]), kernel)` with zeros around ('SAME').

    Args:
      coarse: [b, (z/f,) y/f, x/f, c_coarse]; factors f are whole and may differ by axis.
      x: [b, (z,) y, x, c_fine] of the same dtype.
      kernel: [(kz,) ky, kx, c_coarse + c_fine, c_out] of the same dtype.

    Returns:
      [b, (z,) y, x, c_out] in the dtype of `x`, summed in float32.

    Raises:
      ValueError: the grids, dtypes or channels do not fit each other.
    """
    sides = list(zip(x.shape[1:-1], coarse.shape[1:-1], strict=False))
    if coarse.ndim != x.ndim or coarse.shape[0] != x.shape[0] or any(n % m for n, m in sides):
        raise ValueError(f'coarse {coarse.shape} and x {x.shape}: expected grids of whole factors')
    if coarse.dtype != x.dtype:
        raise ValueError(f'coarse is {coarse.dtype}, x is {x.dtype}: expected one float dtype')
    factors = tuple(n // m for n, m in sides)
    if set(factors) == {2} and x.ndim == 5 and math.prod(coarse.shape[:-1]) >= _LEAST_VOXELS:
        return _conv_joined(coarse, x, kernel)
    return _joined(coarse, x, kernel, factors)


def _joined(
    coarse: jax.Array, x: jax.Array, kernel: jax.Array, factors: Sequence[int]
) -> jax.Array:
    return conv(jnp.concatenate([upsample(coarse, factors), x], axis=-1), kernel)


@jax.custom_vjp
def _conv_joined(coarse: jax.Array, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.platform_dependent(coarse, x, kernel, cpu=_separately, default=_joined_by_2)


def _forward(
    coarse: jax.Array, x: jax.Array, kernel: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    return _conv_joined(coarse, x, kernel), (coarse, x, kernel)


def _backward(residuals: tuple[jax.Array, ...], gradient: jax.Array) -> tuple[jax.Array, ...]:
    def gradients(way, *arrays):  # type: ignore[no-untyped-def]
        return jax.vjp(way, *arrays[:-1])[1](arrays[-1])

    cpu, default = (functools.partial(gradients, way) for way in (_separately, _joined_by_2))
    return tuple(lax.platform_dependent(*residuals, gradient, cpu=cpu, default=default))


_conv_joined.defvjp(_forward, _backward)


def _joined_by_2(coarse: jax.Array, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _joined(coarse, x, kernel, (2, 2, 2))


def _separately(coarse: jax.Array, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The sum of both convolutions, in 3-D."""
    n_coarse, sides = coarse.shape[-1], kernel.shape[:3]
    # In float32, so that the sum is rounded once.
    coarse32, x32, kernel32 = (a.astype(jnp.float32) for a in (coarse, x, kernel))
    of_coarse, of_fine = kernel32[..., :n_coarse, :], kernel32[..., n_coarse:, :]
    if set(sides) == {1}:
        spread = upsample(conv(coarse32, of_coarse), (2, 2, 2))
    else:
        # Voxel i of the coarse image, at places 2·i and 2·i + 1, is seen by two taps in turn.
        padding = [((k - 1) // 2 + 1, k - (k - 1) // 2) for k in sides]
        spread = conv_transpose(coarse32, _sum_neighbours(of_coarse), padding=padding)
    return (spread + conv(x32, of_fine)).astype(x.dtype)


def _sum_neighbours(kernel: jax.Array) -> jax.Array:
    """The kernel plus itself one tap further along each spatial axis, which gets longer by 1."""
    for axis in range(kernel.ndim - 2):
        before, after = [(0, 0)] * kernel.ndim, [(0, 0)] * kernel.ndim
        before[axis], after[axis] = (1, 0), (0, 1)
        kernel = jnp.pad(kernel, before) + jnp.pad(kernel, after)
    return kernel
