"""Gray-level co-occurrence: how often two gray levels are neighbours within an object.

Haralick, Shanmugam & Dinstein, IEEE Trans. SMC 3:610 (1973); in volumes, the mean of the matrices
of the 26 neighbours' offsets (Machireddy et al. 2023, eq. 10–13).
"""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from sxt_jax.core.devices import usable_cores

_LARGE = 1 << 25  # voxels
_CHUNK = 1 << 18  # voxels at a time: their arrays stay in the caches


def cooccurrence(
    levels: np.ndarray, mask: np.ndarray, *, n_levels: int, distance: int = 1
) -> np.ndarray:
    """The mean of the normalised matrices of all offsets to 26 neighbours (8 in a single slice).

    A pair counts where both voxels are in the mask. Opposite offsets have transposed matrices, so
    the mean is symmetric. Offsets are in voxels, whatever their shape. An offset without a pair is
    left out.

    Args:
      levels: [z, y, x] integers from 0 to `n_levels` − 1 in the mask.
      mask: [z, y, x] bool.
      n_levels: number of gray levels.
      distance: length of the offsets' steps, in voxels along each axis that they go.

    Returns:
      [n_levels, n_levels] float64 with sum 1; zeros where no two voxels are neighbours.
    """

    def count(offset: tuple[int, int, int]) -> np.ndarray:
        return _pairs(levels, mask, offset, n_levels)

    offsets = _half_of_offsets(distance)
    if mask.size > _LARGE:
        with ThreadPoolExecutor(usable_cores()) as pool:
            counts = list(pool.map(count, offsets))
    else:  # small objects have threads of their own
        counts = [count(offset) for offset in offsets]
    found = [c / c.sum() for c in counts if c.any()]
    if not found:
        return np.zeros((n_levels, n_levels))
    mean = np.mean(found, axis=0)
    return (mean + mean.T) / 2


def cooccurrence_features(matrix: np.ndarray) -> dict[str, float]:
    """Homogeneity, correlation, variance and contrast of a co-occurrence matrix.

    Σ p/(1 + (i − j)²), (Σ i j p − µ²)/σ², Σ (i − µ)² p and Σ (i − j)² p. The variance is
    Haralick's: the one printed by Machireddy et al. (eq. 12) is the contrast once more.

    Args:
      matrix: [n, n] symmetric with sum 1, or zeros.

    Returns:
      By name; NaN without a pair, and the correlation of a single gray level is NaN.
    """
    if not matrix.any():
        return dict.fromkeys(('homogeneity', 'correlation', 'variance', 'contrast'), np.nan)
    level = np.arange(len(matrix), dtype=np.float64)
    squared = np.square(level[:, None] - level)
    share = matrix.sum(1)
    offset = level - share @ level
    variance = float(share @ offset**2)
    return {
        'homogeneity': float((matrix / (1 + squared)).sum()),
        'correlation': float(offset @ matrix @ offset) / variance if variance > 0 else np.nan,
        'variance': variance,
        'contrast': float((matrix * squared).sum()),
    }


def _half_of_offsets(distance: int) -> list[tuple[int, int, int]]:
    """13 of the 26: those that come later in raster order."""
    steps = itertools.product((0, 1), (-1, 0, 1), (-1, 0, 1))
    later = [step for step in steps if step > (0, 0, 0)]
    return [(z * distance, y * distance, x * distance) for z, y, x in later]


def _pairs(
    levels: np.ndarray, mask: np.ndarray, offset: tuple[int, int, int], n_levels: int
) -> np.ndarray:
    """[n, n] int64 number of pairs of levels with one offset."""
    n_codes = n_levels + 1  # one more for what is outside: cheaper than to pick what is inside
    counts = np.zeros(n_codes**2, np.int64)
    step, n_y, n_x = offset[0], mask.shape[1], mask.shape[2]
    y, x = _overlap(offset[1], n_y), _overlap(offset[2], n_x)
    n_planes = max(1, _CHUNK // mask[0].size)
    for z in range(0, len(mask) - step, n_planes):
        stop = min(z + n_planes, len(mask) - step)
        one, other = (
            np.where(mask[at], levels[at].astype(np.intp), n_levels)
            for at in (
                (slice(z, stop), y[0], x[0]),
                (slice(z + step, stop + step), y[1], x[1]),
            )
        )
        one *= n_codes
        one += other
        counts += np.bincount(one.ravel(), minlength=n_codes**2)
    return counts.reshape(n_codes, n_codes)[:-1, :-1]


def _overlap(step: int, n: int) -> tuple[slice, slice]:
    """Along an axis, the places that have a fellow at that step, and the fellows."""
    size = max(0, n - abs(step))
    first = max(0, -step)
    return slice(first, first + size), slice(first + step, first + step + size)
