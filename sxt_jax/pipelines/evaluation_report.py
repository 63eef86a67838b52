"""An evaluation as text, tables and a figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sxt_jax.io import write_json, write_table
from sxt_jax.pipelines.evaluate_volumes import SCORES, SIZES, Evaluation
from sxt_jax.pipelines.evaluation import Columns
from sxt_jax.plots import save_figure, scores_by_class

_KEYS = ('name', 'method', 'class')
_SIZE_HEADS = {'volume_um3': 'V µm³', 'surface_um2': 'A µm²', 'surface_to_volume_per_um': 'A:V /µm'}


def report(evaluation: Evaluation) -> str:
    """The evaluation in aligned columns for a terminal."""
    table = evaluation.scores
    parts = [align([*_KEYS, *SCORES], _rows(table, [*_KEYS, *SCORES], '{:.4f}'.format))]
    sized = [f'{name}_{side}' for name in SIZES for side in ('prediction', 'truth')]
    if any(np.isfinite(table[name]).any() for name in sized):
        heads = [f'{head} {side}' for head in _SIZE_HEADS.values() for side in ('found', 'true')]
        parts.append(align([*_KEYS, *heads], _rows(table, [*_KEYS, *sized], '{:.4g}'.format)))
    parts.append('mean ± SD over volumes\n' + _summary(evaluation.summary))
    if evaluation.tests:
        parts.append('paired t-test, prediction − truth\n' + _tests(evaluation.tests))
    return with_notes(parts, evaluation.notes)


def save_evaluation(evaluation: Evaluation, output: str | Path) -> list[Path]:
    """Write scores.csv, scores.json (everything), summary.csv, tests.csv and scores.png.

    Returns:
      The files written.

    Raises:
      InputError: the folder cannot be written to, or the disk is full.
    """
    output = Path(output)
    write_table(output / 'scores.csv', evaluation.scores)
    write_table(output / 'summary.csv', evaluation.summary)
    write_json(
        output / 'scores.json',
        {
            'scores': records(evaluation.scores),
            'summary': records(evaluation.summary),
            'tests': records(evaluation.tests),
            'notes': evaluation.notes,
        },
    )
    files = ['scores.csv', 'scores.json', 'summary.csv']
    if evaluation.tests:
        write_table(output / 'tests.csv', evaluation.tests)
        files.append('tests.csv')
    save_figure(output / 'scores.png', scores_by_class(evaluation.scores))
    return [output / name for name in (*files, 'scores.png')]


def with_notes(parts: Sequence[str], notes: Sequence[str]) -> str:
    """Paragraphs, and the notes as the last one if there are any."""
    told = ['\n'.join(f'note: {note}' for note in notes)] if notes else []
    return '\n\n'.join([*parts, *told])


def records(columns: Columns) -> list[dict[str, Any]]:
    """The rows of a table."""
    names = list(columns)
    return [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _summary(summary: Columns) -> str:
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for row in records(summary):
        spread = '' if np.isnan(row['sd']) else f' ± {row["sd"]:.4f}'
        value = '–' if np.isnan(row['mean']) else f'{row["mean"]:.4f}{spread}'
        cells.setdefault((row['method'], row['class']), {})[row['measure']] = value
    rows = [[*key, *(found[name] for name in SCORES)] for key, found in cells.items()]
    return align(['method', 'class', *SCORES], rows)


def _tests(tests: Columns) -> str:
    heads = ['method', 'class', 'measure', 'n', 'mean difference', '95 % CI', 't', 'df', 'p']
    rows = []
    for row in records(tests):
        interval = f'[{row["ci_low"]:.4g}, {row["ci_high"]:.4g}]'
        numbers = [f'{row["mean_difference"]:.4g}', interval, f'{row["statistic"]:.3f}']
        keys = [row[key] for key in ('method', 'class', 'measure')]
        rows.append([*keys, f'{row["n"]}', *numbers, f'{row["df"]:.0f}', f'{row["p"]:.3g}'])
    return align(heads, rows)


def _rows(
    columns: Mapping[str, Any], names: Sequence[str], number: Callable[[float], str]
) -> list[list[str]]:
    def cell(value: Any) -> str:
        if isinstance(value, str):
            return value
        return number(value) if np.isfinite(value) else '–'

    return [[cell(row[name]) for name in names] for row in records(dict(columns))]


def align(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Text in columns: words to the left, numbers to the right."""
    lines = [list(heads), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    words = [head in (*_KEYS, 'measure') for head in heads]
    return '\n'.join(
        '  '.join(
            cell.ljust(width) if word else cell.rjust(width)
            for cell, width, word in zip(line, widths, words, strict=True)
        ).rstrip()
        for line in lines
    )
