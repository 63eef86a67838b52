"""The README's table of benchmarks, made from the results: python -m benchmarks.report

The table goes between the two marker lines `<!-- benchmarks -->` and `<!-- /benchmarks -->`; the
newest record of each benchmark, case, shape, type and device is shown, smoke runs are not.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import RESULTS, Record, read_records
from sxt_jax.core.atomic import write_text
from sxt_jax.core.errors import InputError

START, STOP = '<!-- benchmarks -->', '<!-- /benchmarks -->'
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
        if not r['smoke']
    }
    rows = [COLUMNS, ('---',) * len(COLUMNS), *newest.values()]
    return '\n'.join('| ' + ' | '.join(row) + ' |' for row in rows)


def insert_table(text: str, table: str, *, path: str | Path = 'README.md') -> str:
    """`text` with the table between its markers.

    Raises:
      InputError: a marker is missing.
    """
    before, start, rest = text.partition(START)
    _, stop, after = rest.partition(STOP)
    if not start or not stop:
        raise InputError(path, 'has no place for the table', f'{START} and, after it, {STOP}')
    return f'{before}{START}\n{table}\n{STOP}{after}'


def main() -> None:
    parser = argparse.ArgumentParser(prog='python -m benchmarks.report')
    parser.add_argument('--results', type=Path, default=RESULTS)
    parser.add_argument('--readme', type=Path, default=None, help='default: print the table')
    options = parser.parse_args()
    table = make_table(read_records(options.results))
    if options.readme is None:
        print(table)
    else:
        text = options.readme.read_text(encoding='utf-8')
        write_text(options.readme, insert_table(text, table, path=options.readme))


if __name__ == '__main__':
    main()
