"""Validation of foreground and flows on whole volumes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from sxt_jax.core.volume import ArrayLike
from sxt_jax.data.classes import IGNORE_INDEX
from sxt_jax.data.datasets import Example
from sxt_jax.inference import Slab
from sxt_jax.training.flow_objective import flow_weights

FOREGROUND_THRESHOLD = 0.5
RIGHT_FLOW = 0.5  # a flow is right whose error is shorter than half a unit vector


Predict = Callable[[ArrayLike], Iterable[Slab]]


def flow_scores(predict: Predict, examples: Sequence[Example]) -> dict[str, float]:
    """How well foreground and flows of whole volumes are predicted; means over the volumes.

    Where cells touch, nearly all is foreground and its Dice tells little: so the flows have one of
    their own, in which a voxel of a cell only counts as found where its flow is right: its error is
    shorter than half a unit vector, so that no flow at all is wrong but near the centre.

    Args:
      predict: [z, y, x, c] image → consecutive slabs of heads, among them 'foreground' and 'flows',
        as `predict_slabs` yields them.
      examples: the volumes, with flows.

    Returns:
      'dice/foreground' and 'dice/flows', and their mean 'dice' by which the best checkpoint is
      found: only for volumes with cells in truth or prediction. 'validation/foreground_loss' and
      'validation/flow_loss' as in training. Nothing of no volume.
    """
    rows = [_score(predict, example) for example in examples]
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}


def _score(predict: Predict, example: Example) -> dict[str, float]:
    total: dict[str, float] = {}
    assert example.flows is not None
    for slab in predict(example.image):
        rows = slice(slab.z_start, slab.z_stop)
        labels, flows = _rows(example.labels, rows), _rows(example.flows, rows)
        sums = _sums(slab.heads['foreground'][..., 0], slab.heads['flows'], labels, flows)
        total = {name: total.get(name, 0.0) + value for name, value in sums.items()}
    cells = total['true'] + total['predicted']
    scores = {}
    if cells > 0:
        foreground, flow = 2 * total['both'] / cells, 2 * total['right'] / cells
        scores = {
            'dice': (foreground + flow) / 2, 'dice/foreground': foreground, 'dice/flows': flow
        }  # fmt: skip
    return scores | {
        'validation/foreground_loss': total['foreground_error'] / max(total['counted'], 1),
        'validation/flow_loss': total['flow_error'] / max(total['weight'], 1),
    }


def _rows(data: ArrayLike, rows: slice) -> np.ndarray:
    return np.asarray(data[(rows, *(slice(None),) * (len(data.shape) - 1))])


def _sums(
    foreground: np.ndarray, flows: np.ndarray, labels: np.ndarray, true_flows: np.ndarray
) -> dict[str, float]:
    """Sums over the voxels of a slab, from which all scores are made."""
    counted = labels != IGNORE_INDEX
    true, predicted = labels > 0, (foreground > FOREGROUND_THRESHOLD) & counted
    squared = np.square(flows - true_flows.astype(np.float32))
    right = squared.sum(-1) < RIGHT_FLOW**2
    weight = np.asarray(flow_weights(labels))
    return {
        'true': float(true.sum()),
        'predicted': float(predicted.sum()),
        'both': float((true & predicted).sum()),
        'right': float((true & predicted & right).sum()),
        'counted': float(counted.sum()),
        'foreground_error': float(np.abs(foreground - true)[counted].sum(dtype=np.float64)),
        'flow_error': float((squared.mean(-1) * weight).sum(dtype=np.float64)),
        'weight': float(weight.sum(dtype=np.float64)),
    }
