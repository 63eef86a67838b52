"""Labels that are ids of objects: what a network learns of them, foreground and flows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from sxt_jax.core.errors import InputError
from sxt_jax.data.classes import IGNORE_INDEX, Classes
from sxt_jax.data.datasets import Example, compute_checksum

CELLS = Classes(('background', 'cell'), (0, 1))  # the classes of the foreground of ids


@dataclasses.dataclass(frozen=True)
class ObjectIds:
    """Label values that are ids of objects, in place of the list of `Classes`.

    Attributes:
      ignore_value: label value of voxels nobody labelled, if there is one.
    """

    ignore_value: int | None = None
    dtype: ClassVar[Any] = np.int32

    def indices(self, labels: np.ndarray, *, name: str = 'labels') -> np.ndarray:
        """Ids, int32, 0 background; `IGNORE_INDEX` for the ignored value.

        Raises:
          InputError: an id is negative or has more than 31 bits.
        """
        ignored = np.zeros(labels.shape, bool)
        if self.ignore_value is not None:
            ignored = labels == self.ignore_value
        wrong = ((labels < 0) | (labels > np.iinfo(np.int32).max)) & ~ignored
        if wrong.any():
            found = f'label values {np.unique(labels[wrong])[:5].tolist()}'
            raise InputError(name, found, 'ids of objects from 1 to 2³¹ − 1, and 0')
        return np.where(ignored, IGNORE_INDEX, labels).astype(np.int32)


def with_flows(example: Example, flows_of: Callable[[np.ndarray], Any]) -> Example:
    """A volume of object ids with what a network learns of them.

    Args:
      example: its labels are ids (`ObjectIds`).
      flows_of: makes [z, y, x, 3] flows towards the centres of [z, y, x] int32 ids; called once,
        with the whole volume, so that cells cut by a patch point to the centre of the whole cell.

    Returns:
      The example with foreground as labels (0, 1, `IGNORE_INDEX`), int16, and flows.
    """
    ids = np.asarray(example.labels[(slice(None),) * 3])
    # Half precision errs by at most 0.0005 and takes half the memory.
    flows = np.asarray(flows_of(np.maximum(ids, 0))).astype(np.float16)
    if flows.shape != (*ids.shape, 3):
        raise ValueError(f'flows {flows.shape} of labels {ids.shape}: expected [z, y, x, 3]')
    labels = np.where(ids == IGNORE_INDEX, IGNORE_INDEX, ids > 0).astype(np.int16)
    checksum = compute_checksum(ids)
    return dataclasses.replace(example, labels=labels, flows=flows, checksum=checksum)
