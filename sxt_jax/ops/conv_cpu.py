"""How convolution is computed on a CPU: 2-D convolutions and matrix products of slabs.

XLA:CPU has a fast 2-D convolution only. Measured on 2 cores of an AMD EPYC (Zen 5), JAX 0.10.2,
2026-11-21, kernel 3³, float32, GFLOP/s of forward · gradient of the kernel (gradient of the input
as forward):

  grid, channels                1×64³ 32→32   1×32³ 64→64   2×16³ 128→128   2×4³ 512→512
  XLA 3-D convolution              38 · 23       44 · 25        148 ·  -        213 ·  -
  3 depth taps, whole volume       78 · 37      180 · 129       338 · 178       172 · 133
  3 taps stacked as channels       60 · 26      170 · 92        334 ·  -        165 ·  -
  27 taps as one product           11 · 10       34 · 26         87 · 62        283 · 149
  3 depth taps, slab by slab      162 · -       202 · -         357 ·  -        105 ·  -
  9 × 3 shifts as one product       - · 129       - · 188         - · 289         - · 119
so the last two lines are what is done in 3-D, with slabs of the size that fits the caches. A fresh
page of memory costs more than the arithmetic on it (64 MB: 27 ms to map, 5 ms to fill), so nothing
here makes a padded copy of an image. With a stride the XLA 3-D convolution is slower still: 16→16,
kernel 4³, stride 2 of that grid, gradient of the input 533 ms, stacked 41 ms.

XLA computes a 2-D convolution of less than 64 output channels on one core, at that core's peak; of
several that do not wait for each other it computes some at a time. Forwards, 2 cores of an Intel
Xeon (145 GFLOP/s each), 2026-11-22, ms:

  grid, channels               32×64² 16→16   32³ 32→32   32³ 64→32   32×64² 48→16   16³ 64→64
  4 slabs of 4096 voxels           24.5          15.6        18.2         26.6           6.7
  8 slabs of 2048 voxels           15.0          11.6        17.9         24.9           6.5
  9 taps stacked, one product      26.7          18.0        36.0         88.0           7.2
  PyTorch 2.13                      5.5           7.3        14.7         23.1          11.2

On the EPYC stacked taps took 0.7 of the time of the first line for 16 to 64 channels; the second
was not measured there. On the Xeon, too: where a kernel has more numbers than its image, 8²
1024→1024, 32 · 141 ms (forward · both gradients) as convolutions, 14 · 39 as columns, 2³ 512→512
115 · 54 and 1.3 · 9. The gradient of a 2-D kernel, 128² 64→64: XLA's 36, stacked 16 ms. The
gradient of the kernel stacks nine shifts of the image; of the gradient, where that has a third of
the channels or fewer, it takes 94 for 134 ms (32×64² 48→16) and 106 for 124 (16³ 384→128).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from sxt_jax.ops import columns_cpu, stacked_cpu
from sxt_jax.ops.stacked_cpu import largest_divisor, output_sides, window

# Voxels handled at once, from the measurements above.
_FORWARD_VOXELS = 2048
# The gradient of the kernel stacks the gradient in place of the image, if that has so many times as
# many channels.
_EXCHANGED_CHANNELS = 3
# Numbers of a kernel from which a product of columns pays, where there are fewer voxels than
# channels.
_LEAST_KERNEL_NUMBERS = 1 << 17
# Pixels and channels of an image from which its 2-D gradients are made of stacked taps, and pixels
# of a tile of at most so many rows.
_STACKED_PIXELS = 4096
_STACKED_CHANNELS = 16
_TILE_ROWS, _LEAST_TILE = 32, 512
# Slabs whose convolutions do not wait for each other: XLA computes each on one core.
_SLABS_TOGETHER = 8
# Up to so many channels two neighbours are made at once.
_FEW_CHANNELS = 16


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


def lax_input_gradient(
    x: jax.Array,
    kernel: jax.Array,
    gradient: jax.Array,
    *,
    strides: Sequence[int],
    pads: Sequence[tuple[int, int]],
) -> jax.Array:
    """Gradient of the x of `lax_conv`, XLA's own."""
    return jax.linear_transpose(lambda x: lax_conv(x, kernel, strides, pads), x)(gradient)[0]


