"""Cellpose3D: cells one by one in 3-D, by foreground and flows (Eschweiler and Stegmaier 2021).

    python -m launch.train --config=configs/cellpose3d.py --workdir=W --config.data.train=DIR

DIR holds images and labels whose values are ids of cells, 0 outside. The published run had 125
confocal stacks of cell membranes of *A. thaliana*, four plants for training and two for testing;
it reports a mean Dice of cells of 0.897 with the maps of this config, and 0.905 with those of heat
diffusion. A 3-D U-Net of 1,980,980 parameters learns the foreground and, for each voxel, a vector
to the centre of its cell: L1 and weighted squared differences, RAdam with learning rate 0.001, one
random patch of 64 × 128 × 128 of every stack an epoch, one patch a step, 1000 epochs. Gray values
are normalised to their 2nd and 98th percentile; patches are distorted as published (see
sxt_jax/data/distort.py). Made for a GPU, whose time the paper does not say: a step takes 6 s on two
CPU cores.

What is trained gives foreground and flows. The validation score `dice` is that of cells, made with
the default recipe and the median size of the true ones: the mean over the true cells of the Dice
with the best predicted one. `ap50` counts those found with an IoU of 0.5, and those that are none.

Variants:
    configs/cellpose3d.py:heat     flows by heat diffusion, as in Cellpose
    configs/cellpose3d.py:smoke    small enough for a CPU: checks that a data set trains at all
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common

VARIANTS = ('', 'heat', 'smoke')


def get_config(variant: str = '') -> ConfigDict:
    """The published experiment, or a variant of it."""
    if variant not in VARIANTS:
        raise ValueError(f'variant {variant!r}; expected one of {VARIANTS}')
    config = common.get_config()
    config.description = 'Cellpose3D (Eschweiler and Stegmaier 2021)'
    config.model = common.cellpose3d()
    config.flows.kind = 'heat' if variant == 'heat' else 'tanh'
    config.epochs = 1000
    config.batch_size = 1
    config.data.intensity = 'percentile'
    config.data.clip = True
    config.data.sampling = 'each'
    config.data.patch = (64, 128, 128)
    config.data.exchange_axes = 0.5
    config.distortion.probability = 0.5
    config.optimizer.name = 'radam'
    config.optimizer.learning_rate = 1e-3
    config.inference.tile = (64, 128, 128)
    config.inference.overlap = (8, 16, 16)
    config.inference.blend = 'distance'
    config.checkpoint.evaluate_every = 20
    if variant == 'smoke':
        _shrink(config)
    return config.lock()


def _shrink(config: ConfigDict) -> None:
    config.model.features = 4
    config.epochs = 2
    config.data.steps_per_epoch = 40
    config.data.patch = (16, 24, 24)
    config.distortion.shuffle_side = 5
    config.distortion.inpaint_side = 3
    config.inference.tile = (16, 24, 24)
    config.inference.overlap = (4, 8, 8)
    config.checkpoint.evaluate_every = 1
