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
so the last two lines are what is done, with slabs of the size that fits the caches. XLA's 2-D
convolution uses one core where channels are few and a product uses all, so 16 … 64 channels to as
many or more are products of stacked slabs forwards too: 2×64³ 32→32 from 189 to 130 ms, 32→96 from
451 to 310, 2×32³ 64→64 from 72 to 47, 2×16³ 64→128 from 15.8 to 10.6. A fresh page of memory
costs more than the arithmetic on it (64 MB: 27 ms to map, 5 ms to fill), so nothing here makes a
padded copy of an image. XLA computes one such convolution on one core; four slabs that do not wait
for each other brought 1×64×128² 48→16 from 328 to 172 ms. Strides become blocks of voxels
as channels: 16→16, kernel 4³, stride 2 of that grid, gradient of the input from 533 to 56 ms.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

# Voxels handled at once, from the measurements above.
_FORWARD_VOXELS = 4096
# Numbers stacked at once for a matrix product, and voxels at least: 4.7 MB fit the caches.
_STACKED_NUMBERS = 4096 * 9 * 32
_LEAST_STACKED_VOXELS = 1024
# Input channels for which stacking pays in the convolution itself, where there are as many output
# channels: XLA's 2-D convolutions of few channels use one core, products all.
_STACKED_CHANNELS = (16, 64)
# Slabs whose convolutions do not wait for each other: XLA computes each on one core.
_SLABS_TOGETHER = 4
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


