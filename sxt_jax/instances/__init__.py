"""Instances: gradient maps from labels, gradient tracking, and labels from both."""

from sxt_jax.instances.gradient_maps import labels_to_flows

__all__ = ['labels_to_flows']
