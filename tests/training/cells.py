"""Touching cells with bright membranes, their flows made in another way, and a small net."""

from __future__ import annotations

from pathlib import Path

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from sxt_jax.core.volume import Volume
from sxt_jax.io import write_volume


class TinyFlowNet(nn.Module):
    """Two convolutions, and the heads of Cellpose3D."""

    head_activations = {'foreground': None, 'flows': None}  # noqa: RUF012

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.relu(nn.Conv(8, (5, 5, 5))(x))
        x = jnp.tanh(nn.Conv(4, (3, 3, 3))(x))
        return {'foreground': x[..., :1], 'flows': x[..., 1:]}


def tanh_flows(labels: np.ndarray, *, kind: str = 'tanh') -> np.ndarray:
    """tanh((centroid − place)/5) of every axis, in cells."""
    assert kind == 'tanh'
    flows = np.zeros((*labels.shape, 3), np.float32)
    for value in np.unique(labels[labels > 0]):
        places = np.argwhere(labels == value)
        flows[tuple(places.T)] = np.tanh((places.mean(0) - places) / 5)
    return flows


def make_cells(seed: int, shape: tuple[int, int, int] = (16, 24, 24), n_cells: int = 6):
    """Image and ids of cells that touch each other in a ball."""
    rng = np.random.default_rng(seed)
    place = np.stack(np.indices(shape), -1).astype(float)
    centres = (0.25 + 0.5 * rng.random((n_cells, 3))) * shape
    distance = np.sort(((place[..., None, :] - centres) ** 2).sum(-1) ** 0.5, axis=-1)
    nearest = ((place[..., None, :] - centres) ** 2).sum(-1).argmin(-1)
    inside = (((place + 0.5) / shape - 0.5) ** 2).sum(-1) < 0.2
    ids = np.where(inside, 1 + nearest, 0)
    membrane = inside * np.exp(-(distance[..., 1] - distance[..., 0]))
    image = 20 + 40 * inside + 100 * membrane + 3 * rng.standard_normal(shape)
    return image.astype(np.float32), ids.astype(np.uint16)


def write_cells(folder: Path, n: int = 3, **options) -> None:
    """`n` images of cells in `folder`/images, with ids in `folder`/labels."""
    for i in range(n):
        image, ids = make_cells(i, **options)
        size = (200.0, 200.0, 200.0)
        write_volume(folder / 'images' / f'cells_{i}.tif', Volume(image, size))
        write_volume(folder / 'labels' / f'cells_{i}.tif', Volume(ids, size))
