"""The 3-D U-Net against the published implementation, and its invariances."""

from __future__ import annotations

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sxt_jax.core.errors import InputError
from sxt_jax.models import UNet3D
from sxt_jax.models.blocks import DoubleBlock

FIXTURE = pathlib.Path(__file__).parents[1] / 'fixtures' / 'biomedisa_unet_small.npz'
TINY = UNet3D(n_labels=3, filters=(2, 3, 4))
NCXT = {'norm': 'instance', 'up': 'transposed'}


def _init(model, shape):
    """Variables; compiled, since one operation after the other takes seconds."""
    return jax.jit(model.init)(jax.random.key(0), jnp.zeros(shape))


def _published(n_levels=4):
    """(fixture, variables) with the fixture's weights under our names."""
    fixture = np.load(FIXTURE)
    blocks = [f'encoder_{i}' for i in range(n_levels)]
    blocks += [f'decoder_{i}' for i in reversed(range(n_levels - 1))]

    def arrays(layer, names, folder='weights'):
        return {ours: fixture[f'{folder}/{layer}/{theirs}'] for ours, theirs in names.items()}

    params, statistics, after = {}, {}, {}
    moving = {'mean': 'moving_mean', 'var': 'moving_variance'}
    for n, block in enumerate(blocks, start=1):
        params[block], statistics[block], after[block] = {}, {}, {}
        for stage in (1, 2):
            conv, norm = f'conv_{n}_{stage}', f'batch_norm_{n}_{stage}'
            params[block][f'conv_{stage}'] = arrays(conv, {'kernel': 'kernel', 'bias': 'bias'})
            name = f'norm_{stage}'
            params[block][name] = arrays(norm, {'scale': 'gamma', 'bias': 'beta'})
            statistics[block][name] = arrays(norm, moving)
            after[block][name] = arrays(norm, moving, 'training_statistics')
    head = f'conv_{len(blocks) + 1}_1'
    params['head'] = arrays(head, {'kernel': 'kernel', 'bias': 'bias'})
    return fixture, {'params': params, 'batch_stats': statistics}, after


def test_reproduces_the_published_network():
    fixture, variables, _ = _published()
    model = UNet3D(n_labels=3, filters=(4, 8, 16, 32))
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(
        lambda a: a.shape, jax.eval_shape(lambda: _init(model, (1, 32, 32, 32, 1)))
    )
    logits = jax.jit(model.apply)(variables, fixture['input'])['logits']
    np.testing.assert_allclose(logits[:, ::3, ::3, ::3], fixture['logits'], atol=1e-4)


def test_reproduces_the_published_batch_statistics():
    fixture, variables, after = _published()
    model = UNet3D(n_labels=3, filters=(4, 8, 16, 32))
    heads, updates = jax.jit(lambda v, x: model.apply(v, x, train=True, mutable=['batch_stats']))(
        variables, fixture['input']
    )
    probs = jax.nn.softmax(heads['logits'])[:, ::3, ::3, ::3]
    # The published float32 run differs from its float64 run, which this is, by 1.6e-3.
    np.testing.assert_allclose(probs, fixture['training_probs'], atol=1.6e-3)
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5),
        updates['batch_stats'],
        after,
    )


@pytest.mark.parametrize(
    ('model', 'trainable', 'total'),
    [
        (UNet3D(), 23_538_210, 23_544_098),
        (UNet3D(residual=True), None, 23_979_330),
        (UNet3D(n_labels=3, filters=(4, 8, 16, 32)), None, 92_155),
        (UNet3D(n_labels=3, filters=(32, 64, 128), **NCXT), 1_355_427, 1_355_427),
    ],
)
def test_has_the_published_number_of_parameters(model, trainable, total):
    variables = jax.eval_shape(lambda: _init(model, (1, 64, 64, 64, 1)))
    counts = {k: sum(a.size for a in jax.tree.leaves(v)) for k, v in variables.items()}
    assert sum(counts.values()) == total
    assert trainable in (None, counts['params'])


def test_has_the_published_number_of_parameters_with_two_channels():
    model = UNet3D(n_labels=3, filters=(8, 16, 32), **NCXT)
    variables = jax.eval_shape(lambda: _init(model, (1, 4, 4, 4, 2)))
    assert sum(a.size for a in jax.tree.leaves(variables)) == 85_251


def test_residual_blocks_of_the_ncxt_form_train():
    model = UNet3D(filters=(2, 4), residual=True, **NCXT)
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 4, 2))
    variables = _init(model, x.shape)
    assert 'shortcut' in variables['params']['decoder_0']

    def loss(params):
        return jnp.mean(jnp.square(model.apply({'params': params}, x, train=True)['logits']))

    gradient = jax.jit(jax.grad(loss))(variables['params'])
    assert all(np.isfinite(a).all() for a in jax.tree.leaves(gradient))
    for block in ('encoder_0', 'encoder_1', 'decoder_0'):
        for layer in ('conv_1', 'conv_2', 'shortcut'):
            assert np.abs(gradient[block][layer]['kernel']).max() > 1e-6


