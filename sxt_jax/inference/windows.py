"""How much each voxel of a tile counts where tiles overlap.

A tile's weights are put together on the device from one window per axis, since a tile at the
volume's border differs from one inside, and weights for every tile would fill the memory.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from sxt_jax.core.tiles import TileGrid

Blend = Literal['constant', 'cosine', 'distance']
BLENDS: tuple[Blend, ...] = ('constant', 'cosine', 'distance')


def axis_window(
    tile: int, overlap: int, *, blend: Blend, margin: int, first: bool, last: bool
) -> np.ndarray:
    """The window of one axis of a tile.

    'constant' is 1. 'cosine' rises as sin² over the overlap and is 1 between (the tapered cosine
    window of Machireddy et al. 2023). 'distance' is the distance to the nearer end, 1 at most
    (Eschweiler & Stegmaier 2021).

    Args:
      tile: length of the tile, voxels.
      overlap: overlap of neighbouring tiles, voxels.
      blend: kind of window.
      margin: voxels at either end that do not count, unless there is no neighbour there.
      first: no tile precedes this one on the axis.
      last: no tile follows this one.
    Returns:
      [tile] float32, positive between the margins, 0 in them.
    """
    low, high = (0 if first else margin), (tile if last else tile - margin)
    position = np.arange(tile) + 0.5
    distance = np.minimum(position - low, high - position)
    half = (high - low) / 2
    if blend == 'constant':
        window = np.ones(tile)
    elif blend == 'cosine':
        ramp = min(overlap - 2 * margin, half)
        window = np.sin(np.pi / 2 * np.clip(distance / max(ramp, 0.5), 0, 1)) ** 2
    else:
        window = distance / half
    return np.where(distance > 0, window, 0).astype(np.float32)


def grid_windows(grid: TileGrid, *, blend: Blend, margin: tuple[int, ...]) -> list[np.ndarray]:
    """Per axis the windows of all tiles of a grid: [n_starts, tile] float32."""
    windows = []
    for starts, tile, overlap, m in zip(grid.starts, grid.tile, grid.overlap, margin, strict=True):
        n = len(starts)
        windows.append(
            np.stack(
                [
                    axis_window(tile, overlap, blend=blend, margin=m, first=i == 0, last=i == n - 1)
                    for i in range(n)
                ]
            )
        )
    return windows


def combine(z: jax.Array, y: jax.Array, x: jax.Array, blend: Blend) -> jax.Array:
    """A tile's weights [tz, ty, tx] from its three windows [tz], [ty], [tx].

    'distance' takes the least of the three, which is the Euclidean distance to the nearest face
    of the tile; the others multiply.
    """
    axes = z[:, None, None], y[:, None], x
    if blend == 'distance':
        return jnp.minimum(jnp.minimum(axes[0], axes[1]), axes[2])
    return axes[0] * axes[1] * axes[2]