def _tile_sides(shape: Sequence[int], n_voxels: int) -> tuple[int, int]:
    """Sides (z, y) of the tiles, divisors of the grid's, that keep a tile of [b, z, y, x, …] small.

    Sections are divided only where a single one has more than `n_voxels`.
    """
    b, z, y, x = shape[:4]
    depth = largest_divisor(z, n_voxels // (b * y * x))
    return depth, y if b * y * x <= n_voxels else largest_divisor(y, n_voxels // (b * x))


def largest_divisor(n: int, limit: int) -> int:
    """The largest divisor of n that is at most `limit`, or 1."""
    return max((d for d in range(1, n + 1) if n % d == 0 and d <= limit), default=1)


def window(
    x: jax.Array, start: jax.Array | int, size: int, pad: tuple[int, int], *, axis: int
) -> jax.Array:
    """x[start − pad[0] : … + size] along an axis, zeros outside of the image.

    Only the window is copied: a padded copy of the image would cost more than the arithmetic on it,
    since every page of fresh memory has to be mapped.
    """
    n = x.shape[axis]
    if size == n + sum(pad):
        return lax.pad(x, jnp.zeros((), x.dtype), _pads_along(axis, pad, x.ndim))
    if not any(pad):
        return lax.dynamic_slice_in_dim(x, start, size, axis)
    if size > n:
        padded = lax.pad(x, jnp.zeros((), x.dtype), _pads_along(axis, pad, x.ndim))
        return lax.dynamic_slice_in_dim(padded, start, size, axis)
    inside = jnp.clip(start - pad[0], 0, n - size)
    found = lax.dynamic_slice_in_dim(x, inside, size, axis)
    found = lax.pad(found, jnp.zeros((), x.dtype), _pads_along(axis, pad, x.ndim))
    return lax.dynamic_slice_in_dim(found, start - inside, size, axis)


def _pads_along(axis: int, pad: tuple[int, int], n_dims: int) -> list[tuple[int, int, int]]:
    return [(*pad, 0) if i == axis else (0, 0, 0) for i in range(n_dims)]


def conv(
    x: jax.Array, kernel: jax.Array, strides: Sequence[int], pads: Sequence[tuple[int, int]]
) -> jax.Array:
    """3-D convolution, slab by slab along z: sums over depth taps of 2-D convolutions.

    Args:
      x: [b, z, y, x, c_in].
      kernel: [kz, ky, kx, c_in, c_out]; sums are kept in float32.
      strides, pads: one per axis; pads are (before, after) and may be negative (cut).

    Returns:
      [b, z', y', x', c_out] in the dtype of `x`.
    """
    if set(strides) != {1}:
        blocks = _blocks(x, kernel.shape, strides, pads)
        return conv(blocks, _kernel_blocks(kernel, strides), (1, 1, 1), ((0, 0),) * 3)
    dtype = x.dtype
    kernel = kernel.astype(jnp.float32)
    if min(pads[0]) < 0:
        x, pads = _pad_depth(x, pads[0]), ((0, 0), *pads[1:])
    if _STACKED_CHANNELS[0] <= kernel.shape[3] <= min(_STACKED_CHANNELS[1], kernel.shape[4]):
        return _stacked_conv(x, kernel, pads)
    k = kernel.shape[0]
    z, *sides = (
        n + sum(p) - w + 1 for n, p, w in zip(x.shape[1:4], pads, kernel.shape[:3], strict=True)
    )
    shape = (x.shape[0], z, *sides, kernel.shape[-1])
    depth = largest_divisor(z, _FORWARD_VOXELS // (shape[0] * shape[2] * shape[3]))
    together = largest_divisor(z // depth, _SLABS_TOGETHER)
    n_sections = together * depth
    pairs = max(kernel.shape[3:]) <= _FEW_CHANNELS and shape[3] % 2 == 0
    if pairs:
        kernel = _pair_kernel(kernel)
    steps = (1, 1, 2 if pairs else 1)

    def slabs(i: jax.Array | int) -> jax.Array:
        sections = window(x, i * n_sections, n_sections + k - 1, pads[0], axis=1)
        sections = sections.astype(jnp.float32)
        parts = [sections[:, n : n + depth + k - 1] for n in range(0, n_sections, depth)]
        made = [depth_taps(part, kernel, steps, ((0, 0), *pads[1:])) for part in parts]
        made = [y.reshape(shape[0], depth, *shape[2:]) for y in made]
        return jnp.concatenate(made, axis=1).astype(dtype)

    if n_sections == z:
        return slabs(0)

    def add_slabs(i: jax.Array, out: jax.Array) -> jax.Array:
        return lax.dynamic_update_slice_in_dim(out, slabs(i), i * n_sections, axis=1)

    return lax.fori_loop(0, z // n_sections, add_slabs, jnp.zeros(shape, dtype))


def _pair_kernel(kernel: jax.Array) -> jax.Array:
    """The kernel that makes two neighbours along x at once, as channels: one tap wider.

    A third more products than needed (kernel 3), but wider matrices, which few channels need.
    """
    pair = [jnp.pad(kernel, ((0, 0), (0, 0), (i, 1 - i), (0, 0), (0, 0))) for i in (0, 1)]
    return jnp.concatenate(pair, axis=-1)


def _blocks(
    x: jax.Array,
    kernel_shape: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[tuple[int, int]],
) -> jax.Array:
    """The image as blocks of the stride's sides, whose voxels are channels.

    A convolution of stride s is one of stride 1 of these blocks, with `_kernel_blocks`. Where the
    kernel is smaller than the stride, only the voxels that it sees are kept.
    """
    extents, cut, counts = [], [], []
    for n, k, s, (a, b) in zip(x.shape[1:4], kernel_shape, strides, pads, strict=False):
        count = (n + a + b - k) // s + -(-k // s)
        extents.append((a, count * s - a - n, 0))
        cut.append(min(k, s))
        counts.append(count)
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *extents, (0, 0, 0)])
    (nz, ny, nx), (sz, sy, sx) = counts, strides
    x = x.reshape(x.shape[0], nz, sz, ny, sy, nx, sx, x.shape[-1])
    x = x[:, :, : cut[0], :, : cut[1], :, : cut[2]]
    return x.transpose(0, 1, 3, 5, 2, 4, 6, 7).reshape(x.shape[0], nz, ny, nx, -1)


def _kernel_blocks(kernel: jax.Array, strides: Sequence[int]) -> jax.Array:
    """The kernel that sees `_blocks`: […, c_in, c_out] → fewer taps, as many more channels."""
    block = [min(k, s) for k, s in zip(kernel.shape, strides, strict=False)]
    counts = [-(-k // m) for k, m in zip(kernel.shape, block, strict=False)]
    fill = [(0, n * m - k) for n, m, k in zip(counts, block, kernel.shape, strict=False)]
    kernel = jnp.pad(kernel, (*fill, (0, 0), (0, 0)))
    (nz, ny, nx), (sz, sy, sx) = counts, block
    kernel = kernel.reshape(nz, sz, ny, sy, nx, sx, *kernel.shape[3:])
    return kernel.transpose(0, 2, 4, 1, 3, 5, 6, 7).reshape(nz, ny, nx, -1, kernel.shape[-1])


def input_gradient(
    x: jax.Array,
    kernel: jax.Array,
    gradient: jax.Array,
    *,
    strides: Sequence[int],
    pads: Sequence[tuple[int, int]],
) -> jax.Array:
    """Convolution of the gradient with the mirrored kernel."""
    if set(strides) != {1}:

        def blocks(x: jax.Array) -> jax.Array:
            return _blocks(x, kernel.shape, strides, pads)

        of_blocks = input_gradient(
            x, _kernel_blocks(kernel, strides), gradient, strides=(1, 1, 1), pads=((0, 0),) * 3
        )
        return jax.linear_transpose(blocks, x)(of_blocks)[0]
    mirrored = jnp.flip(kernel, (0, 1, 2)).swapaxes(3, 4)
    back = tuple((k - 1 - a, k - 1 - b) for k, (a, b) in zip(kernel.shape, pads, strict=False))
    return conv(gradient, mirrored, (1, 1, 1), back)


def kernel_gradient(
    x: jax.Array,
    kernel: jax.Array,
    gradient: jax.Array,
    *,
    strides: Sequence[int],
    pads: Sequence[tuple[int, int]],
) -> jax.Array:
    """Products of x and gradient at every shift, tile by tile.

    Shifts along z and y are stacked as columns of x, those along x as columns of the gradient: one
    matrix product of [voxels, kz·ky·c_in] and [voxels, kx·c_out] then has all shifts in it.
    """
    if set(strides) != {1}:

        def blocks(kernel: jax.Array) -> jax.Array:
            return _kernel_blocks(kernel, strides)

        of_blocks = kernel_gradient(
            _blocks(x, kernel.shape, strides, pads),
            blocks(kernel),
            gradient,
            strides=(1, 1, 1),
            pads=((0, 0),) * 3,
        )
        return jax.linear_transpose(blocks, kernel)(of_blocks)[0]
    kz, ky, kx, c_in, c_out = kernel.shape
    _, n_z, n_y, n_x, _ = gradient.shape
    n_wide = n_x + kx - 1
    depth, height = _tile_sides(gradient.shape, _stacked_voxels(kernel.shape))
    n_rows = n_y // height

    def tile(i: jax.Array | int) -> jax.Array:
        z, y = i // n_rows * depth, i % n_rows * height
        left = _stack(x, kernel.shape, pads, (z, y), (depth, height))
        g = window(gradient, z, depth, (0, 0), axis=1)
        g = window(g, y, height, (0, 0), axis=2).astype(jnp.float32)
        g = jnp.pad(g, ((0, 0), (0, 0), (0, 0), (kx - 1, kx - 1), (0, 0)))
        columns = [g[:, :, :, kx - 1 - c : kx - 1 - c + n_wide] for c in range(kx)]
        right = jnp.concatenate(columns, -1).reshape(-1, kx * c_out)
        # The narrow matrix first: 10 … 25 % faster.
        left = left.reshape(-1, kz * ky * c_in)
        return lax.dot_general(right, left, (((0,), (0,)), ((), ())))

    n_tiles = n_z // depth * n_rows
    if n_tiles == 1:
        total = tile(0)
    else:
        start = jnp.zeros((kx * c_out, kz * ky * c_in), jnp.float32)
        total = lax.fori_loop(0, n_tiles, lambda i, total: total + tile(i), start)
    total = total.reshape(kx, c_out, kz, ky, c_in).transpose(2, 3, 0, 4, 1)
    return total.astype(kernel.dtype)


def _stacked_voxels(kernel_shape: Sequence[int]) -> int:
    """Voxels whose stacked taps fit the caches."""
    kz, ky, _, c_in, _ = kernel_shape
    return max(_STACKED_NUMBERS // (kz * ky * c_in), _LEAST_STACKED_VOXELS)


def _stack(
    x: jax.Array,
    kernel_shape: Sequence[int],
    pads: Sequence[tuple[int, int]],
    start: tuple[jax.Array | int, jax.Array | int],
    sides: tuple[int, int],
) -> jax.Array:
    """What the kernel's taps along z and y see in a tile (z, y), side by side as channels.

    Returns:
      [b, depth, height, x + padding, kz·ky·c_in] float32.
    """
    (z, y), (depth, height), (kz, ky) = start, sides, kernel_shape[:2]
    voxels = window(x, z, depth + kz - 1, pads[0], axis=1)
    voxels = window(voxels, y, height + ky - 1, pads[1], axis=2).astype(jnp.float32)
    voxels = jnp.pad(voxels, ((0, 0), (0, 0), (0, 0), pads[2], (0, 0)))
    rows = [voxels[:, a : a + depth, b : b + height] for a in range(kz) for b in range(ky)]
    return jnp.concatenate(rows, -1)


def _stacked_conv(x: jax.Array, kernel: jax.Array, pads: Sequence[tuple[int, int]]) -> jax.Array:
    """Convolution as one matrix product a tile; taps along x are columns, added when shifted."""
    kz, ky, kx, c_in, c_out = kernel.shape
    n_z, n_y, n_x = (
        n + sum(p) - k + 1 for n, p, k in zip(x.shape[1:4], pads, kernel.shape, strict=False)
    )
    shape = (x.shape[0], n_z, n_y, n_x, c_out)
    matrix = kernel.transpose(0, 1, 3, 2, 4).reshape(kz * ky * c_in, kx * c_out)
    depth, height = _tile_sides(shape, _stacked_voxels(kernel.shape))
    n_rows = n_y // height

    def add_tile(i: jax.Array, out: jax.Array) -> jax.Array:
        z, y = i // n_rows * depth, i % n_rows * height
        left = _stack(x, kernel.shape, pads, (z, y), (depth, height))
        wide = left.reshape(-1, kz * ky * c_in) @ matrix
        wide = wide.reshape(*left.shape[:-1], kx, c_out)
        made = functools.reduce(jnp.add, [wide[:, :, :, c : c + n_x, c] for c in range(kx)])
        return lax.dynamic_update_slice(out, made.astype(x.dtype), (0, z, y, 0, 0))

    return lax.fori_loop(0, n_z // depth * n_rows, add_tile, jnp.zeros(shape, x.dtype))
