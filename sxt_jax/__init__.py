"""Segmentation of soft X-ray and electron tomograms of cells, in JAX.

Import the room you need, e.g. ``from sxt_jax import io, models, inference``.
"""

__version__ = '0.1.0'
