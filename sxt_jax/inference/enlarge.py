"""Predictions on bins, back on the voxels: bin after bin along z, whatever the volume's depth."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from sxt_jax.inference.apply import Finish, Heads

T = TypeVar('T')


def enlarge_bins(
    slabs: Iterable[Mapping[str, np.ndarray]],
    *,
    binning: tuple[int, int, int],
    shape: Sequence[int],
    finish: Finish,
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Heads interpolated trilinearly from bins to voxels, and then finished.

    No more voxels than those of one bin along z are held at once: they take many times the memory
    of bins.

    Args:
      slabs: consecutive slabs of heads [z / l, y / n, x / m, k], from the first bin to the last.
      binning: (l, n, m) voxels of a bin.
      shape: (z, y, x) voxels; the last bins may reach beyond them.
      finish: of heads of voxels, such as `keep_classes`; the same function for the same work.

    Yields:
      First slice and finished heads of at most l slices.
    """
    rows = (
        {name: head[i : i + 1] for name, head in slab.items()}
        for slab in slabs
        for i in range(len(next(iter(slab.values()))))
    )
    z, sides = 0, (shape[1], shape[2])
    for three in _with_neighbours(rows):
        needed = three if binning[0] > 1 else three[1:2]
        heads = {name: np.concatenate([row[name] for row in needed]) for name in three[1]}
        large = jax.device_get(_enlarge_middle(heads, binning, sides, finish))
        yield z, {name: head[: shape[0] - z] for name, head in large.items()}
        z += binning[0]


def _with_neighbours(rows: Iterable[T]) -> Iterator[tuple[T, T, T]]:
    """Each row between the one before it and the one behind; at the ends itself stands for them."""
    before: T | None = None
    row: T | None = None
    for behind in rows:
        if row is not None:
            yield row if before is None else before, row, behind
            before = row
        row = behind
    if row is not None:
        yield row if before is None else before, row, row


@partial(jax.jit, static_argnames=('binning', 'sides', 'finish'))
def _enlarge_middle(
    heads: Heads, binning: tuple[int, int, int], sides: tuple[int, int], finish: Finish
) -> Heads:
    """The slices of the middle one of three rows of bins, of which one is enough without depth."""
    depth, slices = binning[0], heads
    if depth > 1:
        slices = {name: _grow(head, 0, depth)[depth : 2 * depth] for name, head in heads.items()}
    return finish({name: _enlarge(head, binning, sides) for name, head in slices.items()})


def _enlarge(x: jax.Array, binning: Sequence[int], sides: tuple[int, int]) -> jax.Array:
    for axis in (1, 2):
        x = _grow(x, axis, binning[axis])
    return x[:, : sides[0], : sides[1]]


def _grow(x: jax.Array, axis: int, n: int) -> jax.Array:
    """Sums of shifted images: a product with a matrix would be dense, and its weights nearly 0."""
    if n == 1:
        return x
    side = x.shape[axis]
    first, last = (lax.slice_in_dim(x, i, i + 1, axis=axis) for i in (0, side - 1))
    before = jnp.concatenate([first, lax.slice_in_dim(x, 0, side - 1, axis=axis)], axis)
    behind = jnp.concatenate([lax.slice_in_dim(x, 1, side, axis=axis), last], axis)
    places = [(i + 0.5) / n - 0.5 for i in range(n)]
    pixels = [x + abs(place) * ((before if place < 0 else behind) - x) for place in places]
    longer = [n * m if a == axis else m for a, m in enumerate(x.shape)]
    return jnp.stack(pixels, axis + 1).reshape(longer)
