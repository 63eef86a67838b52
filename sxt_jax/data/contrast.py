"""Even contrast along a stack of slices: tables from old gray levels to new ones.

Detectors drift and slices charge, so that the same tissue is bright in one slice and dark in the
next. A slice is changed as a whole, by a table that its histogram gives; what is darker stays
darker.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

N_QUANTILES = 257  # of a slice's gray levels; every 1/256
DTYPES = ('uint8', 'uint16', 'int16')  # whose levels can be counted


def levels_of(dtype: np.dtype) -> np.ndarray:
    """[n] int32 all gray levels of a dtype among `DTYPES`, from the lowest."""
    info = np.iinfo(dtype)
    return np.arange(info.min, info.max + 1, dtype=np.int32)


def histogram(image: np.ndarray, *, padding: int | None = None) -> np.ndarray:
    """How often every gray level occurs.

    Args:
      image: of a dtype among `DTYPES`.
      padding: a gray level that is not counted; None: all are.

    Returns:
      [n levels] int64.
    """
    info = np.iinfo(image.dtype)
    shifted = image.ravel() if info.min == 0 else image.ravel().astype(np.int32) - info.min
    counts = np.bincount(shifted, minlength=info.max - info.min + 1)
    if padding is not None and info.min <= padding <= info.max:
        counts[padding - info.min] = 0
    return counts


def quantiles(counts: np.ndarray) -> np.ndarray:
    """Gray levels, counted from the lowest, below which 0, 1/256, … 1 of the pixels are.

    A level stands for the interval of half a level around it, so that a table made of a
    distribution and itself changes nothing.

    Args:
      counts: [n levels] of a `histogram` in which something was counted.

    Returns:
      [`N_QUANTILES`] float64, not decreasing.
    """
    occurring = np.flatnonzero(counts)
    above = np.cumsum(counts[occurring]) / counts.sum()
    shares = np.stack([above - counts[occurring] / counts.sum(), above], 1).ravel()
    places = np.stack([occurring - 0.5, occurring + 0.5], 1).ravel()
    return np.interp(np.linspace(0, 1, N_QUANTILES), shares, places)


def equalising_table(counts: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Histogram equalisation: the new level is the share of pixels that are darker.

    Half of the pixels of a level count as darker than it.

    Returns:
      [n levels] new levels over the whole range of the dtype.
    """
    below = (np.cumsum(counts) - 0.5 * counts) / max(counts.sum(), 1)
    return _levels(np.floor(below * len(counts)), dtype)


def matching_table(own: np.ndarray, wanted: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Histogram matching: the new level is that with as many darker pixels in the reference.

    Args:
      own, wanted: `quantiles` of the slice and of the reference.

    Returns:
      [n levels] new levels. Those outside the slice's own range are moved as its ends are.
    """
    levels = np.arange(len(levels_of(dtype)), dtype=np.float64)
    rising = own + 1e-6 * np.arange(len(own))  # where many pixels have one level
    inside = np.interp(levels, rising, wanted)
    inside += np.minimum(levels - rising[0], 0) + np.maximum(levels - rising[-1], 0)
    return _levels(np.rint(inside), dtype)


def running_reference(all_quantiles: np.ndarray, *, n_slices: float) -> np.ndarray:
    """What the gray levels of a slice and of those around it are on average.

    Args:
      all_quantiles: [z, `N_QUANTILES`] of every slice.
      n_slices: standard deviation, in slices, of the Gaussian weights of neighbours; slow changes
        along the stack, which may be of the tissue, stay. `inf`: the mean of the whole stack.

    Returns:
      [z, `N_QUANTILES`] the reference of each slice.
    """
    if np.isinf(n_slices):
        return np.broadcast_to(all_quantiles.mean(0), all_quantiles.shape)
    return ndimage.gaussian_filter1d(all_quantiles, n_slices, axis=0, mode='reflect')


def apply_table(image: np.ndarray, table: np.ndarray) -> np.ndarray:
    """The image with new gray levels, of the same dtype."""
    lowest = np.iinfo(image.dtype).min
    return table[image if lowest == 0 else image.astype(np.int32) - lowest]


def _levels(counted: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Levels counted from the lowest, as values of the dtype."""
    info = np.iinfo(dtype)
    return np.clip(counted + info.min, info.min, info.max).astype(dtype)
