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
from tests.models.random_variables import draw

# Small ones of every network and form: config, (z, y, x) sides of a patch, channels.
_TRANSFORMER = {'grid': (2, 2), 'hidden': 8, 'n_layers': 1, 'n_heads': 2, 'mlp_dim': 8}
_STEM = {'stem_width': 4, 'stem_blocks': (1, 1, 1), 'groups': 2}
CASES = {
    'unet3d': ({'name': 'unet3d', 'filters': (2, 3)}, (4, 4, 8), 2),
    'unet3d residual': ({'name': 'unet3d', 'filters': (2, 3), 'residual': True}, (4, 4, 8), 1),
    'unet3d of NCXT': (
        {
            'name': 'unet3d',
            'filters': (2, 3),
            'norm': 'instance',
            'up': 'transposed',
            'dropout': 0.1,
        },
        (4, 8, 8),
        1,
    ),
    'cellpose3d': ({'name': 'cellpose3d', 'features': 2}, (8, 16, 16), 1),
    'double_decoder': (
        {
            'name': 'double_decoder',
            'width': 2,
            'encoder_filters': (2, 2, 4),
            'image_filters': (4, 2, 2),
            'label_filters': (4, 2, 2),
            'neck_depth': 1,
        },
        (1, 8, 8),
        1,
    ),
    'resunet': ({'name': 'resunet', 'width': 2, 'heads': 'cells'}, (1, 32, 32), 2),
    'transunet': (
        {
            'name': 'transunet',
            **_TRANSFORMER,
            **_STEM,
            'decoder_filters': (8, 8, 4, 4, 2),
        },
        (1, 32, 32),
        1,
    ),
    'setr': ({'name': 'setr', **_TRANSFORMER, 'decoder_width': 4}, (1, 32, 32), 1),
    'setr naive': (
        {'name': 'setr', **_TRANSFORMER, 'decoder_width': 4, 'decoder': 'naive'},
        (1, 32, 32),
        1,
    ),
    'cellpose2d': ({'name': 'cellpose2d', 'features': (2, 3, 4)}, (1, 16, 16), 2),
}
# Half the time to compile; all that is tested is decided before.
_jit = functools.partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})
DTYPES = ('float32', 'bfloat16')
# What takes long to compile, and has the layers of others or is trained elsewhere: gradients in
# bfloat16 and on eight devices, and inference, by -m slow only.
HEAVY = {
    'gradients': (
        'unet3d residual',
        'cellpose3d',
        'double_decoder',
        'resunet',
        'transunet',
        'setr naive',
    ),
    'inference': ('cellpose3d', 'double_decoder'),
}


def _but_slow(what, *more):
    """All cases, the heavy ones of them marked."""
    slow = dict.fromkeys(HEAVY[what], (pytest.mark.slow,))
    return [pytest.param(case, *more, marks=slow.get(case, ())) for case in CASES]


@functools.cache
def _network(case, dtype='float32'):
    """(model, its variables, a batch of eight inputs)."""
    config, sides, n_channels = CASES[case]
    model = build_model({**config, 'dtype': dtype})
    sides = sides[3 - model.n_dims :]
    x = jax.random.normal(jax.random.key(1), (8, *sides, n_channels))
    return model, draw(model, x[:1].shape), x


def _compute(model, params, variables, x):
    """Heads of a training step, and updated statistics."""
    return model.apply(
        {**variables, 'params': params},
        x,
        train=True,
        mutable=['batch_stats'],
        rngs={'dropout': jax.random.key(2)},
    )


@functools.cache
def _step(case, dtype='float32'):
    """(variables, x) -> gradient, (heads, updated statistics) of a training step, jitted."""
    model, _, _ = _network(case, dtype)

    def loss(params, variables, x):
        heads, updates = _compute(model, params, variables, x)
        return sum(jnp.mean(jnp.square(h - 0.3)) for h in heads.values()), (heads, updates)

    gradient = jax.grad(loss, has_aux=True)
    return _jit(lambda variables, x: gradient(variables['params'], variables, x))


