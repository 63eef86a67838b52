"""Where ids of objects change within slices."""

from __future__ import annotations

import numpy as np


def id_borders(ids: np.ndarray, *, between_objects: bool = False) -> np.ndarray:
    """Pixels that have a neighbour along y or x with another id.

    Args:
      ids: [z, y, x] or [y, x], 0 is outside.
      between_objects: only where neither of the two is 0.

    Returns:
      bool of the same shape.
    """
    found = np.zeros(ids.shape, bool)
    for axis in (ids.ndim - 2, ids.ndim - 1):
        n = ids.shape[axis]
        low, high = ((slice(None),) * axis + (slice(start, start + n - 1),) for start in (0, 1))
        changes = ids[low] != ids[high]
        if between_objects:
            changes &= (ids[low] > 0) & (ids[high] > 0)
        found[low] |= changes
        found[high] |= changes
    return found
