"""Scores of segmentations and statistics over sets of volumes."""

from sxt_jax.metrics.contingency import Contingency, contingency_table
from sxt_jax.metrics.matching import (
    IOU_THRESHOLDS,
    AdaptedRand,
    AveragePrecision,
    MatchedDice,
    OverlappingPairs,
    PanopticQuality,
    VariationOfInformation,
    adapted_rand_error,
    average_precision,
    matched_dice,
    overlapping_pairs,
    panoptic_quality,
    variation_of_information,
)
from sxt_jax.metrics.overlap import confusion, dice, scores
from sxt_jax.metrics.statistics import (
    LearningCurve,
    PairedTest,
    fit_learning_curve,
    paired_t_test,
    wilcoxon_test,
)

__all__ = [
    'IOU_THRESHOLDS',
    'AdaptedRand',
    'AveragePrecision',
    'Contingency',
    'LearningCurve',
    'MatchedDice',
    'OverlappingPairs',
    'PairedTest',
    'PanopticQuality',
    'VariationOfInformation',
    'adapted_rand_error',
    'average_precision',
    'confusion',
    'contingency_table',
    'dice',
    'fit_learning_curve',
    'matched_dice',
    'overlapping_pairs',
    'paired_t_test',
    'panoptic_quality',
    'scores',
    'variation_of_information',
    'wilcoxon_test',
]
