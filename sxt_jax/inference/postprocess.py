"""Tidying predicted labels: small objects removed, small holes filled.

Both are options of the published ACSeg system (`clean` and `fill` of Biomedisa).
Objects and holes are connected through faces.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import ndimage

from sxt_jax.core.errors import InputError

Slices = tuple[slice, ...]


def _check(labels: np.ndarray, fraction: float) -> None:
    if labels.dtype.kind not in 'iu':
        raise InputError('labels', f'type {labels.dtype}', 'integers')
    if not 0 <= fraction <= 1:
        raise InputError('fraction', str(fraction), '0 to 1')


def _classes(labels: np.ndarray) -> Iterator[tuple[int, Slices]]:
    """Each class in the labels but background (0), and the box that holds it."""
    for value in np.unique(labels):
        if value > 0:
            mask = labels == value
            yield int(value), ndimage.find_objects(mask.view(np.uint8))[0]


def clean(labels: np.ndarray, fraction: float) -> np.ndarray:
    """Remove objects smaller than a fraction of the largest object of their class.

    Args:
      labels: [z, y, x] (or any rank) class ids, 0 background.
      fraction: least size to keep, of the class's largest object's, 0 … 1.
    Returns:
      A copy of the labels with smaller objects set to 0.
    """
    _check(labels, fraction)
    cleaned = labels.copy()
    for value, box in _classes(labels):
        objects, _ = ndimage.label(labels[box] == value)
        sizes = np.bincount(objects.ravel())
        sizes[0] = 0
        small = sizes < fraction * sizes.max()
        small[0] = False
        cleaned[box][small[objects]] = 0
    return cleaned


def fill(labels: np.ndarray, fraction: float) -> np.ndarray:
    """Fill holes smaller than a fraction of the object that encloses them.

    A hole is a connected region of background with no way to the volume's border but through one
    object; other classes inside the object stay as they are, and background that they enclose is
    filled like any other.

    Args:
      labels: [z, y, x] (or any rank) class ids, 0 background.
      fraction: holes of fewer voxels than this share of their object's are filled, 0 … 1.
    Returns:
      A copy of the labels with such holes set to the object's class.
    """
    _check(labels, fraction)
    filled = labels.copy()
    for value, class_box in _classes(labels):
        objects, _ = ndimage.label(labels[class_box] == value)
        for i, box in enumerate(ndimage.find_objects(objects), start=1):
            _fill_object(filled[class_box][box], objects[box] == i, value, fraction)
    return filled


def _fill_object(labels: np.ndarray, mask: np.ndarray, value: int, fraction: float) -> None:
    """Fill the holes of one object in its bounding box, in place."""
    enclosed = ndimage.binary_fill_holes(mask) & ~mask & (labels == 0)
    if enclosed.any():
        holes, _ = ndimage.label(enclosed)
        small = np.bincount(holes.ravel()) < fraction * np.count_nonzero(mask)
        small[0] = False
        labels[small[holes]] = value


def tidy(labels: np.ndarray, *, clean_below: float, fill_below: float) -> np.ndarray:
    """Clean, then fill; a fraction of 0 leaves that out.

    Args:
      labels: [z, y, x] (or any rank) class ids, 0 background.
      clean_below: fraction for `clean`.
      fill_below: fraction for `fill`.
    """
    if clean_below:
        labels = clean(labels, clean_below)
    return fill(labels, fill_below) if fill_below else labels
