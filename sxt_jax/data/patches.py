"""Patches: which part of which volume a training step sees.

The i-th patch of a run is a pure function of (seed, i), so a resumed run sees exactly the patches
that an uninterrupted one would have seen.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from sxt_jax.core.box import Box
from sxt_jax.core.errors import InputError
from sxt_jax.core.tiles import make_grid
from sxt_jax.core.volume import ArrayLike

SAMPLINGS = ('strided', 'random', 'each')


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How patches are drawn.

    Attributes:
      patch: [z, y, x] shape of a patch.
      kind: 'strided' visits every patch of a grid once an epoch in random order (acseg);
        'random' draws volumes and positions uniformly; 'each' visits every volume once an epoch in
        random order, at a random position (cellpose3d).
      stride: of the grid; for 'strided' only.
      foreground_probability: share of 'random' and 'each' patches that are centred on a voxel of a
        foreground class, all classes being equally likely (class balance).
      exchange_axes: share of 'random' and 'each' patches of which two axes are exchanged: the
        patch is cut out with its sides exchanged, and then turned to its shape.
      foreground_share: of the patches of a batch, for 'random' only, each of which holds at least
        `min_foreground` voxels of a foreground class, the class being drawn for each (Machireddy
        et al. 2023, section 5.1).
      min_foreground: see there.
    """

    patch: tuple[int, int, int]
    kind: str = 'strided'
    stride: tuple[int, int, int] | None = None
    foreground_probability: float = 0.0
    exchange_axes: float = 0.0
    foreground_share: float = 0.0
    min_foreground: int = 0

    def __post_init__(self) -> None:
        if self.kind not in SAMPLINGS:
            raise InputError('data.sampling', repr(self.kind), f'one of {SAMPLINGS}')
        self._check_composition()
        if self.kind == 'strided' and not all(
            0 < s <= p for s, p in zip(self.stride or self.patch, self.patch, strict=True)
        ):
            raise InputError('data.stride', f'{self.stride}', f'1 … the patch {self.patch}')
        if not 0 <= self.exchange_axes <= 1 or (self.exchange_axes and self.kind == 'strided'):
            expected = "0 … 1, and 0 with sampling 'strided'"
            raise InputError('config.data.exchange_axes', f'{self.exchange_axes}', expected)

    def _check_composition(self) -> None:
        share, least = self.foreground_share, self.min_foreground
        if not 0 <= share <= 1 or (share and self.kind != 'random'):
            expected = "0 … 1, and 0 unless sampling is 'random'"
            raise InputError('config.data.foreground_share', f'{share}', expected)
        if not 0 <= least <= math.prod(self.patch) or bool(share) != bool(least):
            found = f'{least}, with a foreground_share of {share}'
            expected = 'both or none, and no more voxels than a patch has'
            raise InputError('config.data.min_foreground', found, expected)
        if share and self.exchange_axes:
            expected = '0 with a foreground_share'
            raise InputError('config.data.exchange_axes', f'{self.exchange_axes}', expected)

    @property
    def anywhere(self) -> Sampling:
        """The same, whatever is in the patches."""
        return dataclasses.replace(
            self, foreground_probability=0.0, foreground_share=0.0, min_foreground=0
        )

    def n_composed(self, batch_size: int) -> int:
        """How many patches of a batch must hold foreground."""
        return math.ceil(self.foreground_share * batch_size - 1e-9)


def grid_of_patches(shape: Sequence[int], sampling: Sampling) -> list[Box]:
    """The patches of a volume of that shape: evenly spaced, every one full size.

    A patch reaches beyond a volume that is smaller than it.
    """
    stride = sampling.stride or sampling.patch
    overlap = [p - s for p, s in zip(sampling.patch, stride, strict=True)]
    return list(make_grid(shape, tile=sampling.patch, overlap=overlap).tiles())


def random_patch(
    rng: np.random.Generator,
    shape: Sequence[int],
    sampling: Sampling,
    foreground: Sequence[np.ndarray] = (),
) -> Box:
    """A random patch of a volume of that shape.

    Args:
      rng: source of randomness.
      shape: [z, y, x] shape of the volume.
      sampling: how patches are drawn.
      foreground: for each foreground class, [n, 3] zyx positions of some of its voxels.
    """
    last = [max(0, n - p) for n, p in zip(shape, sampling.patch, strict=True)]
    present = [positions for positions in foreground if len(positions)]
    if present and rng.random() < sampling.foreground_probability:
        positions = present[rng.integers(len(present))]
        centre = positions[rng.integers(len(positions))]
        start = [
            min(max(0, int(c) - p // 2), m)
            for c, p, m in zip(centre, sampling.patch, last, strict=True)
        ]
    else:
        start = [int(rng.integers(m + 1)) for m in last]
    return Box.of_shape(sampling.patch, start)


def random_order(
    rng: np.random.Generator, shape: Sequence[int], sampling: Sampling
) -> tuple[int, int, int]:
    """Which axis of a volume of that shape becomes which of a patch; usually (0, 1, 2).

    Axes are exchanged only where the patch then holds no fewer voxels of the volume: what lies
    beyond a thin volume teaches nothing.
    """
    plain = (0, 1, 2)
    if not sampling.exchange_axes or rng.random() >= sampling.exchange_axes:
        return plain
    orders = [
        order
        for order in ((1, 0, 2), (2, 1, 0), (0, 2, 1))
        if _n_held(shape, sampling.patch, order) >= _n_held(shape, sampling.patch, plain)
    ]
    return orders[rng.integers(len(orders))] if orders else plain


def _n_held(shape: Sequence[int], patch: Sequence[int], order: Sequence[int]) -> int:
    return math.prod(min(shape[a], n) for a, n in zip(order, patch, strict=True))


def read_patch(data: ArrayLike, box: Box, *, pad_value: int | None = None) -> np.ndarray:
    """The voxels of a box that may reach beyond the volume's end.

    Args:
      data: [z, y, x] or [z, y, x, c].
      box: zyx, starting inside the volume.
      pad_value: what lies beyond the end; None continues the volume by mirror images.
    """
    inside = box.intersect(Box.of_shape(data.shape[:3]))
    voxels = np.asarray(data[inside.slices + (slice(None),) * (len(data.shape) - 3)])
    if inside == box:
        return voxels
    missing = [(0, n - m) for n, m in zip(box.shape, inside.shape, strict=True)]
    missing += [(0, 0)] * (voxels.ndim - 3)
    if pad_value is None:
        return np.pad(voxels, missing, mode='symmetric')
    return np.pad(voxels, missing, constant_values=pad_value)
