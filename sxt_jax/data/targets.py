"""Labels that are ids of objects: what a network learns of them, foreground and flows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from sxt_jax.core.atomic import atomic_path
from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import load
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
        ids = labels.astype(np.int32)  # first: uint8 has no number for what is ignored
        ids[ignored] = IGNORE_INDEX
        return ids


def with_flows(
    example: Example, flows_of: Callable[[np.ndarray], Any], *, folder: Path | None = None
) -> Example:
    """A volume of object ids with what a network learns of them.

    Args:
      example: its labels are ids (`ObjectIds`).
      flows_of: makes [z, y, x, 3] flows towards the centres of [z, y, x] int32 ids; called once,
        with the whole volume, so that cells cut by a patch point to the centre of the whole cell.
      folder: where the targets are kept, and looked for, for one `flows_of`; None: in memory.

    Returns:
      The example with foreground as labels (0, 1, `IGNORE_INDEX`), int16, and flows, float16; the
      ids are its instances, in memory or read as they were.
    """
    ids = load(example.labels)
    checksum = compute_checksum(ids)

    def labels() -> np.ndarray:
        return np.where(ids == IGNORE_INDEX, IGNORE_INDEX, ids > 0).astype(np.int16)

    def flows() -> np.ndarray:
        # Half precision errs by at most 0.0005 and takes half the memory.
        made = np.asarray(flows_of(np.maximum(ids, 0))).astype(np.float16)
        if made.shape != (*ids.shape, 3):
            raise ValueError(f'flows {made.shape} of labels {ids.shape}: expected [z, y, x, 3]')
        return made

    name = f'{"x".join(map(str, ids.shape))}_{checksum:08x}'
    return dataclasses.replace(
        example,
        labels=_kept(labels, folder, f'{name}_labels.npy'),
        flows=_kept(flows, folder, f'{name}_flows.npy'),
        instances=example.labels,
        checksum=checksum,
    )


def _kept(make: Callable[[], np.ndarray], folder: Path | None, name: str) -> np.ndarray:
    """What `make` makes, in memory or read from a file as it is needed."""
    if folder is None:
        return make()
    path = folder / name
    if not path.exists():
        with atomic_path(path) as temporary:
            np.save(temporary, make())
    return np.load(path, mmap_mode='r')
