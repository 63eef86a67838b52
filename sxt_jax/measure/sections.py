"""Cross-sections of objects with the slices: ellipse axes and perimeters, of all objects at once.

Objects are taken as runs of voxels along x, which are tens of times fewer than voxels and of which
all sums have closed forms. Every section has a range of positions of its own, so that one sorted
list of runs holds all sections of all objects and a search in it answers for all of them.

The perimeter is that of Cauchy and Crofton: boundary crossings of parallel lines, counted along
eight directions (0, 1), (1, 2), (1, 1) … of the grid and weighted by the angle each stands for.
How often lines along d cross the boundary follows from the covariogram: 2 (n − n_d), where n_d of
the n pixels have a fellow at distance d. This has no smoothing to choose and no preferred
orientation. Against it, the length of pixel edges is 27 % too large for a disk, and four directions
err by up to 5 % for a long section between two of them, eight by 1.5 % (in pixels of 1 : 2 by 6 %).

Error of the perimeter in % (mean ± SD, and the largest, over 68 places and directions): ellipses
with semi-axes of 4 and 4 pixels −1.0 ± 1.1 (3.5), 6.7 and 6.7 −0.4 ± 0.7 (1.6), 50 and 6.7
−0.3 ± 0.5 (1.3), 30 and 3 −1.3 ± 0.8 (2.8); rectangles of 100 by 13.4 pixels −1.2 ± 1.0 (3.0), for
lines along d miss what lies within d of a corner.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

_DIRECTIONS = ((0, 1), (1, 2), (1, 1), (2, 1), (1, 0), (2, -1), (1, -1), (1, -2))  # (y, x)
_REACH = 2


def sections(masks: Sequence[np.ndarray], *, voxel_size_nm: Sequence[float]) -> dict:
    """Measures of every section: of the parts in which each object crosses each of its slices.

    Parts of a slice are joined through edges and corners of pixels. The axes are those of the
    ellipse with the same second moments, pixels taken as squares (as MATLAB's regionprops, which
    Dyhr et al. 2023 used by way of MIB). Perimeter: see the module.

    Args:
      masks: [z, y, x] bool, one an object; of any shapes.
      voxel_size_nm: edge lengths (z, y, x) in nm.

    Returns:
      Columns of equal length, in order of object and slice: `object` (its place in `masks`), `z`
      (slice of its mask), `n_pixels`, `area_nm2`, `first_axis_nm`, `second_axis_nm` (full axes,
      the longer one first), `perimeter_nm`.
    """
    runs = _find_runs(masks)
    of_run, n = _find_sections(runs)
    size_y, size_x = float(voxel_size_nm[1]), float(voxel_size_nm[2])
    length = runs['stop'] - runs['start']
    n_pixels = np.bincount(of_run, length, n)
    result = {
        'object': _first(of_run, runs['object'], n),
        'z': _first(of_run, runs['z'], n),
        'n_pixels': n_pixels.astype(np.int64),
        'area_nm2': n_pixels * size_y * size_x,
    }
    axes = _axes(of_run, runs, n_pixels, (size_y, size_x))
    result |= {'first_axis_nm': axes[:, 1], 'second_axis_nm': axes[:, 0]}
    result['perimeter_nm'] = _perimeters(of_run, runs, n_pixels, (size_y, size_x))
    order = np.lexsort((result['z'], result['object']))
    return {name: column[order] for name, column in result.items()}


def _first(of_run: np.ndarray, values: np.ndarray, n: int) -> np.ndarray:
    """The value that all runs of a section share."""
    shared = np.zeros(n, np.int64)
    shared[of_run] = values
    return shared


def _find_runs(masks: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Runs of all masks: object, z, y, start and stop along x, and the width of the mask's rows."""
    rows = []
    for i, mask in enumerate(masks):
        _, n_y, n_x = mask.shape
        step = np.diff(np.pad(mask, ((0, 0), (0, 0), (1, 1))).astype(np.int8), axis=2).ravel()
        # A run starts and stops in the same row of n_x + 1 steps, so both lists go together.
        row, start = np.divmod(np.flatnonzero(step == 1), n_x + 1)
        stop = np.flatnonzero(step == -1) % (n_x + 1)
        z, y = np.divmod(row, n_y)
        rows.append(np.stack([np.full_like(z, i), z, y, start, stop, np.full_like(z, n_x)]))
    joined = np.concatenate(rows, axis=1) if rows else np.zeros((6, 0), np.int64)
    return dict(zip(('object', 'z', 'y', 'start', 'stop', 'n_x'), joined, strict=True))


