"""Masks packed 32 voxels to a word along their last axis, in raster order from the lowest bit.

A packed mask is 32 times fewer elements than voxels: neighbours are shifted words, set voxels are
counted by population count, and the n-th set voxel is found by a search over counts (succinct
rank and select: Jacobson, FOCS 1989).
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

WORD_BITS = 32
_BLOCK_WORDS = 8


def pack(mask: jax.Array) -> jax.Array:
    """Voxels to words; the last axis is filled up with False.

    Args:
      mask: [..., x] bool.

    Returns:
      [..., ceil(x / 32)] uint32.
    """
    fill = -mask.shape[-1] % WORD_BITS
    padded = jnp.pad(mask, [(0, 0)] * (mask.ndim - 1) + [(0, fill)])
    bits = padded.reshape(*mask.shape[:-1], -1, WORD_BITS).astype(jnp.uint32)
    return jnp.sum(bits << jnp.arange(WORD_BITS, dtype=jnp.uint32), -1, dtype=jnp.uint32)


def unpack(words: jax.Array, *, n_x: int) -> jax.Array:
    """Words to voxels.

    Args:
      words: [..., w] uint32 of `pack`.
      n_x: voxels along the last axis.

    Returns:
      [..., n_x] bool.
    """
    bits = (words[..., None] >> jnp.arange(WORD_BITS, dtype=jnp.uint32)) & 1
    return bits.reshape(*words.shape[:-1], -1)[..., :n_x].astype(bool)


def shift(words: jax.Array, offset: Sequence[int]) -> jax.Array:
    """The packed mask read at p + offset for every voxel p, False outside.

    Args:
      words: [..., w] uint32.
      offset: voxels per axis; |last| ≤ 32.
    """
    *leading, dx = offset
    pads = [(-d, d, 0) for d in leading]
    zero = jnp.uint32(0)
    if any(leading):
        words = lax.pad(words, zero, [*pads, (0, 0, 0)])
    if dx == 0:
        return words
    step = 1 if dx > 0 else -1
    near = lax.pad(words, zero, [(0, 0, 0)] * len(leading) + [(-step, step, 0)])
    if abs(dx) == WORD_BITS:
        return near
    keep, bring = jnp.uint32(abs(dx)), jnp.uint32(WORD_BITS - abs(dx))
    return (words >> keep) | (near << bring) if dx > 0 else (words << keep) | (near >> bring)


def counts_before(words: jax.Array) -> jax.Array:
    """Set bits in all words before each one, in raster order.

    Args:
      words: [..., w] uint32.

    Returns:
      int32 of the same shape.
    """
    counts = lax.population_count(words).astype(jnp.int32).reshape(-1)
    return (jnp.cumsum(counts) - counts).reshape(words.shape)


def rank(words: jax.Array, before: jax.Array, position: jax.Array) -> jax.Array:
    """Set bits at or before a position, less one: the number of the set bit a position follows.

    Args:
      words: [..., w] uint32.
      before: `counts_before(words)`.
      position: [n] int32 bit positions in raster order.
    """
    word, bit = position // WORD_BITS, position % WORD_BITS
    upto = jnp.uint32(0xFFFFFFFF) >> (WORD_BITS - 1 - bit).astype(jnp.uint32)
    inside = lax.population_count(words.reshape(-1)[word] & upto).astype(jnp.int32)
    return before.reshape(-1)[word] + inside - 1


def rank_everywhere(words: jax.Array, before: jax.Array, *, n_x: int) -> jax.Array:
    """`rank` of every voxel.

    Returns:
      [..., n_x] int32.
    """
    upto = jnp.uint32(0xFFFFFFFF) >> jnp.arange(WORD_BITS - 1, -1, -1, dtype=jnp.uint32)
    inside = lax.population_count(words[..., None] & upto).astype(jnp.int32)
    ranks = before[..., None] + inside - 1
    return ranks.reshape(*words.shape[:-1], -1)[..., :n_x]


def block_counts(words: jax.Array) -> jax.Array:
    """Set bits up to and with each block of eight words, for `select`.

    Args:
      words: [n] uint32, n a multiple of 8.

    Returns:
      [n / 8] int32, the last one the number of set bits.
    """
    counts = lax.population_count(words).astype(jnp.int32)
    return jnp.cumsum(counts.reshape(-1, _BLOCK_WORDS).sum(1))


def select(words: jax.Array, upto_block: jax.Array, number: jax.Array) -> jax.Array:
    """Position of the number-th set bit, from 0; numbers beyond the last give positions unsaid.

    Args:
      words: [n] uint32.
      upto_block: `block_counts(words)`.
      number: [k] int32, ≥ 0.

    Returns:
      [k] int32 within [0, 32 n).
    """
    n_blocks = upto_block.shape[0]
    block = jnp.searchsorted(upto_block, number, side='right', method='scan_unrolled')
    block = jnp.minimum(block, n_blocks - 1).astype(jnp.int32)
    rows = words.reshape(-1, _BLOCK_WORDS)[block]
    counts = lax.population_count(rows).astype(jnp.int32)
    upto = jnp.cumsum(counts, 1)
    left = number - upto_block[block] + upto[:, -1]
    word = jnp.minimum(jnp.sum(upto <= left[:, None], 1, dtype=jnp.int32), _BLOCK_WORDS - 1)
    here = jnp.arange(_BLOCK_WORDS) == word[:, None]
    left = left - jnp.sum(jnp.where(here, upto - counts, 0), 1)
    bits = jnp.sum(jnp.where(here, rows, 0), 1, dtype=jnp.uint32)
    return (block * _BLOCK_WORDS + word) * WORD_BITS + _select_in_word(bits, left)


def _select_in_word(bits: jax.Array, number: jax.Array) -> jax.Array:
    """Position of the number-th set bit of each word, by halves."""
    position = jnp.zeros_like(number)
    for width in (16, 8, 4, 2, 1):
        low = bits & jnp.uint32((1 << width) - 1)
        count = lax.population_count(low).astype(jnp.int32)
        up = number >= count
        position = jnp.where(up, position + width, position)
        number = jnp.where(up, number - count, number)
        bits = jnp.where(up, bits >> width, low)
    return position
