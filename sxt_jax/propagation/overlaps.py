"""Which region of a slice overlaps which of the next, and which of them fit best."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sxt_jax.metrics import Contingency, contingency_table

_MAX_BINS = 1 << 24  # of the dense table on a device: 64 MiB


class Links(NamedTuple):
    """Pairs of overlapping regions, a row each.

    Attributes:
      before, after: [k] int64 place of the region among those of its slice, by ascending id.
      n_pixels: [k] int64 pixels that both have.
      iou: [k] float64 of these over those of either.
      is_predecessor: [k] bool, `before` is the best match of `after` in the slice before.
      is_successor: [k] bool, `after` is the best match of `before` in the slice after.
    """

    before: np.ndarray
    after: np.ndarray
    n_pixels: np.ndarray
    iou: np.ndarray
    is_predecessor: np.ndarray
    is_successor: np.ndarray


def overlap_table(before: Any, after: Any) -> Contingency:
    """The joint histogram of the regions of two slices, counted where they are.

    Slices that are both on an accelerator are counted there, all others on the host by
    `contingency_table`.

    Args:
      before, after: [y, x] whole numbers, ids of the regions, 0 is background.

    Returns:
      The table, with the slice before as `true` and the slice after as `pred`.

    Raises:
      InputError: as `contingency_table`.
    """
    if on_accelerator(before) and on_accelerator(after) and before.shape == after.shape:
        n_before, n_after = _n_ids(before), _n_ids(after)
        if n_before * n_after <= _MAX_BINS and before.size < 1 << 32:
            counts = count_pairs(before, after, n_before=n_before, n_after=n_after)
            return _sparse(np.asarray(counts))
    return contingency_table(after, before)


def find_links(table: Contingency) -> Links:
    """All overlaps, and of each region which one has the greatest IoU.

    Args:
      table: of `overlap_table`; of equal matches the one with the smaller id counts.
    """
    both = (table.true_index >= 0) & (table.pred_index >= 0)
    before, after = table.true_index[both], table.pred_index[both]
    n_pixels = table.voxels[both]
    union = table.true_sizes[before] + table.pred_sizes[after] - n_pixels
    iou = n_pixels / union
    is_predecessor = _first_of_each(after, iou, before)
    is_successor = _first_of_each(before, iou, after)
    return Links(before, after, n_pixels, iou, is_predecessor, is_successor)


@functools.partial(jax.jit, static_argnames=('n_before', 'n_after'))
def count_pairs(before: jax.Array, after: jax.Array, *, n_before: int, n_after: int) -> jax.Array:
    """The dense joint histogram of two slices, made for accelerators.

    A run of equal pairs from pixel s to e counts −s where it begins and +e where it ends: only
    changes are added up, tens of times fewer than pixels, and no bin is added to by all pixels.

    Args:
      before, after: [y, x] whole numbers below the number of ids, with fewer than 2³² pixels.
      n_before, n_after: number of ids, 0 included, static; their product is below 2³¹.

    Returns:
      [n_before, n_after] uint32 pixels.
    """
    key = before.reshape(-1).astype(jnp.int32) * n_after + after.reshape(-1).astype(jnp.int32)
    n_bins = n_before * n_after
    edge = jnp.ones(1, bool)
    changes = key[1:] != key[:-1]
    position = jnp.arange(key.size, dtype=jnp.uint32)
    begins = jnp.where(jnp.concatenate([edge, changes]), key, n_bins)
    ends = jnp.where(jnp.concatenate([changes, edge]), key, n_bins)
    # Sums wrap around at 2³², and so do their differences: the counts are exact.
    counts = jnp.zeros(n_bins, jnp.uint32).at[ends].add(position + 1, mode='drop')
    return counts.at[begins].add(-position, mode='drop').reshape(n_before, n_after)


def on_accelerator(labels: Any) -> bool:
    """Whether an array lies on devices faster than the CPU."""
    return isinstance(labels, jax.Array) and all(d.platform != 'cpu' for d in labels.devices())


def _n_ids(labels: jax.Array) -> int:
    """One more than the largest id, rounded up to a power of two: few programs are compiled."""
    return 1 << math.ceil(math.log2(max(int(labels.max(initial=0)) + 1, 2)))


def _sparse(counts: np.ndarray) -> Contingency:
    counts = counts.astype(np.int64)
    true, pred = np.nonzero(counts)
    of_true, of_pred = counts.sum(1), counts.sum(0)
    true_ids, pred_ids = (np.flatnonzero(sizes[1:]) + 1 for sizes in (of_true, of_pred))
    return Contingency(
        true_ids, of_true[true_ids], pred_ids, of_pred[pred_ids],
        _places(true, true_ids), _places(pred, pred_ids), counts[true, pred],
    )  # fmt: skip


def _places(values: np.ndarray, ids: np.ndarray) -> np.ndarray:
    return np.where(values > 0, np.searchsorted(ids, values), -1)


def _first_of_each(group: np.ndarray, score: np.ndarray, other: np.ndarray) -> np.ndarray:
    """[k] bool, the row of each group with the best score and, of these, the smallest other."""
    order = np.lexsort((other, -score, group))
    best = np.zeros(len(group), bool)
    best[order[np.diff(group[order], prepend=-1) > 0]] = True
    return best
