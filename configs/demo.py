"""The demo: simulated tomograms of T cells in a capillary, segmented by a small U-Net.

    python -m launch.demo

The ACSeg task (whole cells and polystyrene beads) at a size that two CPU cores train in about two
minutes: a 3-D U-Net with 8–32 filters on 32³ patches of 64³ tomograms simulated on the spot, Adam,
cross-entropy and Dice. Expected on an unseen tomogram: Dice above 0.9 for the cytoplasm.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    """Training of the demo, and what is simulated for it."""
    config = common.get_config()
    config.description = 'Demo: a small 3-D U-Net on simulated tomograms of T cells'
    config.model = common.unet3d()
    config.model.filters = (8, 16, 32)
    config.model.norm_momentum = 0.9
    config.epochs = 6
    config.batch_size = 4
    config.data.intensity = 'standard'
    config.data.patch = (32, 32, 32)
    config.data.foreground_probability = 0.5
    config.data.steps_per_epoch = 30
    config.augmentation.flip_axes = 'zyx'
    config.augmentation.swap_axes = True
    config.augmentation.scale = 0.1
    config.augmentation.shift = 0.1
    config.loss.dice = 1.0
    config.optimizer.learning_rate = 3e-3
    config.optimizer.schedule = 'cosine'
    config.inference.tile = (32, 32, 32)
    config.inference.overlap = (16, 16, 16)
    config.simulation = simulation = ConfigDict()
    simulation.n_train = 6  # tomograms; a fifth of them is held out for validation
    simulation.shape = (64, 64, 64)
    simulation.task = 'acseg'  # or cells, organelles, mitochondria, filopodia
    return config.lock()
