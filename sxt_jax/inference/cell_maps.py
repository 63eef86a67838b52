"""From the maps of cells, mask and boundary, to labels and to what is written of the maps."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from sxt_jax.inference.apply import Finish, Heads, add_classes

THRESHOLD = 0.5  # as published, of either map
STEPS = 255  # a map is written as whole numbers 0 … 255


@functools.lru_cache(maxsize=16)
def finish_cell_maps(finish: Finish) -> Finish:
    """What is kept of 'mask' and 'boundary': the same function for the same `finish`.

    Args:
      finish: `keep_classes`, or `add_classes` for the maps as well.

    Returns:
      The function of heads 'mask' and 'boundary' [..., 1]. It gives 'classes' [...], uint8: 2 where
      the boundary is at least 0.5, else 1 where the mask is, else 0; and with `add_classes` 'probs'
      [..., 2], uint8: mask and boundary times 255.
    """

    def of_maps(heads: Heads) -> Heads:
        mask, boundary = heads['mask'], heads['boundary']
        inside = jnp.where(mask >= THRESHOLD, 1, 0)
        found = jnp.where(boundary >= THRESHOLD, 2, inside)[..., 0].astype(jnp.uint8)
        if finish is not add_classes:
            return {'classes': found}
        maps = jnp.concatenate([mask, boundary], axis=-1)
        return {'classes': found, 'probs': _as_steps(maps)}

    return of_maps


def _as_steps(maps: jax.Array) -> jax.Array:
    return jnp.round(STEPS * maps).astype(jnp.uint8)
