"""Intensity normalisation: from stored gray values to what a network sees.

Every kind is an affine map of a volume's gray values, so it can be applied patch by patch to a
volume that does not fit in memory. What a kind needs to know of the training data is kept in
`Intensity` and travels with the checkpoint.

| kind | result | used by |
|---|---|---|
| none | as stored | cascade (values are LACs) |
| unit | minimum → 0, maximum → 1 | |
| reference | as unit, then moved to mean and SD of the first training volume | acseg |
| standard | mean 0, SD 1 | deep_sxt, fibsem |
| percentile | 2nd → 0, 98th percentile → 1 | cellpose3d |
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import ArrayLike, slabs

KINDS = ('none', 'unit', 'reference', 'standard', 'percentile')
_PERCENTILES = (2.0, 98.0)
_PERCENTILE_SAMPLES = 1 << 24


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Of each channel of a volume: arrays [c]."""

    minimum: np.ndarray
    maximum: np.ndarray
    mean: np.ndarray
    std: np.ndarray


@dataclasses.dataclass(frozen=True)
class Affine:
    """gray ↦ (gray − shift) · scale, per channel ([c], float64); `clip`: cut to 0 … 1."""

    shift: np.ndarray
    scale: np.ndarray
    clip: bool = False

    def apply(self, data: np.ndarray) -> np.ndarray:
        """Mapped gray values, float32; [z, y, x] for one channel or [z, y, x, c]."""
        shift, scale = (a.item() if data.ndim == 3 else a for a in (self.shift, self.scale))
        moved = np.subtract(data, shift, dtype=np.float32)
        moved = np.multiply(moved, scale, out=moved, casting='same_kind')
        return np.clip(moved, 0, 1, out=moved) if self.clip else moved


@dataclasses.dataclass(frozen=True)
class Intensity:
    """A normalisation with what it learnt from the training data.

    Attributes:
      kind: one of `KINDS`.
      mean, std: per channel, of the first training volume scaled to [0, 1]; for 'reference' only.
      clip: whether normalised values are cut to 0 … 1, as in Biomedisa.
      percentiles: that become 0 and 1; for 'percentile' only.
    """

    kind: str = 'none'
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    clip: bool = False
    percentiles: tuple[float, float] = _PERCENTILES

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError('intensity', f'unknown kind {self.kind!r}', f'one of {KINDS}')

    def to_dict(self) -> dict[str, Any]:
        fields: dict[str, Any] = {'kind': self.kind, 'mean': self.mean, 'std': self.std}
        # The oldest checkpoints do not have these, and their runs can go on.
        if self.clip:
            fields['clip'] = True
        if self.percentiles != _PERCENTILES:
            fields['percentiles'] = self.percentiles
        return fields

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Intensity:
        mean, std = tuple(fields['mean']), tuple(fields['std'])
        low, high = fields.get('percentiles', _PERCENTILES)
        return cls(fields['kind'], mean, std, fields.get('clip', False), (low, high))


def measure_statistics(data: ArrayLike, *, name: str = 'image') -> Statistics:
    """Minimum, maximum, mean and SD per channel, reading the volume slab by slab.

    Args:
      data: [z, y, x] or [z, y, x, c], in memory or lazily read.
      name: what to call it in an error.

    Raises:
      InputError: NaN or infinite voxels, or a constant image.
    """
    low: Any = np.inf
    high: Any = -np.inf
    count, mean, moment = 0, 0.0, 0.0
    for slab in slabs(data):
        values = slab.reshape(-1, slab.shape[3] if slab.ndim == 4 else 1).astype(np.float64)
        if not np.isfinite(values).all():
            n_bad = int((~np.isfinite(values)).sum())
            raise InputError(name, f'{n_bad} or more voxels are NaN or infinite', 'finite voxels')
        low, high = np.minimum(low, values.min(0)), np.maximum(high, values.max(0))
        # Chan's pairwise update: no cancellation between large sums.
        n, delta = len(values), values.mean(0) - mean
        moment = moment + values.var(0) * n + delta**2 * count * n / (count + n)
        mean, count = mean + delta * n / (count + n), count + n
    if np.any(high <= low):
        raise InputError(
            name, f'a constant image (every voxel is {np.ravel(low)[0]:g})', 'contrast'
        )
    return Statistics(low, high, np.asarray(mean), np.sqrt(moment / count))


def fit_intensity(
    kind: str, first: ArrayLike, *, clip: bool = False, name: str = 'image'
) -> Intensity:
    """The normalisation `kind` with what it needs to know of the first training volume.

    Args:
      kind: one of `KINDS`.
      first: [z, y, x] or [z, y, x, c], the first training volume.
      clip: whether normalised values are cut to 0 … 1.
      name: what to call it in an error.
    """
    if kind != 'reference':
        return Intensity(kind, clip=clip)
    statistics = measure_statistics(first, name=name)
    extent = statistics.maximum - statistics.minimum
    mean = (statistics.mean - statistics.minimum) / extent
    std = statistics.std / extent
    return Intensity(kind, tuple(mean.tolist()), tuple(std.tolist()), clip)


def measure_affine(intensity: Intensity, data: ArrayLike, *, name: str = 'image') -> Affine:
    """The affine map that normalises this volume.

    Raises:
      InputError: NaN or infinite voxels, a constant image, or another number of channels than
        the normalisation was fitted to.
    """
    statistics = measure_statistics(data, name=name)
    shift, scale = _shift_and_scale(intensity, statistics, data, name)
    return Affine(shift, scale, intensity.clip)


def _shift_and_scale(
    intensity: Intensity, statistics: Statistics, data: ArrayLike, name: str
) -> tuple[np.ndarray, np.ndarray]:
    if intensity.kind == 'none':
        return np.zeros_like(statistics.mean), np.ones_like(statistics.mean)
    if intensity.kind == 'unit':
        low, extent = statistics.minimum, statistics.maximum - statistics.minimum
        return low, 1 / extent
    if intensity.kind == 'percentile':
        low, high = _percentiles(data, intensity.percentiles)
        return low, 1 / np.where(high > low, high - low, 1)
    if intensity.kind == 'standard':
        return statistics.mean, 1 / statistics.std
    if len(intensity.mean) != len(statistics.mean):
        n_found, n_fitted = len(statistics.mean), len(intensity.mean)
        raise InputError(name, f'{n_found} channels', f'the {n_fitted} of the training data')
    # mean_ref + std_ref · (gray − mean) / std, with the [0, 1] scaling cancelled.
    scale = np.asarray(intensity.std) / statistics.std
    return statistics.mean - np.asarray(intensity.mean) / scale, scale


class NormalisedArray:
    """A lazily read volume whose voxels are normalised as they are read (an `ArrayLike`)."""

    def __init__(self, data: ArrayLike, affine: Affine) -> None:
        self._data, self._affine = data, affine
        self.shape, self.dtype = data.shape, np.dtype(np.float32)

    def __getitem__(self, index: Any) -> np.ndarray:
        return self._affine.apply(np.asarray(self._data[index]))


def _percentiles(
    data: ArrayLike, percentiles: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Two percentiles per channel, of every n-th voxel where there are very many."""
    step = max(1, int(np.prod(data.shape[:3])) // _PERCENTILE_SAMPLES)
    n_channels = data.shape[3] if len(data.shape) == 4 else 1
    values = np.concatenate([slab.reshape(-1, n_channels)[::step] for slab in slabs(data)])
    low, high = np.percentile(values, percentiles, axis=0)
    return low, high
