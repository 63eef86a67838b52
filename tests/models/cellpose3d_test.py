"""The network of Cellpose3D: its size, its heads, how far it sees, what it refuses."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sxt_jax.core.errors import InputError
from sxt_jax.models import Cellpose3DNet, cellpose3d

TINY = Cellpose3DNet(features=2)


def _init(model, shape):
    """Variables drawn by numpy: compiling the model's own drawing takes longer than all else."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape))
    return jax.tree.map(
        lambda a: rng.normal(0, np.prod(a.shape[:-1]) ** -0.5, a.shape).astype(np.float32), shapes
    )


@pytest.mark.parametrize(('features', 'expected'), [(16, 1_980_980), (8, 495_612)])
def test_has_the_published_number_of_parameters(features, expected):
    model = Cellpose3DNet(features=features)
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 8, 1)))
    assert set(variables) == {'params'}
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == expected


def test_heads_are_foreground_and_three_flows_in_float32():
    model = Cellpose3DNet(features=2, dtype=jnp.bfloat16)
    x = jnp.zeros((2, 16, 8, 24, 3))
    heads = jax.eval_shape(model.apply, _init(model, x.shape), x)
    assert {name: head.shape for name, head in heads.items()} == {
        'foreground': (2, 16, 8, 24, 1),
        'flows': (2, 16, 8, 24, 3),
    }
    assert {head.dtype for head in heads.values()} == {jnp.dtype('float32')}
    assert model.head_activations == {'foreground': None, 'flows': None}


def test_training_and_prediction_are_the_same_computation():
    x = jnp.zeros((1, 16, 8, 8, 1))
    variables = _init(TINY, x.shape)
    trained, predicted = (
        str(jax.make_jaxpr(functools.partial(TINY.apply, train=train))(variables, x))
        for train in (True, False)
    )
    assert trained == predicted


def test_halo_is_how_far_a_voxel_reaches(monkeypatch):
    # Through instance norm every voxel changes all others a little.
    monkeypatch.setattr(cellpose3d, 'InstanceNorm', lambda dtype: lambda x: x)
    places = np.arange(68, 76)
    shape = (len(places), 8, 8, 144, 1)
    # Positive kernels without biases: what a voxel reaches becomes positive, all else stays 0.
    variables = jax.tree.map(lambda a: (np.abs(a) + 0.1) * (a.ndim > 1), _init(TINY, shape))
    x = jnp.zeros(shape).at[np.arange(8), 4, 4, places, 0].set(1.0)
    flows = jax.jit(TINY.apply)(variables, x)['flows']
    changed = np.asarray(flows > 0).any((1, 2, 4))
    reached = [np.abs(np.flatnonzero(changed[i]) - place).max() for i, place in enumerate(places)]
    assert TINY.halo == (max(reached),) * 3


def test_says_what_does_not_fit():
    with pytest.raises(InputError, match=r'multiples of \(8, 8, 8\)'):
        _init(TINY, (1, 8, 12, 8, 1))
    with pytest.raises(InputError, match=r'\[b, z, y, x, c\]'):
        _init(TINY, (8, 8, 8, 1))
    with pytest.raises(InputError, match=r'features.*at least 2'):
        _init(Cellpose3DNet(features=1), (1, 8, 8, 8, 1))
