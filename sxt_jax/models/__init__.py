"""Networks as Flax Linen modules: `init` and `apply` are pure functions of a variables tree."""

from sxt_jax.models.build import NETWORKS, build_model, model_config
from sxt_jax.models.cellpose2d import Cellpose2D
from sxt_jax.models.cellpose3d import Cellpose3DNet
from sxt_jax.models.double_decoder import DoubleDecoder
from sxt_jax.models.resunet import ResUNet
from sxt_jax.models.setr import SETR
from sxt_jax.models.transunet import TransUNet
from sxt_jax.models.unet3d import UNet3D

__all__ = [
    'NETWORKS',
    'SETR',
    'Cellpose2D',
    'Cellpose3DNet',
    'DoubleDecoder',
    'ResUNet',
    'TransUNet',
    'UNet3D',
    'build_model',
    'model_config',
]
