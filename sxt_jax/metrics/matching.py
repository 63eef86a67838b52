"""Scores of instances: matched Dice, average precision, panoptic quality, and clusterings.

Every function takes the predicted and the true label volume. To have several scores of the same
volumes, count once and give the table in their place:

    table = contingency_table(pred, true)
    matched_dice(table).mean, average_precision(table).mean
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from sxt_jax.core.errors import InputError
from sxt_jax.metrics.contingency import Contingency, as_contingency

# Written out: a sum of steps would miss an IoU of exactly 0.6 by rounding.
IOU_THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


@dataclasses.dataclass(frozen=True, eq=False)
class OverlappingPairs:
    """All pairs of a true and a predicted object that share a voxel, by true, then predicted id.

    Attributes:
      true_ids: [k] id of the true object.
      pred_ids: [k] id of the predicted object.
      voxels: [k] int64, voxels they share.
      iou: [k] float64, intersection over union.
      dice: [k] float64, Dice coefficient.
    """

    true_ids: np.ndarray
    pred_ids: np.ndarray
    voxels: np.ndarray
    iou: np.ndarray
    dice: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class MatchedDice:
    """Dice of every true cell with its best predicted cell.

    Attributes:
      labels: [t] ids of the true cells, ascending.
      sizes: [t] int64, their voxels.
      dice: [t] float64 in [0, 1]; 0 where no predicted cell touches the true one.
      matches: [t] id of the matched predicted cell, 0 where there is none.
    """

    labels: np.ndarray
    sizes: np.ndarray
    dice: np.ndarray
    matches: np.ndarray

    @property
    def mean(self) -> float:
        """Mean over the true cells, each counting the same; NaN without true cells."""
        return float(self.dice.mean()) if len(self.dice) else float('nan')


@dataclasses.dataclass(frozen=True, eq=False)
class AveragePrecision:
    """Detections right and wrong at each threshold of IoU.

    Attributes:
      thresholds: [n] float64.
      true_positives: [n] int64, matched pairs.
      false_positives: [n] int64, predicted cells without a partner.
      false_negatives: [n] int64, true cells without a partner.
    """

    thresholds: np.ndarray
    true_positives: np.ndarray
    false_positives: np.ndarray
    false_negatives: np.ndarray

    @property
    def ap(self) -> np.ndarray:
        """[n] TP / (TP + FP + FN) at each threshold; NaN where there are no cells at all."""
        cells = self.true_positives + self.false_positives + self.false_negatives
        return _ratio(self.true_positives, cells)

    @property
    def mean(self) -> float:
        """Mean of `ap` over the thresholds."""
        return float(self.ap.mean())


@dataclasses.dataclass(frozen=True)
class PanopticQuality:
    """Panoptic quality and its factors.

    Attributes:
      pq: sq · rq; 0 where no pair matches, NaN where there are no cells at all.
      sq: segmentation quality, mean IoU of the matched pairs; NaN without such pairs.
      rq: recognition quality, TP / (TP + FP/2 + FN/2); NaN where there are no cells at all.
      true_positives: matched pairs.
      false_positives: predicted cells without a partner.
      false_negatives: true cells without a partner.
    """

    pq: float
    sq: float
    rq: float
    true_positives: int
    false_positives: int
    false_negatives: int


@dataclasses.dataclass(frozen=True)
class VariationOfInformation:
    """What is not known of one segmentation when the other is known, in bits (base 2).

    Attributes:
      split_bits: H(pred | true), grows where true objects are cut.
      merge_bits: H(true | pred), grows where true objects are joined.
    """

    split_bits: float
    merge_bits: float

    @property
    def total_bits(self) -> float:
        """Split and merge part together."""
        return self.split_bits + self.merge_bits


@dataclasses.dataclass(frozen=True)
class AdaptedRand:
    """Adapted Rand error with its precision and recall.

    Attributes:
      error: 1 − F score of precision and recall; 0 is best.
      precision: of the pairs of voxels joined by the prediction, the share that truth joins too.
      recall: of the pairs of voxels joined in truth, the share that the prediction joins too.
    """

    error: float
    precision: float
    recall: float


def overlapping_pairs(pred: Any, true: Any = None) -> OverlappingPairs:
    """IoU and Dice of all pairs of objects that overlap; the background is no object.

    Args:
      pred: [z, y, x] or [y, x] integer ids, 0 is background; or the `Contingency` of both
        volumes, then `true` is left out.
      true: ids likewise, of the same shape.

    Raises:
      InputError: shapes differ or have another rank, or ids are not whole or are negative.
    """
    table = as_contingency(pred, true)
    i, j, voxels, iou, dice = _overlaps(table)
    return OverlappingPairs(table.true_ids[i], table.pred_ids[j], voxels, iou, dice)


def matched_dice(pred: Any, true: Any = None) -> MatchedDice:
    """Dice of each true cell with the predicted cell that matches it best.

    Eschweiler & Stegmaier 2021 show such scores, one a cell, as box plots (figs. 2 and 3). They do
    not say how cells are matched. Here every true cell takes the predicted cell with the highest
    Dice, which has the highest IoU too (of equals, the one with the lowest id). Two true cells may
    take the same predicted one: a merged cell scores low for both by its size. A true cell that
    no predicted cell touches counts 0. Predicted cells that no true cell takes change nothing
    here; they count in `average_precision`.

    Args:
      pred: [z, y, x] or [y, x] integer ids, 0 is background; or the `Contingency` of both
        volumes, then `true` is left out.
      true: ids likewise, of the same shape.

    Returns:
      Scores by true cell, and their `mean`: NaN without true cells, 0 if nothing is predicted.

    Raises:
      InputError: shapes differ or have another rank, or ids are not whole or are negative.
    """
    table = as_contingency(pred, true)
    i, j, _, _, dice = _overlaps(table)
    best_first = np.lexsort((j, -dice, i))
    touched, first = np.unique(i[best_first], return_index=True)
    best = best_first[first]
    scores = np.zeros(len(table.true_ids))
    scores[touched] = dice[best]
    matches = np.zeros(len(table.true_ids), table.pred_ids.dtype)
    matches[touched] = table.pred_ids[j[best]]
    return MatchedDice(table.true_ids, table.true_sizes, scores, matches)


def average_precision(
    pred: Any, true: Any = None, *, thresholds: Sequence[float] = IOU_THRESHOLDS
) -> AveragePrecision:
    """TP / (TP + FP + FN) of cells that match with an IoU of at least each threshold.

    The "average precision" of Cellpose (Stringer et al. 2021) and StarDist (Schmidt et al. 2018).
    Cells are matched one to one, as many pairs as possible at each threshold. Above an IoU of
    0.5 no cell can have two partners, so all pairs match; at 0.5 and below the largest matching
    is found in the bipartite graph of the pairs.

    Args:
      pred: [z, y, x] or [y, x] integer ids, 0 is background; or the `Contingency` of both
        volumes, then `true` is left out.
      true: ids likewise, of the same shape.
      thresholds: of IoU, in (0, 1].

    Returns:
      Counts, `ap` by threshold and its `mean`: 0 if one volume has no cells, NaN if both.

    Raises:
      InputError: shapes differ or have another rank, ids are not whole or are negative, or a
        threshold is out of range.
    """
    limits = np.asarray(thresholds, dtype=np.float64)
    if limits.ndim != 1 or not limits.size or not ((limits > 0) & (limits <= 1)).all():
        raise InputError('thresholds', f'{thresholds}', 'values in (0, 1]')
    table = as_contingency(pred, true)
    i, j, _, iou, _ = _overlaps(table)
    hits = [_largest_matching(i[iou >= limit], j[iou >= limit], limit) for limit in limits]
    tp = np.array(hits, dtype=np.int64)
    return AveragePrecision(limits, tp, len(table.pred_ids) - tp, len(table.true_ids) - tp)


def panoptic_quality(pred: Any, true: Any = None) -> PanopticQuality:
    """Panoptic quality of cells that match with an IoU above 0.5 (Kirillov et al. 2019).

    Args:
      pred: [z, y, x] or [y, x] integer ids, 0 is background; or the `Contingency` of both
        volumes, then `true` is left out.
      true: ids likewise, of the same shape.

    Raises:
      InputError: shapes differ or have another rank, or ids are not whole or are negative.
    """
    table = as_contingency(pred, true)
    iou = _overlaps(table)[3]
    matched = iou[iou > 0.5]
    tp = len(matched)
    fp, fn = len(table.pred_ids) - tp, len(table.true_ids) - tp
    cells = tp + fp / 2 + fn / 2
    pq, rq = _ratio(matched.sum(), cells), _ratio(tp, cells)
    return PanopticQuality(float(pq), float(_ratio(matched.sum(), tp)), float(rq), tp, fp, fn)


def variation_of_information(
    pred: Any, true: Any = None, *, ignore_background: bool = True
) -> VariationOfInformation:
    """Variation of information in bits, as the part of splits and the part of merges.

    Meilă 2007, in the convention of the CREMI challenge: voxels of the true background are left
    out, and what is predicted as background inside true objects is one more segment. All parts
    are NaN if no voxel is left.

    Args:
      pred: [z, y, x] or [y, x] integer ids, 0 is background; or the `Contingency` of both
        volumes, then `true` is left out.
      true: ids likewise, of the same shape.
      ignore_background: leave out the true background; otherwise it is a segment like others.

    Raises:
      InputError: shapes differ or have another rank, or ids are not whole or are negative.
    """
    table = as_contingency(pred, true)
    kept = table.true_index >= (0 if ignore_background else -1)
    i, j, voxels = table.true_index[kept] + 1, table.pred_index[kept] + 1, table.voxels[kept]
    share = _ratio(voxels, voxels.sum())
    in_true, in_pred = (np.bincount(k, weights=voxels)[k] for k in (i, j))
    if not voxels.sum():
        return VariationOfInformation(float('nan'), float('nan'))
    split, merge = (float(share @ np.log2(whole / voxels)) for whole in (in_true, in_pred))
    return VariationOfInformation(split, merge)


def adapted_rand_error(pred: Any, true: Any = None) -> AdaptedRand:
    """Adapted Rand error: 1 − F score over pairs of voxels in the same object.

    Arganda-Carreras et al. 2015, in the convention of the SNEMI3D and CREMI challenges: voxels
    of the true background are left out, a voxel predicted as background inside a true object is
    an object of its own, and a voxel makes a pair with itself. All parts are NaN without true
    objects.

    Args:
      pred: [z, y, x] or [y, x] integer ids, 0 is background; or the `Contingency` of both
        volumes, then `true` is left out.
      true: ids likewise, of the same shape.

    Raises:
      InputError: shapes differ or have another rank, or ids are not whole or are negative.
    """
    table = as_contingency(pred, true)
    inside = table.true_index >= 0
    j, voxels = table.pred_index[inside], table.voxels[inside].astype(np.float64)
    alone = voxels[j < 0].sum()
    in_both = np.square(voxels[j >= 0]).sum() + alone
    in_pred = np.square(np.bincount(j[j >= 0], weights=voxels[j >= 0])).sum() + alone
    in_true = np.square(table.true_sizes.astype(np.float64)).sum()
    # The harmonic mean of precision and recall, written without them.
    error = 1 - _ratio(2 * in_both, in_pred + in_true)
    return AdaptedRand(
        float(error), float(_ratio(in_both, in_pred)), float(_ratio(in_both, in_true))
    )


def _overlaps(table: Contingency) -> tuple[np.ndarray, ...]:
    """Places of the true and predicted objects of each pair, shared voxels, IoU, Dice."""
    both = (table.true_index >= 0) & (table.pred_index >= 0)
    i, j, shared = table.true_index[both], table.pred_index[both], table.voxels[both]
    sizes = table.true_sizes[i] + table.pred_sizes[j]
    return i, j, shared, shared / (sizes - shared), 2 * shared / sizes


def _largest_matching(i: np.ndarray, j: np.ndarray, threshold: float) -> int:
    """How many of the pairs can hold at once if each object has one partner."""
    if threshold > 0.5 or not len(i):
        return len(i)
    graph = sparse.coo_array((np.ones(len(i), np.int8), (i, j)), shape=(i.max() + 1, j.max() + 1))
    partners = csgraph.maximum_bipartite_matching(graph.tocsr(), perm_type='column')
    return int((partners >= 0).sum())


def _ratio(part: Any, whole: Any) -> np.ndarray:
    """Quotient, NaN for 0/0."""
    with np.errstate(invalid='ignore', divide='ignore'):
        return np.true_divide(part, whole)
