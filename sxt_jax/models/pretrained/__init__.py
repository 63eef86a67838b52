"""Importers: published weights as variables of our networks, with their conventions."""

from sxt_jax.models.pretrained.tensors import Pretrained

__all__ = ['Pretrained']
