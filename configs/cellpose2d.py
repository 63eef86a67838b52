"""Cellpose in 3-D: cells one by one, by a 2-D network of slices (Stringer et al. 2021).

    python -m launch.train --config=configs/cellpose2d.py --workdir=W --config.data.train=DIR

DIR holds images and labels whose values are ids of cells, 0 outside, as for configs/cellpose3d.py,
beside which this is the baseline. Each slice of each volume, across z, y and x, is an image with
foreground and 2-D flows of its own by heat diffusion; cells in several pieces within a slice are
several. The network (6,600,843 parameters with two input channels) is that of Cellpose 1, the loss
half the mean squared difference of 5 × the flows plus the cross-entropy of the foreground.
`launch.segment --instances` predicts the slices of all three orientations and averages.

Published: 540 images of all kinds of cells, 500 epochs of one crop of 224 × 224 of each, 8 a step:
67 steps an epoch, which are as many here whatever the data. SGD, momentum 0.9, a rate that rises
to 0.2 over 10 epochs. What is not as published, because no field says it:
- The rate falls as a cosine. Published: constant for 400 epochs, then halved every 10. The weight
  decay of 0.00001 is missing.
- Crops are mirrored and turned by 90°. Published: turned by any angle and scaled by 0.75 … 1.25,
  after cells were brought to a diameter of 30 pixels.
- All slices are drawn from. Published: images of 5 cells and more.
- Gray values are normalised to the 2nd and 98th percentile of a volume. Published: 1st and 99th.
- Voxels should be cubes, or --config.augmentation.rotate_90=False: then slices across z look as
  flat in training as they do in segmentation.
Made for a GPU, and volumes that fit in memory: of others, slices across z are slow to read.
Validation is 3-D, with the scores of configs/cellpose3d.py.

Variants:
    configs/cellpose2d.py:smoke    small enough for a CPU: checks that a data set trains at all
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common

VARIANTS = ('', 'smoke')


def get_config(variant: str = '') -> ConfigDict:
    """The published experiment, or a variant of it."""
    if variant not in VARIANTS:
        raise ValueError(f'variant {variant!r}; expected one of {VARIANTS}')
    config = common.get_config()
    config.description = 'Cellpose on slices in three orientations (Stringer et al. 2021)'
    config.model = ConfigDict()
    config.model.name = 'cellpose2d'
    config.model.features = (32, 64, 128, 256)  # channels of each level
    config.model.norm_momentum = 0.9
    config.flows.kind = 'heat'
    config.epochs = 500
    config.batch_size = 8
    config.data.intensity = 'percentile'
    config.data.patch = (1, 224, 224)  # slices, rows, columns
    config.data.steps_per_epoch = 67
    config.augmentation.flip_axes = 'yx'
    config.augmentation.rotate_90 = True
    config.optimizer.name = 'sgd'
    config.optimizer.learning_rate = 0.2
    config.optimizer.warmup_steps = 670
    config.optimizer.schedule = 'cosine'
    config.inference.tile = (1, 224, 224)
    config.inference.overlap = (0, 22, 22)
    config.checkpoint.evaluate_every = 20
    if variant == 'smoke':
        _shrink(config)
    return config.lock()


def _shrink(config: ConfigDict) -> None:
    config.model.features = (8, 16)
    config.epochs = 2
    config.data.steps_per_epoch = 40
    config.data.patch = (1, 32, 32)
    config.optimizer.warmup_steps = 10
    config.inference.tile = (1, 32, 32)
    config.inference.overlap = (0, 8, 8)
    config.checkpoint.evaluate_every = 1