@functools.cache
def _forward(case, dtype='float32'):
    """(variables, x) -> heads, updated statistics of a training step, jitted."""
    model, _, _ = _network(case, dtype)
    return _jit(lambda variables, x: _compute(model, variables['params'], variables, x))


@functools.cache
def _trained(case, dtype='float32'):
    _, variables, x = _network(case, dtype)
    return _step(case, dtype)(variables, x)


def test_every_network_has_a_case():
    assert {config['name'] for config, _, _ in CASES.values()} == set(NETWORKS)


@pytest.mark.parametrize('case', CASES)
def test_config_makes_the_same_network_again(case):
    model, _, _ = _network(case)
    assert build_model(model_config(model)) == model


@pytest.mark.parametrize(
    ('case', 'dtype'),
    [*((case, 'float32') for case in CASES), *_but_slow('gradients', 'bfloat16')],
)
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
    _, variables, x = _network(case)
    gradient, _ = _step(case)(variables, jnp.zeros_like(x))
    assert all(np.isfinite(a).all() for a in jax.tree.leaves(gradient))


@pytest.mark.parametrize('case', CASES)
def test_bfloat16_is_near_float32(case):
    _, (exact, _) = _trained(case)
    _, variables, x = _network(case, 'bfloat16')
    if case in HEAVY['gradients']:
        rounded, updates = _forward(case, 'bfloat16')(variables, x)
    else:
        _, (rounded, updates) = _trained(case, 'bfloat16')
    for a in jax.tree.leaves((rounded, updates)):
        assert a.dtype == jnp.float32
        assert np.isfinite(a).all()
    for name, head in exact.items():
        assert jnp.linalg.norm(rounded[name] - head) < 0.15 * jnp.linalg.norm(head)


@pytest.mark.parametrize('case', CASES)
def test_vmap_over_the_batch_equals_the_batch(case):
    model, variables, x = _network(case)
    batched = _jit(model.apply)(variables, x)
    one_by_one = _jit(jax.vmap(lambda image: model.apply(variables, image[None])))(x)
    for name, head in batched.items():
        np.testing.assert_allclose(one_by_one[name][:, 0], head, atol=1e-5)


@pytest.mark.parametrize('case', _but_slow('gradients'))
def test_eight_devices_do_as_one(case):
    _, variables, x = _network(case)
    device_mesh = devices.make_device_mesh()
    assert device_mesh.size == 8
    split = _step(case)(variables, jax.device_put(x, devices.split_batch(device_mesh)))
    head = next(iter(split[1][0].values()))
    assert len(head.sharding.device_set) == 8
    for ours, theirs in zip(jax.tree.leaves(split), jax.tree.leaves(_trained(case)), strict=True):
        scale = max(float(jnp.abs(theirs).max()), 1.0)
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=2e-5 * scale)


@pytest.mark.parametrize('case', CASES)
def test_sides_that_do_not_fit_are_refused(case):
    model, variables, x = _network(case)
    multiple = side_multiple(model)
    assert all(s % m == 0 for s, m in zip(CASES[case][1], multiple, strict=True))
    if max(multiple) > 1:
        wrong = x[..., : x.shape[-2] - 1, :]
        with pytest.raises(InputError, match='multiples'):
            model.apply(variables, wrong)


@pytest.mark.parametrize('case', _but_slow('inference'))
def test_inference_pads_to_sides_that_fit(case):
    model, variables, x = _network(case)
    sides = CASES[case][1]
    volume = np.asarray(jax.random.normal(jax.random.key(3), (3, *sides[1:], x.shape[-1])))
    odd = volume[:, 1:, : sides[2] - 1]
    heads = predict_volume(
        make_apply_fn(model), variables, odd, tile=sides, overlap=0, blend='constant', batch_size=8
    )
    for head in heads.values():
        assert head.shape[:3] == odd.shape[:3]
        assert np.isfinite(head).all()
