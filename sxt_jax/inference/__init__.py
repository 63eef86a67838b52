"""Applying networks to volumes of any size."""

from sxt_jax.inference.apply import ApplyFn, make_apply_fn
from sxt_jax.inference.tiled import Slab, predict_slabs, predict_volume

__all__ = ['ApplyFn', 'Slab', 'make_apply_fn', 'predict_slabs', 'predict_volume']
