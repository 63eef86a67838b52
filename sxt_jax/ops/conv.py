"""Convolution in 2-D and 3-D, channels last, fast forwards and backwards on every platform.

Arrays are [b, (z,) y, x, c], kernels [(kz,) ky, kx, c_in, c_out] (Keras and Flax order). XLA's own
operations are used wherever they are fast; where they are not, the same map is written in terms of
those that are.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from sxt_jax.ops import conv_cpu
from sxt_jax.ops.conv_cpu import lax_conv

Padding = str | Sequence[tuple[int, int]]


def conv(
    x: jax.Array, kernel: jax.Array, *, stride: int | Sequence[int] = 1, padding: Padding = 'SAME'
) -> jax.Array:
    """Convolution (cross-correlation, as in all networks) in 2-D or 3-D.

    On the CPU it is computed in other ways, with its own gradient (see `conv_cpu`); the choice is
    made where the computation is lowered, so exported and sharded programs get the path of their
    platform. Forward-mode differentiation is not offered.

    Args:
      x: [b, (z,) y, x, c_in] floating point.
      kernel: [(kz,) ky, kx, c_in, c_out] of the same dtype; sums are kept in float32.
      stride: steps per axis, or one for all.
      padding: 'SAME', 'VALID', or (before, after) voxels of zeros per axis; negative numbers cut.

    Returns:
      [b, (z',) y', x', c_out] in the dtype of `x`.

    Raises:
      ValueError: ranks, channels or dtypes do not fit.
    """
    n_dims = check_conv(x, kernel)
    strides = (stride,) * n_dims if isinstance(stride, int) else tuple(stride)
    pads = _explicit_padding(x.shape[1:-1], kernel.shape[:-2], strides, padding)
    x, pads = _pad_beyond_reach(x, kernel.shape[:-2], pads)
    if set(kernel.shape[:-2]) == set(strides) == {1} and not any(map(any, pads)):
        return matmul(x, kernel.reshape(kernel.shape[-2:]))
    return _conv(x, kernel, strides, pads)


def check_conv(x: jax.Array, kernel: jax.Array) -> int:
    """The number of spatial axes of an image and a kernel that fit each other.

    Raises:
      ValueError: ranks, channels or dtypes do not fit.
    """
    if x.ndim not in (4, 5) or kernel.ndim != x.ndim:
        raise ValueError(
            f'x of shape {x.shape} and kernel of shape {kernel.shape}: expected [b, (z,) y, x, c] '
            'and [(kz,) ky, kx, c_in, c_out]'
        )
    if x.shape[-1] != kernel.shape[-2]:
        raise ValueError(f'x has {x.shape[-1]} channels, the kernel takes {kernel.shape[-2]}')
    if x.dtype != kernel.dtype or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f'x is {x.dtype}, the kernel {kernel.dtype}: expected one float dtype')
    return x.ndim - 2


def _explicit_padding(
    sides: Sequence[int], kernel: Sequence[int], strides: Sequence[int], padding: Padding
) -> tuple[tuple[int, int], ...]:
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(sides, kernel, strides, padding)
    if len(padding) != len(sides) or len(strides) != len(sides):
        raise ValueError(f'padding {padding} and stride {strides} for {len(sides)} axes')
    return tuple((int(a), int(b)) for a, b in padding)


def _pad_beyond_reach(
    x: jax.Array, window: Sequence[int], pads: Sequence[tuple[int, int]]
) -> tuple[jax.Array, tuple[tuple[int, int], ...]]:
    """The image with padding that is negative or more than a kernel reaches done, and the rest.

    With such padding XLA:CPU's gradients are wrong: those of a 1-wide kernel where it is negative,
    those of the image where it is k or more (JAX 0.10.2, 2026-11-21).
    """
    kept = tuple(
        (min(max(a, 0), k - 1), min(max(b, 0), k - 1))
        for k, (a, b) in zip(window, pads, strict=True)
    )
    if kept == tuple(pads):
        return x, kept
    done = [(a - c, b - d, 0) for (a, b), (c, d) in zip(pads, kept, strict=True)]
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *done, (0, 0, 0)]), kept


def matmul(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """x [..., c_in] times matrix [c_in, c_out], summed in float32, in the dtype of `x`."""
    return jnp.matmul(x, matrix, preferred_element_type=jnp.float32).astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, ...], pads: tuple[tuple[int, int], ...]
) -> jax.Array:
    return lax.platform_dependent(
        x,
        kernel,
        cpu=functools.partial(conv_cpu.conv, strides=strides, pads=pads),
        default=functools.partial(lax_conv, strides=strides, pads=pads),
    )


def _conv_forward(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, ...], pads: tuple[tuple[int, int], ...]
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _conv(x, kernel, strides, pads), (x, kernel)


def _conv_backward(
    strides: tuple[int, ...],
    pads: tuple[tuple[int, int], ...],
    residuals: tuple[jax.Array, jax.Array],
    gradient: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    # Two calls, so that the gradient nobody asks for (that of the image) is dropped.
    def of(cpu: Callable[..., jax.Array], default: Callable[..., jax.Array]) -> jax.Array:
        cpu, default = (functools.partial(f, strides=strides, pads=pads) for f in (cpu, default))
        return lax.platform_dependent(*residuals, gradient, cpu=cpu, default=default)

    return (
        of(conv_cpu.input_gradient, conv_cpu.lax_input_gradient),
        of(conv_cpu.kernel_gradient, conv_cpu.lax_kernel_gradient),
    )


_conv.defvjp(_conv_forward, _conv_backward)
