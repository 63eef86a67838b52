"""2-D networks on volumes: slices as a batch, forwards and in training."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from sxt_jax.models.blocks import BatchNorm
from sxt_jax.models.slicewise import apply_to_volumes, input_shape, side_multiple


class _Net(nn.Module):
    n_dims: int = 2
    side_multiple: int = 4

    @nn.compact
    def __call__(self, x, *, train=False):
        assert x.ndim == self.n_dims + 2
        return {'mask': BatchNorm()(x, train=train), 'style': jnp.mean(x, (1, 2))}


def test_slices_are_a_batch():
    x = jax.random.normal(jax.random.key(0), (2, 3, 4, 8, 1))
    model = _Net()
    variables = model.init(jax.random.key(1), x[:, 0])
    heads, updated = apply_to_volumes(model, variables, x, train=True, mutable=['batch_stats'])
    assert heads['mask'].shape == x.shape
    assert heads['style'].shape == (2, 3, 1)
    np.testing.assert_allclose(heads['style'], x.mean((2, 3)), atol=1e-6)
    running = next(iter(updated['batch_stats'].values()))
    np.testing.assert_allclose(running['mean'], 0.01 * x.mean(), atol=1e-6)
    at_rest = apply_to_volumes(model, variables, x)
    np.testing.assert_allclose(at_rest['mask'][1, 2], model.apply(variables, x[1])['mask'][2])


def test_three_dimensional_networks_get_volumes_as_they_are():
    model = _Net(n_dims=3)
    x = jnp.ones((2, 4, 4, 4, 1))
    assert apply_to_volumes(model, model.init(jax.random.key(0), x), x)['mask'].shape == x.shape


def test_shapes_of_volumes_and_inputs():
    assert input_shape(_Net(), (1, 16, 8), 2) == (1, 16, 8, 2)
    assert input_shape(_Net(n_dims=3), (4, 16, 8), 2) == (1, 4, 16, 8, 2)
    assert side_multiple(_Net()) == (1, 4, 4)
    assert side_multiple(_Net(n_dims=3)) == (4, 4, 4)
    assert side_multiple(nn.Dense(1)) == (1, 1, 1)
