"""Transfer to another cell type as text, a table and a figure."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sxt_jax.io import write_table
from sxt_jax.pipelines.evaluation import Columns, groups, statistics, to_columns
from sxt_jax.pipelines.evaluation_report import align, records
from sxt_jax.pipelines.learning_curve_fit import average_tomograms, join_tables
from sxt_jax.pipelines.transfer import ALONE, BASE, TYPES
from sxt_jax.plots import save_figure, training_set_curves


def tabulate_transfer(scores: Columns) -> Columns:
    """Dice of every choice on both types, and what it changed against the base net.

    Args:
      scores: of `measure_transfer`.

    Returns:
      One row a start, number of other tomograms and class. For either type, such as `base`:
      `base_n` test tomograms, `base_dice` and `base_sd`, mean and SD over them of their means over
      the trainings, as published tables have it; `base_sd_trainings` of the mean of each training;
      `base_change` and `base_change_sd`, over the tomograms, against the base nets of the same
      repeats.
    """
    rows = []
    for which, chosen in groups(scores, ('method', 'n_tomograms', 'class')):
        row: dict[str, Any] = {**which, 'n_trainings': len(set(scores['repeat'][chosen].tolist()))}
        for kind in TYPES:
            of_kind = scores['type'] == kind
            dice = _by_training(scores, chosen & of_kind)
            same_class = scores['class'] == which['class']
            before = _by_training(scores, (scores['method'] == BASE) & same_class & of_kind)
            row |= {f'{kind}_{name}': value for name, value in _describe(dice, before).items()}
        rows.append(row)
    return to_columns(rows)


def _by_training(scores: Columns, chosen: np.ndarray) -> np.ndarray:
    """[tomogram, repeat] Dice of the chosen rows."""
    names, places = np.unique(scores['name'][chosen], return_inverse=True)
    repeats, columns = np.unique(scores['repeat'][chosen], return_inverse=True)
    dice = np.full((len(names), len(repeats)), np.nan)
    dice[places, columns] = scores['dice'][chosen]
    return dice


def _describe(dice: np.ndarray, before: np.ndarray) -> dict[str, Any]:
    over_tomograms = statistics(_means(dice, axis=1))
    change = statistics(_means(dice - before, axis=1))
    return {
        'n': over_tomograms['n'],
        'dice': over_tomograms['mean'],
        'sd': over_tomograms['sd'],
        'sd_trainings': statistics(_means(dice, axis=0))['sd'],
        'change': change['mean'],
        'change_sd': change['sd'],
    }


def _means(values: np.ndarray, *, axis: int) -> np.ndarray:
    """Of what is finite; NaN where nothing is."""
    found = np.isfinite(values)
    n = found.sum(axis)
    total = np.where(found, values, 0).sum(axis)
    return np.where(n > 0, total / np.maximum(n, 1), np.nan)


def report_transfer(table: Columns) -> str:
    """The table in aligned columns for a terminal."""
    heads = ['method', 'other tomograms', 'class']
    heads += ['Dice on base type', 'on other type', 'change on base', 'change on other']
    rows = []
    for row in records(table):
        dice = [_spread(row[f'{kind}_dice'], row[f'{kind}_sd']) for kind in TYPES]
        changes = [
            '–'
            if row['method'] == BASE
            else _spread(row[f'{kind}_change'], row[f'{kind}_change_sd'], sign='+')
            for kind in TYPES
        ]
        rows.append([row['method'], f'{row["n_tomograms"]}', row['class'], *dice, *changes])
    n_trainings = int(table['n_trainings'].max())
    means = f', each the mean of {n_trainings} trainings' if n_trainings > 1 else ''
    return f'{align(heads, rows)}\n\nmean ± SD over the test tomograms{means}'


def _spread(mean: float, sd: float, *, sign: str = '') -> str:
    if np.isnan(mean):
        return '–'
    return f'{mean:{sign}.4f}' + ('' if np.isnan(sd) else f' ± {sd:.4f}')


def save_transfer(scores: Columns, table: Columns, output: str | Path) -> list[Path]:
    """Write `transfer.csv`, the table, and `transfer.png`: Dice over tomograms of the other type.

    Returns:
      The files written.

    Raises:
      InputError: the folder cannot be written to, or the disk is full.
    """
    output = Path(output)
    write_table(output / 'transfer.csv', table)
    points = _points(scores)
    figure = training_set_curves(points, _lines(points), axis='tomograms of the other type')
    save_figure(output / 'transfer.png', figure)
    return [output / 'transfer.csv', output / 'transfer.png']


def _points(scores: Columns) -> Columns:
    """One row a training, type and class; base nets are none of others, unless these are alone."""
    starts = [start for start in dict.fromkeys(scores['method'].tolist()) if start != BASE]
    is_base = scores['method'] == BASE
    tables = []
    for start in starts:
        chosen = scores['method'] == start
        if start != ALONE:
            chosen = is_base | chosen
        part = {name: values[chosen] for name, values in scores.items()}
        kinds = zip(part['class'].tolist(), part['type'].tolist(), strict=True)
        part['class'] = np.array([f'{name}, {kind} type' for name, kind in kinds])
        tables.append(average_tomograms({**part, 'method': np.array([start] * chosen.sum())}))
    return join_tables(tables)


def _lines(points: Columns) -> dict[tuple[str, str], Any]:
    """From mean to mean."""
    lines = {}
    for which, chosen in groups(points, ('method', 'class')):
        sizes = np.unique(points['n_tomograms'][chosen])
        means = [_mean_at(points, chosen, size) for size in sizes]
        line = partial(np.interp, xp=sizes, fp=means, left=np.nan, right=np.nan)
        lines[which['method'], which['class']] = line
    return lines


def _mean_at(points: Columns, chosen: Sequence[bool] | np.ndarray, size: float) -> float:
    return float(points['dice'][chosen & (points['n_tomograms'] == size)].mean())
