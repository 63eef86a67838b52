"""The loss of Cellpose, for networks of slices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sxt_jax.core.errors import InputError
from sxt_jax.training.flow_objective import make_flow_loss

SHAPE = (3, 2, 5, 6)


def made():
    """Outputs and a batch, in which a part of one example does not count and another not at all."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, SHAPE).astype(np.int16)
    labels[1, 0, :3] = labels[2] = -1
    flows = rng.normal(size=(*SHAPE, 3)).astype(np.float32)
    outputs = {
        'foreground_logit': 3 * rng.normal(size=(*SHAPE, 1)).astype(np.float32),
        'flows': rng.normal(size=(*SHAPE, 2)).astype(np.float32),
    }
    return outputs, {'labels': labels, 'flows': flows}


def by_hand(outputs, batch, example):
    """½ mean (5 found − 5 true)² + mean −log p of the true class, of float64."""
    counts = batch['labels'][example] >= 0
    found = 5 * outputs['flows'][example][counts].astype(float)
    true = 5 * batch['flows'][example][counts][:, 1:].astype(float)
    cells = batch['labels'][example][counts] == 1
    p = 1 / (1 + np.exp(-outputs['foreground_logit'][example][counts][:, 0].astype(float)))
    return np.mean((found - true) ** 2) / 2, -np.log(np.where(cells, p, 1 - p)).mean()


def test_it_is_the_published_loss_of_the_pixels_that_count():
    outputs, batch = made()
    total, told = make_flow_loss(slices=True, foreground_weight=2, flow_weight=3)(outputs, batch)
    for example in (0, 1):
        flow, foreground = by_hand(outputs, batch, example)
        assert told['flow_loss'][example] == pytest.approx(flow, rel=1e-5)
        assert told['foreground_loss'][example] == pytest.approx(foreground, rel=1e-5)
        assert total[example] == pytest.approx(3 * flow + 2 * foreground, rel=1e-5)
    assert total[2] == 0
    other = {**batch, 'flows': batch['flows'] + np.array([9.0, 0, 0], np.float32)}
    again, _ = make_flow_loss(slices=True, foreground_weight=2, flow_weight=3)(outputs, other)
    np.testing.assert_array_equal(again, total)


def test_gradients_are_finite_for_any_logit():
    outputs, batch = made()
    outputs['foreground_logit'][0, 0, 0, :3, 0] = 1e4, -1e4, 0
    found = jax.grad(lambda o: jnp.sum(make_flow_loss(slices=True)(o, batch)[0]))(outputs)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


@pytest.mark.parametrize('weights', [(-1.0, 1.0), (0.0, 0.0)])
def test_weights_are_positive(weights):
    with pytest.raises(InputError, match=r'config\.flows'):
        make_flow_loss(slices=True, foreground_weight=weights[0], flow_weight=weights[1])
