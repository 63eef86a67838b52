"""Connected components of masks and of label images.

Runs of equal voxels along the last axis are the nodes of a graph; where two runs touch there is an
edge, and all but a few of the edges that say nothing new are left out. Runs and touching voxels
are found on packed words (`ops.bits`), the graph is joined by hooking roots to smaller roots and
shortcutting (Shiloach & Vishkin, J. Algorithms 3:57, 1982; FastSV: Zhang, Azad & Hu, 2020).
How many runs and edges there are is not static: both are walked in chunks of a static size, so
that the time goes with their number, and nothing compiles anew for another image.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from sxt_jax.core.errors import InputError
from sxt_jax.ops import bits

_CHUNK = 1 << 15
_BATCH = 1 << 20

Offset = tuple[int, int, int]
_BEFORE_X: Offset = (0, 0, -1)
_BEFORE_Y: Offset = (0, -1, 0)


@functools.partial(jax.jit, static_argnames=('connectivity',))
def connected_components(
    labels_or_mask: jax.Array, *, connectivity: int | None = None
) -> jax.Array:
    """Components numbered 1… in raster order of their first voxel, as skimage.measure.label.

    Method: see the module.

    Args:
      labels_or_mask: [z, y, x] or [y, x]; bool: components of the mask; integer: neighbours with
        the same label are joined, 0 is background.
      connectivity: how many coordinates of neighbours may differ (by one): 1 for faces only, up to
        the number of axes; None for that.

    Returns:
      int32 of the same shape, 0 in the background.

    Raises:
      InputError: another rank, dtype or connectivity, or 2³¹ voxels and more.
    """
    n_dims = labels_or_mask.ndim
    connectivity = n_dims if connectivity is None else connectivity
    _check(labels_or_mask, connectivity)
    if labels_or_mask.size == 0:
        return jnp.zeros(labels_or_mask.shape, jnp.int32)
    volume = labels_or_mask.reshape((1,) * (3 - n_dims) + labels_or_mask.shape)
    same = _same_as_neighbour(volume, connectivity)
    filled = bits.pack(volume != 0)
    starts = lax.optimization_barrier(filled & ~same(_BEFORE_X))
    runs = _Runs(starts, bits.counts_before(starts))
    contacts, deltas = _contacts(same, connectivity)
    parents = _join(runs, contacts, deltas, max_runs=_max_runs(volume))
    numbers = _number_roots(parents, runs.number())
    run = bits.rank_everywhere(*runs, n_x=volume.shape[-1])
    components = numbers.at[jnp.maximum(run, 0)].get(mode='promise_in_bounds')
    return jnp.where(volume != 0, components, 0).reshape(labels_or_mask.shape)


def _check(array: jax.Array, connectivity: int) -> None:
    if array.ndim not in (2, 3):
        raise InputError(
            'connected_components', f'array {list(array.shape)}', '[z, y, x] or [y, x]'
        )
    if not (array.dtype == bool or jnp.issubdtype(array.dtype, jnp.integer)):
        raise InputError('connected_components', f'dtype {array.dtype}', 'bool or integers')
    if connectivity not in range(1, array.ndim + 1):
        raise InputError('connectivity', f'{connectivity}', f'1 to {array.ndim}')
    padded = array.shape[-1] + -array.shape[-1] % bits.WORD_BITS
    if int(np.prod(array.shape[:-1], dtype=np.int64)) * padded >= 2**31:
        raise InputError('connected_components', f'array {list(array.shape)}', 'below 2³¹ voxels')


def _max_runs(volume: jax.Array) -> int:
    """Most runs there can be, filled up to whole chunks: between runs of a mask there are gaps."""
    n_z, n_y, n_x = volume.shape
    runs = n_z * n_y * (-(-n_x // 2) if volume.dtype == bool else n_x)
    return runs + -runs % min(_CHUNK, runs)


def _same_as_neighbour(volume: jax.Array, connectivity: int) -> Callable[[Offset], jax.Array]:
    """For each offset the packed mask of filled voxels with the same label at p + offset."""
    if volume.dtype == bool:
        filled = lax.optimization_barrier(bits.pack(volume))
        return functools.cache(lambda offset: filled & bits.shift(filled, offset))

    @functools.cache
    def same(offset: Offset) -> jax.Array:
        opposite: Offset = (-offset[0], -offset[1], -offset[2])
        if offset > opposite:
            return bits.shift(same(opposite), offset)
        neighbour = lax.pad(volume, jnp.zeros((), volume.dtype), [(-d, d, 0) for d in offset])
        # Without a barrier each of its many users would compare all voxels again.
        return lax.optimization_barrier(bits.pack((volume != 0) & (volume == neighbour)))

    return same


def _contacts(
    same: Callable[[Offset], jax.Array], connectivity: int
) -> tuple[jax.Array, jax.Array]:
    """Touching voxels that join runs: packed masks, one for each direction to an earlier row.

    Left out are contacts that follow from others: between the same two runs one voxel before;
    through a voxel of the same label in the box that p and its neighbour span; and contacts
    between planes which two touching rows before have already.

    Returns:
      [n] uint32 words, kind after kind, each padded to a multiple of 8 words, and int32 [kind] how
      many bits before p its neighbour lies.
    """
    _, n_y, n_words = same(_BEFORE_X).shape
    kinds, deltas = [], []
    offsets = itertools.product((-1, 0, 1), (-1, 0, 1), (-1, 0, 1))
    # Faces first: after them most of the others lie within a tree already.
    for offset in sorted(offsets, key=_n_steps):
        if not offset < _BEFORE_X or _n_steps(offset) > connectivity:
            continue
        known = functools.reduce(jnp.bitwise_or, map(same, _between(offset)), jnp.uint32(0))
        if offset[2] == 0:
            known |= bits.shift(same(offset), _BEFORE_X) & same(_BEFORE_X)
        if offset[1] == 0:
            known |= bits.shift(same(offset), _BEFORE_Y) & same(_BEFORE_Y)
        words = (same(offset) & ~known).reshape(-1)
        kinds.append(jnp.pad(words, (0, -words.size % 8)))
        row_bits = n_words * bits.WORD_BITS
        deltas.append(-((offset[0] * n_y + offset[1]) * row_bits + offset[2]))
    return jnp.concatenate(kinds), jnp.asarray(deltas, jnp.int32)


def _n_steps(offset: Offset) -> int:
    return sum(map(abs, offset))


def _between(offset: Offset) -> list[Offset]:
    """Corners of the box between 0 and an offset, without these two."""
    corners = itertools.product(*((0, d) if d else (0,) for d in offset))
    return [(z, y, x) for z, y, x in corners if (z, y, x) not in ((0, 0, 0), offset)]


class _Runs(NamedTuple):
    """Runs by their first voxels: packed, and how many there are before each word."""

    starts: jax.Array
    before: jax.Array

    def number(self) -> jax.Array:
        """Number of runs."""
        last = lax.population_count(self.starts[-1, -1, -1]).astype(jnp.int32)
        return self.before[-1, -1, -1] + last

    def at(self, position: jax.Array) -> jax.Array:
        """Run of each bit position."""
        return bits.rank(self.starts, self.before, position)


class _Edges(NamedTuple):
    """Pairs of runs in the first `n` places of two buffers."""

    one: jax.Array
    other: jax.Array
    n: jax.Array

    def append(self, one: jax.Array, other: jax.Array, keep: jax.Array) -> _Edges:
        """With those of some more edges that are to be kept."""
        upto = self.n + jnp.cumsum(keep.astype(jnp.int32))
        place = jnp.where(keep, upto - 1, self.one.size)
        return _Edges(
            self.one.at[place].set(one, mode='drop'),
            self.other.at[place].set(other, mode='drop'),
            upto[-1],
        )


def _join(runs: _Runs, contacts: jax.Array, deltas: jax.Array, *, max_runs: int) -> jax.Array:
    """Root (smallest run) of every run.

    Contacts become edges in batches. In each round every edge between two trees hooks the larger
    root to the smaller one; where many want the same root the smallest wins and the others stay for
    the next round. Then all paths are cut short, and edges within a tree are dropped.
    """
    n_runs, upto_block = runs.number(), bits.block_counts(contacts)
    size = min(_BATCH, contacts.size * bits.WORD_BITS)
    empty = jnp.zeros(size + -size % _CHUNK, jnp.int32)

    def round_(state: tuple[jax.Array, _Edges]) -> tuple[jax.Array, _Edges]:
        parents, edges = state
        parents = _shortcut(_hook(parents, edges), n_runs)
        return parents, _drop_joined(parents, edges)

    def batch(i: jax.Array, parents: jax.Array) -> jax.Array:
        def add(chunk: jax.Array, edges: _Edges) -> _Edges:
            number = chunk * _CHUNK + jnp.arange(_CHUNK, dtype=jnp.int32)
            one, other = _ends(runs, bits.select(contacts, upto_block, number), deltas)
            one, other = parents[one], parents[other]
            return edges.append(one, other, (number < upto_block[-1]) & (one != other))

        per_batch, n_chunks = empty.size // _CHUNK, -(-upto_block[-1] // _CHUNK)
        first, last = i * per_batch, jnp.minimum((i + 1) * per_batch, n_chunks)
        edges = lax.fori_loop(first, last, add, _Edges(empty, empty, jnp.int32(0)))
        return lax.while_loop(lambda state: state[1].n > 0, round_, (parents, edges))[0]

    return lax.fori_loop(
        0, -(-upto_block[-1] // empty.size), batch, jnp.arange(max_runs, dtype=jnp.int32)
    )


def _ends(runs: _Runs, contact: jax.Array, deltas: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Runs on both sides of contacts given by their bit positions, kind after kind."""
    kind_bits = runs.starts.size * bits.WORD_BITS
    kind_bits += -kind_bits % (8 * bits.WORD_BITS)
    here = contact % kind_bits
    # The position of a number beyond the last contact is arbitrary, its neighbour may be nowhere.
    there = jnp.maximum(here - deltas[contact // kind_bits], 0)
    return runs.at(here), runs.at(there)


def _hook(parents: jax.Array, edges: _Edges) -> jax.Array:
    """Roots hooked to the smallest root that an edge leads to."""

    def hook(i: jax.Array, parents: jax.Array) -> jax.Array:
        a = lax.dynamic_slice(edges.one, (i * _CHUNK,), (_CHUNK,))
        b = lax.dynamic_slice(edges.other, (i * _CHUNK,), (_CHUNK,))
        number = i * _CHUNK + jnp.arange(_CHUNK, dtype=jnp.int32)
        high = jnp.where(number < edges.n, jnp.maximum(a, b), parents.size)
        return parents.at[high].min(jnp.minimum(a, b), mode='drop')

    return lax.fori_loop(0, -(-edges.n // _CHUNK), hook, parents)


def _drop_joined(parents: jax.Array, edges: _Edges) -> _Edges:
    """Edges between roots, without those whose ends have one root by now."""

    def walk(i: jax.Array, kept: _Edges) -> _Edges:
        # Kept edges are written to places that have been read.
        a = parents[lax.dynamic_slice(kept.one, (i * _CHUNK,), (_CHUNK,))]
        b = parents[lax.dynamic_slice(kept.other, (i * _CHUNK,), (_CHUNK,))]
        number = i * _CHUNK + jnp.arange(_CHUNK, dtype=jnp.int32)
        return kept.append(a, b, (number < edges.n) & (a != b))

    start = edges._replace(n=jnp.int32(0))
    return lax.fori_loop(0, -(-edges.n // _CHUNK), walk, start)


def _shortcut(parents: jax.Array, n_runs: jax.Array) -> jax.Array:
    """Every run's parent becomes its root.

    A parent comes before its children, so chunk after chunk finds all parents outside of itself to
    be roots; within the chunk the paths are halved until none is left.
    """
    size = min(_CHUNK, parents.shape[0])

    def walk(i: jax.Array, parents: jax.Array) -> jax.Array:
        first = i * size
        chunk = lax.dynamic_slice(parents, (first,), (size,))
        # The chunk is worked on apart: XLA copies arrays that are read again after a write.
        chunk = jnp.where(chunk < first, parents[chunk], chunk)

        def jump(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            old, _ = state
            new = jnp.where(old < first, old, old[jnp.maximum(old - first, 0)])
            return new, jnp.any(old != new)

        chunk = lax.while_loop(lambda state: state[1], jump, (chunk, jnp.bool_(True)))[0]
        return lax.dynamic_update_slice(parents, chunk, (first,))

    return lax.fori_loop(0, -(-n_runs // size), walk, parents)


def _number_roots(parents: jax.Array, n_runs: jax.Array) -> jax.Array:
    """Number of each run's component, from 1 in the order of the roots."""
    size = min(_CHUNK, parents.shape[0])

    def walk(chunk: jax.Array, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        numbers, count = state
        run = chunk * size + jnp.arange(size, dtype=jnp.int32)
        root = lax.dynamic_slice(parents, (chunk * size,), (size,))
        own = count + jnp.cumsum((root == run).astype(jnp.int32))
        numbers = lax.dynamic_update_slice(numbers, own, (chunk * size,))
        numbers = lax.dynamic_update_slice(numbers, numbers[root], (chunk * size,))
        return numbers, own[-1]

    start = jnp.zeros_like(parents), jnp.int32(0)
    return lax.fori_loop(0, -(-n_runs // size), walk, start)[0]
