"""Sizes, places, shapes and means of the objects in an image of instances.

An object is summed run by run along the last axis: runs are tens of times fewer than voxels, and
their sums of coordinates have closed forms. Runs are found on packed words (`ops.bits`) and walked
in chunks of a static size, so that the time goes with their number.
Results have one row for each label from 0 to `n_labels`, to be indexed by label; row 0, the
background, and rows of labels that do not occur have size 0. Labels outside 1…`n_labels` count as
background.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from sxt_jax.core.errors import InputError
from sxt_jax.ops import bits

_CHUNK = 1 << 15
_GROUP = 32
_FINE_BITS = 12
_FINE = (1 << _FINE_BITS) - 1
_SLABS = 64
_NOWHERE = 2**31 - 1


class Regions(NamedTuple):
    """Where the objects are, one row for each label; n is `n_labels` + 1.

    Attributes:
      sizes: [n] int32 voxels.
      centroids: [n, d] float32 mean coordinates in voxels; 0 where there is no object.
      low: [n, d] int32 first voxel of the bounding box per axis.
      high: [n, d] int32 one past its last voxel; low = high = 0 where there is no object.
      first: [n] int32 flat index of the first voxel in raster order; 2³¹ - 1 without an object.
    """

    sizes: jax.Array
    centroids: jax.Array
    low: jax.Array
    high: jax.Array
    first: jax.Array


@functools.partial(jax.jit, static_argnames=('n_labels',))
def sizes(instances: jax.Array, *, n_labels: int) -> jax.Array:
    """Voxels of each object.

    Args:
      instances: [z, y, x] or [y, x] int32.
      n_labels: largest label, static.

    Returns:
      [n_labels + 1] int32.

    Raises:
      InputError: another rank or dtype, 2³¹ voxels and more, or a side above 32767.
    """

    def add(count: jax.Array, runs: _Runs) -> jax.Array:
        return count.at[runs.label].add(runs.length, mode='drop')

    return _fold_runs(instances, n_labels, jnp.zeros(n_labels + 1, jnp.int32), add)


@functools.partial(jax.jit, static_argnames=('n_labels',))
def regions(instances: jax.Array, *, n_labels: int) -> Regions:
    """Sizes, centroids, bounding boxes and first voxels of the objects.

    Method: see the module; sums of coordinates are exact integers.

    Args:
      instances: [z, y, x] or [y, x] int32.
      n_labels: largest label, static.

    Returns:
      `Regions` with n_labels + 1 rows.

    Raises:
      InputError: another rank or dtype, 2³¹ voxels and more, or a side above 32767.
    """
    axes = range(instances.ndim)
    zeros = jnp.zeros(n_labels + 1, jnp.int32)
    parts, nowhere = zeros.astype(jnp.uint32), jnp.full_like(zeros, _NOWHERE)
    # One array per axis: rows of coordinates would be computed anew for each of their columns.
    start = (
        zeros,
        [parts for _ in axes],
        [parts for _ in axes],
        [nowhere for _ in axes],
        [zeros for _ in axes],
        nowhere,
    )

    def add(sums: tuple[Any, ...], runs: _Runs) -> tuple[Any, ...]:
        count, fine, coarse, low, high, first = sums
        at, length = runs.label, runs.length
        last = [*runs.corner[:-1], runs.corner[-1] + length - 1]
        total = [
            ((a + b) * length // 2).astype(jnp.uint32)
            for a, b in zip(runs.corner, last, strict=True)
        ]
        return (
            count.at[at].add(length, mode='drop'),
            [fine[k].at[at].add(total[k] & _FINE, mode='drop') for k in axes],
            [coarse[k].at[at].add(total[k] >> _FINE_BITS, mode='drop') for k in axes],
            [low[k].at[at].min(runs.corner[k], mode='drop') for k in axes],
            [high[k].at[at].max(last[k] + 1, mode='drop') for k in axes],
            first.at[at].min(runs.first, mode='drop'),
        )

    def settle(sums: tuple[Any, ...]) -> tuple[Any, ...]:
        # Sums beyond 32 bits are held in two parts; the fine one is carried before it overflows.
        count, fine, coarse, *others = sums
        carried = [c + (f >> _FINE_BITS) for c, f in zip(coarse, fine, strict=True)]
        return count, [f & _FINE for f in fine], carried, *others

    found = _fold_runs(instances, n_labels, start, add, settle)
    count, first = found[0], found[-1]
    fine, coarse, low, high = (jnp.stack(columns, 1) for columns in found[1:-1])
    total = coarse.astype(jnp.float32) * 2**_FINE_BITS + fine.astype(jnp.float32)
    centroids = total / jnp.maximum(count, 1)[:, None]
    return Regions(count, centroids, jnp.where(count[:, None] > 0, low, 0), high, first)


@functools.partial(jax.jit, static_argnames=('n_labels', 'voxel_size'))
def axis_lengths(
    instances: jax.Array, *, n_labels: int, voxel_size: tuple[float, ...] | None = None
) -> jax.Array:
    """Axes of the ellipsoid (ellipse) with the second moments of each object, longest first.

    As axis_major_length and axis_minor_length of skimage.measure.regionprops: for a solid
    ellipsoid with axes 2a the variance along an axis is a²/5, in 2-D a²/4.

    Args:
      instances: [z, y, x] or [y, x] int32.
      n_labels: largest label, static.
      voxel_size: static sides of a voxel per axis; None: ones.

    Returns:
      [n_labels + 1, d] float32 lengths in voxels or in the unit of `voxel_size`; 0 without an
      object.

    Raises:
      InputError: as `regions`, or another number of voxel sides.
    """
    return axes_of(second_moments(instances, n_labels=n_labels), voxel_size)


def axes_of(covariances: ArrayLike, voxel_size: tuple[float, ...] | None = None) -> jax.Array:
    """Axes of the ellipsoids with these second moments, longest first.

    Args:
      covariances: [n, d, d] in voxels².
      voxel_size: sides of a voxel per axis; None: ones.

    Returns:
      [n, d] float32.

    Raises:
      InputError: another number of voxel sides.
    """
    covariances = jnp.asarray(covariances, jnp.float32)
    n_dims = covariances.shape[-1]
    sides = (1.0,) * n_dims if voxel_size is None else voxel_size
    if len(sides) != n_dims:
        raise InputError('voxel_size', f'{voxel_size}', f'{n_dims} numbers')
    scale = jnp.asarray(sides, jnp.float32)
    variances = jnp.maximum(jnp.linalg.eigvalsh(covariances * scale * scale[:, None]), 0)
    return jnp.sqrt(4 * (n_dims + 2) * variances[:, ::-1])


@functools.partial(jax.jit, static_argnames=('n_labels',))
def second_moments(instances: jax.Array, *, n_labels: int) -> jax.Array:
    """Mean products of the coordinates' deviations from the centroid.

    Args:
      instances: [z, y, x] or [y, x] int32.
      n_labels: largest label, static.

    Returns:
      [n_labels + 1, d, d] float32 in voxels², 0 without an object.

    Raises:
      InputError: as `regions`.
    """
    found, n_dims = regions(instances, n_labels=n_labels), instances.ndim

    pairs = list(itertools.combinations_with_replacement(range(n_dims), 2))

    def add(sums: list[jax.Array], runs: _Runs) -> list[jax.Array]:
        # The middle of a run stands for all of it, but for its own extent along the last axis.
        length = runs.length.astype(jnp.float32)
        centres = [found.centroids[:, k][jnp.minimum(runs.label, n_labels)] for k in range(n_dims)]
        away = [x - centre for x, centre in zip(runs.corner, centres, strict=True)]
        away[-1] += (length - 1) / 2
        products = [away[i] * away[j] for i, j in pairs]
        products[-1] += (length**2 - 1) / 12
        return [
            total.at[runs.label].add(product * length, mode='drop')
            for total, product in zip(sums, products, strict=True)
        ]

    start = [jnp.zeros(n_labels + 1, jnp.float32) for _ in pairs]
    upper = dict(zip(pairs, _fold_runs(instances, n_labels, start, add), strict=True))
    rows = [[upper[min(i, j), max(i, j)] for i in range(n_dims)] for j in range(n_dims)]
    sums = jnp.moveaxis(jnp.asarray(rows), -1, 0)
    return sums / jnp.maximum(found.sizes, 1)[:, None, None]


@functools.partial(jax.jit, static_argnames=('n_labels',))
def means(instances: jax.Array, maps: jax.Array, *, n_labels: int) -> jax.Array:
    """Mean of one or several maps over each object.

    Sums are made in up to 64 slabs first: float32 keeps about six digits of large objects.

    Args:
      instances: [z, y, x] or [y, x] int32.
      maps: [z, y, x] or [z, y, x, k] (2-D: [y, x, k]) bool, integer or floating point.
      n_labels: largest label, static.

    Returns:
      [n_labels + 1] or [n_labels + 1, k] float32, 0 without an object.

    Raises:
      InputError: as `regions`, or maps of another shape.
    """
    _check(instances, n_labels)
    if maps.shape[: instances.ndim] != instances.shape or maps.ndim > instances.ndim + 1:
        shapes = f'instances {list(instances.shape)} and maps {list(maps.shape)}'
        raise InputError('means', shapes, 'the same shape, maps with one more axis at most')
    thick = max(-(-instances.shape[0] // _SLABS), 1)

    def slabs(array: jax.Array) -> jax.Array:
        fill = [(0, -array.shape[0] % thick)] + [(0, 0)] * (array.ndim - 1)
        trailing = array.shape[instances.ndim :]
        return jnp.pad(array, fill).reshape(-1, thick * math.prod(instances.shape[1:]), *trailing)

    def add(sums: jax.Array, slab: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        label, value = slab
        row = jnp.where(label > 0, label, n_labels + 1)
        update = value.astype(jnp.float32)
        return sums + jnp.zeros_like(sums).at[row].add(update, mode='drop'), None

    start = jnp.zeros((n_labels + 1, *maps.shape[instances.ndim :]), jnp.float32)
    sums = lax.scan(add, start, (slabs(instances), slabs(maps)))[0]
    count = jnp.maximum(sizes(instances, n_labels=n_labels), 1)
    return sums / count.reshape(-1, *(1,) * (sums.ndim - 1))


@jax.jit
def relabel(instances: jax.Array, keep: jax.Array) -> jax.Array:
    """Objects that are kept, numbered 1… in the order of their labels.

    Args:
      instances: [...] int32.
      keep: [n] bool, one for each label from 0; the one of the background says nothing, labels
        beyond the last are taken away.

    Returns:
      int32 of the shape of `instances`.
    """
    return new_numbers(keep).at[jnp.maximum(instances, 0)].get(mode='fill', fill_value=0)


def new_numbers(keep: jax.Array) -> jax.Array:
    """[n] int32: by label the number that `relabel` gives it, 0 if it is taken away."""
    keep = keep.at[0].set(False)
    return jnp.where(keep, jnp.cumsum(keep.astype(jnp.int32)), 0)


class _Runs(NamedTuple):
    """A chunk of runs; rows past the last run have a label that is dropped."""

    label: jax.Array
    length: jax.Array
    corner: list[jax.Array]
    first: jax.Array


def takes(shape: Sequence[int]) -> bool:
    """Whether images can be summed: below 2³¹ voxels, rows in whole words, and below 2¹⁵ a side."""
    padded = shape[-1] + -shape[-1] % bits.WORD_BITS
    return math.prod(shape[:-1]) * padded < 2**31 and max(shape) < 2**15


def _check(instances: jax.Array, n_labels: int) -> None:
    shape = list(instances.shape)
    if instances.ndim not in (2, 3):
        raise InputError('instances', f'array {shape}', '[z, y, x] or [y, x]')
    if not jnp.issubdtype(instances.dtype, jnp.integer):
        raise InputError('instances', f'dtype {instances.dtype}', 'integers')
    if not takes(shape):
        raise InputError('instances', f'array {shape}', 'below 2³¹ voxels and 2¹⁵ a side')
    if n_labels < 0:
        raise InputError('n_labels', f'{n_labels}', '0 or more')


def _fold_runs(
    instances: jax.Array,
    n_labels: int,
    start: Any,
    add: Callable[[Any, _Runs], Any],
    settle: Callable[[Any], Any] = lambda sums: sums,
) -> Any:
    """`add(sums, runs)` over all runs of equal labels 1…n_labels along the last axis.

    `settle(sums)` follows after every 2²⁰ runs and at the end.
    """
    _check(instances, n_labels)
    if instances.size == 0:
        return start
    n_x = instances.shape[-1]
    filled = (instances > 0) & (instances <= n_labels)
    edge = [(0, 0)] * (instances.ndim - 1) + [(1, 1)]
    differs = jnp.pad(instances[..., 1:] != instances[..., :-1], edge, constant_values=True)
    firsts, lasts = (_words(filled & side) for side in (differs[..., :-1], differs[..., 1:]))
    upto = bits.block_counts(firsts), bits.block_counts(lasts)
    row_bits = n_x + -n_x % bits.WORD_BITS

    def chunk(i: jax.Array, sums: Any) -> Any:
        number = i * _CHUNK + jnp.arange(_CHUNK, dtype=jnp.int32)
        first = bits.select(firsts, upto[0], number)
        length = bits.select(lasts, upto[1], number) - first + 1
        row, x = first // row_bits, first % row_bits
        flat = row * n_x + x
        label = instances.reshape(-1).at[flat].get(mode='clip').astype(jnp.int32)
        label = jnp.where(number < upto[0][-1], label, n_labels + 1)
        leading = jnp.unravel_index(row, instances.shape[:-1])
        return add(sums, _Runs(label, length, [*leading, x], flat))

    n_chunks = -(-upto[0][-1] // _CHUNK)

    def group(i: jax.Array, sums: Any) -> Any:
        last = jnp.minimum((i + 1) * _GROUP, n_chunks)
        return settle(lax.fori_loop(i * _GROUP, last, chunk, sums))

    return lax.fori_loop(0, -(-n_chunks // _GROUP), group, start)


def _words(mask: jax.Array) -> jax.Array:
    """All words of a mask, filled up to whole blocks."""
    words = bits.pack(mask).reshape(-1)
    return lax.optimization_barrier(jnp.pad(words, (0, -words.size % 8)))
