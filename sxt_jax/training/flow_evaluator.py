"""Validation of foreground and flows on whole volumes, and of the cells that they make."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from absl import logging

from sxt_jax.core.memory import host_bytes
from sxt_jax.core.processes import ALONE, Team
from sxt_jax.core.volume import ArrayLike, relative_sides, slabs
from sxt_jax.data.classes import IGNORE_INDEX, count_values
from sxt_jax.data.datasets import Example
from sxt_jax.inference import Slab
from sxt_jax.instances import reconstruct_to_host
from sxt_jax.metrics import average_precision, contingency_table, matched_dice
from sxt_jax.training.flow_objective import flow_weights

FOREGROUND_THRESHOLD = 0.5
RIGHT_FLOW = 0.5  # a flow is right whose error is shorter than half a unit vector
_BYTES_PER_VOXEL = 55  # of the host, block by block: 51 at 192 × 384 × 384
_SHARE_OF_MEMORY = 0.5

Predict = Callable[[ArrayLike], Iterable[Slab]]


@dataclasses.dataclass(frozen=True)
class _Cells:
    """Scores of the cells of one volume, or of a part.

    Attributes:
      dice: [n] of each true cell.
      n_right: cells found with an IoU of at least 0.5.
      n_all: those, the others found, and the other true ones.
    """

    dice: np.ndarray
    n_right: int
    n_all: int


def flow_scores(
    predict: Predict,
    examples: Sequence[Example],
    *,
    cell_radius: float | None = None,
    team: Team = ALONE,
) -> dict[str, float]:
    """How well cells are found in whole volumes, and the foreground and flows they are made of.

    Cells are made by the default recipe, as `launch.segment --instances` does, block by block where
    the device is too small for the volume. Where half the host's memory is, the volume is scored in
    parts along z: cells on their borders count once in each, cut in the truth as in the prediction.
    Where flows are not finite is no foreground.

    Where cells touch, nearly all is foreground and its Dice tells little: so the flows have one of
    their own, in which a voxel of a cell only counts as found where its flow is right: its error is
    shorter than half a unit vector, so that no flow at all is wrong but near the centre.

    Args:
      predict: [z, y, x, c] image → consecutive slabs of heads, among them 'foreground' and 'flows',
        as `predict_slabs` yields them.
      examples: the volumes, with flows and instances.
      cell_radius: in voxels along x; None: `typical_radius` of the examples.
      team: processes that score some of the volumes each.

    Returns:
      'dice', by which the best checkpoint is found: the mean over all true cells of the Dice with
      the best predicted one (`metrics.matched_dice`); 'ap50': TP / (TP + FP + FN) of cells with an
      IoU of at least 0.5. For diagnosis, as means over the volumes with cells in truth or
      prediction, 'dice/foreground' and 'dice/flows', voxel by voxel, and over all volumes
      'validation/foreground_loss' and 'validation/flow_loss' as in training. Nothing of no volume;
      neither 'dice' nor 'ap50' without true cells.
    """
    radius = cell_radius or typical_radius(examples)

    def score(example: Example) -> tuple[dict[str, float], list[tuple[list[float], int, int]]]:
        row, found = _score(predict, example, radius)
        return row, [(part.dice.tolist(), part.n_right, part.n_all) for part in found]

    scored = team.share(score, examples, name='validation')
    rows = [row for row, _ in scored]
    cells = [_Cells(np.array(dice), *counts) for _, parts in scored for dice, *counts in parts]
    names = dict.fromkeys(name for row in rows for name in row)
    voxelwise = {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}
    if not any(len(found.dice) for found in cells):
        return voxelwise
    dice = np.concatenate([found.dice for found in cells])
    ap = sum(found.n_right for found in cells) / sum(found.n_all for found in cells)
    return {'dice': float(dice.mean()), 'ap50': ap, **voxelwise}


def typical_radius(examples: Sequence[Example]) -> float | None:
    """Radius in voxels along x of a ball with the median volume of all true cells; None: no cells.

    Of images of one slice, that of a disk with the median area.
    """
    radii: list[float] = []
    for example in examples:
        sizes: Counter[int] = Counter()
        for slab in slabs(_instances(example)):
            sizes.update(count_values(slab) or {})
        in_cells = np.array([n for value, n in sizes.items() if value > 0])
        z, y, _ = relative_sides(example.voxel_size_nm) or (1.0, 1.0, 1.0)
        if example.shape[0] > 1:
            radii += np.cbrt(in_cells * z * y * 3 / (4 * math.pi)).tolist()
        else:
            radii += np.sqrt(in_cells * y / math.pi).tolist()
    return float(np.median(radii)) if radii else None


def _instances(example: Example) -> ArrayLike:
    if example.instances is None:
        raise ValueError(f'{example.name}: an example without instances')
    return example.instances


def _score(
    predict: Predict, example: Example, radius: float | None
) -> tuple[dict[str, float], list[_Cells]]:
    """Scores of the voxels of a volume, and of its cells."""
    total: Counter[str] = Counter()
    cells: list[_Cells] = []
    waiting: list[Slab] = []
    depth = _most_slices(example)
    for slab in predict(example.image):
        total.update(_sums(slab, example))
        if radius is not None:
            if waiting and slab.z_stop - waiting[0].z_start > depth:
                cells.append(_score_cells(waiting, example, radius))
            waiting.append(slab)
    if waiting and radius is not None:
        cells.append(_score_cells(waiting, example, radius))
    return _voxelwise(total), cells


def _most_slices(example: Example) -> int:
    """How deep the parts of a volume are of which cells are made at once: equal, and few.

    It depends on the machine, and not on what is free now: scores must not differ in kind from one
    validation to the next.
    """
    n_slices, height, width = example.shape
    total = host_bytes()
    if total is None:
        return n_slices
    fitting = max(1, int(_SHARE_OF_MEMORY * total / (_BYTES_PER_VOXEL * height * width)))
    n_parts = -(-n_slices // fitting)
    if n_parts > 1:
        logging.info('%s: cells are scored in %d parts along z', example.name, n_parts)
    return -(-n_slices // n_parts)


def _score_cells(waiting: list[Slab], example: Example, radius: float) -> _Cells:
    """Scores of the cells of consecutive slabs, which are taken from the list."""
    rows = slice(waiting[0].z_start, waiting[-1].z_stop)
    foreground = np.concatenate([slab.heads['foreground'][..., 0] for slab in waiting])
    flows = np.concatenate([slab.heads['flows'] for slab in waiting])
    waiting.clear()  # before the memory is needed
    finite = np.isfinite(flows).all(-1) & ~np.isnan(foreground)
    if not finite.all():
        foreground, flows = np.where(finite, foreground, 0), np.where(finite[..., None], flows, 0)
    sides = relative_sides(example.voxel_size_nm)
    if example.shape[0] == 1:
        foreground, flows, sides = foreground[0], flows[0, ..., -2:], sides and sides[1:]
    true = _rows(_instances(example), rows)
    pred = reconstruct_to_host(foreground, flows, cell_radius=radius, voxel_size=sides)
    pred = pred.reshape(true.shape)
    table = contingency_table(np.where(true == IGNORE_INDEX, 0, pred), np.maximum(true, 0))
    hits = average_precision(table, thresholds=(0.5,))
    n_right = int(hits.true_positives[0])
    n_all = n_right + int(hits.false_positives[0] + hits.false_negatives[0])
    return _Cells(matched_dice(table).dice, n_right, n_all)


def _rows(data: ArrayLike, rows: slice) -> np.ndarray:
    return np.asarray(data[(rows, *(slice(None),) * (len(data.shape) - 1))])


def _sums(slab: Slab, example: Example) -> dict[str, float]:
    """Sums over the voxels of a slab, from which the scores of voxels are made."""
    assert example.flows is not None
    rows = slice(slab.z_start, slab.z_stop)
    labels, true_flows = _rows(example.labels, rows), _rows(example.flows, rows)
    foreground, flows = slab.heads['foreground'][..., 0], slab.heads['flows']
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


def _voxelwise(total: Counter[str]) -> dict[str, float]:
    scores = {
        'validation/foreground_loss': total['foreground_error'] / max(total['counted'], 1),
        'validation/flow_loss': total['flow_error'] / max(total['weight'], 1),
    }
    cells = total['true'] + total['predicted']
    if cells == 0:
        return scores
    foreground, flows = 2 * total['both'] / cells, 2 * total['right'] / cells
    return {'dice/foreground': foreground, 'dice/flows': flows, **scores}
