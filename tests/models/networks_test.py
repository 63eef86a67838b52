"""What every network can do: both dtypes, jit, vmap, gradients, eight devices, odd volumes."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sxt_jax.core import devices
from sxt_jax.core.errors import InputError
from sxt_jax.inference import make_apply_fn, predict_volume
from sxt_jax.models import NETWORKS, build_model, model_config
from sxt_jax.models.slicewise import side_multiple

# Small ones of every network and form: config, (z, y, x) sides of a patch, channels.
CASES = {
    'unet3d': ({'name': 'unet3d', 'filters': (2, 3)}, (4, 4, 8), 2),
    'unet3d residual': ({'name': 'unet3d', 'filters': (2, 3), 'residual': True}, (4, 4, 8), 1),
}
DTYPES = ('float32', 'bfloat16')


@functools.cache
def _network(case, dtype='float32'):
    """(model, its variables, a batch of two inputs)."""
    config, sides, n_channels = CASES[case]
    model = build_model({**config, 'dtype': dtype})
    sides = sides[3 - model.n_dims :]
    x = jax.random.normal(jax.random.key(1), (2, *sides, n_channels))
    return model, jax.jit(model.init)(jax.random.key(0), x), x


def _train(model, variables, x):
    """Gradient, heads and updated statistics of a training step."""

    def loss(params):
        heads, updates = model.apply(
            {**variables, 'params': params},
            x,
            train=True,
            mutable=['batch_stats'],
            rngs={'dropout': jax.random.key(2)},
        )
        return sum(jnp.mean(jnp.square(h - 0.3)) for h in heads.values()), (heads, updates)

    return jax.grad(loss, has_aux=True)(variables['params'])


@functools.cache
def _trained(case, dtype):
    model, variables, x = _network(case, dtype)
    return jax.jit(functools.partial(_train, model))(variables, x)


def test_every_network_has_a_case():
    assert {config['name'] for config, _, _ in CASES.values()} == set(NETWORKS)


@pytest.mark.parametrize('case', CASES)
def test_config_makes_the_same_network_again(case):
    model, _, _ = _network(case)
    assert build_model(model_config(model)) == model


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('case', CASES)
def test_trains_with_finite_gradients_and_float32_parameters(case, dtype):
    _, variables, x = _network(case, dtype)
    gradient, (heads, updates) = _trained(case, dtype)
    for tree in (variables, gradient, heads, updates):
        assert {a.dtype for a in jax.tree.leaves(tree)} <= {jnp.dtype('float32')}
        assert all(np.isfinite(a).all() for a in jax.tree.leaves(tree))
    assert any(np.any(a != 0) for a in jax.tree.leaves(gradient))
    assert all(head.shape[:-1] == x.shape[:-1] for head in heads.values())


@pytest.mark.parametrize('case', CASES)
def test_gradient_of_a_constant_image_is_finite(case):
    model, variables, x = _network(case)
    gradient, _ = jax.jit(functools.partial(_train, model))(variables, jnp.zeros_like(x))
    assert all(np.isfinite(a).all() for a in jax.tree.leaves(gradient))


@pytest.mark.parametrize('case', CASES)
def test_bfloat16_is_near_float32(case):
    exact, rounded = (_trained(case, dtype)[1][0] for dtype in DTYPES)
    for name, head in exact.items():
        np.testing.assert_allclose(rounded[name], head, atol=0.15 * float(jnp.abs(head).max()))


@pytest.mark.parametrize('case', CASES)
def test_vmap_over_the_batch_equals_the_batch(case):
    model, variables, x = _network(case)
    batched = jax.jit(model.apply)(variables, x)
    one_by_one = jax.jit(jax.vmap(lambda image: model.apply(variables, image[None])))(x)
    for name, head in batched.items():
        np.testing.assert_allclose(one_by_one[name][:, 0], head, atol=1e-5)


@pytest.mark.parametrize('case', CASES)
def test_eight_devices_do_as_one(case):
    model, variables, x = _network(case)
    batch = jnp.concatenate([x * s for s in (1.0, 0.5, -1.0, 2.0)])
    device_mesh = devices.make_device_mesh()
    assert device_mesh.size == 8
    step = jax.jit(functools.partial(_train, model))
    split = step(variables, jax.device_put(batch, devices.split_batch(device_mesh)))
    head = next(iter(split[1][0].values()))
    assert len(head.sharding.device_set) == 8
    whole = step(variables, batch)
    for ours, theirs in zip(jax.tree.leaves(split), jax.tree.leaves(whole), strict=True):
        scale = max(float(jnp.abs(theirs).max()), 1e-3)
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=2e-5 * max(scale, 1.0))


@pytest.mark.parametrize('case', CASES)
def test_sides_that_do_not_fit_are_refused_and_inference_pads(case):
    model, variables, x = _network(case)
    multiple = side_multiple(model)
    assert all(s % m == 0 for s, m in zip(CASES[case][1], multiple, strict=True))
    if max(multiple) > 1:
        wrong = x[..., : x.shape[-2] - 1, :]
        with pytest.raises(InputError, match='multiples'):
            model.apply(variables, wrong)
    sides = CASES[case][1]
    volume = np.asarray(jax.random.normal(jax.random.key(3), (3, *sides[1:], x.shape[-1])))
    odd = volume[:, 1:, : sides[2] - 1]
    heads = predict_volume(
        make_apply_fn(model), variables, odd, tile=sides, overlap=0, blend='constant', batch_size=8
    )
    for head in heads.values():
        assert head.shape[:3] == odd.shape[:3]
        assert np.isfinite(head).all()
