"""Losses against published ones and written-out sums; ignored voxels; gradients."""

from __future__ import annotations

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sxt_jax import losses
from sxt_jax.core import devices

FIXTURE = pathlib.Path(__file__).parent / 'fixtures' / 'losses.npz'
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
    with pytest.raises(ValueError, match='at least 11'):
        losses.ssim(logits[..., 0], logits[..., 0], value_range=1.0)
    with pytest.raises(ValueError, match='differ in shape'):
        losses.label_accuracy(logits, logits[..., :1])


@pytest.fixture(scope='module')
def published():
    return np.load(FIXTURE)


def _assert_gradient(found, expected, largest=None):
    largest = np.abs(expected).max() if largest is None else largest
    np.testing.assert_allclose(found, expected, atol=1e-5 * largest, rtol=0)


@pytest.mark.parametrize(('name', 'value_range'), [('1p0', 1.0), ('7p3', 7.3)])
def test_ssim_is_the_published_one(published, name, value_range):
    a, b = published[f'ssim_a_{name}'], published[f'ssim_b_{name}']
    run = jax.jit(functools.partial(losses.ssim, value_range=value_range))
    np.testing.assert_allclose(run(a, b), published[f'ssim_{name}'], atol=1e-6)
    np.testing.assert_allclose(run(a, a), 1, atol=1e-6)


def _ssim_by_windows(x, y, value_range, window, sigma):
    """Straight from the definition, in float64."""
    steps = np.arange(window) - (window - 1) / 2
    weights = np.exp(-(steps[:, None] ** 2 + steps**2) / (2 * sigma**2))
    weights = weights[..., None] / weights.sum()
    c1, c2 = (0.01 * value_range) ** 2, (0.03 * value_range) ** 2
    scores = []
    for i, j in np.ndindex(x.shape[0] - window + 1, x.shape[1] - window + 1):
        a, b = (v[i : i + window, j : j + window].astype(float) for v in (x, y))
        ma, mb = ((weights * v).sum((0, 1)) for v in (a, b))
        va, vb = ((weights * (v - m) ** 2).sum((0, 1)) for v, m in ((a, ma), (b, mb)))
        cov = (weights * (a - ma) * (b - mb)).sum((0, 1))
        scores.append((2 * ma * mb + c1) * (2 * cov + c2) / (ma**2 + mb**2 + c1) / (va + vb + c2))
    return np.mean(scores)


def test_ssim_of_other_windows_channels_and_far_offsets_follows_the_definition():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 12, 14, 3)).astype(np.float32)
    y = (x + 0.3 * rng.normal(size=x.shape)).astype(np.float32)
    run = jax.jit(functools.partial(losses.ssim, value_range=4.0, window=6, sigma=1.1))
    for offset in (0, 1000):
        a, b = x + np.float32(offset), y + np.float32(offset)
        found = run(a, b)
        expected = [_ssim_by_windows(*pair, 4.0, 6, 1.1) for pair in zip(a, b, strict=True)]
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_gradient_of_ssim_is_that_of_differences_and_finite_for_constant_images():
    rng = np.random.default_rng(1)
    x, y, step = (rng.normal(size=(1, 12, 13, 2)).astype(np.float32) for _ in range(3))
    run = jax.jit(jax.value_and_grad(lambda x, y: losses.ssim(x, y, value_range=3.0).sum()))
    slope = np.sum(run(x, y)[1] * step)
    e = np.float32(1e-2)
    change = run(x + e * step, y)[0] - run(x - e * step, y)[0]
    np.testing.assert_allclose(change / (2 * e), slope, rtol=3e-3)
    for constant in (0.0, 5.0):
        flat = np.full_like(x, constant)
        for other in (flat, 0 * flat, y):
            assert np.isfinite(run(flat, other)[1]).all()


def test_losses_stay_float32_where_float64_is_enabled():
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 12, 12, 2)), jnp.float32)
        labels = jnp.zeros(x.shape[:-1], jnp.int32)
        run = functools.partial(losses.image_reconstruction_loss, value_range=3.0)
        found = [
            run(x, x + 1),
            jax.grad(lambda x: run(x, x + 1).sum())(x),
            losses.cross_entropy(x, labels, class_weights=jnp.ones(2)),
            losses.soft_dice(jax.nn.softmax(x), labels),
        ]
    assert [f.dtype for f in found] == [jnp.float32] * 4


@pytest.mark.parametrize('b', [1, 4])
def test_image_reconstruction_loss_is_the_published_one(published, b):
    def loss(prediction):
        each = losses.image_reconstruction_loss(
            prediction, published['input'][:b], value_range=published['value_range']
        )
        assert each.shape == (b,)
        return each.mean()

    value, gradient = jax.jit(jax.value_and_grad(loss))(published['pred_image'][:b])
    np.testing.assert_allclose(value, published[f'image_reconstruction_loss_{b}'], atol=1e-6)
    expected = published[f'image_reconstruction_gradient_{b}']
    _assert_gradient(gradient[:, ::2, ::2], expected)


