"""What a check of a data set found: entries, problems, and both as a table."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import VoxelSize

Severity = Literal['error', 'warning']
Role = Literal['image', 'labels']
_SHOWN = 6  # of the values in a list


@dataclasses.dataclass(frozen=True)
class Problem:
    """What is wrong with a file; work on it fails if it is an 'error'."""

    severity: Severity
    file: Path
    message: str

    def __str__(self) -> str:
        return f'{self.severity}: {self.file}: {self.message}'


@dataclasses.dataclass(frozen=True)
class Entry:
    """What one file holds; all fields after `role` are None where it cannot be read.

    Attributes:
      name: stem shared by image and labels.
      partner: its labels or image.
      label_counts: voxels of each value, of integer labels only.
    """

    name: str
    file: Path
    role: Role
    partner: Path | None = None
    format: str | None = None
    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    axes: str | None = None
    voxel_size_nm: VoxelSize | None = None
    minimum: float | None = None
    maximum: float | None = None
    n_nan: int | None = None
    n_inf: int | None = None
    label_counts: Mapping[int, int] | None = None


@dataclasses.dataclass(frozen=True)
class Report:
    """The files of a data set and their problems."""

    entries: tuple[Entry, ...]
    problems: tuple[Problem, ...]

    @property
    def errors(self) -> tuple[Problem, ...]:
        return tuple(p for p in self.problems if p.severity == 'error')

    @property
    def summary(self) -> str:
        """How many files, errors and warnings there are."""
        n_errors = len(self.errors)
        counts = {'file': len(self.entries), 'error': n_errors,
                  'warning': len(self.problems) - n_errors}  # fmt: skip
        return ', '.join(f'{n} {word}{"s" * (n != 1)}' for word, n in counts.items())

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One row a file, its columns as text or numbers."""
        return [_row(entry) for entry in self.entries]

    @property
    def columns(self) -> dict[str, list[Any]]:
        """The rows as columns, for `io.write_table`."""
        rows = self.rows
        return {key: [row[key] for row in rows] for key in _row(_EMPTY)}

    def format_table(self) -> str:
        """The rows as aligned text, columns without content left out."""
        return format_columns(self.columns)

    def raise_if_errors(self) -> None:
        """Raise the first error, saying how many more there are.

        Raises:
          InputError: there are errors.
        """
        if self.errors:
            n = len(self.errors) - 1
            more = f' ({n} more error{"s" * (n > 1)}: see launch.check)' if n else ''
            raise InputError(self.errors[0].file, self.errors[0].message + more)


def _row(entry: Entry) -> dict[str, Any]:
    counts = entry.label_counts
    return {
        'name': entry.name,
        'file': str(entry.file),
        'role': entry.role,
        'format': entry.format,
        'shape': times(entry.shape) if entry.shape else None,
        'dtype': entry.dtype,
        'axes': entry.axes,
        'voxel_size_nm': size_text(entry.voxel_size_nm) if entry.voxel_size_nm else None,
        'min': entry.minimum,
        'max': entry.maximum,
        'nan': entry.n_nan,
        'inf': entry.n_inf,
        'labels': shorten([f'{v}:{n}' for v, n in sorted(counts.items())]) if counts else None,
        'pair': entry.partner.name if entry.partner else None,
    }


_EMPTY = Entry('', Path(), 'image')


def format_columns(columns: Mapping[str, Sequence[Any]]) -> str:
    """A table as aligned text, columns without content left out."""
    cells = {k: [_text(v) for v in column] for k, column in columns.items()}
    cells = {k: v for k, v in cells.items() if any(c not in ('', '-') for c in v)}
    widths = {k: max(len(k), *map(len, v)) for k, v in cells.items()}
    lines = ['  '.join(k.ljust(w) for k, w in widths.items())]
    for row in zip(*cells.values(), strict=True):
        lines.append('  '.join(c.ljust(w) for c, w in zip(row, widths.values(), strict=True)))
    return '\n'.join(line.rstrip() for line in lines)


def _text(value: Any) -> str:
    if value is None:
        return '-'
    return f'{value:.6g}' if isinstance(value, float) else str(value)


def times(shape: Sequence[int]) -> str:
    """'64×64×64'."""
    return '×'.join(str(n) for n in shape)


def size_text(size: VoxelSize | None) -> str:
    """'30×20×20', or 'unknown'."""
    return '×'.join(f'{s:.6g}' for s in size) if size else 'unknown'


def shorten(values: Sequence[Any]) -> str:
    """The first few of many values, the last, and how many there are."""
    shown = ' '.join(str(v) for v in values[:_SHOWN])
    n = len(values)
    return shown if n <= _SHOWN else f'{shown} … {values[-1]} ({n} values)'
