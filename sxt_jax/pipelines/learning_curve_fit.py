"""How many tomograms does a target Dice need? Curves fitted to tables of scores."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sxt_jax.core.errors import InputError
from sxt_jax.io import write_table
from sxt_jax.metrics import LearningCurve, fit_learning_curve
from sxt_jax.metrics.statistics import solve_interval
from sxt_jax.pipelines.evaluation import Columns, groups, statistics, to_columns
from sxt_jax.pipelines.evaluation_report import align, records, with_notes
from sxt_jax.plots import save_figure, training_set_curves

KEYS = ('method', 'class')
_DEFAULTS = {'method': 'network', 'class': 'all'}
_WHOLE = ('n_tomograms', 'repeat')
_NUMBERS = (*_WHOLE, 'dice', 'sd')
_REQUIRED = ('n_tomograms', 'dice')
_CONFIDENCE = 0.95


def read_scores(path: str | Path) -> Columns:
    """A table of Dice over numbers of tomograms.

    Args:
      path: CSV with the columns `n_tomograms` and `dice` (0 … 1), and perhaps `class`, `method`,
        `repeat`, `name` (of the test tomogram) and `sd` (of the Dice; the fit is weighted by it).

    Returns:
      The columns, of which `class` and `method` are always there.

    Raises:
      InputError: no such file, a column is missing, or a value is no number.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(path, 'is no file', 'a CSV table of scores')
    try:
        with path.open(newline='', encoding='utf-8-sig') as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            rows, heads = list(reader), list(reader.fieldnames or ())
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(path, f'cannot be read ({error})', 'a CSV table of scores') from error
    missing = [name for name in _REQUIRED if name not in heads]
    if missing or not rows:
        found = f'no column {" and ".join(missing)} among {heads}' if missing else 'no rows'
        raise InputError(path, found, 'columns n_tomograms and dice, perhaps class and method')
    names = {**dict.fromkeys(_DEFAULTS), **dict.fromkeys(heads)}
    table = {
        name: np.array([_cell(row, name, path, line) for line, row in enumerate(rows, start=2)])
        for name in names
    }
    whole = [name for name in _WHOLE if name in table and (table[name] % 1 == 0).all()]
    return {**table, **{name: table[name].astype(int) for name in whole}}


def join_tables(tables: Sequence[Columns]) -> Columns:
    """Rows of several tables; columns that not all of them have are left out."""
    names = [name for name in tables[0] if all(name in table for table in tables)]
    return {name: np.concatenate([table[name] for table in tables]) for name in names}


def average_tomograms(table: Columns) -> Columns:
    """One row a training: the mean Dice over the test tomograms that it was scored on.

    Scores of one network on several tomograms are no independent measurements of its curve.
    Tables without names of test tomograms are returned as they are, without rows that have no Dice.
    """
    table = {name: values[np.isfinite(table['dice'])] for name, values in table.items()}
    if 'name' not in table:
        return table
    keys = [name for name in (*KEYS, 'n_tomograms', 'repeat') if name in table]
    rows = [
        {**which, 'dice': table['dice'][chosen].mean()} for which, chosen in groups(table, keys)
    ]
    return to_columns(rows)


def fit_curves(points: Columns, *, targets: Sequence[float]) -> Columns:
    """How many tomograms reach each target Dice, for every method and class.

    The fit is weighted where the table has a column `sd`.

    Args:
      points: `average_tomograms` of a table of scores.
      targets: Dice, 0 … below 1.

    Returns:
      One row a method, class and target: `n_needed` with the ends `low` and `high` of its
      interval (`metrics.statistics.solve_interval`, 95 %), infinite where the curve never gets
      there, NaN where there are too few points; the curve's a, b, rms_error; n_points, and the
      `largest` number of tomograms measured.

    Raises:
      InputError: a target or a Dice is out of its range, or a class has fewer than two sizes.
    """
    check_targets(targets)
    rows = []
    for which, chosen in groups(points, KEYS):
        x, y = points['n_tomograms'][chosen], points['dice'][chosen]
        where = f'{which["class"]} ({which["method"]})'
        if len(np.unique(x)) < 2:
            raise InputError(where, f'Dice of {x[0]:g} tomograms only', 'two or more sizes')
        sd = points['sd'][chosen] if 'sd' in points else None
        curve = fit_learning_curve(x, y, sd=sd)
        for target in targets:
            low, high = solve_interval(x, y, target=target, sd=sd, confidence=_CONFIDENCE)
            ends = {'low': low, 'high': high}
            told = {'target': target, 'n_needed': _solve(curve, target, x), **ends}
            told |= {'a': curve.a, 'b': curve.b, 'rms_error': curve.rms_error}
            rows.append({**which, **told, 'n_points': len(x), 'largest': x.max()})
    return to_columns(rows)


