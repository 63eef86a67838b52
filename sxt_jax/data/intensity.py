"""Intensity normalisation: from stored gray values to what a network sees.

Every kind is an affine map of gray values, one for a volume or one for each slice, so it can be
applied patch by patch to a volume that does not fit in memory. What a kind needs to know of the
training data is kept in `Intensity` and travels with the checkpoint.

| kind | result | used by |
|---|---|---|
| none | as stored | cascade (values are LACs) |
| unit | minimum → 0, maximum → 1 | |
| reference | as unit, then moved to mean and SD of the first training volume | acseg |
| standard | mean 0, SD 1 | |
| slice | each slice by itself: mean 0, SD 1 | deep_sxt, fibsem |
| percentile | 2nd → 0, 98th percentile → 1 | cellpose3d |
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from sxt_jax.core.errors import InputError
from sxt_jax.core.processes import ALONE, Team
from sxt_jax.core.volume import ArrayLike, read_rows, slab_rows, slabs

KINDS = ('none', 'unit', 'reference', 'standard', 'slice', 'percentile')
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
    """gray ↦ (gray − shift) · scale; `clip`: cut to 0 … 1.

    Shift and scale are float64, per channel [c], or per slice of the volume and channel [z, c].
    """

    shift: np.ndarray
    scale: np.ndarray
    clip: bool = False

    def apply(self, data: np.ndarray, *, slices: slice = slice(None)) -> np.ndarray:
        """Mapped gray values, float32.

        Args:
          data: [z, y, x] of one channel, or [z, y, x, c].
          slices: which ones of the volume these are.
        """
        shift, scale = (self._beside(data, a, slices) for a in (self.shift, self.scale))
        moved = np.subtract(data, shift, dtype=np.float32)
        moved = np.multiply(moved, scale, out=moved, casting='same_kind')
        return np.clip(moved, 0, 1, out=moved) if self.clip else moved

    @staticmethod
    def _beside(data: np.ndarray, factors: np.ndarray, slices: slice) -> Any:
        """Factors in a shape that goes with the data."""
        if factors.ndim == 1:
            return factors.item() if data.ndim == 3 else factors
        per_slice = factors[slices][:, None, None]
        return per_slice[..., 0] if data.ndim == 3 else per_slice


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


def measure_statistics(data: ArrayLike, *, name: str = 'image', team: Team = ALONE) -> Statistics:
    """Minimum, maximum, mean and SD per channel, reading the volume slab by slab.

    Args:
      data: [z, y, x] or [z, y, x, c], in memory or lazily read.
      name: what to call it in an error.
      team: processes that read a share of the slabs each; the result is the same, to the bit.

    Raises:
      InputError: NaN or infinite voxels, or a constant image.
    """

    def measure(rows: slice) -> list[Any]:
        slab = read_rows(data, rows)
        values = slab.reshape(-1, slab.shape[3] if slab.ndim == 4 else 1).astype(np.float64)
        _check_finite(values, name)
        found = values.min(0), values.max(0), values.mean(0), values.var(0)
        return [len(values), *(numbers.tolist() for numbers in found)]

    low: Any = np.inf
    high: Any = -np.inf
    count, mean, moment = 0, np.zeros(()), np.zeros(())
    for n, *numbers in team.share(measure, slab_rows(data), name=f'statistics of {name}'):
        least, most, slab_mean, slab_variance = map(np.asarray, numbers)
        low, high = np.minimum(low, least), np.maximum(high, most)
        # Chan's pairwise update: no cancellation between large sums.
        delta = slab_mean - mean
        moment = moment + slab_variance * n + delta**2 * count * n / (count + n)
        mean, count = mean + delta * n / (count + n), count + n
    if np.any(high <= low):
        raise InputError(
            name, f'a constant image (every voxel is {np.ravel(low)[0]:g})', 'contrast'
        )
    return Statistics(low, high, np.asarray(mean), np.sqrt(moment / count))


def _check_finite(values: np.ndarray, name: str) -> None:
    if not np.isfinite(values).all():
        n_bad = int((~np.isfinite(values)).sum())
        raise InputError(name, f'{n_bad} or more voxels are NaN or infinite', 'finite voxels')


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


def measure_affine(
    intensity: Intensity, data: ArrayLike, *, name: str = 'image', team: Team = ALONE
) -> Affine:
    """The affine map that normalises this volume; a slice without contrast becomes 0 by 'slice'.

    Args:
      intensity: the normalisation.
      data: [z, y, x] or [z, y, x, c], in memory or lazily read.
      name: what to call it in an error.
      team: processes that read a share of it each.

    Raises:
      InputError: NaN or infinite voxels, a constant image, or another number of channels than
        the normalisation was fitted to.
    """
    if intensity.kind == 'slice':
        mean, std = _slice_moments(data, name, team)
        return Affine(mean, 1 / np.where(std > 0, std, 1), intensity.clip)
    statistics = measure_statistics(data, name=name, team=team)
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


def _slice_moments(data: ArrayLike, name: str, team: Team) -> tuple[np.ndarray, np.ndarray]:
    """Mean and SD of each slice and channel, [z, c]."""

    def measure(rows: slice) -> list[Any]:
        slab = read_rows(data, rows)
        values = slab.reshape(len(slab), -1, slab.shape[3] if slab.ndim == 4 else 1)
        values = values.astype(np.float64)
        _check_finite(values, name)
        return [values.mean(1).tolist(), values.std(1).tolist()]

    found = team.share(measure, slab_rows(data), name=f'moments of {name}')
    mean, std = (np.concatenate([np.asarray(part[i]) for part in found]) for i in (0, 1))
    if not std.any(axis=0).all():
        raise InputError(name, 'a constant image (no slice has any contrast)', 'contrast')
    return mean, std


class NormalisedArray:
    """A lazily read volume whose voxels are normalised as they are read (an `ArrayLike`)."""

    def __init__(self, data: ArrayLike, affine: Affine) -> None:
        self._data, self._affine = data, affine
        self.shape, self.dtype = data.shape, np.dtype(np.float32)

    def __getitem__(self, index: Any) -> np.ndarray:
        slices = index[0] if isinstance(index, tuple) else index
        return self._affine.apply(np.asarray(self._data[index]), slices=slices)


def _percentiles(
    data: ArrayLike, percentiles: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Two percentiles per channel, of every n-th voxel where there are very many."""
    step = max(1, int(np.prod(data.shape[:3])) // _PERCENTILE_SAMPLES)
    n_channels = data.shape[3] if len(data.shape) == 4 else 1
    values = np.concatenate([slab.reshape(-1, n_channels)[::step] for slab in slabs(data)])
    low, high = np.percentile(values, percentiles, axis=0)
    return low, high
