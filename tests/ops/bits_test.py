"""Packed masks against plain ones."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from sxt_jax.ops import bits


def test_pack_shift_unpack():
    mask = np.random.default_rng(0).random((4, 5, 70)) < 0.5
    words = bits.pack(jnp.asarray(mask))
    assert words.shape == (4, 5, 3)
    np.testing.assert_array_equal(bits.unpack(words, n_x=70), mask)
    padded = np.pad(mask, ((1, 1), (1, 1), (40, 40)))
    for dz, dy, dx in itertools.product((-1, 0, 1), (-1, 1), (-32, -5, 0, 1, 31)):
        moved = bits.unpack(bits.shift(words, (dz, dy, dx)), n_x=70)
        expected = padded[1 + dz : 5 + dz, 1 + dy : 6 + dy, 40 + dx : 110 + dx]
        np.testing.assert_array_equal(moved, expected)


def test_rank_and_select():
    rng = np.random.default_rng(1)
    for share in (0.003, 0.4, 1):
        mask = rng.random((8, 8, 64)) < share
        words = bits.pack(jnp.asarray(mask))
        set_ = np.flatnonzero(mask)
        before = bits.counts_before(words)
        upto = np.cumsum(mask).reshape(mask.shape) - 1
        np.testing.assert_array_equal(bits.rank_everywhere(words, before, n_x=64), upto)
        positions = rng.integers(0, mask.size, 100)
        ranks = bits.rank(words, before, jnp.asarray(positions))
        np.testing.assert_array_equal(ranks, upto.ravel()[positions])
        blocks = bits.block_counts(words.reshape(-1))
        assert blocks[-1] == set_.size
        found = jax.jit(bits.select)(words.reshape(-1), blocks, jnp.arange(set_.size))
        np.testing.assert_array_equal(found, set_)
