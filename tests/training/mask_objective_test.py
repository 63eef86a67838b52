import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sxt_jax.data.datasets import Example
from sxt_jax.training.mask_evaluator import mask_panel, mask_scores
from sxt_jax.training.mask_objective import make_image_loss, make_mask_loss

FIXTURES = pathlib.Path(__file__).parents[1] / 'fixtures'


@pytest.fixture(scope='module')
def published():
    with np.load(FIXTURES / 'losses.npz') as arrays:
        return dict(arrays)


def _batch(published):
    """Slices as training has them, one beside the other, with classes in place of ±1."""
    image, label = (published[n][:, None].astype(np.float32) for n in ('input', 'label'))
    labels = (label[..., 0] > 0).astype(np.int16)
    outputs = {'image': published['pred_image'][:, None],
               'label': published['pred_label'][:, None]}  # fmt: skip
    return jax.tree.map(jnp.asarray, ({'image': image, 'labels': labels}, outputs))


def test_losses_and_accuracies_are_the_published_ones(published):
    batch, outputs = _batch(published)
    losses, told = make_mask_loss()(outputs, batch)
    close = {'rtol': 1e-4}
    np.testing.assert_allclose(losses.mean(), published['label_loss_4'], **close)
    accuracy = published['label_accuracy']
    np.testing.assert_allclose(told['label_accuracy'].mean(), accuracy, **close)
    accuracy = published['image_accuracy']
    np.testing.assert_allclose(told['image_accuracy'].mean(), accuracy, **close)
    losses, told = make_mask_loss()({'label': outputs['label']}, batch)
    np.testing.assert_allclose(losses.mean(), published['label_only_loss_4'], **close)
    assert set(told) == {'label_loss', 'label_accuracy'}
    loss = make_image_loss(value_range=float(published['value_range']))
    losses, _ = loss(outputs, batch)
    np.testing.assert_allclose(losses.mean(), published['image_reconstruction_loss_4'], **close)


def test_ignored_pixels_do_not_teach_the_label(published):
    batch, outputs = _batch(published)
    loss, told = make_mask_loss()(outputs, batch)
    labels = np.array(batch['labels'])
    labels[..., :32] = -1
    halves = jax.tree.map(lambda a: a[..., 32:, :], outputs)
    _, right = make_mask_loss()(
        halves, {'image': batch['image'][..., 32:, :], 'labels': labels[..., 32:]}
    )
    changed, ignoring = make_mask_loss()(outputs, {**batch, 'labels': jnp.asarray(labels)})
    for name in ('label_loss', 'label_accuracy'):
        np.testing.assert_allclose(ignoring[name], right[name], rtol=1e-5)
        assert np.abs(ignoring[name] - told[name]).max() > 1e-4
    np.testing.assert_array_equal(ignoring['image_loss'], told['image_loss'])
    assert np.all(changed != loss)


def _slice(seed=0, shape=(1, 24, 20)):
    rng = np.random.default_rng(seed)
    labels = rng.integers(-1, 2, shape).astype(np.int16)
    image = rng.standard_normal((*shape, 1)).astype(np.float32)
    return Example(f's{seed}', image, labels)


def _predict(image):
    """Values on both sides of the thresholds, and an image that errs where it is bright."""
    rng = np.random.default_rng(len(image) + image.shape[2])
    label = np.tanh(4 * rng.standard_normal(image.shape)).astype(np.float32)
    return {'label': label, 'image': np.minimum(image, 0.5)}


def test_scores_count_pixels_of_all_slices_together():
    slices = [_slice(0), _slice(1, (1, 30, 33))]
    options = {'patch': (1, 16, 16), 'value_range': 6.0}
    found = mask_scores(_predict, slices, **options)
    t = np.concatenate([_predict(e.image)['label'].ravel() for e in slices])
    y = np.concatenate([e.labels.ravel() for e in slices])
    t, y = t[y >= 0], y[y >= 0]
    high, low = t > 0.9, t < -0.9
    tp, fp = (high & (y == 1)).sum(), (high & (y == 0)).sum()
    fn, tn = (low & (y == 1)).sum(), (low & (y == 0)).sum()
    mask = t > 0
    error = np.abs(t - (2 * y - 1))
    huber = np.where(error <= 0.1, error**2 / 2, 0.1 * error - 0.005).mean()
    expected = {
        'dice': 2 * (mask & (y == 1)).sum() / (mask.sum() + (y == 1).sum()),
        'validation/accuracy': (tp + tn) / len(y),
        'validation/precision': tp / (tp + fp),
        'validation/recall': tp / (tp + fn),
        'validation/f1': 2 * tp / (2 * tp + fp + fn),
        'validation/label_loss': huber,
        'validation/label_accuracy': (error <= 0.02).mean(),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert 0.5 < found['validation/image_accuracy'] < 1
    assert found['validation/loss'] == pytest.approx(0.99 * huber, rel=0.2)
    alone = mask_scores(lambda image: {'label': _predict(image)['label']}, slices, **options)
    assert (
        alone['validation/loss'] == alone['validation/label_loss'] == found['validation/label_loss']
    )
    assert not [name for name in alone if 'image' in name]


def test_perfect_heads_score_one_and_lose_nothing():
    example = _slice()
    heads = {'label': np.where(example.labels == 1, 1.0, -1.0)[..., None], 'image': example.image}
    found = mask_scores(lambda _: heads, [example], patch=(1, 16, 16), value_range=6.0)
    assert all(
        value == pytest.approx(0 if 'loss' in name else 1, abs=1e-6)
        for name, value in found.items()
    )


def test_nothing_predicted_has_no_precision():
    example = _slice()
    heads = {'label': np.zeros((1, 24, 20, 1), np.float32)}
    found = mask_scores(lambda _: heads, [example], patch=(1, 16, 16), value_range=6.0)
    assert found['dice'] == 0
    assert 'validation/precision' not in found


def test_panels_show_image_reconstruction_truth_and_prediction():
    example = _slice(shape=(1, 600, 24))
    panel = mask_panel(_predict, example)
    assert (panel.shape, panel.dtype) == ((512, 4 * 24), np.uint8)
    truth = panel[:, 48:72]
    labels = example.labels[0, 44 : 44 + 512]
    assert set(truth[labels == 1]) == {255}
    assert set(truth[labels == 0]) == {0}
    assert set(truth[labels == -1]) == {127}
    without = mask_panel(lambda image: {'label': _predict(image)['label']}, example)
    np.testing.assert_array_equal(without[:, 24:], panel[:, 48:])
