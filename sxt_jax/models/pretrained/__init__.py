"""Importers: published weights as variables of our networks, with their conventions."""

from sxt_jax.models.pretrained.cellpose2d import load_cellpose2d
from sxt_jax.models.pretrained.tensors import Pretrained

__all__ = ['Pretrained', 'load_cellpose2d']
