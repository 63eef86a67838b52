"""Losses against written-out sums and optax; ignored voxels; gradients."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sxt_jax import losses
from sxt_jax.core import devices

IGNORE = -1


def _example(seed=0, b=3, k=4, shape=(3, 4, 5)):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(b, *shape, k)).astype(np.float32)
    labels = rng.integers(0, k, (b, *shape)).astype(np.int32)
    ignored = rng.random(labels.shape) < 0.3
    return logits, labels, np.where(ignored, IGNORE, labels)


def _softmax(logits):
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize('weights', [None, np.array([0.1, 1.0, 2.0, 5.0])])
@pytest.mark.parametrize('ignore', [False, True])
def test_cross_entropy_is_the_weighted_mean_over_counted_voxels(weights, ignore):
    logits, labels, sparse = _example()
    chosen = sparse if ignore else labels
    found = losses.cross_entropy(
        logits, chosen, ignore_label=IGNORE if ignore else None, class_weights=weights
    )
    for i in range(len(logits)):
        keep = chosen[i] != IGNORE
        p = _softmax(logits[i])[keep][np.arange(keep.sum()), chosen[i][keep]]
        w = np.ones(4)[chosen[i][keep]] if weights is None else weights[chosen[i][keep]]
        np.testing.assert_allclose(found[i], -(w * np.log(p)).mean(), rtol=1e-5)


@pytest.mark.parametrize('squared', [False, True])
@pytest.mark.parametrize('include_background', [False, True])
def test_dice_is_the_mean_over_classes_that_occur(squared, include_background):
    logits, _, sparse = _example()
    sparse = np.where(sparse == 2, IGNORE, sparse)  # class 2 does not occur
    probs = _softmax(logits)
    found = losses.soft_dice(
        probs,
        sparse,
        ignore_label=IGNORE,
        squared=squared,
        include_background=include_background,
    )
    for i in range(len(probs)):
        keep = sparse[i] != IGNORE
        scores = []
        for k in (0, 1, 3) if include_background else (1, 3):
            p, t = probs[i][keep][:, k], sparse[i][keep] == k
            scores.append(2 * (p * t).sum() / ((p**2 if squared else p).sum() + t.sum()))
        np.testing.assert_allclose(found[i], 1 - np.mean(scores), rtol=1e-5)


def test_perfect_prediction_costs_nothing():
    _, labels, _ = _example()
    probs = np.eye(4, dtype=np.float32)[labels]
    np.testing.assert_allclose(losses.soft_dice(probs, labels), 0, atol=1e-6)
    np.testing.assert_allclose(losses.cross_entropy(100 * probs, labels), 0, atol=1e-6)


@pytest.mark.parametrize('loss', [losses.cross_entropy, losses.soft_dice])
def test_a_patch_without_labels_counts_nothing(loss):
    logits, labels, _ = _example()
    labels[1] = IGNORE

    def total(logits):
        scores = jax.nn.softmax(logits) if loss is losses.soft_dice else logits
        each = loss(scores, labels, ignore_label=IGNORE)
        return each.sum(), each

    gradient, each = jax.jit(jax.grad(total, has_aux=True))(logits)
    assert each.shape == (3,)
    assert each[1] == 0
    assert np.all(gradient[1] == 0)
    assert np.isfinite(gradient).all()
    assert np.any(gradient[0] != 0)


def test_dice_without_foreground_counts_nothing_if_background_is_left_out():
    logits, labels, _ = _example()
    found = losses.soft_dice(_softmax(logits), 0 * labels, include_background=False)
    np.testing.assert_array_equal(found, 0)


def test_ignored_voxels_have_no_influence():
    logits, _, sparse = _example()
    other = np.where((sparse == IGNORE)[..., None], 1e4, logits)
    for loss in (losses.cross_entropy, losses.soft_dice):
        np.testing.assert_array_equal(
            loss(logits, sparse, ignore_label=IGNORE), loss(other, sparse, ignore_label=IGNORE)
        )


def test_extreme_logits_and_bfloat16_stay_finite():
    _, labels, _ = _example()
    logits = jnp.where(jax.nn.one_hot(labels, 4) > 0, -1e4, 1e4).astype(jnp.bfloat16)
    value, gradient = jax.value_and_grad(lambda x: losses.cross_entropy(x, labels).sum())(logits)
    assert value.dtype == jnp.float32
    assert np.isfinite(value)
    assert np.isfinite(gradient.astype(jnp.float32)).all()


def test_huber_has_its_two_branches():
    e = np.array([[0.05, -0.1, 0.5, -2.0]], np.float32)
    expected = [0.05**2 / 2, 0.1**2 / 2, 0.1 * 0.5 - 0.005, 0.1 * 2 - 0.005]
    found = losses.huber(e, np.zeros_like(e), delta=0.1)
    np.testing.assert_allclose(found, [np.mean(expected)], rtol=1e-5)
    weighted = losses.huber(e, np.zeros_like(e), delta=0.1, weights=np.array([[0, 0, 3.0, 1.0]]))
    np.testing.assert_allclose(weighted, [(3 * expected[2] + expected[3]) / 4], rtol=1e-5)
    assert losses.huber(e, np.zeros_like(e), delta=0.1, weights=np.zeros_like(e)) == 0


def test_split_over_devices_equals_one_device():
    logits, _, sparse = _example(b=8)
    device_mesh = devices.make_device_mesh()
    split = jax.device_put((logits, sparse), devices.split_batch(device_mesh))

    def loss(logits, labels):
        return losses.cross_entropy(logits, labels, ignore_label=IGNORE) + losses.soft_dice(
            jax.nn.softmax(logits), labels, ignore_label=IGNORE
        )

    loss = jax.jit(loss)
    found = loss(*split)
    assert len(found.sharding.device_set) == 8
    np.testing.assert_allclose(found, loss(logits, sparse), rtol=1e-5)


def test_says_what_does_not_fit():
    logits, labels, _ = _example()
    with pytest.raises(ValueError, match='shape'):
        losses.cross_entropy(logits, labels[:, 1:])
    with pytest.raises(ValueError, match='integers'):
        losses.soft_dice(logits, labels.astype(np.float32))
    with pytest.raises(ValueError, match='differ in shape'):
        losses.huber(logits, logits[..., :1], delta=1.0)
