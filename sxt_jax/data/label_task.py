"""A task: the classes to learn, as groups of the names that cells of a library give to materials.

After Ekman et al. 2020 (Microsc. Microanal. 26, Suppl. 2): from a data base of segmented cells,
those that have the features of a task are collected, and their labels merged into its classes.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from sxt_jax.core.errors import InputError
from sxt_jax.data.classes import REST, Classes, parse_groups
from sxt_jax.data.library import Cell
from sxt_jax.data.value_names import material_key

RESTS = ('background', 'ignored', 'refuse')  # what materials of no class may be
_EXPECTED = "names of classes and materials like 'nucleus=nucleus+euchromatin,lipid=lipid'"


@dataclasses.dataclass(frozen=True)
class LabelTask:
    """Class k has the name `names[k]` and is made of the materials `groups[k]`; 0 is background.

    A cell has a class if it has voxels of one of the class's materials: a group holds the names of
    the same thing, or of its parts, of which a cell has the one or the others (a nucleus as such,
    or as euchromatin and heterochromatin).

    Attributes:
      names: one a class, starting with the background.
      groups: materials of each class, by `material_key`.
      rest: the class of all other label values; None: there is none.
    """

    names: tuple[str, ...]
    groups: tuple[tuple[str, ...], ...]
    rest: int | None = None

    @property
    def classes(self) -> Classes:
        """The classes that are learnt and written, whatever the values in a cell's labels."""
        return Classes(self.names, tuple(range(len(self.names))))

    @property
    def materials(self) -> tuple[str, ...]:
        """All that it names, by `material_key`."""
        return tuple(name for group in self.groups for name in group)

    def missing(self, cell: Cell) -> tuple[str, ...]:
        """The classes that a cell does not have. It need have no background, nor any rest."""
        needed = (k for k in range(1, len(self.names)) if k != self.rest)
        return tuple(self.names[k] for k in needed if not cell.materials & {*self.groups[k]})

    def classes_of(
        self, cell: Cell, *, rest: str = 'background', ignore_value: int | None = None
    ) -> Classes:
        """What the label values of a cell mean in this task.

        Label value 0 is background unless its name is one of a class.

        Args:
          cell: of a library.
          rest: what materials of no class are: 'background'; 'ignored', so that no loss counts
            them; 'refuse', if there must be none.
          ignore_value: a label value that is ignored besides those of the cell.

        Raises:
          InputError: label values without a name, materials of no class that must not be, or a
            material that `ignore_value` ignores.
        """
        if ignore_value is not None and ignore_value in cell.names:
            found = f'{ignore_value} is {cell.names[ignore_value]} and ignored'
            raise InputError(cell.pair.labels, found, 'one of them')
        ignored = cell.ignored if ignore_value is None else cell.ignored | {ignore_value}
        self._check_values(cell, rest, ignored)
        class_of = {name: k for k, group in enumerate(self.groups) for name in group}
        members: list[list[int]] = [[] for _ in self.names]
        left_out: list[int] = []
        for value in sorted({0, *cell.names} - ignored):
            other = 0 if value == 0 or rest == 'background' else None
            other = other if value == 0 or self.rest is None else self.rest
            k = class_of.get(material_key(cell.names.get(value, '')), other)
            (left_out if k is None else members[k]).append(value)
        groups = tuple(tuple(values) for values in members)
        written = self.classes.values
        left_out += sorted(ignored)
        return Classes(self.names, written, None, groups, self.rest, tuple(left_out))

    def _check_values(self, cell: Cell, rest: str, ignored: frozenset[int]) -> None:
        """Label values that have no name, or no class."""
        if self.rest is not None:
            return
        if unnamed := [str(v) for v in cell.unnamed if v not in ignored]:
            found = f'label values {", ".join(unnamed)} have no name'
            file = Path(cell.name).name
            expected = f'names in {file}.yaml beside it, or background=rest in the task'
            raise InputError(cell.pair.labels, found, expected)
        strange = sorted(cell.materials - {*self.materials})
        strange = [name for name in strange if 0 not in cell.values[name]]
        if rest == 'refuse' and strange:
            found = f'{", ".join(strange)} in no class of the task'
            raise InputError(cell.pair.labels, found, 'a class for every material')

    def __str__(self) -> str:
        members = [list(group) for group in self.groups]
        if self.rest is not None:
            members[self.rest].append(REST)
        pairs = zip(self.names, members, strict=True)
        return ', '.join(f'{name}={"+".join(group)}' for name, group in pairs if group)


def parse_task(text: str, *, field: str = 'config.data.task') -> LabelTask:
    """The task of 'nucleus=nucleus+euchromatin+heterochromatin,mitochondria=mitochondria'.

    Materials are compared without regard to capitals, spaces and underscores; 'rest' are all label
    values that no other class has, also those without a name. Classes keep their order, and are
    written as 1, 2, …; the background, 0, is the class of that name, or what is in none.

    Args:
      text: names and materials.
      field: of the config, for errors.

    Raises:
      InputError: the text does not read that way, or a material is in two classes.
    """
    groups = parse_groups(
        text, lambda m: material_key(m) or None, field=field, what='material', expected=_EXPECTED
    )
    groups = {'background': groups.pop('background', []), **groups}
    if len(groups) == 1:
        raise InputError(field, f'nothing but background in {text!r}', _EXPECTED)
    rest = next((k for k, group in enumerate(groups.values()) if REST in group), None)
    kept = tuple(tuple(m for m in group if m != REST) for group in groups.values())
    return LabelTask(tuple(groups), kept, rest)
