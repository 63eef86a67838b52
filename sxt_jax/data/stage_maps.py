"""What the earlier stage of a cascade found, as channels beside the gray values of the next.

Probabilities are kept as bytes on the grid of the stage that gave them: a step of 1/255 is finer
than bfloat16, in which networks compute on accelerators, tells numbers near 1 apart (1/256), and a
volume takes a quarter of the memory of float32. Training and inference see the same bytes.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from sxt_jax.core.errors import InputError
from sxt_jax.core.memory import fits_in_memory
from sxt_jax.core.volume import ArrayLike

STEPS = 255
Ratio = tuple[float, float, float]
_CHUNK_BYTES = 2**26  # of enlarged probabilities worked on at once
_TOLERANCE = 1e-6  # of places on a grid, in voxels: ratios such as 1/3 are rounded


class WithProbabilities:
    """Gray values, and behind them probabilities enlarged to their grid (an `ArrayLike`).

    [z, y, x, c + k] float32; of the probabilities only what a window needs is read and enlarged,
    trilinearly, with the outermost values repeated beyond the outermost centres.

    Args:
      gray: [z, y, x] or [z, y, x, c], normalised, in memory or lazily read.
      maps: [z', y', x', k] uint8, probability · 255, likewise.
      ratio: (z, y, x) voxels of the maps in one of the gray values; the first begin together.
    """

    def __init__(self, gray: ArrayLike, maps: ArrayLike, ratio: Sequence[float]) -> None:
        z, y, x = ratio
        self._gray, self.maps, self.ratio = gray, maps, (z, y, x)
        self.dtype = np.dtype(np.float32)
        self.n_gray = gray.shape[3] if len(gray.shape) == 4 else 1
        self.shape = (*gray.shape[:3], self.n_gray + maps.shape[3])

    def __getitem__(self, index: Any) -> np.ndarray:
        index = index if isinstance(index, tuple) else (index,)
        spans = [
            (index[axis] if axis < len(index) else slice(None)).indices(n)[:2]
            for axis, n in enumerate(self.shape)
        ]
        (z, z_stop), *plane, channels = spans
        sides = [max(0, stop - start) for start, stop in spans[:3]]
        voxels = np.empty((*sides, self.shape[3]), np.float32)
        row_bytes = 4 * math.prod(sides[1:]) * self.maps.shape[3]
        depth = max(1, _CHUNK_BYTES // max(1, row_bytes))
        for start in range(z, z_stop, depth):
            box = [(start, min(start + depth, z_stop)), *plane]
            rows = slice(start - z, box[0][1] - z)
            gray = np.asarray(self._gray[tuple(slice(*span) for span in box)])
            voxels[rows, ..., : self.n_gray] = gray if gray.ndim == 4 else gray[..., None]
            voxels[rows, ..., self.n_gray :] = enlarge_window(self.maps, box, self.ratio)
        return voxels[..., slice(*channels)]


def make_room(shape: Sequence[int]) -> np.ndarray:
    """An array of bytes to write maps to: in memory where it fits, else in a temporary file.

    The file lies where the system has temporary files (the variable TMPDIR), and goes with the
    array.

    Raises:
      InputError: there is no space for the file.
    """
    n_bytes = math.prod(shape)
    if fits_in_memory(n_bytes):
        return np.empty(shape, np.uint8)
    with tempfile.TemporaryFile() as file:
        try:  # a file with holes would end the process when the disk is full
            os.posix_fallocate(file.fileno(), 0, n_bytes)
        except OSError as error:
            found = f'no space for {n_bytes / 2**30:.1f} GiB of probabilities ({error.strerror})'
            raise InputError(tempfile.gettempdir(), found, 'another folder as TMPDIR') from error
        return np.memmap(file, np.uint8, 'r+', shape=tuple(shape))


def enlarge_window(
    maps: ArrayLike, box: Sequence[tuple[int, int]], ratio: Sequence[float]
) -> np.ndarray:
    """Probabilities in a box of a finer grid.

    Args:
      maps: [z', y', x', k] uint8, probability · 255.
      box: (start, stop) along z, y and x, voxels of the finer grid.
      ratio: (z, y, x) voxels of the maps in one of the finer grid.

    Returns:
      [z, y, x, k] float32, 0 … 1.
    """
    taps = [_taps(*span, r, n) for span, r, n in zip(box, ratio, maps.shape[:3], strict=True)]
    window = tuple(slice(int(low[0]), int(high[-1]) + 1) for low, high, _ in taps)
    found = np.asarray(maps[window]).astype(np.float32)
    for axis, (low, high, weight) in enumerate(taps):
        start, shape = window[axis].start, [1] * 4
        shape[axis] = len(weight)
        near, far = (found.take(at - start, axis) for at in (low, high))
        far -= near
        far *= weight.reshape(shape)
        near += far
        found = near
    found /= STEPS
    return found


def _taps(start: int, stop: int, ratio: float, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Between which two of n voxels the centres of start … stop lie, and how near the second."""
    at = np.clip((np.arange(start, stop) + 0.5) * ratio - 0.5, 0, n - 1)
    low = np.floor(at + _TOLERANCE).astype(int)
    high = np.minimum(low + 1, n - 1)
    return low, high, np.maximum(at - low, 0).astype(np.float32)


def covering(start: int, stop: int, ratio: float, n: int) -> tuple[int, int]:
    """Which of n voxels (first, one past the last) a span of a finer grid lies in, in part."""
    first = math.floor(start * ratio + _TOLERANCE)
    last = math.ceil(stop * ratio - _TOLERANCE)
    return min(max(first, 0), n), min(max(last, 0), n)