def report(points: Columns, fits: Columns) -> str:
    """Mean Dice of every size and how many tomograms are needed, in columns for a terminal."""
    heads = [*KEYS, 'target', 'tomograms', f'{_CONFIDENCE:.0%} interval', 'RMS error', 'points']
    rows, notes = [], []
    for row in records(fits):
        interval = '–' if np.isnan(row['low']) else f'{_number(row["low"])}…{_number(row["high"])}'
        numbers = [f'{row["target"]:g}', _number(row['n_needed']), interval]
        keys = [row[key] for key in KEYS]
        rows.append([*keys, *numbers, f'{row["rms_error"]:.4f}', f'{row["n_points"]}'])
        if row['largest'] < row['n_needed'] < math.inf:
            what = f'{_number(row["n_needed"])} tomograms for {row["class"]} ({row["method"]})'
            notes.append(f'{what} are more than the {row["largest"]:g} measured: extrapolated')
    return with_notes([_means(points), align(heads, rows)], notes)


def save_curves(points: Columns, fits: Columns, output: str | Path) -> list[Path]:
    """Write `learning_curve.csv`, the fits, and `learning_curve.png`.

    Returns:
      The files written.

    Raises:
      InputError: the folder cannot be written to, or the disk is full.
    """
    output = Path(output)
    curves = {
        (row['method'], row['class']): LearningCurve(row['a'], row['b'], row['rms_error'])
        for row in records(fits)
    }
    needed = fits['n_needed'][np.isfinite(fits['n_needed'])]
    figure = training_set_curves(
        points, curves, targets=sorted(set(fits['target'].tolist())), needed=needed
    )
    write_table(output / 'learning_curve.csv', fits)
    save_figure(output / 'learning_curve.png', figure)
    return [output / 'learning_curve.csv', output / 'learning_curve.png']


def check_targets(targets: Sequence[float]) -> None:
    """Whether there are targets, and each is a Dice that a network may have.

    Raises:
      InputError: not.
    """
    wrong = [target for target in targets if not 0 < target < 1]
    if wrong or not targets:
        found = f'{wrong[0]:g}' if wrong else 'none'
        raise InputError('target', found, 'Dice between 0 and 1, such as 0.95')


def check_reached(fits: Columns) -> None:
    """Whether any curve gets to a target.

    Raises:
      InputError: none does.
    """
    if not np.isfinite(fits['n_needed']).any():
        targets = ', '.join(f'{target:g}' for target in sorted(set(fits['target'].tolist())))
        raise InputError('target', f'Dice {targets}, which no curve reaches', 'curves that rise')


def _solve(curve: LearningCurve, target: float, x: np.ndarray) -> float:
    """Tomograms that reach a target; of a curve that falls, none if all that were tried do."""
    if curve.a > 0:
        return curve.solve(target)
    return 0.0 if curve(x.max()) >= target else math.inf


def _cell(row: Mapping[str, str | None], name: str, path: Path, line: int) -> Any:
    text = (row.get(name) or '').strip()
    if name not in _NUMBERS:
        return text or _DEFAULTS.get(name, '')
    try:
        number = float(text) if text else math.nan
    except ValueError as error:
        raise InputError(f'{path}, line {line}', f'{name} {text!r}', 'a number') from error
    if name == 'n_tomograms' and not 0 <= number < math.inf:
        raise InputError(f'{path}, line {line}', f'{name} {text!r}', 'a number from 0 on')
    return number


def _means(points: Columns) -> str:
    rows = []
    for which, chosen in groups(points, (*KEYS, 'n_tomograms')):
        found = statistics(points['dice'][chosen])
        spread = '' if np.isnan(found['sd']) else f' ± {found["sd"]:.4f}'
        size = f'{which.pop("n_tomograms"):g}'  # type: ignore[str-format]
        rows.append([*which.values(), size, f'{found["mean"]:.4f}{spread}', f'{found["n"]}'])
    return align([*KEYS, 'tomograms', 'Dice', 'n'], rows)


def _number(value: float) -> str:
    return f'{value:.1f}' if value < math.inf else '∞'
