"""From a few labelled slices to the whole stack: regions of slices linked to cells."""

from sxt_jax.propagation.linking import link
from sxt_jax.propagation.tracks import Tracks, relabel

__all__ = ['Tracks', 'link', 'relabel']
