"""Inference on some of the tiles: where the answer is known already, the network is not run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sxt_jax.core.tiles import TileGrid
from sxt_jax.data.stage_maps import STEPS
from sxt_jax.inference.apply import ApplyFn, Heads


@dataclasses.dataclass(frozen=True)
class Selection:
    """Which tiles the network runs on, and what answers for the others.

    Tiles of both kinds are blended alike, so that one passes into the other without a seam.

    Attributes:
      choose: [n_z, n_y, n_x] bool of the tiles of a grid: True where the network runs.
      otherwise: what stands in for the network elsewhere: of the same heads, and as good as free.
    """

    choose: Callable[[TileGrid], np.ndarray]
    otherwise: ApplyFn


@dataclasses.dataclass(frozen=True)
class EarlierProbs:
    """The last channels of an image as they are: what an earlier stage found (an `ApplyFn`).

    Attributes:
      n_classes: how many.
    """

    n_classes: int

    def __call__(self, variables: Any, tiles: jax.Array) -> Heads:
        del variables
        return {'probs': tiles[..., -self.n_classes :]}


def to_maps(heads: Heads) -> Heads:
    """Probabilities as the next stage of a cascade sees them (a `Finish`).

    Args:
      heads: among them 'probs' [..., k].

    Returns:
      'maps' [..., k] uint8, probability · 255, see `data.stage_maps`.
    """
    return {'maps': jnp.rint(STEPS * heads['probs']).astype(jnp.uint8)}
