"""Validation: how well whole volumes are segmented."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from sxt_jax.core.processes import ALONE, Team
from sxt_jax.data.classes import IGNORE_INDEX, Classes
from sxt_jax.data.datasets import Example
from sxt_jax.inference import keep_classes, predict_slabs
from sxt_jax.inference.selection import EarlierProbs, Selection
from sxt_jax.metrics.overlap import confusion, scores


def validation_scores(
    apply_fn: Callable[..., Any],
    variables: Any,
    examples: Sequence[Example],
    *,
    classes: Classes,
    tiling: Mapping[str, Any],
    device_mesh: Mesh | None,
    team: Team = ALONE,
) -> dict[str, float]:
    """Dice of whole volumes: 'dice' over all foreground classes, and 'dice/<class>'.

    Each volume is segmented as `launch.segment` would, on the grid the network works on (with a
    band, by the network there, and elsewhere by the probabilities that it is given); a class
    counts where it occurs in the volume's truth or prediction, and the mean is over volumes, then
    over classes. What occurs nowhere has no score: no entry.

    Args:
      apply_fn: (variables, tiles) → heads, one of them 'probs'.
      variables: of the network.
      examples: the volumes.
      classes: names the scores.
      tiling: `tile`, `overlap`, `blend`, `batch_size` of `predict_slabs`.
      device_mesh: the devices.
      team: processes that segment some of the volumes each.
    """

    def count(example: Example) -> list[list[int]]:
        n = len(classes)
        found = _volume_confusion(apply_fn, variables, example, n, tiling, device_mesh)
        return found.tolist()

    counted = team.share(count, examples, name='validation')
    found = [scores(np.array(counts, np.int64)) for counts in counted]
    dice = np.array([columns['dice'][1:] for columns in found])  # [volume, foreground class]
    found_anywhere = np.isfinite(dice).any(0)
    names = np.array(classes.names[1:])[found_anywhere]
    mean = np.nanmean(dice[:, found_anywhere], axis=0)
    result = {f'dice/{name}': float(d) for name, d in zip(names, mean, strict=True)}
    return {'dice': float(mean.mean()), **result} if len(mean) else {}


def _volume_confusion(
    apply_fn: Any, variables: Any, example: Example, n_classes: int, tiling: Any, device_mesh: Any
) -> np.ndarray:
    total = np.zeros((n_classes, n_classes), np.int64)
    selection = None
    if example.band is not None:
        selection = Selection(example.band.choose_tiles, EarlierProbs(n_classes))
    for slab in predict_slabs(
        apply_fn,
        variables,
        example.image,
        device_mesh=device_mesh,
        finish=keep_classes,
        selection=selection,
        **tiling,
    ):
        index = (slice(slab.z_start, slab.z_stop), slice(None), slice(None))
        truth = np.asarray(example.labels[index])
        counts = confusion(slab.heads['classes'], truth, n_classes=n_classes, ignore=IGNORE_INDEX)
        total += np.asarray(counts)
    return total
