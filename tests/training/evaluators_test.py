"""Validation scores: means over volumes, then classes, of what there is to score."""

import dataclasses

import jax
import numpy as np
import pytest

from sxt_jax.data.classes import IGNORE_INDEX, Classes
from sxt_jax.data.datasets import Example
from sxt_jax.training.evaluators import validation_scores

CLASSES = Classes(('background', 'cell', 'bead'), (0, 1, 2))
TILING = {'tile': 8, 'overlap': 0, 'blend': 'constant', 'batch_size': 8}


def as_drawn(variables, tiles):
    """Predicts the class that is drawn in the image."""
    return {'probs': jax.nn.one_hot(tiles[..., 0].astype(int), 3)}


def example(prediction, truth):
    image = np.asarray(prediction, np.float32).reshape(1, 1, -1, 1)
    return Example('e', image, np.asarray(truth, np.int16).reshape(1, 1, -1))


def score(*examples):
    return validation_scores(
        as_drawn, None, examples, classes=CLASSES, tiling=TILING, device_mesh=None
    )


def test_scores_are_means_over_volumes_then_classes():
    first = example([1, 1, 0, 2], [1, 0, 0, 2])
    second = example([1, 0, 0, 0], [1, 1, 0, 0])  # no bead anywhere: counts for no bead
    cell = np.mean([2 / 3, 2 / 3])
    expected = {'dice': np.mean([cell, 1.0]), 'dice/cell': cell, 'dice/bead': 1.0}
    assert score(first, second) == pytest.approx(expected)


def test_ignored_voxels_do_not_count():
    found = score(example([1, 1, 0, 2], [1, IGNORE_INDEX, 0, IGNORE_INDEX]))
    assert found == {'dice': 1.0, 'dice/cell': 1.0}


def test_nothing_to_score_is_no_score():
    blank = example([0, 0, 0, 0], [0, 0, 0, 0])
    unlabelled = dataclasses.replace(blank, labels=np.full_like(blank.labels, IGNORE_INDEX))
    assert score(blank) == score(unlabelled) == score() == {}
