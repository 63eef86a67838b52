"""Connected components of volumes that are labelled block by block."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import jax.numpy as jnp
import numpy as np
from scipy.sparse import coo_array, csgraph

from sxt_jax.core.blocks import make_blocks
from sxt_jax.core.box import Box
from sxt_jax.ops.components import connected_components

_SLAB = 2**24  # voxels that are renumbered at once


def components_by_blocks(
    labels_or_mask: np.ndarray, *, block: Sequence[int], connectivity: int | None = None
) -> np.ndarray:
    """`ops.components.connected_components` of a volume of which only a block is on the device.

    Each block is labelled by itself; labels that touch across a face, edge or corner of two blocks
    are one component (union-find: `scipy.sparse.csgraph`). The result does not depend on the block.

    Args:
      labels_or_mask: [z, y, x] or [y, x] bool or integers, on the host.
      block: sides of a block.
      connectivity: how many coordinates of neighbours may differ; None: any.

    Returns:
      int32 of the same shape, numbered in raster order of their first voxels.
    """
    n_dims = labels_or_mask.ndim
    connectivity = n_dims if connectivity is None else connectivity
    found = np.zeros(labels_or_mask.shape, np.int32)
    firsts = [np.zeros(0, np.int64)]
    n = 0
    for part in make_blocks(labels_or_mask.shape, block=block):
        local = _label_block(labels_or_mask, part.core, block, connectivity)
        firsts.append(_first_voxels(local, part.core, labels_or_mask.shape))
        found[part.core.slices] = np.where(local > 0, local + n, 0)
        n += len(firsts[-1])
    pairs = [
        _touching(labels_or_mask, found, axis, cut, connectivity)
        for axis, side in enumerate(block)
        for cut in range(side, labels_or_mask.shape[axis], side)
    ]
    number = _numbers(np.concatenate(firsts), pairs)
    flat = found.reshape(-1)
    for start in range(0, flat.size, _SLAB):
        rows = slice(start, start + _SLAB)
        flat[rows] = number[flat[rows]]
    return found


def _label_block(
    data: np.ndarray, core: Box, block: Sequence[int], connectivity: int
) -> np.ndarray:
    """Components of one block; background fills those that are cut short, for one shape."""
    sides = [min(n, b) for n, b in zip(data.shape, block, strict=True)]
    fill = [(0, b - n) for b, n in zip(sides, core.shape, strict=True)]
    padded = jnp.asarray(np.pad(data[core.slices], fill))
    labelled = np.asarray(connected_components(padded, connectivity=connectivity))
    return labelled[tuple(slice(n) for n in core.shape)]


def _first_voxels(local: np.ndarray, core: Box, shape: Sequence[int]) -> np.ndarray:
    """[n] int64 index, in the whole, of the first voxel of components numbered in raster order."""
    highest = np.maximum.accumulate(local.reshape(-1))
    places = np.flatnonzero(np.diff(highest, prepend=0))
    inside = np.unravel_index(places, local.shape)
    return np.ravel_multi_index(
        [i + start for i, start in zip(inside, core.start, strict=True)], tuple(shape)
    )


def _touching(
    data: np.ndarray, found: np.ndarray, axis: int, cut: int, connectivity: int
) -> np.ndarray:
    """[n, 2] numbers that touch where a volume is cut in front of a plane."""
    planes = [(data.take(i, axis), found.take(i, axis)) for i in (cut - 1, cut)]
    (before, ids_before), (behind, ids_behind) = planes
    plane = Box.of_shape(before.shape)
    pairs = [np.zeros((0, 2), np.int32)]
    for step in product((-1, 0, 1), repeat=before.ndim):
        if 1 + sum(map(abs, step)) > connectivity:
            continue
        here = plane.intersect(plane.shift([-s for s in step])).slices
        there = plane.intersect(plane.shift(step)).slices
        touch = (before[here] != 0) & (before[here] == behind[there])
        # As one number: rows are sorted a hundred times slower.
        both = ids_before[here][touch].astype(np.int64) << 32 | ids_behind[there][touch]
        found_here = np.unique(both)
        pairs.append(np.stack([found_here >> 32, found_here & 0xFFFFFFFF], 1).astype(np.int32))
    return np.concatenate(pairs)


def _numbers(firsts: np.ndarray, pairs: list[np.ndarray]) -> np.ndarray:
    """[n + 1] int32 final number of each provisional one, from 1 in raster order; 0 stays 0.

    Args:
      firsts: [n] index of the first voxel of the provisional components 1, 2, …
      pairs: of provisional numbers that are one component.
    """
    n = len(firsts)
    joined = np.concatenate([np.zeros((0, 2), np.int32), *pairs]) - 1
    graph = coo_array((np.ones(len(joined), np.int8), (joined[:, 0], joined[:, 1])), (n, n))
    n_whole, whole = csgraph.connected_components(graph, directed=False)
    first = np.full(n_whole, np.iinfo(np.int64).max)
    np.minimum.at(first, whole, firsts)
    rank = np.empty(n_whole, np.int32)
    rank[np.argsort(first)] = np.arange(1, n_whole + 1)
    return np.concatenate([[0], rank[whole]]).astype(np.int32)
