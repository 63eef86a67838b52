"""The README's tables, made from the results: python -m benchmarks.report --readme README.md

Rates go between the marker lines `<!-- benchmarks -->` and `<!-- /benchmarks -->`, scores on real
images between `<!-- real data -->` and `<!-- /real data -->`. The newest record of each kind is
shown; smoke runs are not.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import RESULTS, Record, read_records
from sxt_jax.core.atomic import write_text
from sxt_jax.core.errors import InputError

SCORES = ('dice', 'iou', 'precision', 'recall')
COLUMNS = ('benchmark', 'case', 'shape', 'type', 'device', 'rate', '× baseline', 'compile', 'peak')


def _device(record: Record) -> str:
    name = record['device'] if record['platform'] != 'cpu' else f'{record["n_cores"]} CPU cores'
    return name if record['n_devices'] == 1 else f'{record["n_devices"]} × {name}'


def _memory(record: Record) -> str:
    if record['peak_device_bytes']:
        return f'{record["peak_device_bytes"] / 2**20:,.0f} MiB (device)'
    return f'{record["peak_host_bytes"] / 2**20:,.0f} MiB (host)'


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
        _memory(record),
    )


def make_table(records: Sequence[Record]) -> str:
    """A Markdown table of the newest record of each kind, in order of first appearance."""
    newest = {
        (r['benchmark'], r['case'], tuple(r['shape']), r['dtype'], _device(r)): _row(r)
        for r in records
        if 'rate' in r and not r['smoke']
    }
    return _markdown([COLUMNS, *newest.values()])


def make_score_table(records: Sequence[Record]) -> str:
    """A Markdown table of the newest scores of each data set, class and method."""
    newest = {(r['data'], r['class'], r['method']): r for r in records if 'dice' in r}
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


TABLES = {'benchmarks': make_table, 'real data': make_score_table}


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = [rows[0], ('---',) * len(rows[0]), *rows[1:]]
    return '\n'.join('| ' + ' | '.join(row) + ' |' for row in lines)


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


def main() -> None:
    parser = argparse.ArgumentParser(prog='python -m benchmarks.report')
    parser.add_argument('--results', type=Path, default=RESULTS)
    parser.add_argument('--readme', type=Path, default=None, help='default: print the table')
    options = parser.parse_args()
    records = read_records(options.results)
    tables = {name: make(records) for name, make in TABLES.items()}
    if options.readme is None:
        print('\n\n'.join(tables.values()))
        return
    text = options.readme.read_text(encoding='utf-8')
    for name, table in tables.items():
        text = insert_table(text, name, table, path=options.readme)
    write_text(options.readme, text)


if __name__ == '__main__':
    main()
