"""Where the objects of a volume are: their ids and bounding boxes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from scipy import ndimage

from sxt_jax.core.devices import usable_cores
from sxt_jax.core.errors import InputError

Window = tuple[slice, slice, slice]
T = TypeVar('T')
_LARGE = 1 << 25  # voxels of a box
_LARGEST_LISTED_ID = 10_000_000  # find_objects keeps a list this long


def bounding_boxes(instances: np.ndarray) -> dict[int, Window]:
    """Bounding box of every object by id, in order of id.

    Args:
      instances: [z, y, x] integers, 0 is background, ids as large as they like.
    """
    names = None
    if instances.size and instances.max() > _LARGEST_LISTED_ID:
        names, instances = np.unique(instances, return_inverse=True)
        instances = instances.reshape(instances.shape) + int(names[0] != 0)
        names = names if names[0] == 0 else np.concatenate([[0], names])
    boxes = enumerate(ndimage.find_objects(instances.astype(_index_type(instances), copy=False)), 1)
    return {
        i if names is None else int(names[i]): (box[0], box[1], box[2]) for i, box in boxes if box
    }


def bounding_box(mask: np.ndarray) -> Window | None:
    """The box of all voxels that are set; None without any."""
    box = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        there = np.flatnonzero(mask.any(axis=others))
        if not len(there):
            return None
        box.append(slice(int(there[0]), int(there[-1]) + 1))
    return box[0], box[1], box[2]


def map_boxes(function: Callable[[int, Window], T], boxes: Mapping[int, Window]) -> list[T]:
    """The function of every id and box, in their order, by several threads.

    Large boxes go one by one, for the sake of memory; their surfaces have threads of their own.

    Args:
      function: of an id and its box.
      boxes: by id.
    """
    sizes = {label: math.prod(s.stop - s.start for s in box) for label, box in boxes.items()}
    small = [label for label, size in sizes.items() if size <= _LARGE]
    with ThreadPoolExecutor(usable_cores()) as pool:
        done = zip(small, pool.map(lambda label: function(label, boxes[label]), small), strict=True)
        results = dict(done)
    for label in boxes.keys() - results.keys():
        results[label] = function(label, boxes[label])
    return [results[label] for label in boxes]


def check_labels(labels: Any, image: Any = None) -> np.ndarray:
    """The labels as an array of whole numbers; a mask becomes uint8.

    Args:
      labels: [z, y, x] integers or bool.
      image: what must have their shape, if anything.

    Raises:
      InputError: another rank, dtype or shape, or negative labels.
    """
    labels = np.asarray(labels)
    if labels.ndim != 3:
        raise InputError('labels', f'shape {labels.shape}', 'three axes [z, y, x]')
    if labels.dtype.kind not in 'iub':
        raise InputError('labels', f'voxels of type {labels.dtype}', 'whole numbers')
    if labels.dtype.kind == 'i' and labels.size and labels.min() < 0:
        raise InputError('labels', f'a value of {labels.min()}', 'values from 0')
    if image is not None and tuple(image.shape) != labels.shape:
        raise InputError('image', f'shape {tuple(image.shape)}', f'that of labels {labels.shape}')
    return labels.astype(np.uint8) if labels.dtype.kind == 'b' else labels


def _index_type(instances: np.ndarray) -> Any:
    # find_objects takes signed integers up to the machine word only.
    return instances.dtype if instances.dtype.kind == 'i' else np.int64