@pytest.mark.parametrize(
    'fields',
    [
        {'pool_sizes': ((1, 2, 2), (1, 1, 2))},
        {'up': 'transposed', 'norm': 'none'},
    ],
)
def test_halo_is_how_far_a_voxel_reaches(fields):
    model = UNet3D(n_labels=1, filters=(2, 2, 2), **fields)
    shape = (1, *model.side_multiple[:2], 80, 1)
    variables = jax.tree.map(lambda a: jnp.abs(a) + 0.1, _init(model, shape))

    apply = jax.jit(lambda x: model.apply(variables, x)['logits'])
    places = np.arange(38, 42)
    x = jnp.zeros((len(places), *shape[1:])).at[np.arange(4), 0, 0, places, 0].set(1.0)
    changed = np.asarray(apply(x) != apply(0 * x)).any((1, 2, 4))
    reached = [np.abs(np.flatnonzero(changed[i]) - place).max() for i, place in enumerate(places)]
    assert model.halo[2] - 4 < max(reached) <= model.halo[2]


def test_instance_norm_makes_every_image_its_own():
    model = UNet3D(n_labels=2, filters=(2, 3), **NCXT)
    x = jax.random.normal(jax.random.key(0), (2, 4, 6, 8, 1))
    variables = _init(model, x.shape)
    assert set(variables) == {'params'}
    apply = jax.jit(lambda v, x: model.apply(v, x)['logits'])
    logits = apply(variables, x)
    others = apply(variables, x.at[1].multiply(5.0))
    np.testing.assert_allclose(others[0], logits[0], atol=1e-5)
    shifted = jax.tree.map(lambda a: a, variables)
    shifted['params']['decoder_0']['conv_2']['bias'] += 3.0  # no effect before instance norm
    np.testing.assert_allclose(apply(shifted, x), logits, atol=1e-4)


def test_dropout_acts_in_training_only():
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 8, 1))
    model = UNet3D(filters=(4,), dropout=0.3, **NCXT)
    variables = _init(model, x.shape)
    plain = UNet3D(filters=(4,), **NCXT)
    expected = jax.jit(plain.apply)(variables, x)['logits']
    np.testing.assert_array_equal(jax.jit(model.apply)(variables, x)['logits'], expected)

    @jax.jit
    def train(seed):
        rngs = {'dropout': jax.random.key(seed)}
        return model.apply(variables, x, train=True, rngs=rngs)['logits']

    assert np.abs(train(0) - expected).max() > 0.1
    assert np.abs(train(0) - train(1)).max() > 0.1
    np.testing.assert_array_equal(train(0), train(0))


def test_dropout_takes_whole_channels_and_keeps_the_mean():
    block = DoubleBlock(400, norm='none', dropout=0.25)
    x = jnp.ones((2, 2, 2, 2, 1))
    variables = jax.tree.map(
        jnp.zeros_like,
        jax.jit(block.init, static_argnames='train')(jax.random.key(0), x, train=False),
    )
    variables['params']['conv_2']['bias'] += 1.0  # each channel is 1 before its dropout
    y = block.apply(variables, x, train=True, rngs={'dropout': jax.random.key(0)})
    assert np.asarray(y == y[:, :1, :1, :1]).all()
    per_image = np.asarray(y[:, 0, 0, 0])
    np.testing.assert_allclose(np.unique(per_image), [0, 4 / 3], rtol=1e-6)
    assert (per_image[0] != per_image[1]).any()
    assert abs((per_image == 0).mean() - 0.25) < 0.05


def test_shifts_by_a_multiple_of_its_sides_shift_the_result():
    x = jax.random.normal(jax.random.key(0), (1, 4, 4, 64, 1))
    variables = _init(UNet3D(filters=(2, 3)), x.shape)
    apply = jax.jit(lambda x: UNet3D(filters=(2, 3)).apply(variables, x)['logits'])
    logits, shifted = apply(x), apply(jnp.roll(x, 6, axis=3))
    np.testing.assert_allclose(shifted[:, :, :, 20:50], logits[:, :, :, 14:44], atol=1e-5)


def test_says_what_does_not_fit():
    with pytest.raises(InputError, match=r'multiples of \(4, 4, 4\)'):
        _init(TINY, (1, 8, 8, 6, 1))
    with pytest.raises(InputError, match=r'\[b, z, y, x, c\]'):
        _init(TINY, (8, 8, 8, 1))
    with pytest.raises(InputError, match='pool_sizes'):
        _init(UNet3D(filters=(2, 3), pool_sizes=((2, 2),)), (1, 8, 8, 8, 1))
    with pytest.raises(InputError, match='positive'):
        _init(UNet3D(filters=(2, 0)), (1, 8, 8, 8, 1))


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'norm': 'layer'}, r"norm: 'layer'.*'batch', 'instance', 'none'"),
        ({'up': 'bilinear'}, r"up: 'bilinear'.*'nearest', 'transposed'"),
        ({'dropout': 1.0}, r'dropout: 1\.0'),
        ({'dropout': -0.1}, r'dropout: -0\.1'),
        ({'up': 'transposed', 'pool_sizes': ((1, 2, 2),)}, r"up: 'transposed' with pool_sizes"),
    ],
)
def test_fields_that_make_no_sense_are_refused(fields, message):
    with pytest.raises(InputError, match=message):
        UNet3D(filters=(2, 3), **fields).side_multiple  # noqa: B018
    with pytest.raises(InputError, match=message):
        _init(UNet3D(filters=(2, 3), **fields), (1, 8, 8, 8, 1))
