"""Validation of the maps of cells on whole slices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from sxt_jax.core.processes import ALONE, Team
from sxt_jax.data.classes import IGNORE_INDEX
from sxt_jax.data.datasets import Example
from sxt_jax.inference import predict_slabs
from sxt_jax.inference.apply import ApplyFn
from sxt_jax.inference.cell_maps import THRESHOLD
from sxt_jax.training.cell_map_objective import BITS


def cell_map_scores(
    apply_fn: ApplyFn,
    variables: Any,
    examples: Sequence[Example],
    *,
    tiling: Mapping[str, Any],
    device_mesh: Mesh | None,
    team: Team = ALONE,
) -> dict[str, float]:
    """Dice of mask and boundary, thresholded at 0.5, over the pixels of all slices together.

    Args:
      apply_fn: (variables, tiles) → heads 'mask' and 'boundary'.
      variables: of the network.
      examples: slices whose labels are `data.cell_maps.cell_codes`.
      tiling: `tile`, `overlap`, `blend`, `batch_size` of `predict_slabs`.
      device_mesh: the devices.
      team: processes that see some of the slices each.

    Returns:
      'dice/mask', 'dice/boundary', and their mean as 'dice'; what is 0/0 is left out.
    """

    def count(example: Example) -> Counter[str]:
        total: Counter[str] = Counter()
        for slab in predict_slabs(
            apply_fn, variables, example.image, device_mesh=device_mesh, **tiling
        ):
            index = (slice(slab.z_start, slab.z_stop), slice(None), slice(None))
            codes = np.asarray(example.labels[index])
            for name, bit in BITS.items():
                found = (slab.heads[name][..., 0] >= THRESHOLD) & (codes != IGNORE_INDEX)
                true = (codes != IGNORE_INDEX) & (codes & bit > 0)
                both, either = (int(n) for n in ((found & true).sum(), found.sum() + true.sum()))
                total.update({f'{name} both': both, f'{name} either': either})
        return total

    total: Counter[str] = Counter()
    for counts in team.share(count, examples, name='validation'):
        total.update(counts)
    dice = {
        f'dice/{name}': 2 * total[f'{name} both'] / total[f'{name} either']
        for name in BITS
        if total[f'{name} either']
    }
    return {'dice': float(np.mean(list(dice.values()))), **dice} if dice else {}
