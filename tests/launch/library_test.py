"""`launch.library` as a user runs it."""

from __future__ import annotations

import csv

import pytest

from tests.data.cells import write_library
from tests.data.library_test import TASK
from tests.launch.processes import call, run

pytestmark = pytest.mark.process


def test_it_lists_cells_and_which_serve_which_task(tmp_path):
    root = write_library(tmp_path / 'library')
    table = tmp_path / 'cells.csv'
    flags = f'--root={root}', f'--task={TASK}', '--task=n=nucleus', f'--output={table}'
    printed = run('library', *flags)
    assert f'Task {TASK}: 3 cells' in printed
    assert 'Task n=nucleus: 3 cells' in printed
    with table.open(encoding='utf-8') as file:
        rows = {row['cell']: row for row in csv.DictReader(file)}
    assert [row[TASK] for row in rows.values()] == ['yes', 'yes', 'yes', 'no']
    assert rows['b/c3']['nucleus'] == '5'
    assert rows['c/c4']['names_from'] == 'AmiraMesh'
    log = call('library', f'--root={root}', '--task=m=mitochondria', status=2)
    assert 'error: --task: no cell has a material called mitochondria; expected what' in log
    assert 'Traceback' not in log
