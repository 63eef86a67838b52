"""The tables and figures of the READMEs, made from the results.

    python -m benchmarks.report --readme README.md benchmarks/README.md [--figures=DIR]

A table goes between the marker lines of its name, such as `<!-- benchmarks -->` and `<!--
/benchmarks -->`, of the files that have them. `TABLES` tells their names, and the benchmark of each
what it shows; `benchmarks` are the rates of those without a table of their own. The newest record
of each kind is shown; smoke runs are not.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks import (
    accuracy,
    cascade,
    cell_propagation,
    device_peaks,
    interpolated_training,
    interpolation_accuracy,
    labelled_slices,
    layers,
    linking,
    overlap,
    papers,
    real_cells,
    real_micrographs,
    real_slices,
    roofline,
    scaling,
    semi_supervised,
    slice_latency,
    tracking_accuracy,
    transfer,
)
from benchmarks.harness import RESULTS, Record, device_name, read_records
from sxt_jax.core.atomic import write_text
from sxt_jax.core.errors import InputError
from sxt_jax.plots import save_figure

Make = Callable[[Sequence[Record]], str]
SCORES = ('dice', 'iou', 'precision', 'recall')
COLUMNS = (
    'benchmark',
    'case',
    'shape',
    'type',
    'device',
    'rate',
    '× baseline',
    'compile',
    'peak',
    'of it by a run',
)
_WITH_OWN_TABLE = (
    'tracking_accuracy',
    'slice_latency',
    'scaling',
    'overlap',
    'papers',
    'device_peaks',
    'roofline',
    'layers',
)


def _device(record: Record) -> str:
    name = device_name(record)
    return name if record['n_devices'] == 1 else f'{record["n_devices"]} × {name}'


def _memory(record: Record, what: str) -> str:
    """What is 'peak' or 'added'; records of former times do not tell what was added."""
    place = 'device' if record['peak_device_bytes'] else 'host'
    n_bytes = record.get(f'{what}_{place}_bytes')
    return '' if n_bytes is None else f'{n_bytes / 2**20:,.0f} MiB ({place})'


def _figure(value: float) -> str:
    return f'{value:,.0f}' if value >= 100 else f'{value:.3g}'


def _row(record: Record) -> tuple[str, ...]:
    return (
        record['benchmark'],
        record['case'],
        '×'.join(map(str, record['shape'])),
        record['dtype'],
        _device(record),
        f'{_figure(record["rate"])} {record["unit"]}',
        f'{record["ratio"]:.2f}',
        f'{record["compile_s"]:.1f} s',
        _memory(record, 'peak'),
        _memory(record, 'added'),
    )


def make_table(records: Sequence[Record]) -> str:
    """A Markdown table of the newest record of each kind, in order of first appearance."""
    newest = {
        (r['benchmark'], r['case'], tuple(r['shape']), r['dtype'], _device(r)): _row(r)
        for r in records
        if 'rate' in r and not r['smoke'] and r['benchmark'] not in _WITH_OWN_TABLE
    }
    return _markdown([COLUMNS, *newest.values()])


def make_score_table(records: Sequence[Record]) -> str:
    """A Markdown table of the newest scores of each data set, class and method."""
    newest = {
        (r['data'], r['class'], r['method']): r for r in records if {'dice', 'method'} <= set(r)
    }
    rows = [
        (
            *key,
            *(f'{r[score]:.3f}' for score in SCORES),
            f'{r["steps"]:,}' if key[2] == 'prediction' else '',
            f'{r["training_s"] / 60:.0f} min' if key[2] == 'prediction' else '',
        )
        for key, r in newest.items()
    ]
    return _markdown([('data', 'class', 'method', *SCORES, 'steps', 'training'), *rows])


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = [rows[0], ('---',) * len(rows[0]), *rows[1:]]
    return '\n'.join('| ' + ' | '.join(row) + ' |' for row in lines)


def _made_of(table_rows: Callable[[Sequence[Record]], Sequence[Sequence[str]]]) -> Make:
    """What makes the Markdown table of a benchmark's own heads and rows."""
    return lambda records: _markdown(table_rows(records))


TABLES: Mapping[str, Make] = {
    'benchmarks': make_table,
    'papers': _made_of(papers.table_rows),
    'accuracy': _made_of(accuracy.table_rows),
    'real data': make_score_table,
    'real cells': _made_of(real_cells.table_rows),
    'real slices': _made_of(real_slices.table_rows),
    'real micrographs': _made_of(real_micrographs.table_rows),
    'labelled slices': _made_of(labelled_slices.table_rows),
    'tracking accuracy': _made_of(tracking_accuracy.table_rows),
    'slice latency': _made_of(slice_latency.table_rows),
    'device peaks': _made_of(device_peaks.table_rows),
    'roofline': _made_of(roofline.table_rows),
    'layers': _made_of(layers.table_rows),
    'interpolation accuracy': _made_of(interpolation_accuracy.table_rows),
    'interpolated training': _made_of(interpolated_training.table_rows),
    'semi-supervised': _made_of(semi_supervised.table_rows),
    'linking accuracy': _made_of(linking.table_rows),
    'cell propagation': _made_of(cell_propagation.table_rows),
    'cascade': _made_of(cascade.table_rows),
    'transfer': _made_of(transfer.table_rows),
    'scaling': _made_of(scaling.table_rows),
    'overlap': _made_of(overlap.table_rows),
}

FIGURES: Mapping[str, Callable[[Sequence[Record]], Figure]] = {
    'tracking.png': tracking_accuracy.figure,
    'papers.png': papers.figure,
}


def insert_table(text: str, name: str, table: str, *, path: str | Path = 'README.md') -> str:
    """`text` with the table between the markers of its name.

    Raises:
      InputError: a marker is missing.
    """
    first, last = f'<!-- {name} -->', f'<!-- /{name} -->'
    before, start, rest = text.partition(first)
    _, stop, after = rest.partition(last)
    if not start or not stop:
        raise InputError(path, 'has no place for the table', f'{first} and, after it, {last}')
    return f'{before}{first}\n\n{table}\n\n{last}{after}'


def fill_in(path: Path, tables: Mapping[str, str]) -> None:
    """Put the tables into a file that has places for some of them.

    Raises:
      InputError: it has none, or a marker without its partner.
    """
    text = path.read_text(encoding='utf-8')
    here = [name for name in tables if f'<!-- {name} -->' in text]
    if not here:
        raise InputError(path, 'has no place for a table', f'<!-- NAME -->, of {list(tables)}')
    for name in here:
        text = insert_table(text, name, tables[name], path=path)
    write_text(path, text)


def write(results: Path, readmes: Sequence[Path], figures: Path | None = None) -> None:
    """Make the tables of some files anew, and the figures.

    Args:
      results: folder of records.
      readmes: files that have places for tables.
      figures: folder of the figures; None: they are left as they are.

    Raises:
      InputError: a file has no such place, or a marker without its partner.
    """
    records = read_records(results)
    tables = {name: make(records) for name, make in TABLES.items()}
    for name, draw in FIGURES.items() if figures is not None else ():
        assert figures is not None
        save_figure(figures / name, draw(records))
    for path in readmes:
        fill_in(path, tables)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--results', type=Path, default=RESULTS)
    parser.add_argument('--readme', type=Path, nargs='+', help='default: print the tables')
    parser.add_argument('--figures', type=Path, help='folder to draw the figures in')
    options = parser.parse_args()
    if options.readme is None:
        records = read_records(options.results)
        print('\n\n'.join(make(records) for make in TABLES.values()))
    write(options.results, options.readme or (), options.figures)


if __name__ == '__main__':
    main()
