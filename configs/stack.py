"""One labelled stack: a U-Net for a single, small or thin volume, on a workstation or a laptop.

    python -m launch.train --config=configs/stack.py:thin --workdir=W --config.data.train=DIR

Random patches, two fifths of them centred on a labelled object, with mirror images, quarter turns,
changed brightness and noise; cross-entropy and Dice; Adam with a cosine schedule. With one pair in
DIR, the last fifth of its longest axis is held out for validation. A thousand steps take about
twenty minutes on two CPU cores. The README's table of results has the scores on real stacks.

Variants:
    configs/stack.py              voxels about as long in z as in y and x
    configs/stack.py:thin         few slices, or slices much thicker than pixels: pooled in y and x
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common

VARIANTS = ('', 'thin', 'smoke')


def get_config(variant: str = '') -> ConfigDict:
    """The experiment for isotropic stacks, or a variant."""
    if variant not in VARIANTS:
        raise ValueError(f'variant {variant!r}; expected one of {VARIANTS}')
    config = common.get_config()
    config.description = 'U-Net for one labelled stack'
    config.model = common.unet3d()
    config.model.filters = (16, 32, 64, 128)
    config.model.pool_sizes = ((2, 2, 2), (2, 2, 2), (2, 2, 2))
    config.model.norm_momentum = 0.95
    config.epochs = 10
    config.batch_size = 4
    config.data.steps_per_epoch = 100
    config.data.foreground_probability = 0.4
    config.data.patch = (32, 48, 48)
    config.inference.tile = (32, 64, 64)
    config.inference.overlap = (16, 32, 32)
    config.augmentation.flip_axes = 'zyx'
    config.augmentation.rotate_90 = True
    config.augmentation.scale = 0.2
    config.augmentation.shift = 0.2
    config.augmentation.noise = 0.2
    config.loss.dice = 1.0
    config.optimizer.schedule = 'cosine'
    config.optimizer.warmup_steps = 50
    config.checkpoint.evaluate_every = 1
    if variant == 'thin':
        config.model.pool_sizes = ((1, 2, 2), (1, 2, 2), (1, 2, 2))
        config.data.patch = (6, 96, 96)
        config.inference.tile = (6, 128, 128)
        config.inference.overlap = (3, 64, 64)
    if variant == 'smoke':
        config.model.filters = (4, 8)
        config.model.pool_sizes = ((2, 2, 2),)
        config.epochs = 2
        config.data.steps_per_epoch = 4
        config.data.patch = (16, 16, 16)
        config.inference.tile = (16, 16, 16)
        config.inference.overlap = (8, 8, 8)
        config.optimizer.warmup_steps = 0
    return config.lock()
