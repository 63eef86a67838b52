"""Importers: published weights as variables of our networks, with their conventions."""

from sxt_jax.models.pretrained.biomedisa import load_biomedisa
from sxt_jax.models.pretrained.cellpose2d import load_cellpose2d
from sxt_jax.models.pretrained.cellpose3d import load_cellpose3d
from sxt_jax.models.pretrained.deep_sxt import double_decoder_from_json, load_deep_sxt
from sxt_jax.models.pretrained.ncxt import load_ncxt
from sxt_jax.models.pretrained.tensors import Pretrained

__all__ = [
    'Pretrained',
    'double_decoder_from_json',
    'load_biomedisa',
    'load_cellpose2d',
    'load_cellpose3d',
    'load_deep_sxt',
    'load_ncxt',
]