def lax_kernel_gradient(
    x: jax.Array,
    kernel: jax.Array,
    gradient: jax.Array,
    *,
    strides: Sequence[int],
    pads: Sequence[tuple[int, int]],
) -> jax.Array:
    """Gradient of the kernel of `lax_conv`, XLA's own."""
    return jax.linear_transpose(lambda k: lax_conv(x, k, strides, pads), kernel)(gradient)[0]


def conv(
    x: jax.Array, kernel: jax.Array, strides: Sequence[int], pads: Sequence[tuple[int, int]]
) -> jax.Array:
    """Convolution in 2-D or 3-D, the way that is fastest for its shape.

    Args:
      x: [b, (z,) y, x, c_in].
      kernel: [(kz,) ky, kx, c_in, c_out]; sums are kept in float32.
      strides, pads: one per axis; pads are (before, after), from 0 to what the kernel reaches.

    Returns:
      [b, (z',) y', x', c_out] in the dtype of `x`.
    """
    if set(strides) == {1} and is_of_columns(x, kernel):
        return columns_cpu.conv(x, kernel, pads)
    return (lax_conv if x.ndim == 4 else _conv3d)(x, kernel, strides, pads)


def is_of_columns(x: jax.Array, kernel: jax.Array) -> bool:
    """Whether the kernel is so large and the image [b, …, c] so small that columns pay.

    Not if a side is known only when the program is run (exported with a symbolic batch).
    """
    if kernel.size < _LEAST_KERNEL_NUMBERS or not _is_known(x):
        return False
    return 0 < math.prod(x.shape[:-1]) <= kernel.shape[-1]


def is_stacked2d(x: jax.Array) -> bool:
    """Whether stacked taps pay for gradients of an image [b, y, x, c] or of its kernel.

    Tiles divide the height: of one that is prime they are single rows.
    """
    if not _is_known(x):
        return False
    b, height, width, n_channels = x.shape
    least_tile = largest_divisor(height, _TILE_ROWS) * b * width
    large = b * height * width >= _STACKED_PIXELS and least_tile >= _LEAST_TILE
    return large and n_channels >= _STACKED_CHANNELS


def _is_known(x: jax.Array) -> bool:
    return all(isinstance(n, int) for n in x.shape)


