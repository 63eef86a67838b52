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
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

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
    return regions(instances, n_labels=n_labels).sizes


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
    rows = (n_labels + 1, instances.ndim)
    start = (
        jnp.zeros(rows[0], jnp.int32),
        jnp.zeros(rows, jnp.uint32),
        jnp.zeros(rows, jnp.uint32),
        jnp.full(rows, _NOWHERE, jnp.int32),
        jnp.zeros(rows, jnp.int32),
        jnp.full(rows[0], _NOWHERE, jnp.int32),
    )

    def add(sums: tuple[jax.Array, ...], runs: _Runs) -> tuple[jax.Array, ...]:
        count, fine, coarse, low, high, first = sums
        last = runs.corner.at[:, -1].add(runs.length - 1)
        total = ((runs.corner + last) * runs.length[:, None] // 2).astype(jnp.uint32)
        return (
            count.at[runs.label].add(runs.length, mode='drop'),
            fine.at[runs.label].add(total & _FINE, mode='drop'),
            coarse.at[runs.label].add(total >> _FINE_BITS, mode='drop'),
            low.at[runs.label].min(runs.corner, mode='drop'),
            high.at[runs.label].max(last + 1, mode='drop'),
            first.at[runs.label].min(runs.first, mode='drop'),
        )

    def settle(sums: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        # Sums beyond 32 bits are held in two parts; the fine one is carried before it overflows.
        count, fine, coarse, *others = sums
        return count, fine & _FINE, coarse + (fine >> _FINE_BITS), *others

    count, fine, coarse, low, high, first = _fold_runs(instances, n_labels, start, add, settle)
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
    n_dims = instances.ndim
    sides = (1.0,) * n_dims if voxel_size is None else voxel_size
    if len(sides) != n_dims:
        raise InputError('voxel_size', f'{voxel_size}', f'{n_dims} numbers')
    scale = jnp.asarray(sides, jnp.float32)
    covariances = second_moments(instances, n_labels=n_labels) * scale * scale[:, None]
    variances = jnp.maximum(jnp.linalg.eigvalsh(covariances), 0)
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

    def add(sums: jax.Array, runs: _Runs) -> jax.Array:
        # The middle of a run stands for all of it, but for its own extent along the last axis.
        length = runs.length.astype(jnp.float32)
        away = runs.corner - found.centroids[jnp.minimum(runs.label, n_labels)]
        away = away.at[:, -1].add((length - 1) / 2)
        products = away[:, :, None] * away[:, None]
        products = products.at[:, -1, -1].add((length**2 - 1) / 12)
        chunk = (
            jnp.zeros_like(sums).at[runs.label].add(products * length[:, None, None], mode='drop')
        )
        return sums + chunk

    start = jnp.zeros((n_labels + 1, n_dims, n_dims), jnp.float32)
    sums = _fold_runs(instances, n_labels, start, add)
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
    keep = keep.at[0].set(False)
    number = jnp.where(keep, jnp.cumsum(keep.astype(jnp.int32)), 0)
    return number.at[jnp.maximum(instances, 0)].get(mode='fill', fill_value=0)


class _Runs(NamedTuple):
    """A chunk of runs; rows past the last run have a label that is dropped."""

    label: jax.Array
    length: jax.Array
    corner: jax.Array
    first: jax.Array


def _check(instances: jax.Array, n_labels: int) -> None:
    shape = list(instances.shape)
    if instances.ndim not in (2, 3):
        raise InputError('instances', f'array {shape}', '[z, y, x] or [y, x]')
    if not jnp.issubdtype(instances.dtype, jnp.integer):
        raise InputError('instances', f'dtype {instances.dtype}', 'integers')
    padded = shape[-1] + -shape[-1] % bits.WORD_BITS
    if math.prod(shape[:-1]) * padded >= 2**31 or max(shape) >= 2**15:
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
        return add(sums, _Runs(label, length, jnp.stack([*leading, x], -1), flat))

    n_chunks = -(-upto[0][-1] // _CHUNK)

    def group(i: jax.Array, sums: Any) -> Any:
        last = jnp.minimum((i + 1) * _GROUP, n_chunks)
        return settle(lax.fori_loop(i * _GROUP, last, chunk, sums))

    return lax.fori_loop(0, -(-n_chunks // _GROUP), group, start)


def _words(mask: jax.Array) -> jax.Array:
    """All words of a mask, filled up to whole blocks."""
    words = bits.pack(mask).reshape(-1)
    return lax.optimization_barrier(jnp.pad(words, (0, -words.size % 8)))
