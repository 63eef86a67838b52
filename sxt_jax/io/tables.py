"""Tables and nested results as CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sxt_jax.core.atomic import write_text
from sxt_jax.core.errors import InputError


def write_table(path: str | Path, columns: Mapping[str, Sequence[Any] | np.ndarray]) -> None:
    """Write columns of equal length as `.csv`, or as `.json`: a list of one object a row.

    NaN and infinity become empty cells in CSV and null in JSON. Numbers keep full precision.

    Args:
      columns: name → values, one a row.

    Raises:
      InputError: another suffix, no space, or no writable folder.
      ValueError: columns of different lengths.
    """
    path = Path(path)
    values = {str(k): [_plain(v) for v in column] for k, column in columns.items()}
    lengths = {k: len(v) for k, v in values.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f'columns differ in length: {lengths}')
    rows = [list(row) for row in zip(*values.values(), strict=True)]
    if path.suffix.lower() == '.json':
        write_json(path, [dict(zip(values, row, strict=True)) for row in rows])
    elif path.suffix.lower() == '.csv':
        text = io.StringIO()
        writer = csv.writer(text, lineterminator='\n')
        writer.writerow(values)
        writer.writerows([['' if v is None else v for v in row] for row in rows])
        write_text(path, text.getvalue())
    else:
        raise InputError(path, f'table format {path.suffix!r}', '.csv or .json')


def write_json(path: str | Path, value: Any) -> None:
    """Write nested dicts, sequences, numbers (NumPy's too) and strings; NaN becomes null.

    Raises:
      InputError: no space, or no writable folder.
    """
    write_text(
        path, json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False) + '\n'
    )


def _plain(value: Any) -> Any:
    """The value in the types of JSON."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic) or (hasattr(value, 'item') and not isinstance(value, str)):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)
