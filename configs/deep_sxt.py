"""deep_sxt: membranes of cells in cryo soft X-ray tomograms, semi-supervised (Dyhr et al. 2023).

    python -m launch.train --config=configs/deep_sxt.py --workdir=W \
        --config.data.train=DIR --config.data.unlabelled=TOMOGRAMS

DIR holds slices X.tif with labels X.labels.tif, or stacks of which some slices are labelled: the
others are those of --config.data.ignore_value=N or, with --config.data.empty_slices=unlabelled,
those whose labels are empty. Labels are of one class. TOMOGRAMS, of other cells and microscopes,
have no labels; the unlabelled slices in DIR teach as well.

The published run had 79 labelled slices of 1324 × 1284 pixels of one tomogram and 513 slices of 17
others. A network of 76,483,502 parameters with two decoders, one for the label and one for the
image; every slice standardised by itself; crops of 256 × 256, turned and mirrored, one a step.
Epochs of unlabelled slices (half 1 − SSIM, half Huber loss), which leave the label decoder as it
is, its statistics too, take turns with epochs of labelled slices, each drawn six times (0.99 of the
Huber loss of the label and 0.01 of the image's). Adam with learning rate 0.0001, 700 epochs or
until the validation loss no longer falls; a tenth of the labelled slices, drawn at random, is held
out. Slices next to each other are nearly the same: where all slices of a stack are labelled, give
--config.data.validation. Of a few labelled slices one is held out;
--config.data.validation_fraction=0 learns from all, and the newest checkpoint is used. The paper
reports an accuracy of 97 % and a precision of 74 % on its test slices. Made for a GPU, whose time
the paper does not say. The best checkpoint is that of the best Dice. What is not as published: of
unlabelled slices none are held out, and as many as published are drawn in an epoch of however many
there are.

Variants:
    configs/deep_sxt.py:supervised   without the image and the unlabelled slices; the same as
                                     --config.model.heads="('label',)"
    configs/deep_sxt.py:small        a thirtieth of the parameters and smaller crops: for a CPU
    configs/deep_sxt.py:smoke        smaller still: checks that a data set trains at all
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common

VARIANTS = ('', 'supervised', 'small', 'smoke')


def get_config(variant: str = '') -> ConfigDict:
    """The published experiment, or a variant of it."""
    if variant not in VARIANTS:
        raise ValueError(f'variant {variant!r}; expected one of {VARIANTS}')
    config = common.get_config()
    config.description = 'deep_sxt (Dyhr et al. 2023)'
    config.model = common.double_decoder()
    config.epochs = 700
    config.batch_size = 1
    config.data.validation_fraction = 0.1
    config.data.intensity = 'slice'
    config.data.patch = (1, 256, 256)
    config.data.sampling = 'each'
    config.data.repeats = 6
    config.data.unlabelled_slices = 513
    config.augmentation.flip_axes = 'yx'
    config.augmentation.rotate_90 = True
    config.optimizer.name = 'adam'
    config.optimizer.learning_rate = 1e-4
    config.inference.tile = (1, 592, 592)
    config.inference.overlap = (0, 192, 192)
    config.inference.blend = 'cosine'
    config.checkpoint.evaluate_every = 5
    config.checkpoint.patience = 10
    config.checkpoint.plateau = 'validation/loss'
    if variant == 'supervised':
        config.model.heads = ('label',)
    if variant in ('small', 'smoke'):
        _shrink(config)
    if variant == 'smoke':
        _shrink_more(config)
    return config.lock()


def _shrink(config: ConfigDict) -> None:
    config.model.width = 12
    config.epochs = 30
    config.data.patch = (1, 128, 128)
    config.data.unlabelled_slices = 60
    config.optimizer.learning_rate = 3e-4
    config.checkpoint.evaluate_every = 2


def _shrink_more(config: ConfigDict) -> None:
    config.model.width = 4
    config.model.norm_momentum = 0.9
    config.optimizer.learning_rate = 1e-3
    config.epochs = 2
    config.data.patch = (1, 64, 64)
    config.data.steps_per_epoch = 20
    config.data.unlabelled_slices = 20
    config.inference.tile = (1, 128, 128)
    config.inference.overlap = (0, 32, 32)
    config.checkpoint.evaluate_every = 1
