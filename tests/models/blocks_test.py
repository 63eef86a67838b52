"""Blocks: normalisation against numpy, convolutions against the kernel they hold."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from sxt_jax.models.blocks import BatchNorm, Conv, DoubleBlock, InstanceNorm, glorot_uniform


def test_batch_norm_has_the_constants_of_keras():
    x = np.random.default_rng(0).normal(3.0, 2.0, (4, 5, 6, 2)).astype(np.float32)
    norm = BatchNorm()
    variables = norm.init(jax.random.key(0), x, train=False)
    y, updates = norm.apply(variables, x, train=True, mutable=['batch_stats'])
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(variance + 1e-3), atol=1e-5)
    running = updates['batch_stats']
    np.testing.assert_allclose(running['mean'], 0.01 * mean, rtol=1e-5)
    np.testing.assert_allclose(running['var'], 0.99 + 0.01 * variance, rtol=1e-5)
    at_rest = norm.apply(variables, x, train=False)
    np.testing.assert_allclose(at_rest, x / np.sqrt(1 + 1e-3), rtol=1e-5)


def test_batch_norm_variance_survives_a_large_mean():
    x = 1000 + np.random.default_rng(0).normal(0, 0.1, (1, 50, 50, 1)).astype(np.float32)
    norm = BatchNorm()
    variables = norm.init(jax.random.key(0), x, train=False)
    y = norm.apply(variables, x, train=True, mutable=['batch_stats'])[0]
    expected = (x - x.mean(dtype=np.float64)) / np.sqrt(x.var(dtype=np.float64) + 1e-3)
    np.testing.assert_allclose(y, expected, atol=1e-2)


def test_conv_adds_its_bias_and_starts_as_glorot():
    model = Conv(64, (3, 3), dtype=jnp.bfloat16)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 4, 4, 32)))
    params = variables['params']
    assert {a.dtype for a in jax.tree.leaves(params)} == {jnp.dtype('float32')}
    limit = np.sqrt(6 / (9 * (32 + 64)))
    assert 0.95 * limit < np.abs(params['kernel']).max() <= limit
    params = {**params, 'bias': jnp.arange(64.0)}
    y = model.apply({'params': params}, jnp.zeros((1, 4, 4, 32)))
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(y, np.float32)[0, 1, 2], np.arange(64))


def test_residual_block_passes_its_input_on():
    block = DoubleBlock(3, residual=True, n_dims=2)
    x = jax.random.normal(jax.random.key(0), (2, 6, 5, 2))
    variables = jax.tree.map(jnp.zeros_like, block.init(jax.random.key(1), x, train=False))
    shortcut = jax.random.normal(jax.random.key(2), (1, 1, 2, 3))
    variables['params']['shortcut']['kernel'] = shortcut
    y = block.apply(variables, x, train=False)
    np.testing.assert_allclose(y, jax.nn.relu(x @ shortcut[0, 0]), atol=1e-5)


def test_kernels_are_drawn_as_by_flax():
    for shape in ((3, 3, 3, 2, 5), (2, 2, 4, 3), (1, 1, 1, 8, 2)):
        expected = nn.initializers.glorot_uniform()(jax.random.key(7), shape)
        found = glorot_uniform(jax.random.key(7), shape)
        np.testing.assert_allclose(np.sort(found, None), np.sort(expected, None), rtol=1e-5)


@pytest.mark.parametrize('norm', ['batch', 'instance'])
def test_normalisations_have_the_gradients_of_their_equation(norm):
    rng = np.random.default_rng(0)
    x, g = (rng.normal(2.0, 3.0, (2, 3, 4, 5, 6)).astype(np.float32) for _ in range(2))
    model = BatchNorm() if norm == 'batch' else InstanceNorm()
    params = {'scale': rng.normal(size=6), 'bias': rng.normal(size=6)} if norm == 'batch' else {}
    axes, epsilon = ((0, 1, 2, 3), 1e-3) if norm == 'batch' else ((1, 2, 3), 1e-5)
    stats = {'batch_stats': {'mean': np.zeros(6), 'var': np.ones(6)}} if norm == 'batch' else {}

    def ours(params, x):
        if norm == 'instance':
            return jnp.sum(model.apply({}, x) * g)
        variables = {'params': params, **stats}
        return jnp.sum(model.apply(variables, x, train=True, mutable=['batch_stats'])[0] * g)

    def plain(params, x):
        y = x - x.mean(axes, keepdims=True)
        y = y / jnp.sqrt(jnp.square(y).mean(axes, keepdims=True) + epsilon)
        return jnp.sum((y * params.get('scale', 1.0) + params.get('bias', 0.0)) * g)

    found = jax.jit(jax.grad(ours, (0, 1)))(params, x)
    expected = jax.grad(plain, (0, 1))(params, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), found, expected)
