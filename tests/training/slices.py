"""Slices with bright lines on them, and a double decoder small enough to train in a test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import ndimage

from configs import deep_sxt
from sxt_jax.core.volume import Volume
from sxt_jax.io import write_volume

SHAPE = (6, 24, 20)
TINY = {
    'width': 2, 'norm_momentum': 0.9, 'encoder_filters': (2, 4), 'image_filters': (2, 2),
    'label_filters': (2, 2), 'label_blocks': 1, 'neck_filters': 4, 'neck_kernels': (1,),
    'neck_depth': 1,
}  # fmt: skip


def tiny_config(folder: Path, **fields):
    """Of a smoke test; the seconds go into compilation."""
    config = deep_sxt.get_config('smoke')
    config.update_from_flattened_dict({
        **{f'model.{name}': value for name, value in TINY.items()},
        'data.train': str(folder), 'data.patch': (1, 16, 16), 'data.steps_per_epoch': 3,
        'data.unlabelled_slices': 3, 'data.empty_slices': 'unlabelled',
        'inference.tile': (1, 16, 16), 'inference.overlap': (0, 4, 4), **fields,
    })  # fmt: skip
    return config


def make_lines(seed: int, shape=SHAPE) -> tuple[np.ndarray, np.ndarray]:
    """Image and mask of lines."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.standard_normal(shape), (2, 4, 4))
    mask = np.abs(smooth) < 0.2 * smooth.std()
    image = 3 + mask + 0.3 * rng.standard_normal(shape)
    return image.astype(np.float32), mask.astype(np.uint8)


def write_stacks(folder: Path, *, labelled=(1, 3, 4), n_unlabelled=1) -> None:
    """A stack with labels in some slices, and others without, in `folder`/others."""
    size = (10.0, 10.0, 10.0)
    image, mask = make_lines(0)
    sparse = np.zeros_like(mask)
    sparse[list(labelled)] = mask[list(labelled)]
    write_volume(folder / 'a.tif', Volume(image, size))
    write_volume(folder / 'a.labels.tif', Volume(sparse, size))
    for i in range(n_unlabelled):
        image, _ = make_lines(1 + i, (4, 22, 30))
        write_volume(folder / 'others' / f'u{i}.tif', Volume(10 * image, size))
