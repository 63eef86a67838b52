"""fibsem: organelles, and cells, in FIB-SEM stacks of which few slices are labelled.

    python -m launch.train --config=configs/fibsem.py --workdir=W --config.data.train=DIR \
        --config.data.empty_slices=unlabelled

Machireddy et al. 2023. DIR holds a stack X with labels X.labels (OME-Zarr, TIFF, …; see
`python -m launch.check`) of which some slices are labelled: the others are those of
--config.data.ignore_value=N or, with empty_slices=unlabelled, those whose labels are empty.
--config.data.labelled_slices=K trains on K of the labelled slices, evenly spread or, with
labelled_choice=random, drawn by --config.seed. Stacks stay in their files; slices that are trained
or validated on are held in memory where they fit. One network an organelle, as published, takes
--config.data.classes='background=rest,nucleolus=3'; several classes are learnt as well.

Published: stacks such as 6114 × 3874 × 1583 voxels of 4–6 nm, 7 to 50 labelled slices; ResUNet of
37,449,798 parameters; 5 tiles of 512 × 512 a step, or of 2048 × 2048 seen at a quarter of the
resolution (:context, better in all scores); for rare classes at least 4 of the 5 hold 100 pixels or
more of the class (here always, for a class drawn for each tile); mirrored at random; Dice loss with
squared denominators; Adam, rate 0.0001, ε 1e-7; 5,000 steps, about 4 hours on a P100; overlapping
tiles blended by a tapered cosine window; a pixel is of a class from a probability of 0.5 on. Dice
of nuclei 0.95–0.99 and of nucleoli 0.70–0.98 with 7 labelled slices, 0.97–0.99 and 0.80–0.99 with
50; of mitochondria 0.86 and 0.76. What is not as published, or not told there:
- A fifth of the labelled slices (with K: a fifth of K more, of those not trained on) are validated
  on, and the best checkpoint is used; --config.data.validation_fraction=0 for none, and the last.
- Slices are standardised one by one, besides the histogram equalisation of `launch.prepare`.
- Binned pixels (:context) are means, and their labels those of the pixel in the middle.
- How wide boundaries of cells were drawn (:cells, --config.cells.boundary_px).
`launch.segment` bins and enlarges slice by slice, so stacks of any size pass.

Variants:
    configs/fibsem.py:context       2048 × 2048 pixels, seen as 512 × 512
    configs/fibsem.py:cells         labels are ids of cells: mask and boundary, for launch.propagate
    configs/fibsem.py:cells_context both
    configs/fibsem.py:transunet     TransUNet in place of ResUNet
    configs/fibsem.py:setr          SETR likewise
    configs/fibsem.py:small         a sixty-fourth of the arithmetic and smaller tiles: for a CPU
    configs/fibsem.py:smoke         smaller still: checks that a data set trains at all
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common

VARIANTS = ('', 'context', 'cells', 'cells_context', 'transunet', 'setr', 'small', 'smoke')


def get_config(variant: str = '') -> ConfigDict:
    """The published experiment, or a variant of it."""
    if variant not in VARIANTS:
        raise ValueError(f'variant {variant!r}; expected one of {VARIANTS}')
    config = common.get_config()
    config.description = 'fibsem (Machireddy et al. 2023)'
    networks = {'transunet': common.transunet, 'setr': common.setr}
    config.model = networks.get(variant, common.resunet)()
    config.epochs = 50
    config.batch_size = 5
    config.data.intensity = 'slice'
    config.data.patch = (1, 512, 512)
    config.data.steps_per_epoch = 100
    config.data.foreground_share = 0.8
    config.data.min_foreground = 100
    config.augmentation.flip_axes = 'yx'
    config.loss.cross_entropy = 0.0
    config.loss.dice_squared = 1.0
    config.optimizer.name = 'adam'
    config.optimizer.learning_rate = 1e-4
    config.optimizer.epsilon = 1e-7
    config.inference.tile = (1, 512, 512)
    config.inference.overlap = (0, 128, 128)
    config.inference.blend = 'cosine'
    config.checkpoint.evaluate_every = 5
    if 'context' in variant:
        config.data.binning = (1, 4, 4)
    if 'cells' in variant:
        config.model.heads = 'cells'
        config.data.foreground_share = 0.0  # cells are in all tiles
        config.data.min_foreground = 0
    if variant in ('small', 'smoke'):
        _shrink(config)
    if variant == 'smoke':
        _shrink_more(config)
    return config.lock()


def _shrink(config: ConfigDict) -> None:
    config.model.width = 8
    config.model.norm_momentum = 0.95
    config.epochs = 10
    config.data.patch = (1, 256, 256)
    config.optimizer.learning_rate = 1e-3
    config.inference.tile = (1, 256, 256)
    config.inference.overlap = (0, 64, 64)
    config.checkpoint.evaluate_every = 1


def _shrink_more(config: ConfigDict) -> None:
    config.model.width = 4
    config.model.norm_momentum = 0.9
    config.epochs = 2
    config.batch_size = 2
    config.data.patch = (1, 64, 64)
    config.data.steps_per_epoch = 20
    config.data.min_foreground = 10
    config.inference.tile = (1, 64, 64)
    config.inference.overlap = (0, 16, 16)
