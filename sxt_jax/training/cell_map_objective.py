"""Learning the mask and the boundary of cells (Machireddy et al. 2023, section 3.3)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from sxt_jax.data.cell_maps import BOUNDARY, MASK
from sxt_jax.data.classes import IGNORE_INDEX
from sxt_jax.training.objectives import Arrays, Loss, foreground_dice

BITS = {'mask': MASK, 'boundary': BOUNDARY}


def truth_of(codes: jax.Array, name: str) -> jax.Array:
    """One of the maps: 0, 1, `IGNORE_INDEX`.

    Args:
      codes: [...] of `data.cell_maps.cell_codes`.
      name: 'mask' or 'boundary'.
    """
    codes = codes.astype(jnp.int32)
    return jnp.where(codes == IGNORE_INDEX, IGNORE_INDEX, (codes & BITS[name] > 0).astype(int))


def cell_map_loss() -> Loss:
    """Mean over both heads of 1 − Dice with squared denominators, over the batch.

    Returns:
      The loss; it reports 'mask_loss' and 'boundary_loss'.
    """

    def loss(outputs: Arrays, batch: Arrays) -> tuple[jax.Array, dict[str, jax.Array]]:
        told = {}
        for name in BITS:
            found = outputs[name]
            probs = jnp.concatenate([1 - found, found], axis=-1)
            told[f'{name}_loss'] = foreground_dice(probs, truth_of(batch['labels'], name))
        return (told['mask_loss'] + told['boundary_loss']) / 2, told

    return loss
