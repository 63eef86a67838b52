"""Cascade: several organelles of soft X-ray tomograms by two networks in turn (Ekman et al. 2020).

    python -m launch.train --config=configs/cascade.py --workdir=W --config.data.train=DIR

DIR holds tomograms, of linear absorption coefficients in 1/µm as they were reconstructed, with
labels of their organelles; slices labelled here and there will do, with
--config.data.ignore_value=N for the voxels nobody labelled. The first network sees bins of 2³
voxels, the second one voxels and the probabilities that the first gave them. As published: 3-D
U-Nets of depth 3 with 32 first filters (1,355,427 parameters with three classes), instance norm,
transposed convolutions, patches of 32³, cross-entropy and soft Dice. Not published, and ours: Adam
with learning rate 0.001, 100 epochs a stage, every second patch around a voxel of a class, mirror
images and exchanged axes, and that the second network learns from probabilities of networks which
did not see the volume (`out_of_fold`: the first stage is then trained six times). No score was
published. What a stage has of its own is `stages.<name>.…`, e.g.
--config.stages.coarse.data.binning='(4, 4, 4)'; a field that is None there is that of all stages.

Variants:
    configs/cascade.py:refine   a third network, that sees and is run on the predicted surface only
    configs/cascade.py:acseg    ACSeg and its second level (Erozan et al. 2024): a network of
                                volumes resized to 256³, and one of 64³ voxels along the surface
    configs/cascade.py:small    16 first filters, 50 epochs a stage, three folds
    configs/cascade.py:smoke    small enough for a CPU: checks that a data set trains at all
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import acseg, common

VARIANTS = ('', 'refine', 'acseg', 'small', 'smoke')


def get_config(variant: str = '') -> ConfigDict:
    """The published experiment, or a variant of it."""
    if variant not in VARIANTS:
        raise ValueError(f'variant {variant!r}; expected one of {VARIANTS}')
    if variant == 'acseg':
        return _refine_acseg().lock()
    config = common.get_config()
    config.description = 'Cascade of 3-D U-Nets (Ekman et al. 2020)'
    config.model = common.unet3d()
    config.model.filters = (32, 64, 128)
    config.model.norm = 'instance'
    config.model.up = 'transposed'
    config.epochs = 100
    config.batch_size = 8
    config.data.intensity = 'none'  # coefficients mean the same in every tomogram
    config.data.patch = (32, 32, 32)
    config.data.foreground_probability = 0.5
    config.augmentation.flip_axes = 'zyx'
    config.augmentation.swap_axes = True
    config.loss.dice = 1.0
    config.inference.tile = (32, 32, 32)
    config.inference.overlap = (16, 16, 16)

    names = ('coarse', 'fine', 'surface') if variant == 'refine' else ('coarse', 'fine')
    config.stages = stages = common.stages(config, names)
    stages.coarse.data.binning = (2, 2, 2)
    if variant == 'refine':
        stages.surface.where = 'surface'
        stages.surface.data.foreground_probability = 0.0
    config.out_of_fold = _out_of_fold(5)
    if variant == 'small':
        config.model.filters = (16, 32, 64)
        config.epochs = 50
        config.out_of_fold.folds = 3
    if variant == 'smoke':
        _shrink(config)
    return config.lock()


def _shrink(config: ConfigDict) -> None:
    config.model.filters = (4, 8)
    config.epochs = 2
    config.batch_size = 4
    config.data.patch = (16, 16, 16)
    config.data.steps_per_epoch = 5
    config.augmentation.swap_axes = False
    config.inference.tile = (16, 16, 16)
    config.inference.overlap = (8, 8, 8)
    config.out_of_fold.folds = 2


def _refine_acseg() -> ConfigDict:
    """The published ACSeg network, and one along the surface on the grid of the files.

    How the second was trained is not published: as the first, but of random patches.
    """
    config = acseg.get_config().unlock()
    config.description = 'ACSeg in two levels (Erozan et al. 2024)'
    config.data.working_shape = None
    config.data.sampling = 'random'
    config.stages = stages = common.stages(config, ('whole', 'surface'))
    stages.whole.data.working_shape = (256, 256, 256)
    stages.whole.data.sampling = 'strided'
    stages.surface.where = 'surface'
    config.out_of_fold = _out_of_fold(5)
    return config


def _out_of_fold(folds: int) -> ConfigDict:
    """How the probabilities come about that later stages learn from."""
    fields = ConfigDict()
    # Parts of the training volumes, each predicted by a network that did not see it; 0: all by
    # the one that saw them.
    fields.folds = folds
    return fields
