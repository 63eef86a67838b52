"""What a network of slices learns of cells: where they are, and where one ends (Machireddy et al.).

The paper gives the network two maps: the mask, 1 in all pixels of cells, and the boundaries of the
cells. How wide these were drawn it does not say; here a boundary is all pixels that have one of
another cell or of the outside within a few pixels along y and x, so it lies on either side of where
ids change: on both cells where two touch, on the cell and outside elsewhere. The border of the
image is none. Both maps of a pixel are one number, so that patches are cut and turned as labels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from sxt_jax.core.volume import ArrayLike
from sxt_jax.data.classes import IGNORE_INDEX, Classes
from sxt_jax.data.datasets import Example

MASK, BOUNDARY = 1, 2  # bits of the numbers
CODES = Classes(('background', 'interior', 'boundary outside', 'boundary of a cell'), (0, 1, 2, 3))
FOUND = Classes(('background', 'cell', 'boundary'), (0, 1, 2))  # what labels of the maps mean


def cell_codes(ids: np.ndarray, *, boundary_px: int) -> np.ndarray:
    """Mask and boundary of each slice.

    Args:
      ids: [z, y, x] int32 ids of cells, 0 outside, `IGNORE_INDEX` where there is no label: next to
        that no boundary is seen.
      boundary_px: how far a boundary reaches on either side, at least 1.

    Returns:
      [z, y, x] int16: `MASK` in cells plus `BOUNDARY` along their boundaries; `IGNORE_INDEX` where
      there is no label.
    """
    window = (1, 2 * boundary_px + 1, 2 * boundary_px + 1)
    ignored = ids == IGNORE_INDEX
    highest = ndimage.maximum_filter(ids, size=window, mode='nearest')
    known = np.where(ignored, np.iinfo(ids.dtype).max, ids)
    lowest = ndimage.minimum_filter(known, size=window, mode='nearest')
    codes = MASK * (ids > 0) + BOUNDARY * (highest != lowest)
    return np.where(ignored, IGNORE_INDEX, codes).astype(np.int16)


class _Codes:
    """`cell_codes` of slices read whole as they are needed (an `ArrayLike`)."""

    def __init__(self, ids: ArrayLike, boundary_px: int) -> None:
        self._ids, self._boundary_px = ids, boundary_px
        self.shape, self.dtype = tuple(ids.shape), np.dtype(np.int16)

    def __getitem__(self, index: Any) -> np.ndarray:
        first, *others = index if isinstance(index, tuple) else (index,)
        ids = np.asarray(self._ids[(first, slice(None), slice(None))])
        return cell_codes(ids, boundary_px=self._boundary_px)[(slice(None), *others)]


def with_cell_maps(slices: Sequence[Example], *, boundary_px: int) -> list[Example]:
    """Slices with `cell_codes` in place of ids (`targets.ObjectIds`)."""
    return [dataclasses.replace(e, labels=_Codes(e.labels, boundary_px)) for e in slices]
