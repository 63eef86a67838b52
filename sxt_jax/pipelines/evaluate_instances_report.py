"""An evaluation of instances as text, tables and a figure."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sxt_jax.io import write_json, write_table
from sxt_jax.pipelines.evaluate_instances import AP_COLUMNS, PER_CELL, InstanceEvaluation
from sxt_jax.pipelines.evaluation import Columns, groups
from sxt_jax.pipelines.evaluation_report import align, records, with_notes
from sxt_jax.plots import cell_score_boxes, save_figure

_HEADS = {
    'dice': 'Dice', 'dice_sd': 'SD', 'ap50': 'AP50', 'ap75': 'AP75', 'ap': 'AP', 'pq': 'PQ',
    'sq': 'SQ', 'rq': 'RQ', 'voi_split_bits': 'VOI split', 'voi_merge_bits': 'VOI merge',
    'adapted_rand_error': 'ARE',
}  # fmt: skip
_KEY = (
    'Dice: of each true cell with its best predicted cell, mean and SD over the cells; AP: at IoU '
    '0.5, 0.75,\nand the mean over 0.5 … 0.95; PQ = SQ · RQ; VOI in bits and ARE (adapted Rand '
    'error): 0 is best'
)
_MOST_BOXES = 12


def report(evaluation: InstanceEvaluation) -> str:
    """The evaluation in aligned columns for a terminal."""
    parts = [_volumes(evaluation.scores) + '\n' + _KEY]
    parts.append('mean ± SD over volumes\n' + _means(evaluation.summary, _HEADS))
    thresholds = {name: f'{iou:.2f}' for name, iou in AP_COLUMNS.items()}
    means = _means(evaluation.summary, thresholds, spread=False)
    parts.append('AP at each IoU, mean over volumes\n' + means)
    parts.append('\n'.join(_over_cells(evaluation)))
    return with_notes(parts, evaluation.notes)


def save_evaluation(evaluation: InstanceEvaluation, output: str | Path) -> list[Path]:
    """Write scores.csv, cells.csv, summary.csv, scores.json (without cells) and cells.png.

    Returns:
      The files written.

    Raises:
      InputError: the folder cannot be written to, or the disk is full.
    """
    output = Path(output)
    write_table(output / 'scores.csv', evaluation.scores)
    write_table(output / 'cells.csv', evaluation.cells)
    write_table(output / 'summary.csv', evaluation.summary)
    tables = {'scores': evaluation.scores, 'summary': evaluation.summary}
    facts = {name: records(table) for name, table in tables.items()}
    write_json(output / 'scores.json', {**facts, 'notes': evaluation.notes})
    save_figure(output / 'cells.png', cell_score_boxes(_boxes(evaluation.cells)))
    files = ('scores.csv', 'cells.csv', 'summary.csv', 'scores.json', 'cells.png')
    return [output / name for name in files]


def _boxes(cells: Columns) -> dict[str, np.ndarray]:
    """Dice per cell by method; of one method by volume, as far as boxes have room."""
    key = 'method'
    if len(set(cells['method'])) == 1 and len(set(cells['name'])) <= _MOST_BOXES:
        key = 'name'
    return {which[key]: cells['dice'][chosen] for which, chosen in groups(cells, (key,))}


def _volumes(scores: Columns) -> str:
    rows = [
        [row['name'], row['method'], f'{row["n_true"]:,}', f'{row["n_predicted"]:,}']
        + [_number(row[name]) for name in _HEADS]
        for row in records(scores)
    ]
    return align(['name', 'method', 'true', 'found', *_HEADS.values()], rows)


def _means(summary: Columns, heads: dict[str, str], *, spread: bool = True) -> str:
    names, rows = [name for name in heads if name != 'dice_sd'], []
    for which, chosen in groups(summary, ('method',)):
        measures = summary['measure'][chosen].tolist()
        place = dict(zip(measures, np.flatnonzero(chosen), strict=True))
        cells = []
        for name in names:
            mean, sd = (summary[column][place[name]] for column in ('mean', 'sd'))
            cells.append(
                _number(float(mean)) + (f' ± {sd:.3f}' if spread and np.isfinite(sd) else '')
            )
        rows.append([which['method'], *cells])
    return align(['method', *(heads[name] for name in names)], rows)


def _over_cells(evaluation: InstanceEvaluation) -> list[str]:
    lines = []
    for row in records(evaluation.summary):
        if row['measure'] == PER_CELL:
            dice = evaluation.cells['dice'][evaluation.cells['method'] == row['method']]
            lines.append(
                f'{row["method"]}, all {row["n"]:,} true cells: Dice {_number(row["mean"])} ± '
                f'{_number(row["sd"])}, median {_number(np.median(dice))}, '
                f'{int((dice == 0).sum()):,} not found at all'
            )
    return lines


def _number(value: float) -> str:
    return f'{value:.3f}' if np.isfinite(value) else '–'
