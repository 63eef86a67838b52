"""Applying networks to volumes of any size."""

from sxt_jax.inference.apply import ApplyFn, Finish, add_classes, keep_classes, make_apply_fn
from sxt_jax.inference.mirrored import mirrored
from sxt_jax.inference.postprocess import clean, fill, tidy
from sxt_jax.inference.tiled import Slab, predict_slabs, predict_volume

__all__ = [
    'ApplyFn',
    'Finish',
    'Slab',
    'add_classes',
    'clean',
    'fill',
    'keep_classes',
    'make_apply_fn',
    'mirrored',
    'predict_slabs',
    'predict_volume',
    'tidy',
]
