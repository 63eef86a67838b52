"""Tables as CSV and JSON."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest

from sxt_jax import io
from sxt_jax.core.errors import InputError

COLUMNS = {
    'name': ['a', 'b, "c"', 'é'],
    'dice': np.array([0.1 + 0.2, np.nan, np.inf]),
    'n': np.array([1, 2, 2**40]),
    'seen': [True, None, False],
}


def test_json_rows(tmp_path):
    io.write_table(tmp_path / 'a.json', COLUMNS)
    rows = json.loads((tmp_path / 'a.json').read_text(encoding='utf-8'))
    assert rows == [
        {'name': 'a', 'dice': 0.1 + 0.2, 'n': 1, 'seen': True},
        {'name': 'b, "c"', 'dice': None, 'n': 2, 'seen': None},
        {'name': 'é', 'dice': None, 'n': 2**40, 'seen': False},
    ]


def test_csv_rows(tmp_path):
    io.write_table(tmp_path / 'a.csv', COLUMNS)
    with (tmp_path / 'a.csv').open(encoding='utf-8', newline='') as file:
        rows = list(csv.DictReader(file))
    assert [row['name'] for row in rows] == COLUMNS['name']
    assert float(rows[0]['dice']) == 0.1 + 0.2
    assert [row['dice'] for row in rows[1:]] == ['', '']
    assert [int(row['n']) for row in rows] == [1, 2, 2**40]


def test_columns_without_rows_keep_their_names(tmp_path):
    io.write_table(tmp_path / 'a.csv', {'x': [], 'y': np.zeros(0)})
    assert (tmp_path / 'a.csv').read_text() == 'x,y\n'
    io.write_table(tmp_path / 'a.json', {'x': []})
    assert json.loads((tmp_path / 'a.json').read_text()) == []


def test_bad_tables_are_refused_and_leave_nothing(tmp_path):
    with pytest.raises(ValueError, match='length'):
        io.write_table(tmp_path / 'a.csv', {'x': [1], 'y': [1, 2]})
    with pytest.raises(InputError, match=r'\.csv or \.json'):
        io.write_table(tmp_path / 'a.xlsx', {'x': [1]})
    assert list(tmp_path.iterdir()) == []


def test_nested_json(tmp_path):
    value = {1: {'mean': np.float32(0.5), 'ci': (math.nan, 1.0)}, 'path': tmp_path,
             'matrix': np.array([[1.0, np.nan]])}  # fmt: skip
    io.write_json(tmp_path / 'a.json', value)
    assert json.loads((tmp_path / 'a.json').read_text()) == {
        '1': {'mean': 0.5, 'ci': [None, 1.0]}, 'path': str(tmp_path), 'matrix': [[1.0, None]],
    }  # fmt: skip


def test_jax_scalars_are_numbers(tmp_path):
    import jax.numpy as jnp

    io.write_table(tmp_path / 'a.json', {'x': [jnp.float32(0.5)], 'y': jnp.arange(1)})
    assert json.loads((tmp_path / 'a.json').read_text()) == [{'x': 0.5, 'y': 0}]
