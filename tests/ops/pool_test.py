"""Pooling and up-sampling against XLA's windows and numpy's repeat."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from sxt_jax.ops.pool import max_pool, upsample


def _oracle(x, window, padding):
    window = (1, *window, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, window, window, padding)


@pytest.mark.parametrize('padding', ['VALID', 'SAME'])
@pytest.mark.parametrize(
    ('shape', 'window'),
    [
        ((2, 4, 6, 8, 3), (2, 2, 2)),
        ((1, 5, 7, 9, 2), (2, 2, 2)),
        ((1, 5, 6, 6, 2), (1, 2, 3)),
        ((2, 7, 6, 3), (2, 2)),
    ],
)
@pytest.mark.parametrize('ties', [False, True])
def test_max_pool_equals_xla(shape, window, padding, ties):
    x = jax.random.normal(jax.random.key(0), shape)
    if ties:
        x = jnp.round(x)
    expected, pull = jax.vjp(lambda x: _oracle(x, window, padding), x)
    out, pull_own = jax.vjp(jax.jit(lambda x: max_pool(x, window, padding=padding)), x)
    np.testing.assert_array_equal(out, expected)
    g = jax.random.normal(jax.random.key(1), out.shape)
    np.testing.assert_array_equal(pull_own(g)[0], pull(g)[0])


@pytest.mark.parametrize('factors', [(2, 2, 2), (1, 2, 3)])
def test_upsample_repeats_voxels(factors):
    x = jax.random.normal(jax.random.key(0), (2, 3, 4, 2, 3))
    expected = np.asarray(x)
    for axis, f in enumerate(factors):
        expected = expected.repeat(f, axis + 1)
    out, pull = jax.vjp(lambda x: upsample(x, factors), x)
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_allclose(pull(jnp.ones_like(out))[0], np.prod(factors))


def test_keeps_bfloat16():
    x = jnp.ones((1, 4, 4, 2), jnp.bfloat16)
    assert max_pool(x, (2, 2)).dtype == upsample(x, (2, 2)).dtype == jnp.bfloat16
    assert jax.grad(lambda x: max_pool(x, (2, 2)).sum().astype(jnp.float32))(x).dtype == x.dtype


@pytest.mark.parametrize('factors', [(2, 2), (0, 1, 1)])
def test_says_what_does_not_fit(factors):
    x = jnp.ones((1, 4, 4, 4, 1))
    for function in (max_pool, upsample):
        with pytest.raises(ValueError, match='one per axis'):
            function(x, factors)


def test_unknown_padding():
    with pytest.raises(ValueError, match='REFLECT'):
        max_pool(jnp.ones((1, 4, 4, 1)), (2, 2), padding='REFLECT')
