"""Names that label files give to their values: how they are compared, and whether they agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from sxt_jax.core.errors import InputError

_EXPECTED = (
    "the same names for the same values in all files, or --config.data.task='NAME=NAME,…' to go by "
    "names, or --config.data.classes='NAME=VALUE,…' to go by values"
)


def material_key(name: str) -> str:
    """A name as names are compared: without capitals, spaces and underscores being one."""
    return ' '.join(name.replace('_', ' ').casefold().split())


def join_names(
    names: Sequence[Mapping[int, str]],
    counts: Sequence[Mapping[int, int]],
    *,
    files: Sequence[str | Path],
    ignore_value: int | None = None,
) -> dict[int, str]:
    """The names that several files together give to label values; of spellings the last.

    Names of values that do not occur in their file mean nothing there (Amira lists materials that
    nobody used), and are taken only where no file has others. 0 is background whatever its name.

    Args:
      names: of label values, one mapping a file; empty where it tells none.
      counts: voxels of each value, one mapping a file.
      files: paths, for errors.
      ignore_value: a value that is no class.

    Raises:
      InputError: naming the two files in which one value has two names, or one name two values.
    """
    joined: dict[int, str] = {}
    for here in names:
        joined |= here
    named: dict[int, tuple[str, str | Path]] = {}
    valued: dict[str, tuple[int, str | Path]] = {}
    for here, found, file in zip(names, counts, files, strict=True):
        used = {v: n for v, n in here.items() if found.get(v) and v != ignore_value}
        for value, name in used.items():
            key = material_key(name)
            other, first = named.setdefault(value, (name, file))
            if value and material_key(other) != key:
                clash = f'value {value} is {name}, and {other} in {first}'
                raise InputError(file, clash, _EXPECTED)
            place, first = valued.setdefault(key, (value, file))
            if place != value:
                clash = f'{name} is value {value}, and {place} in {first}'
                raise InputError(file, clash, _EXPECTED)
        joined |= used
    return joined
