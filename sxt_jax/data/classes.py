"""The classes of a segmentation: label values in files ↔ class indices in a network."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import ArrayLike, slabs

IGNORE_INDEX = -1  # the class index of voxels that no loss and no score counts
_MAX_BINS = 2**20


@dataclasses.dataclass(frozen=True)
class Classes:
    """Class k has the name `names[k]` and is stored as `values[k]`; class 0 is background.

    Attributes:
      names: one a class, starting with the background.
      values: integer label values in files, starting with 0.
      ignore_value: label value of voxels nobody labelled, if there is one.
    """

    names: tuple[str, ...]
    values: tuple[int, ...]
    ignore_value: int | None = None
    dtype: ClassVar[Any] = np.int16

    def __post_init__(self) -> None:
        if len(self.names) != len(self.values) or len(set(self.values)) < len(self.values):
            raise InputError('classes', f'{self.names} ↔ {self.values}', 'one value a name')
        if len(set(self.names)) < len(self.names):
            raise InputError('classes', f'a name occurs twice in {self.names}', 'distinct names')
        if self.ignore_value in self.values:
            raise InputError(
                'classes', f'{self.ignore_value} is a class and ignored', 'one of them'
            )

    def __len__(self) -> int:
        return len(self.names)

    @property
    def value_names(self) -> dict[int, str]:
        return dict(zip(self.values, self.names, strict=True))

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Classes:
        return cls(tuple(fields['names']), tuple(fields['values']), fields['ignore_value'])

    def indices(self, labels: np.ndarray, *, name: str = 'labels') -> np.ndarray:
        """Class indices, int16, of label values; `IGNORE_INDEX` for the ignored value.

        Raises:
          InputError: a value is not in the class list.
        """
        known = np.array(self.values, np.int64)
        indices = np.arange(len(self), dtype=np.int16)
        if self.ignore_value is not None:
            known = np.append(known, self.ignore_value)
            indices = np.append(indices, np.int16(IGNORE_INDEX))
        order = np.argsort(known)
        known, indices = known[order], indices[order]
        place = np.minimum(np.searchsorted(known, labels), len(known) - 1)
        wrong = known[place] != labels
        if wrong.any():
            found = np.unique(labels[wrong])[:5].tolist()
            raise InputError(name, f'label values {found}', f'those of the classes {self}')
        return indices[place]

    def labels(self, indices: np.ndarray) -> np.ndarray:
        """Label values, in the smallest unsigned type that holds them, of class indices."""
        dtype = np.min_scalar_type(max(self.values)) if min(self.values) >= 0 else np.int32
        return np.array(self.values).astype(dtype)[indices]

    def __str__(self) -> str:
        return ', '.join(f'{n}={v}' for n, v in zip(self.names, self.values, strict=True))


def parse_classes(text: str, *, ignore_value: int | None = None) -> Classes:
    """The classes of 'cytoplasm=1,beads=2'; 0 is background unless named ('outside=0,…').

    Raises:
      InputError: the text does not read that way.
    """
    pairs = {}
    for item in text.split(','):
        name, equals, value = (part.strip() for part in item.partition('='))
        if not (name and equals and re.fullmatch('-?[0-9]+', value)):
            raise InputError('data.classes', repr(text), "names and values like 'cell=1,bead=2'")
        if int(value) in pairs:
            raise InputError('data.classes', f'value {int(value)} twice in {text!r}', 'one a name')
        pairs[int(value)] = name
    pairs = {0: pairs.pop(0, 'background'), **dict(sorted(pairs.items()))}
    return Classes(tuple(pairs.values()), tuple(pairs), ignore_value)


def find_classes(
    counts: Sequence[Mapping[int, int]],
    *,
    value_names: Mapping[int, str] | None = None,
    ignore_value: int | None = None,
) -> Classes:
    """The classes that occur in label volumes.

    Args:
      counts: voxels of each label value, one mapping a volume (`count_labels`).
      value_names: names that the files give to values; the others become 'class 1', ….
      ignore_value: a value that is no class.

    Raises:
      InputError: a value is negative, which usually means unlabelled.
    """
    found = sorted({value for c in counts for value in c} - {0, ignore_value})
    if found and found[0] < 0:
        raise InputError('labels', f'value {found[0]}', f'values from 0 on, or {found[0]} ignored')
    names = {0: 'background', **{v: f'class {v}' for v in found}}
    names.update({v: n for v, n in (value_names or {}).items() if v in names})
    return Classes(tuple(names.values()), tuple(names), ignore_value)


def count_labels(labels: ArrayLike, *, name: str = 'labels') -> dict[int, int]:
    """Voxels of each label value, reading the volume slab by slab.

    Raises:
      InputError: labels that are not whole numbers.
    """
    counts: Counter[int] = Counter()
    for slab in slabs(labels):
        found = count_values(slab)
        if found is None:
            raise InputError(name, 'label values that are not whole numbers', 'integer labels')
        counts.update(found)
    return counts


def count_values(labels: np.ndarray) -> dict[int, int] | None:
    """Voxels of each label value of an array in memory; None where a value is no whole number."""
    if labels.dtype.kind == 'f':
        if np.any(labels != np.rint(labels)) or np.abs(labels).max() >= 2.0**53:
            return None
        labels = labels.astype(np.int64)
    low, high = int(labels.min()), int(labels.max())
    if high - low < _MAX_BINS and high < 2**63:
        # Subtracting in the labels' own dtype could overflow, in int64 it cannot within the bins.
        bins = np.bincount((labels.astype(np.int64) - low).ravel())
        values, n_voxels = np.flatnonzero(bins) + low, bins[bins > 0]
    else:
        values, n_voxels = np.unique(labels, return_counts=True)
    return dict(zip(values.tolist(), n_voxels.tolist(), strict=True))
