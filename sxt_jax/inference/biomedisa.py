"""What Biomedisa does with tiles (Lösel et al. 2020): whole ones only, and each standardised."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sxt_jax.core.volume import ArrayLike
from sxt_jax.inference.apply import ApplyFn, Heads, side_multiple

_LEAST_STD = 1e-6


def padded_shape(
    shape: Sequence[int], *, tile: Sequence[int], overlap: Sequence[int]
) -> tuple[int, int, int]:
    """The shape that a volume is mirrored to before tiles are cut from it.

    Biomedisa mirrors to a whole number of tiles side by side, and then goes through it in steps
    (tile − overlap) as far as whole tiles fit. What lies beyond the last one is left out here.
    Where that would be voxels of the volume itself, which Biomedisa leaves unlabelled, one more
    step is taken.

    Args:
      shape: (z, y, x) of the volume.
      tile: of a tile.
      overlap: of neighbouring tiles.
    """
    sides = []
    for n, t, o in zip(shape, tile, overlap, strict=True):
        n_steps = max((-(-n // t) * t - t) // (t - o), -(-(n - t) // (t - o)))
        sides.append(t + n_steps * (t - o))
    z, y, x = sides
    return z, y, x


class MirroredBeyond:
    """A volume (an `ArrayLike`) that goes on behind its end as its mirror image, edge included."""

    def __init__(self, data: ArrayLike, shape: Sequence[int]) -> None:
        self._data = data
        self._sources = [
            np.pad(np.arange(n), (0, m - n), mode='symmetric')
            for n, m in zip(data.shape[:3], shape, strict=True)
        ]
        self.shape, self.dtype = (*shape, *data.shape[3:]), data.dtype

    def __getitem__(self, index: Any) -> np.ndarray:
        parts = index if isinstance(index, tuple) else (index,)
        sources = [
            source[parts[i] if i < len(parts) else slice(None)]
            for i, source in enumerate(self._sources)
        ]
        start = [int(source.min()) for source in sources]
        box = [slice(a, int(s.max()) + 1) for a, s in zip(start, sources, strict=True)]
        voxels = np.asarray(self._data[tuple(box + list(parts[3:]))])
        for axis, (a, source) in enumerate(zip(start, sources, strict=True)):
            voxels = voxels.take(source - a, axis=axis)
        return voxels


@dataclasses.dataclass(frozen=True)
class StandardisedFn:
    """`apply_fn` of tiles moved to mean 0 and standard deviation 1, each channel of each."""

    apply_fn: ApplyFn

    @property
    def side_multiple(self) -> tuple[int, int, int]:
        return side_multiple(self.apply_fn)

    def __call__(self, variables: Any, tiles: jax.Array) -> Heads:
        axes = (1, 2, 3)
        centred = tiles - jnp.mean(tiles, axes, keepdims=True)
        std = jnp.sqrt(jnp.mean(jnp.square(centred), axes, keepdims=True))
        return self.apply_fn(variables, centred / jnp.maximum(std, _LEAST_STD))
