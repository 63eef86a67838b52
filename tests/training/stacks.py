"""Stacks of touching cells with a nucleus each, and a network of slices that compiles at once."""

from __future__ import annotations

from pathlib import Path

import flax.linen as nn
import numpy as np
from scipy import ndimage

from configs import fibsem
from sxt_jax.core.volume import Volume
from sxt_jax.io import write_volume
from sxt_jax.models import ResUNet
from sxt_jax.models.blocks import BatchNorm

SHAPE = (12, 46, 38)
UNLABELLED = 99


class TinyResUNet(ResUNet):
    """One convolution in place of its thirty, which take half a minute to compile."""

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.Conv(self.width, (3, 3), name='conv')(x)
        x = nn.relu(BatchNorm(self.norm_momentum, name='norm')(x, train=train))
        return self.split(nn.Dense(self.n_maps, name='head')(x))


def tiny_config(folder: Path, variant: str = 'smoke', **fields):
    """Of a smoke test."""
    config = fibsem.get_config('smoke')
    if variant == 'cells':
        config.model.heads = 'cells'
        config.data.foreground_share = 0.0
        config.data.min_foreground = 0
    config.update_from_flattened_dict({
        'model.width': 4, 'epochs': 1, 'data.train': str(folder), 'data.patch': (1, 16, 16),
        'data.steps_per_epoch': 20, 'optimizer.learning_rate': 0.02,
        'inference.tile': (1, 16, 16), 'inference.overlap': (0, 0, 0),
        **fields,
    })  # fmt: skip
    return config


def make_cells(shape=SHAPE) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image uint8, ids of six cells that touch, and their nuclei."""
    z, y, x = np.indices(shape)
    row, column = np.minimum(2 * (y - z // 4) // shape[1], 1), 3 * x // shape[2]
    ids = 1 + 3 * np.maximum(row, 0) + column
    ids[:, :3] = 0
    inside = ndimage.distance_transform_cdt(
        np.pad(ids == ndimage.median_filter(ids, (1, 3, 3)), ((0, 0), (1, 1), (1, 1)))
    )[:, 1:-1, 1:-1]
    nuclei = (inside > 3) & (ids > 0)
    rng = np.random.default_rng(0)
    image = 100 * (ids > 0) + 80 * nuclei + rng.normal(40, 10, shape)
    return np.clip(image, 0, 255).astype(np.uint8), ids.astype(np.int32), nuclei.astype(np.uint8)


def write_stacks(folder: Path, *, labelled=(1, 4, 6, 9)) -> None:
    """`folder`/nuclei and `folder`/cells: a stack with labels in some slices."""
    image, ids, nuclei = make_cells()
    size = (8.0, 4.0, 4.0)
    for name, labels in (('nuclei', nuclei), ('cells', ids.astype(np.uint8))):
        sparse = np.full_like(labels, UNLABELLED)
        sparse[list(labelled)] = labels[list(labelled)]
        write_volume(folder / name / 'a.tif', Volume(image, size))
        write_volume(folder / name / 'a.labels.tif', Volume(sparse, size))
