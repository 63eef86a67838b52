"""The network of Cellpose 1 against the published implementation, and its properties."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sxt_jax.core.errors import InputError
from sxt_jax.models.cellpose2d import Cellpose2D

TINY = Cellpose2D(features=(2, 3))


def _init(model, shape):
    return jax.jit(model.init)(jax.random.key(0), jnp.zeros(shape))


@pytest.mark.parametrize(
    ('features', 'trainable', 'statistics'),
    # Counted in cellpose 2.2.3: parameters without diam_mean and diam_labels, running statistics.
    [((32, 64, 128, 256), 6_600_843, 9_544), ((4, 8, 16, 32), 104_955, 1_200)],
)
def test_has_the_published_number_of_parameters(features, trainable, statistics):
    model = Cellpose2D(features=features)
    variables = jax.eval_shape(lambda: _init(model, (1, 8, 8, 2)))
    counts = {k: sum(a.size for a in jax.tree.leaves(v)) for k, v in variables.items()}
    assert counts == {'params': trainable, 'batch_stats': statistics}


def test_a_blank_image_has_finite_gradients():
    x = jnp.zeros((1, 4, 4, 1))
    variables = _init(TINY, x.shape)
    loss = jax.jit(jax.grad(lambda p: TINY.apply({**variables, 'params': p}, x)['flows'].sum()))
    # Biases start at zero: all features are zero, and the style has no direction.
    gradient = loss(variables['params'])
    assert all(np.isfinite(a).all() for a in jax.tree.leaves(gradient))


def test_foreground_is_the_probability_of_its_logit():
    x = jax.random.normal(jax.random.key(2), (1, 8, 8, 1))
    heads = jax.jit(TINY.apply)(_init(TINY, x.shape), x)
    assert {k: v.shape for k, v in heads.items()} == {
        'foreground': (1, 8, 8, 1),
        'foreground_logit': (1, 8, 8, 1),
        'flows': (1, 8, 8, 2),
    }
    assert set(heads) == set(TINY.head_activations)
    odds = np.exp(np.asarray(heads['foreground_logit']))
    np.testing.assert_allclose(heads['foreground'], odds / (1 + odds), rtol=1e-5)


def test_halo_is_how_far_a_pixel_reaches_but_for_the_style():
    side = 96
    variables = _init(TINY, (1, 2, side, 1))
    positive = jax.tree.map(lambda a: jnp.abs(a) + 0.1, variables)
    places = np.arange(46, 50)
    x = jnp.zeros((len(places), 2, side, 1)).at[np.arange(4), 0, places, 0].set(1.0)

    @jax.jit
    def changed(variables):
        flows = TINY.apply(variables, jnp.concatenate([x, 0 * x]))['flows']
        return (flows[:4] != flows[4:]).any((1, 3))

    def without_style(path, leaf):
        return 0 * leaf if any(p.key == 'style' for p in path) else leaf

    local = np.asarray(changed(jax.tree_util.tree_map_with_path(without_style, positive)))
    reached = [np.abs(np.flatnonzero(local[i]) - place).max() for i, place in enumerate(places)]
    assert TINY.halo[1] - 2 < max(reached) <= TINY.halo[1]
    assert np.asarray(changed(variables))[:, : 46 - TINY.halo[1]].any(1).all()


def test_says_what_does_not_fit():
    with pytest.raises(InputError, match=r'multiples of \(2, 2\)'):
        _init(TINY, (1, 8, 7, 1))
    with pytest.raises(InputError, match=r'\[b, y, x, c\]'):
        _init(TINY, (8, 8, 8))
    with pytest.raises(InputError, match='positive'):
        _init(Cellpose2D(features=(2, 0)), (1, 8, 8, 1))
