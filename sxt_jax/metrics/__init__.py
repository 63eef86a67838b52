"""Scores of segmentations and statistics over sets of volumes."""

from sxt_jax.metrics.overlap import confusion, dice, scores
from sxt_jax.metrics.statistics import (
    LearningCurve,
    PairedTest,
    fit_learning_curve,
    paired_t_test,
    wilcoxon_test,
)

__all__ = [
    'LearningCurve',
    'PairedTest',
    'confusion',
    'dice',
    'fit_learning_curve',
    'paired_t_test',
    'scores',
    'wilcoxon_test',
]
