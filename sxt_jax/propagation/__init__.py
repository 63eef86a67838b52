"""From a few labelled slices to the whole stack: slices split, their regions linked to cells."""

from sxt_jax.propagation.cells import METHODS, SEEDS, Recipe, split_cells
from sxt_jax.propagation.linking import link
from sxt_jax.propagation.stack import regions_of, split_stack
from sxt_jax.propagation.tracks import Tracks, relabel

__all__ = [
    'METHODS',
    'SEEDS',
    'Recipe',
    'Tracks',
    'link',
    'regions_of',
    'relabel',
    'split_cells',
    'split_stack',
]