def _find_sections(runs: dict[str, np.ndarray]) -> tuple[np.ndarray, int]:
    """Number of the section that each run belongs to, and how many there are."""
    n = len(runs['y'])
    if not n:
        return np.zeros(0, np.int64), 0
    pitch = int(runs['n_x'].max()) + 2 * _REACH
    slice_pitch = (int(runs['y'].max()) + 2 * _REACH) * pitch
    plane = runs['object'] * (int(runs['z'].max()) + 1) + runs['z']
    start = plane * slice_pitch + runs['y'] * pitch + runs['start']
    stop = start + runs['stop'] - runs['start']
    # Runs of the next row that overlap, or touch with a corner.
    low = np.searchsorted(stop, start + pitch, side='left')
    high = np.searchsorted(start, stop + pitch, side='right')
    count = np.maximum(high - low, 0)
    one = np.repeat(np.arange(n), count)
    other = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + low[one]
    graph = sparse.coo_matrix((np.ones(len(one), bool), (one, other)), (n, n))
    n_sections, of_run = csgraph.connected_components(graph, directed=False)
    return of_run.astype(np.int64), n_sections


def _axes(
    of_run: np.ndarray,
    runs: dict[str, np.ndarray],
    n_pixels: np.ndarray,
    size: tuple[float, float],
) -> np.ndarray:
    """[n, 2] full axes of ellipses in nm, the shorter first; a solid one has variance a²/4."""
    n, length = len(n_pixels), (runs['stop'] - runs['start']).astype(np.float64)
    y, x = runs['y'].astype(np.float64), (runs['start'] + runs['stop'] - 1) / 2
    mean_y, mean_x = (np.bincount(of_run, v * length, n) / n_pixels for v in (y, x))
    y, x = y - mean_y[of_run], x - mean_x[of_run]
    products = y * y, y * x, x * x + (length**2 - 1) / 12
    yy, yx, xx = (np.bincount(of_run, p * length, n) / n_pixels for p in products)
    covariance = np.empty((n, 2, 2))
    covariance[:, 0, 0], covariance[:, 1, 1] = yy + 1 / 12, xx + 1 / 12
    covariance[:, 0, 1] = covariance[:, 1, 0] = yx
    scaled = covariance * np.outer(size, size)
    return 4 * np.sqrt(np.maximum(np.linalg.eigvalsh(scaled), 0))


def _perimeters(
    of_run: np.ndarray,
    runs: dict[str, np.ndarray],
    n_pixels: np.ndarray,
    size: tuple[float, float],
) -> np.ndarray:
    """[n] perimeters in nm."""
    steps = np.array(_DIRECTIONS) * size
    pitch = int(runs['n_x'].max(initial=0)) + 2 * _REACH
    section_pitch = (int(runs['y'].max(initial=0)) + 2 * _REACH) * pitch
    order = np.lexsort((runs['start'], runs['y'], of_run))
    section, y = of_run[order], runs['y'][order]
    start = section * section_pitch + y * pitch + runs['start'][order]
    stop = start + (runs['stop'] - runs['start'])[order]
    covered = _Covered(start, stop)
    total = np.zeros(len(n_pixels))
    for step, angle in zip(_DIRECTIONS, _angles(steps), strict=True):
        shift = step[0] * pitch + step[1]
        fellows = covered.before(stop + shift) - covered.before(start + shift)
        crossings = 2 * (n_pixels - np.bincount(section, fellows, len(n_pixels)))
        distance = size[0] * size[1] / np.hypot(step[0] * size[0], step[1] * size[1])
        total += angle / 2 * distance * crossings
    return total


def _angles(steps: np.ndarray) -> np.ndarray:
    """The angle, of π in all, that each direction stands for: half of the gaps on both sides."""
    angle = np.arctan2(steps[:, 0], steps[:, 1]) % np.pi
    order = np.argsort(angle)
    gaps = np.diff(np.append(angle[order], angle[order[0]] + np.pi))
    result = np.empty(len(steps))
    result[order] = (gaps + np.roll(gaps, 1)) / 2
    return result


class _Covered:
    """How many of the positions before a given one are in disjoint, sorted intervals."""

    def __init__(self, start: np.ndarray, stop: np.ndarray) -> None:
        self._start, self._length = start, stop - start
        self._upto = np.cumsum(self._length) - self._length

    def before(self, position: np.ndarray) -> np.ndarray:
        i = np.searchsorted(self._start, position, side='right') - 1
        inside = np.minimum(position - self._start[i], self._length[i])
        return np.where(i >= 0, self._upto[i] + inside, 0)
