"""Instances: gradient maps from labels, gradient tracking, and labels from both."""

from sxt_jax.instances.blocks import reconstruct_by_blocks, reconstruct_to_host
from sxt_jax.instances.gradient_maps import labels_to_flows
from sxt_jax.instances.recipe import Recipe
from sxt_jax.instances.reconstruct import reconstruct
from sxt_jax.instances.tracking import track

__all__ = [
    'Recipe',
    'labels_to_flows',
    'reconstruct',
    'reconstruct_by_blocks',
    'reconstruct_to_host',
    'track',
]
