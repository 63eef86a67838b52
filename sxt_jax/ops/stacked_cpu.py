"""3-D convolution of any stride on a CPU as matrix products of stacked taps, and its gradients.

What the kernel's taps along z and y see is stacked as channels, tile by tile; one matrix product
then gives what every tap along x adds to a voxel, and these columns are added, each shifted by one.
A product uses all cores, which XLA's 2-D convolution of few channels does not, and only a tile is
ever copied: a fresh page of memory costs more than the arithmetic on it. With a stride, neighbours
along x that a step jumps over together are channels too. The gradient of the image is made phase by
phase: the voxels of one place within the stride see only the taps of that place, so nothing is
multiplied by the zeros of a spread-out gradient.

Arrays are [b, z, y, x, c], kernels [kz, ky, kx, c_in, c_out]; everything is computed in float32.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

# Numbers stacked at once, and voxels at least, from the measurements in `conv_cpu`: 4.7 MB fit the
# caches, and fewer voxels leave the matrices too low.
_NUMBERS = 4096 * 9 * 32
_LEAST_VOXELS = 512

Pads = Sequence[tuple[int, int]]


def conv(x: jax.Array, kernel: jax.Array, strides: Sequence[int], pads: Pads) -> jax.Array:
    """Convolution; pads are (before, after) per axis.

    Returns:
      [b, z', y', x', c_out] in the dtype of `x`.
    """
    kz, ky, kx, c_in, c_out = kernel.shape
    n_z, n_y, n_x = output_sides(x.shape, kernel.shape, strides, pads)
    shape = (x.shape[0], n_z, n_y, n_x, c_out)
    n_columns = -(-kx // strides[2])
    kernel = jnp.pad(
        kernel.astype(jnp.float32), [(0, 0)] * 2 + [(0, n_columns * strides[2] - kx)] + [(0, 0)] * 2
    )
    matrix = kernel.reshape(kz, ky, n_columns, strides[2] * c_in, c_out).transpose(0, 1, 3, 2, 4)
    matrix = matrix.reshape(-1, n_columns * c_out)
    sides = tile_sides(shape, _n_voxels(*matrix.shape))

    def add_tile(z: jax.Array, y: jax.Array, out: jax.Array) -> jax.Array:
        left = _stack(x, kernel.shape, strides, pads, (z, y), sides, n_x)
        wide = _product(left, matrix, n_columns)
        made = _add([wide[:, :, :, i : i + n_x, i] for i in range(n_columns)])
        return lax.dynamic_update_slice(out, made.astype(x.dtype), (0, z, y, 0, 0))

    return _over_tiles(shape, sides, add_tile, jnp.zeros(shape, x.dtype))


def kernel_gradient(
    x: jax.Array,
    gradient: jax.Array,
    kernel_sides: Sequence[int],
    strides: Sequence[int],
    pads: Pads,
) -> jax.Array:
    """Gradient of the kernel: products of x and gradient at every shift.

    Shifts along z and y are columns of x, those along x columns of the gradient: one matrix product
    of [kx·c_out, voxels] and [voxels, kz·ky·c_in] has all shifts in it.

    Returns:
      [kz, ky, kx, c_in, c_out] float32.
    """
    (kz, ky, kx), (_, _, _, n_x, c_out), c_in = kernel_sides, gradient.shape, x.shape[-1]
    n_columns = -(-kx // strides[2])
    rows = kz * ky * strides[2] * c_in
    sides = tile_sides(gradient.shape, _n_voxels(rows, n_columns * c_out))

    def add_tile(z: jax.Array, y: jax.Array, total: jax.Array) -> jax.Array:
        left = _stack(x, (*kernel_sides, c_in), strides, pads, (z, y), sides, n_x)
        g = window(gradient, z, sides[0], (0, 0), axis=1)
        g = window(g, y, sides[1], (0, 0), axis=2).astype(jnp.float32)
        # Turned round, the narrower matrix first: products of columns with columns are slower.
        g, around = g.transpose(4, 0, 1, 2, 3), n_columns - 1
        g = jnp.pad(g, ((0, 0), (0, 0), (0, 0), (0, 0), (around, around)))
        shifted = [g[..., around - i : around - i + left.shape[3]] for i in range(n_columns)]
        right = jnp.concatenate(shifted).reshape(n_columns * c_out, -1)
        product = right @ left.reshape(-1, rows)
        return total + product

    start = jnp.zeros((n_columns * c_out, rows), jnp.float32)
    total = _over_tiles(gradient.shape, sides, add_tile, start)
    total = total.reshape(n_columns, c_out, kz, ky, strides[2], c_in).transpose(2, 3, 0, 4, 5, 1)
    return total.reshape(kz, ky, -1, c_in, c_out)[:, :, :kx]


def input_gradient(
    kernel: jax.Array,
    gradient: jax.Array,
    sides: Sequence[int],
    strides: Sequence[int],
    pads: Pads,
) -> jax.Array:
    """Gradient of an image of these sides, which is a transposed convolution of the gradient.

    Returns:
      [b, *sides, c_in] in the dtype of `gradient`.
    """
    c_in, c_out = kernel.shape[3:]
    counts = [-(-n // s) for n, s in zip(sides, strides, strict=True)]
    along_z, along_y, along_x = (
        [_phase(place, kernel.shape[i], strides[i], pads[i][0]) for place in range(strides[i])]
        for i in range(3)
    )
    # How many outputs the last voxels lack along each axis.
    lacking = [n - m for n, m in zip(counts, gradient.shape[1:4], strict=True)]
    # Zeros around the gradient along x that serve all phases; along z and y each has its own.
    before = max(0, *(-p.first for p in along_x))
    around_x = (before, max(0, *(lacking[2] + p.last for p in along_x)))
    n_wide = gradient.shape[3] + sum(around_x)
    n_columns = sum(len(p.taps) for p in along_x)
    shape = (gradient.shape[0], *counts, c_in)
    n_rows = kernel.shape[0] * kernel.shape[1] * c_out
    tile = tile_sides(shape, _n_voxels(n_rows, strides[0] * strides[1] * n_columns * c_in))
    places = [
        (z, y, _phase_matrix(kernel, along_z[z], along_y[y], along_x))
        for z, y in itertools.product(range(strides[0]), range(strides[1]))
        if along_z[z].taps and along_y[y].taps
    ]

    def add_tile(z: jax.Array, y: jax.Array, out: jax.Array) -> jax.Array:
        for place_z, place_y, matrix in places:
            pair = along_z[place_z], along_y[place_y]
            around = [(-p.first, n + p.last) for p, n in zip(pair, lacking, strict=False)]
            taps = (*(len(p.taps) for p in pair), 1)
            left = _stack(gradient, taps, (1, 1, 1), (*around, around_x), (z, y), tile, n_wide)
            made = _join_phases(_product(left, matrix, n_columns), along_x, before, counts[2])
            made = made[:, :, None, :, None].astype(out.dtype)
            out = lax.dynamic_update_slice(out, made, (0, z, place_z, y, place_y, 0, 0))
        return out

    cz, cy, cx = counts
    split = (shape[0], cz, strides[0], cy, strides[1], cx, strides[2] * c_in)
    out = _over_tiles(shape, tile, add_tile, jnp.zeros(split, gradient.dtype))
    whole = (n * s for n, s in zip(counts, strides, strict=True))
    out = out.reshape(shape[0], *whole, c_in)
    return out[:, : sides[0], : sides[1], : sides[2]]


class _Phase(NamedTuple):
    """Voxels s·i + place of an image along an axis, seen by a convolution of stride s.

    Attributes:
      taps: of the kernel, those that see them, in the order of the outputs i + first … i + last.
      first, last: outputs that see voxel s·i + place, counted from i.
    """

    taps: tuple[int, ...]
    first: int
    last: int


def _phase(place: int, side: int, stride: int, before: int) -> _Phase:
    """Output o has tap t on voxel s·o − before + t, so t = place + before − s·(o − i)."""
    taps = tuple(range((place + before) % stride, side, stride))[::-1]
    last = (place + before) // stride
    return _Phase(taps, last - len(taps) + 1, last)


def _phase_matrix(
    kernel: jax.Array, along_z: _Phase, along_y: _Phase, along_x: Sequence[_Phase]
) -> jax.Array:
    """[taps z · taps y · c_out, taps x of all phases · c_in] float32."""
    taken = kernel[jnp.array(along_z.taps)][:, jnp.array(along_y.taps)].astype(jnp.float32)
    taken = taken[:, :, jnp.array([t for p in along_x for t in p.taps])]
    n_rows = len(along_z.taps) * len(along_y.taps) * kernel.shape[4]
    return taken.transpose(0, 1, 4, 2, 3).reshape(n_rows, -1)


def _join_phases(wide: jax.Array, phases: Sequence[_Phase], before: int, n_x: int) -> jax.Array:
    """[b, z, y, x + zeros, columns, c] → [b, z, y, n_x, phases·c]: each the sum of its taps."""
    made, column = [], 0
    for p in phases:
        parts = []
        for start in range(before + p.first, before + p.last + 1):
            parts.append(wide[:, :, :, start : start + n_x, column])
            column += 1
        made.append(_add(parts) if parts else jnp.zeros_like(wide[:, :, :, :n_x, 0]))
    return jnp.concatenate(made, -1)


def output_sides(
    shape: Sequence[int], kernel_shape: Sequence[int], strides: Sequence[int], pads: Pads
) -> tuple[int, ...]:
    """Sides (z, y, x) of a convolution's result."""
    sides = zip(shape[1:4], kernel_shape, strides, pads, strict=False)
    return tuple((n + a + b - k) // s + 1 for n, k, s, (a, b) in sides)


def _stack(
    x: jax.Array,
    kernel_shape: Sequence[int],
    strides: Sequence[int],
    pads: Pads,
    start: tuple[jax.Array | int, jax.Array | int],
    sides: tuple[int, int],
    n_x: int,
) -> jax.Array:
    """What the kernel's taps along z and y see in a tile (z, y) of the output, as channels.

    Returns:
      [b, depth, height, n_x − 1 + ⌈kx / stride⌉, kz·ky·stride·c_in] float32; the last stride is
      that along x.
    """
    (kz, ky, kx), (sz, sy, sx) = kernel_shape[:3], strides
    depth, height = ((n - 1) * s + 1 for n, s in zip(sides, (sz, sy), strict=True))
    voxels = window(x, start[0] * sz, depth + kz - 1, pads[0], axis=1)
    voxels = window(voxels, start[1] * sy, height + ky - 1, pads[1], axis=2).astype(jnp.float32)
    n_wide = n_x - 1 + -(-kx // sx)
    after = n_wide * sx - x.shape[3] - pads[2][0]
    around = [(0, 0, 0)] * 3 + [(pads[2][0], after, 0), (0, 0, 0)]
    voxels = lax.pad(voxels, jnp.zeros((), jnp.float32), around)
    voxels = voxels.reshape(*voxels.shape[:3], n_wide, sx * x.shape[-1])
    rows = [
        voxels[:, i : i + depth : sz, j : j + height : sy] for i in range(kz) for j in range(ky)
    ]
    return jnp.concatenate(rows, -1)


def _n_voxels(*n_numbers: int) -> int:
    """Voxels of a tile that fits the caches, with so many numbers of each on either side."""
    return max(_NUMBERS // max(n_numbers), _LEAST_VOXELS)


def _product(left: jax.Array, matrix: jax.Array, n_columns: int) -> jax.Array:
    """[..., rows] times [rows, columns·c] as [..., columns, c]."""
    wide = left.reshape(-1, matrix.shape[0]) @ matrix
    return wide.reshape(*left.shape[:-1], n_columns, -1)


def _add(parts: Sequence[jax.Array]) -> jax.Array:
    return functools.reduce(jnp.add, parts)


def _over_tiles(shape: Sequence[int], sides: tuple[int, int], add_tile, start: jax.Array):  # type: ignore[no-untyped-def]
    """`add_tile(z, y, out)` for all tiles of a [b, z, y, x, …] grid, from `start`."""
    n_rows = shape[2] // sides[1]
    n_tiles = shape[1] // sides[0] * n_rows
    if n_tiles == 1:
        return add_tile(0, 0, start)

    def add(i: jax.Array, out: jax.Array) -> jax.Array:
        return add_tile(i // n_rows * sides[0], i % n_rows * sides[1], out)

    return lax.fori_loop(0, n_tiles, add, start)


def tile_sides(shape: Sequence[int], n_voxels: int) -> tuple[int, int]:
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
    since every page of fresh memory has to be mapped. Negative pads cut.
    """
    n = x.shape[axis]
    if size == n + sum(pad):
        return lax.pad(x, jnp.zeros((), x.dtype), _pads_along(axis, pad, x.ndim))
    start, pad = start - min(pad[0], 0), (max(pad[0], 0), max(pad[1], 0))
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
