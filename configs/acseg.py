"""ACSeg: whole-cell segmentation of soft X-ray tomograms (Erozan et al. 2024).

    python -m launch.train --config=configs/acseg.py --workdir=W --config.data.train=DIR

DIR holds tomograms with labels of cytoplasm and polystyrene beads. The published run had 43
T-cell tomograms of about 472 × 472 × 491 voxels and took 33 hours; it reports a Dice of 97.8 % on
ten others. A 3-D U-Net (32–512 filters, 23.5 M parameters) on 64³ patches at stride 32 of volumes
resized to 256³, batch 24, SGD with learning rate 0.01, Nesterov momentum 0.9 and inverse-time
decay, cross-entropy, 200 epochs, a fifth of the tomograms held out for validation.

Variants:
    configs/acseg.py:residual   the residual network of the same authors
    configs/acseg.py:smoke      small enough for a CPU: checks that a data set trains at all
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common

VARIANTS = ('', 'residual', 'smoke')


def get_config(variant: str = '') -> ConfigDict:
    """The published experiment, or a variant of it."""
    if variant not in VARIANTS:
        raise ValueError(f'variant {variant!r}; expected one of {VARIANTS}')
    config = common.get_config()
    config.description = 'ACSeg 3-D U-Net (Erozan et al. 2024)'
    config.model = common.unet3d()
    config.model.residual = variant == 'residual'
    config.epochs = 200
    config.batch_size = 24
    config.data.working_shape = (256, 256, 256)
    config.data.intensity = 'reference'
    config.data.sampling = 'strided'
    config.optimizer.name = 'sgd'
    config.optimizer.learning_rate = 0.01
    config.optimizer.schedule = 'inverse_time'
    config.optimizer.decay = 1e-6
    config.optimizer.nesterov = True
    config.inference.blend = 'constant'
    if variant == 'smoke':
        _shrink(config)
    return config.lock()


def _shrink(config: ConfigDict) -> None:
    config.model.filters = (8, 16, 32)
    config.model.norm_momentum = 0.9
    config.epochs = 2
    config.batch_size = 8
    config.data.working_shape = (64, 64, 64)
    config.data.patch = (32, 32, 32)
    config.data.stride = (16, 16, 16)
    config.inference.tile = (32, 32, 32)
    config.inference.overlap = (16, 16, 16)