def _conv3d(
    x: jax.Array, kernel: jax.Array, strides: Sequence[int], pads: Sequence[tuple[int, int]]
) -> jax.Array:
    """3-D convolution: slab by slab sums of 2-D ones, or with a stride products of stacked taps."""
    if set(strides) != {1}:
        return stacked_cpu.conv(x, kernel, strides, pads)
    dtype = x.dtype
    kernel = kernel.astype(jnp.float32)
    k, z, *sides = kernel.shape[0], *output_sides(x.shape, kernel.shape, strides, pads)
    shape = (x.shape[0], z, *sides, kernel.shape[4])
    depth = largest_divisor(z, _FORWARD_VOXELS // (shape[0] * shape[2] * shape[3]))
    together = largest_divisor(z // depth, _SLABS_TOGETHER)
    n_sections = together * depth
    pairs = max(kernel.shape[3:]) <= _FEW_CHANNELS and shape[3] % 2 == 0
    if pairs:
        kernel = _pair_kernel(kernel)
    steps = (1, 2 if pairs else 1)
    part_shape = (shape[0], depth, *shape[2:])

    def slabs(i: jax.Array | int) -> jax.Array:
        sections = window(x, i * n_sections, n_sections + k - 1, pads[0], axis=1)
        sections = sections.astype(jnp.float32)
        parts = [sections[:, n : n + depth + k - 1] for n in range(0, n_sections, depth)]
        made = [_depth_taps(part, kernel, steps, pads[1:]).reshape(part_shape) for part in parts]
        return jnp.concatenate(made, axis=1).astype(dtype)

    if n_sections == z:
        return slabs(0)

    def add_slabs(i: jax.Array, out: jax.Array) -> jax.Array:
        return lax.dynamic_update_slice_in_dim(out, slabs(i), i * n_sections, axis=1)

    return lax.fori_loop(0, z // n_sections, add_slabs, jnp.zeros(shape, dtype))


def _depth_taps(
    x: jax.Array, kernel: jax.Array, strides: Sequence[int], pads: Sequence[tuple[int, int]]
) -> jax.Array:
    """The sum over depth taps of 2-D convolutions of all sections at once, [b·z, y, x, c]."""
    n_z = x.shape[1] - kernel.shape[0] + 1
    total = jnp.zeros((), jnp.float32)
    for i, tap in enumerate(kernel):
        flat = x[:, i : i + n_z].reshape(-1, *x.shape[2:])
        total = total + lax_conv(flat, tap, strides, pads)
    return total


def _pair_kernel(kernel: jax.Array) -> jax.Array:
    """The kernel that makes two neighbours along x at once, as channels: one tap wider.

    A third more products than needed (kernel 3), but wider matrices, which few channels need.
    """
    pair = [jnp.pad(kernel, ((0, 0), (0, 0), (i, 1 - i), (0, 0), (0, 0))) for i in (0, 1)]
    return jnp.concatenate(pair, axis=-1)


def input_gradient(
    x: jax.Array,
    kernel: jax.Array,
    gradient: jax.Array,
    *,
    strides: Sequence[int],
    pads: Sequence[tuple[int, int]],
) -> jax.Array:
    """Gradient of x: with stride 1 a convolution of the gradient with the mirrored kernel."""
    if set(strides) == {1} and is_of_columns(x, kernel):
        return columns_cpu.input_gradient(kernel, gradient, x.shape[1:-1], pads)
    if x.ndim == 4:
        return lax_input_gradient(x, kernel, gradient, strides=strides, pads=pads)
    if set(strides) != {1}:
        return stacked_cpu.input_gradient(kernel, gradient, x.shape[1:4], strides, pads)
    return _conv3d(gradient, mirror(kernel), (1, 1, 1), adjoint_pads(kernel, pads))


def mirror(kernel: jax.Array) -> jax.Array:
    """The kernel [kz, ky, kx, c_in, c_out] of the adjoint: turned round, channels exchanged."""
    return jnp.flip(kernel, (0, 1, 2)).swapaxes(3, 4)


def adjoint_pads(kernel: jax.Array, pads: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Padding with which the mirrored kernel undoes the shift of the kernel."""
    return [(k - 1 - a, k - 1 - b) for k, (a, b) in zip(kernel.shape, pads, strict=False)]


def kernel_gradient(
    x: jax.Array,
    kernel: jax.Array,
    gradient: jax.Array,
    *,
    strides: Sequence[int],
    pads: Sequence[tuple[int, int]],
) -> jax.Array:
    """Gradient of the kernel, by products."""
    if set(strides) == {1} and is_of_columns(x, kernel):
        found = columns_cpu.kernel_gradient(x, gradient, kernel.shape[:-2], pads)
        return found.astype(kernel.dtype)
    if x.ndim == 4 and not is_stacked2d(x):
        return lax_kernel_gradient(x, kernel, gradient, strides=strides, pads=pads)
    if x.ndim == 4:  # that of a section of a volume
        volumes = x[:, None], kernel[None], gradient[:, None]
        return kernel_gradient(*volumes, strides=(1, *strides), pads=((0, 0), *pads))[0]
    sides, (c_in, c_out) = kernel.shape[:3], kernel.shape[3:]
    if set(strides) == {1} and c_in >= _EXCHANGED_CHANNELS * c_out:
        # What the image is to the gradient, the gradient is to the image, shifted the other way.
        back = adjoint_pads(kernel, pads)
        found = mirror(stacked_cpu.kernel_gradient(gradient, x, sides, strides, back))
    else:
        found = stacked_cpu.kernel_gradient(x, gradient, sides, strides, pads)
    return found.astype(kernel.dtype)
