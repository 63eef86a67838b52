"""Scores from counts, against sums written out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sxt_jax.core.errors import InputError
from sxt_jax.metrics import confusion, dice, overlap, scores


def random_labels(seed: int, n_classes: int, shape: tuple = (6, 7, 8)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, n_classes, shape)


def count_by_hand(prediction: np.ndarray, truth: np.ndarray, n_classes: int) -> np.ndarray:
    return np.array(
        [
            [np.sum((truth == t) & (prediction == p)) for p in range(n_classes)]
            for t in range(n_classes)
        ]
    )


@pytest.mark.parametrize('n_classes', [2, 4, 12])
@pytest.mark.parametrize('dtype', [np.uint8, np.int16, np.uint32])
def test_counts(n_classes: int, dtype: type) -> None:
    prediction = random_labels(0, n_classes).astype(dtype)
    truth = random_labels(1, n_classes).astype(dtype)
    found = confusion(prediction, truth, n_classes=n_classes)
    np.testing.assert_array_equal(found, count_by_hand(prediction, truth, n_classes))


@pytest.mark.parametrize('n_classes', [2, 5, 12])
def test_both_ways_to_count_agree(n_classes: int) -> None:
    """The accelerators' way is tried on the CPU too."""
    pair = jnp.asarray(random_labels(2, n_classes**2 + 1))
    np.testing.assert_array_equal(
        overlap._count_by_comparison(pair, n_classes), overlap._count_by_scatter(pair, n_classes)
    )


def test_adds_up_over_slabs_and_runs_inside_jit() -> None:
    prediction, truth = random_labels(3, 3), random_labels(4, 3)
    whole = confusion(prediction, truth, n_classes=3)
    parts = sum(confusion(prediction[s], truth[s], n_classes=3) for s in (slice(2), slice(2, 6)))
    np.testing.assert_array_equal(whole, parts)
    jitted = jax.jit(lambda p, t: confusion(p, t, n_classes=3))(prediction, truth)
    np.testing.assert_array_equal(whole, jitted)


@pytest.mark.parametrize('ignore', [-1, 2, 255])
def test_ignored_voxels_do_not_count(ignore: int) -> None:
    prediction, truth = random_labels(5, 4), random_labels(6, 4)
    truth[0] = ignore
    keep = truth != ignore
    found = confusion(prediction, truth, n_classes=4, ignore=ignore)
    np.testing.assert_array_equal(found, count_by_hand(prediction[keep], truth[keep], 4))


def test_out_of_range_raises_outside_jit_and_is_left_out_inside() -> None:
    prediction, truth = random_labels(7, 3), random_labels(8, 3)
    prediction[0, 0, 0] = 3
    with pytest.raises(InputError, match=r'prediction.*0 … 3.*0 … 2'):
        confusion(prediction, truth, n_classes=3)
    inside = jax.jit(lambda p, t: confusion(p, t, n_classes=3))(prediction, truth)
    assert int(inside.sum()) == truth.size - 1


def test_scores_of_a_small_case_by_hand() -> None:
    truth = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
    prediction = np.array([0, 0, 0, 1, 1, 1, 0, 2, 2, 1])
    table = scores(confusion(prediction, truth, n_classes=3))
    # Class 1: 2 hits, 2 false positives, 1 missed, 5 rightly left out.
    assert table['dice'][1] == pytest.approx(4 / 7)
    assert table['f1'][1] == pytest.approx(4 / 7)
    assert table['iou'][1] == pytest.approx(2 / 5)
    assert table['precision'][1] == pytest.approx(2 / 4)
    assert table['recall'][1] == pytest.approx(2 / 3)
    assert table['accuracy'][1] == pytest.approx(7 / 10)
    assert table['n_truth'].tolist() == [4, 3, 3]
    assert table['n_prediction'].tolist() == [4, 4, 2]


def test_dice_and_iou_of_every_class_agree_with_masks() -> None:
    prediction, truth = random_labels(9, 4), random_labels(10, 4)
    table = scores(confusion(prediction, truth, n_classes=4))
    for k in range(4):
        a, b = prediction == k, truth == k
        assert table['dice'][k] == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))
        assert table['iou'][k] == pytest.approx((a & b).sum() / (a | b).sum())
        assert table['dice'][k] == pytest.approx(float(dice(a, b)), rel=1e-6)
        assert table['accuracy'][k] == pytest.approx((a == b).mean())


def test_absent_classes_are_nan_and_not_perfect() -> None:
    table = scores(confusion(np.array([0, 1]), np.array([0, 0]), n_classes=3))
    assert table['dice'][1] == 0  # predicted where there is none
    assert np.isnan(table['recall'][1])
    assert table['precision'][1] == 0
    for name in ('dice', 'iou', 'precision', 'recall', 'accuracy', 'f1'):
        assert np.isnan(table[name][2])


def test_dice_of_masks_labels_and_probabilities() -> None:
    a = np.array([1, 1, 0, 0], bool)
    b = np.array([1, 0, 1, 0], bool)
    assert float(dice(a, b)) == pytest.approx(0.5)
    assert float(dice(a.astype(np.uint8), b.astype(np.uint8))) == pytest.approx(0.5)
    assert float(dice(a * 1.0, b)) == pytest.approx(0.5)
    assert float(dice(np.array([0.5, 0.5]), np.array([1.0, 0.0]))) == pytest.approx(0.5)
    assert float(dice(np.array([1, 2, 2, 0]), np.array([1, 1, 2, 2]))) == pytest.approx(4 / 7)
    assert np.isnan(float(dice(np.zeros(3, bool), np.zeros(3, bool))))


def test_dice_is_symmetric_and_does_not_mind_renaming() -> None:
    a, b = random_labels(11, 4), random_labels(12, 4)
    assert float(dice(a, b)) == float(dice(b, a))
    names = np.array([0, 9, 4, 300])
    assert float(dice(names[a], names[b])) == float(dice(a, b))
    assert float(dice(a, a)) == 1


def test_soft_dice_has_a_finite_gradient() -> None:
    truth = jnp.asarray(random_labels(13, 2))
    gradient = jax.grad(lambda p: dice(p, truth))(jnp.full(truth.shape, 0.3))
    assert bool(jnp.isfinite(gradient).all())
    assert float(jnp.abs(gradient).max()) > 0


@pytest.mark.parametrize(
    'call',
    [
        lambda: confusion(np.zeros((2, 2), int), np.zeros((2, 3), int), n_classes=2),
        lambda: confusion(np.zeros((2, 2)), np.zeros((2, 2), int), n_classes=2),
        lambda: confusion(np.zeros((2, 2), int), np.full((2, 2), -1), n_classes=2),
        lambda: dice(np.zeros(3), np.zeros(4)),
        lambda: scores(np.zeros((2, 3))),
        lambda: scores(np.full((2, 2), -1)),
    ],
)
def test_bad_input(call) -> None:
    with pytest.raises(InputError):
        call()
