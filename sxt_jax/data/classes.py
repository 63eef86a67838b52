"""The classes of a segmentation: label values in files ↔ class indices in a network."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import ArrayLike, slabs

IGNORE_INDEX = -1  # the class index of voxels that no loss and no score counts
REST = 'rest'
_MAX_BINS = 2**20


@dataclasses.dataclass(frozen=True)
class Classes:
    """Class k has the name `names[k]` and is written as `values[k]`; class 0 is background.

    Attributes:
      names: one a class, starting with the background.
      values: integer label values in files that are written, starting with 0.
      ignore_value: label value of voxels nobody labelled, if there is one.
      groups: label values of each class in files that are read; None: `values`, one each.
      rest: the class of all other values; None: there are none.
      also_ignored: further label values that are ignored in files that are read.
    """

    names: tuple[str, ...]
    values: tuple[int, ...]
    ignore_value: int | None = None
    groups: tuple[tuple[int, ...], ...] | None = None
    rest: int | None = None
    also_ignored: tuple[int, ...] = ()
    dtype: ClassVar[Any] = np.int16

    def __post_init__(self) -> None:
        if len(self.names) != len(self.values) or len(set(self.values)) < len(self.values):
            raise InputError('classes', f'{self.names} ↔ {self.values}', 'one value a name')
        if len(set(self.names)) < len(self.names):
            expected = "distinct names; several values of one as 'cell=1+2'"
            raise InputError('classes', f'a name occurs twice in {self.names}', expected)
        if both := self.ignored_values & self._class_of_value.keys():
            raise InputError('classes', f'{min(both)} is a class and ignored', 'one of them')

    def __len__(self) -> int:
        return len(self.names)

    @property
    def value_names(self) -> dict[int, str]:
        """Names of the values in files that are written."""
        return dict(zip(self.values, self.names, strict=True))

    @property
    def ignored_values(self) -> frozenset[int]:
        """Label values that no loss and no score counts, in files that are read."""
        one = () if self.ignore_value is None else (self.ignore_value,)
        return frozenset((*one, *self.also_ignored))

    @property
    def known_values(self) -> frozenset[int] | None:
        """Values in files that are read, but the ignored ones; None where `rest` has all others."""
        return frozenset(self._class_of_value) if self.rest is None else None

    @property
    def as_written(self) -> Classes:
        """How to read labels that were written with these classes.

        As other labels, if values mean the same in both, so that they may as well come from
        elsewhere; else only the values that are written are known.
        """
        mapped = self._class_of_value
        known = all(mapped.get(value, self.rest) == k for k, value in enumerate(self.values))
        if known and not self.ignored_values.intersection(self.values):
            return self
        return Classes(self.names, self.values)

    @property
    def _class_of_value(self) -> dict[int, int]:
        """The class of every value that has a name, in files that are read."""
        groups = [(v,) for v in self.values] if self.groups is None else self.groups
        return {value: k for k, group in enumerate(groups) for value in group}

    def is_background(self, value: int) -> bool:
        """Whether a label value is background in files that are read."""
        return self._class_of_value.get(value, self.rest) == 0

    def to_dict(self) -> dict[str, Any]:
        fields = dataclasses.asdict(self)
        # Without groups as ever: runs that were begun before there were any can go on.
        left_out = () if self.groups else ('groups', 'rest')
        left_out = left_out if self.also_ignored else (*left_out, 'also_ignored')
        return {k: v for k, v in fields.items() if k not in left_out}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Classes:
        groups = fields.get('groups')
        return cls(
            tuple(fields['names']),
            tuple(fields['values']),
            fields['ignore_value'],
            tuple(tuple(group) for group in groups) if groups else None,
            fields.get('rest'),
            tuple(fields.get('also_ignored', ())),
        )

    def indices(self, labels: np.ndarray, *, name: str = 'labels') -> np.ndarray:
        """Class indices, int16, of label values; `IGNORE_INDEX` for ignored values.

        Raises:
          InputError: a value is not in the class list.
        """
        mapped = self._class_of_value
        mapped |= dict.fromkeys(self.ignored_values, IGNORE_INDEX)
        known = np.array(sorted(mapped), np.int64)
        place = np.minimum(np.searchsorted(known, labels), len(known) - 1)
        indices = np.array([mapped[value] for value in known.tolist()], np.int16)[place]
        other = known[place] != labels
        if self.rest is not None:
            indices[other] = self.rest
        elif other.any():
            found = np.unique(labels[other])[:5].tolist()
            raise InputError(name, f'label values {found}', f'those of the classes {self}')
        return indices

    def labels(self, indices: np.ndarray) -> np.ndarray:
        """Label values, in the smallest unsigned type that holds them, of class indices."""
        dtype = np.min_scalar_type(max(self.values)) if min(self.values) >= 0 else np.int32
        return np.array(self.values).astype(dtype)[indices]

    def __str__(self) -> str:
        members: list[list[str]] = [[] for _ in self.names]
        for value, k in self._class_of_value.items():
            members[k].append(str(value))
        if self.rest is not None:
            members[self.rest].append(REST)
        pairs = zip(self.names, members, strict=True)
        return ', '.join(f'{name}={"+".join(group)}' for name, group in pairs)


def parse_classes(text: str, *, ignore_value: int | None = None) -> Classes:
    """The classes of 'cytoplasm=1,beads=2+5'.

    Several values of one class are joined by '+'; 'rest' are all values that are not named.
    Background is the class of that name, else the one with the value 0, else the value 0. The
    others follow in the order of their first values. Each is written as its first value; where 0
    is not background, or a class other than background has no value but the rest, they are written
    as 0, 1, 2, ….

    Args:
      text: names and values.
      ignore_value: label value of voxels nobody labelled, if there is one.

    Raises:
      InputError: the text does not read that way.
    """
    expected = "names and values like 'cell=1,bead=2+5' (or 'rest': all others)"
    members = parse_groups(text, _read_value, field='data.classes', what='value', expected=expected)
    zero = next((name for name, group in members.items() if '0' in group), 'background')
    background = 'background' if 'background' in members else zero
    members = {background: members.pop(background, ['0']), **members}
    if len(members) == 1 and members[background] != ['0']:
        expected = "another class too, such as 'background=rest,cell=0+7'"
        raise InputError('data.classes', f'nothing but background in {text!r}', expected)
    groups = {n: tuple(int(v) for v in group if v != REST) for n, group in members.items()}
    others = sorted(
        (n for n in groups if n != background), key=lambda n: (not groups[n], groups[n])
    )
    names = (background, *others)
    rest = next((k for k, name in enumerate(names) if REST in members[name]), None)
    values = (0, *(groups[name][0] if groups[name] else 0 for name in others))
    zero_is_background = zero == background and (0 in groups[background] or rest == 0)
    if not zero_is_background or 0 in values[1:]:
        values = tuple(range(len(names)))
    kept = tuple(groups[name] for name in names)
    plain = rest is None and kept == tuple((value,) for value in values)
    return Classes(names, values, ignore_value, None if plain else kept, rest)


def _read_value(text: str) -> str | None:
    """A label value as a plain number, or `REST`."""
    if text == REST:
        return REST
    return str(int(text)) if re.fullmatch('-?[0-9]+', text) else None


def parse_groups(
    text: str, read: Callable[[str], str | None], *, field: str, what: str, expected: str
) -> dict[str, list[str]]:
    """The groups of 'name=member+member,name=member', none of whose members is in two.

    Args:
      text: names and members.
      read: a member as it is compared with others, or None if it is none.
      field: of the config, for errors.
      what: members are, for errors.
      expected: what would be read, for errors.

    Raises:
      InputError: the text does not read that way, or has a name or member twice.
    """
    groups: dict[str, list[str]] = {}
    seen: set[str] = set()
    for item in text.split(','):
        name, equals, members = (part.strip() for part in item.partition('='))
        group = [read(member.strip()) for member in members.split('+')]
        found = [member for member in group if member]
        if not (name and equals and len(found) == len(group)):
            raise InputError(field, repr(text), expected)
        for member in found:
            if member in seen:
                raise InputError(field, f'{what} {member} twice in {text!r}', 'it in one class')
            seen.add(member)
        if name in groups:
            joined = '+'.join(groups[name] + found)
            once = f"each once: several {what}s of one as '{name}={joined}'"
            raise InputError(field, f'{name} twice in {text!r}', once)
        groups[name] = found
    return groups


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
    names = {0: 'background', **{v: unnamed_class(v) for v in found}}
    names.update({v: n for v, n in (value_names or {}).items() if v in names})
    return Classes(tuple(names.values()), tuple(names), ignore_value)


def unnamed_class(value: int) -> str:
    """What the class of a label value is called that no file names."""
    return f'class {value}'


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
