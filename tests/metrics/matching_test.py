"""Scores of instances against brute force over masks, scikit-image, and answers by hand."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import sparse
from scipy.optimize import linear_sum_assignment
from skimage import metrics as skimage_metrics

from sxt_jax.core.errors import InputError
from sxt_jax.io.lazy import LazyArray
from sxt_jax.metrics import (
    IOU_THRESHOLDS,
    adapted_rand_error,
    average_precision,
    contingency,
    contingency_table,
    matched_dice,
    overlapping_pairs,
    panoptic_quality,
    variation_of_information,
)

SCORES = (
    overlapping_pairs,
    matched_dice,
    average_precision,
    panoptic_quality,
    variation_of_information,
    adapted_rand_error,
)
EMPTY = np.zeros((3, 4), np.int32)
ONE = np.array([[0, 0, 0, 0], [0, 7, 7, 0], [0, 7, 7, 0]], np.int32)
Volumes = tuple[np.ndarray, np.ndarray]


def random_volumes(seed: int) -> Volumes:
    """Prediction and truth that share some objects, cut some, and join some."""
    random = np.random.default_rng(seed)
    shape = ((6, 9), (4, 5, 6), (3, 3, 14))[seed % 3]
    true = random.choice([0, 3, 4, 9, 20], shape)
    pred = np.array([0, 11, 5, 2, 8, 8])[np.searchsorted([0, 3, 4, 9, 20], true)]
    changed = random.random(shape) < (0.1, 0.4, 0.8)[seed // 3 % 3]
    pred[changed] = random.choice([0, 2, 5, 6, 11], changed.sum())
    return pred, true


def ids(labels: np.ndarray) -> list[int]:
    return [int(i) for i in np.unique(labels) if i]


def iou_by_masks(pred: np.ndarray, true: np.ndarray) -> np.ndarray:
    rows = [
        [np.sum((true == t) & (pred == p)) / np.sum((true == t) | (pred == p)) for p in ids(pred)]
        for t in ids(true)
    ]
    return np.array(rows).reshape(len(ids(true)), len(ids(pred)))


def numbers(score: Any) -> dict[str, Any]:
    return dataclasses.asdict(score)


seeds = pytest.mark.parametrize('seed', range(9))


@seeds
def test_table_counts_every_pair(seed: int) -> None:
    pred, true = random_volumes(seed)
    table = contingency_table(pred, true)
    for labels, found, sizes in (
        (true, table.true_ids, table.true_sizes),
        (pred, table.pred_ids, table.pred_sizes),
    ):
        assert found.tolist() == ids(labels)
        assert sizes.tolist() == [np.sum(labels == i) for i in ids(labels)]
    t = np.append(table.true_ids, 0)[table.true_index]  # place −1 is the background
    p = np.append(table.pred_ids, 0)[table.pred_index]
    pairs = {(int(a), int(b)): int(n) for a, b, n in zip(t, p, table.voxels, strict=True)}
    assert len(pairs) == len(table.voxels)
    assert table.voxels.min() > 0
    assert table.voxels.sum() == true.size
    for a, b in pairs:
        assert pairs[a, b] == np.sum((true == a) & (pred == b))


@seeds
def test_iou_and_dice_of_pairs(seed: int) -> None:
    pred, true = random_volumes(seed)
    found, iou = overlapping_pairs(pred, true), iou_by_masks(pred, true)
    rows = [ids(true).index(i) for i in found.true_ids]
    columns = [ids(pred).index(i) for i in found.pred_ids]
    dense = np.zeros_like(iou)
    dense[rows, columns] = found.iou
    np.testing.assert_allclose(dense, iou, rtol=1e-12)
    np.testing.assert_allclose(found.dice, 2 * found.iou / (1 + found.iou), rtol=1e-12)
    t, p, n = found.true_ids[-1], found.pred_ids[-1], found.voxels[-1]
    assert n == np.sum((true == t) & (pred == p))


@seeds
def test_matched_dice_is_the_best_of_all_predicted_cells(seed: int) -> None:
    pred, true = random_volumes(seed)
    found = matched_dice(pred, true)
    assert found.labels.tolist() == ids(true)
    for label, size, dice, match in zip(
        found.labels, found.sizes, found.dice, found.matches, strict=True
    ):
        cell = true == label
        by_hand = {p: 2 * np.sum(cell & (pred == p)) / np.sum(cell) for p in ids(pred)}
        by_hand = {p: d / (1 + np.sum(pred == p) / np.sum(cell)) for p, d in by_hand.items()}
        assert size == cell.sum()
        assert dice == pytest.approx(max(by_hand.values()))
        assert by_hand[int(match)] == pytest.approx(dice)
    assert found.mean == pytest.approx(found.dice.mean())


def test_matched_dice_of_a_small_case_by_hand() -> None:
    true = np.array([[1, 1, 1, 1, 2, 2, 3, 3, 0, 9]])
    pred = np.array([[5, 5, 5, 6, 6, 6, 8, 4, 0, 0]])
    found = matched_dice(pred, true)
    # 3 is cut into halves: of two equal matches the lower id. Nothing is predicted over 9.
    assert found.labels.tolist() == [1, 2, 3, 9]
    assert found.sizes.tolist() == [4, 2, 2, 1]
    assert found.matches.tolist() == [5, 6, 4, 0]
    np.testing.assert_allclose(found.dice, [6 / 7, 4 / 5, 2 / 3, 0])


def test_two_true_cells_may_take_one_predicted_cell() -> None:
    merged = matched_dice(np.full((1, 4), 6), np.array([[1, 1, 2, 2]]))
    assert merged.matches.tolist() == [6, 6]
    np.testing.assert_allclose(merged.dice, [2 / 3, 2 / 3])


@seeds
def test_average_precision_is_that_of_the_dense_assignment(seed: int) -> None:
    pred, true = random_volumes(seed)
    thresholds = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.75, 0.9, 1.0)
    found, iou = average_precision(pred, true, thresholds=thresholds), iou_by_masks(pred, true)
    for k, threshold in enumerate(thresholds):
        tp = int((iou >= threshold)[linear_sum_assignment(-(iou >= threshold).astype(float))].sum())
        fp, fn = iou.shape[1] - tp, iou.shape[0] - tp
        assert found.true_positives[k] == tp
        assert (found.false_positives[k], found.false_negatives[k]) == (fp, fn)
        assert found.ap[k] == pytest.approx(tp / (tp + fp + fn))
    assert found.mean == pytest.approx(found.ap.mean())


def test_at_half_and_below_a_cell_has_one_partner() -> None:
    halves = np.array([[1, 1, 2, 2]])
    found = average_precision(halves, np.full((1, 4), 3), thresholds=(0.5, 0.51))
    assert found.true_positives.tolist() == [1, 0]
    assert found.ap.tolist() == [0.5, 0.0]


def test_as_many_pairs_as_possible_not_the_best_pairs_first() -> None:
    # True cell 1 overlaps 5 (more) and 6; true cell 2 overlaps 5 only.
    true = np.array([[1, 1, 1, 1, 1, 2, 2, 0]])
    pred = np.array([[6, 6, 5, 5, 5, 5, 0, 0]])
    assert average_precision(pred, true, thresholds=(0.2,)).true_positives.tolist() == [2]


@pytest.mark.parametrize('threshold', IOU_THRESHOLDS)
def test_a_threshold_is_met_exactly(threshold: float) -> None:
    """The steps of 0.05 are decimal numbers, not sums that rounding lifts above the quotient."""
    true, pred = np.ones((1, 20), int), np.zeros((1, 20), int)
    pred[0, : round(20 * threshold)] = 1
    at = IOU_THRESHOLDS.index(threshold)
    assert average_precision(pred, true).true_positives.tolist() == [1] * (at + 1) + [0] * (9 - at)


@seeds
def test_panoptic_quality(seed: int) -> None:
    pred, true = random_volumes(seed)
    found, iou = panoptic_quality(pred, true), iou_by_masks(pred, true)
    matched = iou[iou > 0.5]
    cells = len(matched) + (sum(iou.shape) - 2 * len(matched)) / 2
    assert found.pq == pytest.approx(matched.sum() / cells)
    assert found.rq == pytest.approx(len(matched) / cells)
    assert found.true_positives == len(matched)
    assert found.false_positives == iou.shape[1] - len(matched)
    assert found.false_negatives == iou.shape[0] - len(matched)
    if len(matched):
        assert found.sq * found.rq == pytest.approx(found.pq)
    else:
        assert np.isnan(found.sq)


def test_half_is_no_panoptic_match() -> None:
    found = panoptic_quality(np.array([[1, 1, 0, 0]]), np.array([[1, 1, 1, 1]]))
    assert (found.pq, found.rq, found.true_positives) == (0, 0, 0)


@seeds
@pytest.mark.parametrize('ignore_background', [True, False])
def test_variation_of_information_is_scikit_images(seed: int, ignore_background: bool) -> None:
    pred, true = random_volumes(seed)
    found = variation_of_information(pred, true, ignore_background=ignore_background)
    ignored = (0,) if ignore_background else ()
    split, merge = skimage_metrics.variation_of_information(true, pred, ignore_labels=ignored)
    assert found.split_bits == pytest.approx(split, abs=1e-12)
    assert found.merge_bits == pytest.approx(merge, abs=1e-12)
    assert found.total_bits == pytest.approx(split + merge)


def test_a_cut_in_halves_is_one_bit() -> None:
    halves, whole = np.array([[1, 1, 2, 2, 0]]), np.array([[4, 4, 4, 4, 0]])
    split = variation_of_information(halves, whole)
    assert (split.split_bits, split.merge_bits) == (1, 0)
    merge = variation_of_information(whole, halves)
    assert (merge.split_bits, merge.merge_bits) == (0, 1)


@seeds
def test_adapted_rand_counts_pairs_of_voxels(seed: int) -> None:
    pred, true = random_volumes(seed)
    p, t = pred[true > 0], true[true > 0]
    p = np.where(p == 0, -1 - np.arange(len(p)), p)  # background voxels are objects of their own
    in_pred, in_true = p[:, None] == p, t[:, None] == t
    both = (in_pred & in_true).sum()
    precision, recall = both / in_pred.sum(), both / in_true.sum()
    found = adapted_rand_error(pred, true)
    assert found.precision == pytest.approx(precision)
    assert found.recall == pytest.approx(recall)
    assert found.error == pytest.approx(1 - 2 * precision * recall / (precision + recall))


@seeds
def test_adapted_rand_is_scikit_images_for_large_objects(seed: int) -> None:
    """It leaves out the pairs of a voxel with itself: in a million-fold volume nothing."""
    pred, true = random_volumes(seed)
    pred = pred + 1  # nor does it set predicted background apart
    counts = [[np.sum((true == t) & (pred == p)) for p in ids(pred)] for t in ids(true)]
    large = sparse.csr_array(np.array(counts, dtype=np.float64) * 1e6)
    error, precision, recall = skimage_metrics.adapted_rand_error(table=large)
    found = adapted_rand_error(pred, true)
    # What scikit-image 0.26 calls precision divides by the pairs of the truth.
    ours, theirs = sorted([found.precision, found.recall]), sorted([precision, recall])
    assert ours == pytest.approx(theirs, abs=1e-6)
    assert found.error == pytest.approx(error, abs=1e-6)


def test_perfect_up_to_names_is_perfect() -> None:
    _, true = random_volumes(0)
    table = contingency_table(np.where(true > 0, 100 - true, 0), true)
    assert matched_dice(table).dice.tolist() == [1] * len(ids(true))
    assert average_precision(table).ap.tolist() == [1] * 10
    assert panoptic_quality(table).pq == 1
    assert variation_of_information(table).total_bits == 0
    assert adapted_rand_error(table).error == 0


@seeds
def test_one_table_serves_all_scores(seed: int) -> None:
    pred, true = random_volumes(seed)
    table = contingency_table(pred, true)
    for score in SCORES:
        np.testing.assert_equal(numbers(score(table)), numbers(score(pred, true)))


@seeds
@pytest.mark.parametrize('dtype', [np.int8, np.uint16, np.int64, np.uint64])
def test_names_of_cells_and_order_of_axes_do_not_matter(seed: int, dtype: type) -> None:
    pred, true = random_volumes(seed)
    names: np.ndarray = np.zeros(31, dtype)
    # The largest of uint64 are beyond what a float or an int64 can hold.
    names[1:] = np.iinfo(dtype).max - np.random.default_rng(seed).permutation(30).astype(dtype)
    turned = [np.moveaxis(names[labels], 0, -1) for labels in (pred, true)]
    for score in SCORES[1:]:
        expected, found = numbers(score(pred, true)), numbers(score(*turned))
        for name, value in expected.items():
            if name not in ('labels', 'matches'):
                np.testing.assert_allclose(
                    np.sort(np.ravel(found[name])), np.sort(np.ravel(value)), atol=1e-12
                )
    cells = matched_dice(*turned)
    assert cells.labels.dtype == dtype
    order = np.argsort(names[ids(true)])
    np.testing.assert_array_equal(cells.labels, names[ids(true)][order])
    np.testing.assert_allclose(cells.dice, matched_dice(pred, true).dice[order])


@seeds
@pytest.mark.parametrize('slab_voxels', [1, 8, 30])
def test_slabs_add_up(seed: int, slab_voxels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pred, true = random_volumes(seed)
    whole = numbers(contingency_table(pred, true))
    monkeypatch.setattr(contingency, '_SLAB_VOXELS', slab_voxels)
    np.testing.assert_equal(numbers(contingency_table(pred, true)), whole)


def test_both_orders_of_sorting_agree() -> None:
    random = np.random.default_rng(0)
    true, pred = random.integers(0, 1 << 32, (2, 500), dtype=np.uint64) // (1 << 29)
    by_key = contingency._order(true, pred)
    np.testing.assert_array_equal(
        np.stack([true, pred])[:, by_key], np.stack([true, pred])[:, np.lexsort((pred, true))]
    )
    beyond = true.copy()
    beyond[0] = 1 << 32  # a joint key would take it for 0
    assert contingency._order(beyond, pred)[-1] == 0


def as_fortran(labels: np.ndarray) -> np.ndarray:
    return np.asfortranarray(labels)


def as_mirrored_view(labels: np.ndarray) -> np.ndarray:
    return labels[..., ::-1].copy()[..., ::-1]


def as_big_endian(labels: np.ndarray) -> np.ndarray:
    return labels.astype('>i4')


def as_file(labels: np.ndarray) -> LazyArray:
    return LazyArray(labels.shape, labels.dtype, labels.__getitem__, where='a.npy', kind='file')


@pytest.mark.parametrize(
    'convert',
    [jnp.asarray, np.ndarray.tolist, as_fortran, as_mirrored_view, as_big_endian, as_file],
)
def test_kinds_of_arrays(convert: Callable[[np.ndarray], Any]) -> None:
    pred, true = random_volumes(4)
    expected = numbers(contingency_table(pred, true))
    table = contingency_table(convert(pred), convert(true))
    np.testing.assert_equal(numbers(table), expected)
    assert table.true_ids.dtype.isnative
    np.testing.assert_equal(numbers(contingency_table(convert(pred), true)), expected)


def test_masks_are_one_object() -> None:
    a, b = ONE > 0, np.ones_like(ONE, dtype=bool)
    found = matched_dice(a, b)
    assert found.labels.tolist() == [1]
    assert found.dice.tolist() == [2 * 4 / (4 + 12)]


def test_nothing_predicted() -> None:
    found = matched_dice(EMPTY, ONE)
    assert (found.labels.tolist(), found.dice.tolist(), found.matches.tolist()) == ([7], [0], [0])
    assert found.mean == 0
    assert average_precision(EMPTY, ONE, thresholds=(0.3, 0.7)).ap.tolist() == [0, 0]
    assert average_precision(EMPTY, ONE).false_negatives.tolist() == [1] * 10
    assert panoptic_quality(EMPTY, ONE).pq == 0
    assert variation_of_information(EMPTY, ONE).total_bits == 0  # the cell is one segment in both
    rand = adapted_rand_error(EMPTY, ONE)
    assert (rand.precision, rand.recall) == (1, 4 / 16)
    assert len(overlapping_pairs(EMPTY, ONE).iou) == 0


def test_nothing_true() -> None:
    assert len(matched_dice(ONE, EMPTY).dice) == 0
    assert np.isnan(matched_dice(ONE, EMPTY).mean)
    found = average_precision(ONE, EMPTY)
    assert (found.ap.tolist(), found.false_positives.tolist()) == ([0] * 10, [1] * 10)
    assert panoptic_quality(ONE, EMPTY).pq == 0
    assert np.isnan(variation_of_information(ONE, EMPTY).split_bits)
    kept = variation_of_information(ONE, EMPTY, ignore_background=False)
    assert kept.split_bits == pytest.approx(-(2 / 3) * np.log2(2 / 3) - (1 / 3) * np.log2(1 / 3))
    assert kept.merge_bits == 0
    assert np.isnan(dataclasses.astuple(adapted_rand_error(ONE, EMPTY))).all()


@pytest.mark.parametrize('volume', [EMPTY, np.zeros((0, 4, 5), np.int32), np.zeros((3, 0), int)])
def test_no_cells_at_all_score_nan(volume: np.ndarray) -> None:
    assert np.isnan(matched_dice(volume, volume).mean)
    assert np.isnan(average_precision(volume, volume).ap).all()
    found = panoptic_quality(volume, volume)
    assert np.isnan([found.pq, found.sq, found.rq]).all()
    assert np.isnan(variation_of_information(volume, volume).total_bits)
    assert np.isnan(adapted_rand_error(volume, volume).error)
    assert contingency_table(volume, volume).voxels.sum() == volume.size


def test_one_cell() -> None:
    larger = np.where(np.roll(ONE, 1, axis=1) + ONE > 0, 3, 0)
    assert matched_dice(larger, ONE).dice.tolist() == [2 * 4 / (4 + 6)]
    assert average_precision(larger, ONE, thresholds=(0.66, 0.67)).ap.tolist() == [1, 0]
    assert panoptic_quality(larger, ONE).pq == pytest.approx(4 / 6)


def test_more_than_65536_cells() -> None:
    true = np.arange(1, 42**3 + 1, dtype=np.int32).reshape(42, 42, 42).repeat(2, axis=2)
    pred = true[::-1, ::-1, ::-1].max() + 1 - true
    pred[0, 0, 0] = 0  # half of the first cell
    table = contingency_table(pred, true)
    cells = matched_dice(table)
    assert len(cells.dice) == 42**3
    assert cells.dice[:2].tolist() == [2 / 3, 1]
    assert cells.dice[1:].min() == 1
    found = average_precision(table, thresholds=(0.4, 0.5, 0.55))
    assert found.true_positives.tolist() == [42**3, 42**3, 42**3 - 1]


@pytest.mark.parametrize('score', SCORES)
def test_bad_volumes(score: Callable[..., Any]) -> None:
    for pred, true, message in (
        (ONE, ONE[1:], r'pred: shape \(3, 4\); expected that of true \(2, 4\)'),
        (ONE[0], ONE[0], r'true: shape \(4,\)'),
        (ONE[None, None], ONE[None, None], r'true: shape \(1, 1, 3, 4\)'),
        (ONE.astype(np.float32), ONE, 'pred: voxels of type float32'),
        (ONE, ONE.astype(np.float32), 'true: voxels of type float32'),
        (ONE, -ONE, 'true: id -7'),
        (ONE - 1, ONE, 'pred: id -1'),
        (ONE, None, 'true: one volume'),
        (contingency_table(ONE, ONE), ONE, 'true: a table and a volume'),
    ):
        with pytest.raises(InputError, match=message):
            score(pred, true)


@pytest.mark.parametrize('thresholds', [(), (0.0,), (0.5, 1.1), (float('nan'),), 0.5])
def test_bad_thresholds(thresholds: Any) -> None:
    with pytest.raises(InputError, match='thresholds'):
        average_precision(ONE, ONE, thresholds=thresholds)
