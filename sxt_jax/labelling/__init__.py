"""Dense labels from sparse ones."""

from sxt_jax.labelling.interpolate import PERCENTILES, Interpolation, interpolate
from sxt_jax.labelling.starts import given_voxels, labelled_slices
from sxt_jax.labelling.suggestions import Suggestion, suggest_slices

__all__ = [
    'PERCENTILES',
    'Interpolation',
    'Suggestion',
    'given_voxels',
    'interpolate',
    'labelled_slices',
    'suggest_slices',
]