@pytest.mark.parametrize('b', [1, 4])
def test_label_losses_are_the_published_ones(published, b):
    names = ('pred_label', 'label', 'pred_image', 'input')
    pred_label, label, pred_image, image = (published[n][:b].astype(np.float32) for n in names)

    def loss(pred_label, pred_image):
        return losses.label_loss(pred_label, label, pred_image, image).mean()

    value, gradients = jax.jit(jax.value_and_grad(loss, (0, 1)))(pred_label, pred_image)
    np.testing.assert_allclose(value, published[f'label_loss_{b}'], atol=1e-6)
    if b == 4:
        for gradient, name in zip(gradients, ('label', 'image'), strict=True):
            _assert_gradient(gradient[:, ::2, ::2], published[f'label_gradient_of_{name}'])
    only = losses.label_only_loss(pred_label, label)
    assert only.shape == (b,)
    np.testing.assert_allclose(only.mean(), published[f'label_only_loss_{b}'], atol=1e-6)


def test_accuracies_are_the_published_ones(published):
    of_label = losses.label_accuracy(published['pred_label'], published['label'])
    of_image = losses.image_accuracy(published['pred_image'], published['input'])
    assert of_label.shape == of_image.shape == (4,)
    np.testing.assert_allclose(of_label.mean(), published['label_accuracy'], atol=1e-6)
    np.testing.assert_allclose(of_image.mean(), published['image_accuracy'], atol=1e-6)


def _cascade_loss(logits, labels):
    over = {'ignore_label': 3, 'over_batch': True}
    dice = losses.soft_dice(jax.nn.softmax(logits), labels, absent_classes=True, **over)
    return losses.cross_entropy(logits, labels, **over) + dice


def test_loss_of_the_cascade_is_the_published_one(published):
    target = published['cascade_target'].astype(np.int32)
    value, gradient = jax.jit(
        jax.value_and_grad(lambda logits: _cascade_loss(logits, target).mean())
    )(published['cascade_logits'])
    np.testing.assert_allclose(value, published['cascade_loss'], atol=5e-6)
    expected = published['cascade_gradient']
    _assert_gradient(gradient[:, ::2, ::2, ::2], expected, published['cascade_gradient_largest'])
    # Class 1 does not occur in these two examples, and they share their sums.
    each = jax.jit(_cascade_loss)(
        published['cascade_batch_logits'], published['cascade_batch_target'].astype(np.int32)
    )
    np.testing.assert_allclose(each, [published['cascade_batch_loss']] * 2, atol=5e-6)


def test_sums_over_the_batch_are_global_when_it_is_split_over_devices():
    logits, _, sparse = _example(b=8)
    sparse[3] = IGNORE  # one device has nothing to count
    over = {'ignore_label': IGNORE, 'over_batch': True}

    def loss(logits, labels):
        dice = losses.soft_dice(jax.nn.softmax(logits), labels, **over)
        return losses.cross_entropy(logits, labels, **over) + dice

    run = jax.jit(
        lambda *batch: (loss(*batch), jax.grad(lambda x: loss(x, batch[1]).mean())(batch[0]))
    )
    split = jax.device_put((logits, sparse), devices.split_batch(devices.make_device_mesh()))
    found, gradient = run(*split)
    one_by_one, expected = run(logits, sparse)
    assert len(gradient.sharding.device_set) == 8
    np.testing.assert_allclose(found, np.full(8, one_by_one[0]), rtol=1e-5)
    np.testing.assert_allclose(gradient, expected, atol=1e-5 * np.abs(expected).max())
    keep = sparse != IGNORE
    p = _softmax(logits)[keep]
    chosen = p[np.arange(len(p)), sparse[keep]]
    truth = np.eye(4)[sparse[keep]]
    dice = np.mean(2 * (p * truth).sum(0) / (p.sum(0) + truth.sum(0)))
    np.testing.assert_allclose(found, -np.log(chosen).mean() + 1 - dice, rtol=1e-5)


def test_published_losses_split_over_devices_equal_one_device():
    rng = np.random.default_rng(2)
    batch = tuple(rng.normal(size=(8, 12, 12, 1)).astype(np.float32) for _ in range(2))
    split = jax.device_put(batch, devices.split_batch(devices.make_device_mesh()))

    @jax.jit
    def run(prediction, image):
        loss = losses.image_reconstruction_loss(prediction, image, value_range=6.0)
        return loss, losses.image_accuracy(prediction, image)

    for found, expected in zip(run(*split), run(*batch), strict=True):
        assert len(found.sharding.device_set) == 8
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_batch_in_which_nothing_counts_costs_nothing():
    logits, labels, _ = _example()

    def loss(logits):
        over = {'ignore_label': IGNORE, 'over_batch': True}
        nothing = np.full_like(labels, IGNORE)
        dice = losses.soft_dice(jax.nn.softmax(logits), nothing, absent_classes=True, **over)
        return (losses.cross_entropy(logits, nothing, **over) + dice).sum()

    value, gradient = jax.jit(jax.value_and_grad(loss))(logits)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)
