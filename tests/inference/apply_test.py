"""Functions of tiles: heads activated by what the model says, slices as a batch for 2-D models."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sxt_jax.core.errors import InputError
from sxt_jax.inference import make_apply_fn, predict_slabs, predict_volume
from sxt_jax.inference.apply import side_multiple


class Heads(nn.Module):
    """One 1³ (or 1²) convolution for each of several heads."""

    n_dims: int = 3
    side_multiple: int = 4
    activation: str = 'softmax'

    @property
    def head_activations(self):
        return {'logits': self.activation, 'label': 'tanh', 'mask': 'sigmoid', 'image': None}

    @nn.compact
    def __call__(self, x, *, train):
        assert x.ndim == self.n_dims + 2
        x = nn.BatchNorm(use_running_average=not train)(x)
        return {
            name: nn.Dense(3, name=name)(x).astype(jnp.bfloat16)
            for name in ('logits', 'label', 'mask', 'image')
        }


def make(n_dims=3, **fields):
    model = Heads(n_dims=n_dims, **fields)
    x = jnp.zeros((1, *(4,) * n_dims, 2))
    return model, jax.jit(model.init, static_argnames='train')(jax.random.key(0), x, train=False)


def test_heads_are_activated_in_float32():
    model, variables = make()
    tiles = np.random.default_rng(0).random((2, 4, 4, 4, 2), np.float32)
    heads = jax.jit(make_apply_fn(model))(variables, tiles)
    raw = {n: v.astype(jnp.float32) for n, v in model.apply(variables, tiles, train=False).items()}
    assert heads.keys() == {'probs', 'label', 'mask', 'image'}
    assert all(head.dtype == jnp.float32 for head in heads.values())
    np.testing.assert_allclose(heads['probs'], jax.nn.softmax(raw['logits']), rtol=1e-6)
    np.testing.assert_allclose(heads['label'], np.tanh(raw['label']), rtol=1e-5)
    np.testing.assert_allclose(heads['mask'], 1 / (1 + np.exp(-raw['mask'])), rtol=1e-5)
    np.testing.assert_array_equal(heads['image'], raw['image'])


def test_two_dimensional_models_take_slices():
    model, variables = make(n_dims=2)
    apply_fn = make_apply_fn(model)
    assert side_multiple(apply_fn) == (1, 4, 4)
    image = np.random.default_rng(0).random((5, 9, 10, 2), np.float32)
    expected = model.apply(variables, image, train=False)['image'].astype(jnp.float32)
    for tile_z in (1, 3):
        out = predict_volume(apply_fn, variables, image, tile=(tile_z, 8, 8), overlap=(0, 4, 4))
        np.testing.assert_allclose(out['image'], expected, atol=1e-5)


def test_tiles_must_suit_the_network():
    model, variables = make()
    options = {'tile': 10, 'overlap': 2}
    with pytest.raises(InputError, match=r'multiples of \(4, 4, 4\)'):
        predict_slabs(make_apply_fn(model), variables, np.zeros((9, 9, 9, 2)), **options)


def test_the_wrong_number_of_channels_is_named():
    model, variables = make()
    with pytest.raises(InputError, match='image: 1 channels'):
        predict_slabs(make_apply_fn(model), variables, np.zeros((9, 9, 9)), tile=8, overlap=2)


def test_a_model_in_place_of_its_function_is_refused():
    model, variables = make()
    with pytest.raises(InputError, match=r'apply_fn: the model Heads; expected make_apply_fn'):
        predict_slabs(model, variables, np.zeros((9, 9, 9, 2)), tile=8, overlap=2)


def test_unknown_activations_are_refused():
    model, variables = make(activation='relu6')
    with pytest.raises(InputError, match='relu6'):
        make_apply_fn(model)(variables, jnp.zeros((1, 4, 4, 4, 2)))
