"""How a benchmark is run: its answer is checked first, then it is timed, then it is written down.

A benchmark file answers one question with several `Case`s; the first is the baseline that the
others are compared with in the same process and run. Every case becomes one JSON line in
`benchmarks/results/<question>.jsonl`, with all that is needed to read the figure later. `python -m
benchmarks.report` makes the README's table from these files.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import platform
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import flax
import jax
import numpy as np

from sxt_jax.core.atomic import atomic_path

RESULTS = Path(__file__).parent / 'results'
Record = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Case:
    """One way to do the work that a benchmark asks about.

    Attributes:
      name: what is measured, e.g. 'blocked' or 'per-tile loop (baseline)'.
      run: does the work once and returns its answer (JAX arrays are waited for).
      check: raises AssertionError when the answer is wrong; called before anything is timed.
      work: amount of work in one run, in the numerator of `unit` (Mvoxel, steps, …).
      unit: unit of the rate, e.g. 'Mvoxel/s', 'steps/s'.
      shape: the shape that decides the cost (volume, or global batch).
      dtype: the type computed in.
      facts: anything else worth keeping, JSON-able (tile, batch size, model).
    """

    name: str
    run: Callable[[], Any]
    check: Callable[[Any], None]
    work: float
    unit: str
    shape: Sequence[int]
    dtype: str = 'float32'
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def anonymous_bytes() -> int:
    """Host memory this process holds itself, in bytes: file pages of a memory map do not count."""
    with open('/proc/self/status', encoding='ascii') as status:
        for line in status:
            if line.startswith('RssAnon:'):
                return int(line.split()[1]) * 1024
    raise RuntimeError('/proc/self/status has no RssAnon line')


class PeakMemory:
    """The highest `anonymous_bytes` seen while sampling (`peak`), and that at the start."""

    def __init__(self) -> None:
        self.start = self.peak = anonymous_bytes()

    def sample(self) -> None:
        self.peak = max(self.peak, anonymous_bytes())


@contextmanager
def watch_memory(period_s: float = 0.005) -> Iterator[PeakMemory]:
    """Sample the host memory in a thread while the body runs."""
    memory, stop = PeakMemory(), threading.Event()

    def watch() -> None:
        while not stop.wait(period_s):
            memory.sample()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield memory
    finally:
        stop.set()
        thread.join()
        memory.sample()


def peak_device_bytes() -> int | None:
    """The highest memory use of any device since the process began; None where it is not told."""
    stats = [d.memory_stats() for d in jax.local_devices()]
    peaks = [s['peak_bytes_in_use'] for s in stats if s and 'peak_bytes_in_use' in s]
    return max(peaks) if peaks else None


@dataclasses.dataclass(frozen=True)
class _Run:
    """One run of a case: wall and processor time (all threads of this process), highest memory."""

    wall_s: float
    cpu_s: float
    peak_host_bytes: int


def _run_once(case: Case) -> tuple[_Run, Any]:
    with watch_memory() as memory:
        cpu, wall = time.process_time(), time.perf_counter()
        answer = jax.block_until_ready(case.run())
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return _Run(wall, cpu, memory.peak), answer


def _check_first_run(case: Case) -> _Run:
    run, answer = _run_once(case)
    case.check(answer)
    return run


def _record(case: Case, first: _Run, runs: Sequence[_Run]) -> Record:
    times = [run.wall_s for run in runs]
    run_s = statistics.median(times)
    return {
        'case': case.name,
        'shape': list(case.shape),
        'dtype': case.dtype,
        'rate': case.work / run_s,
        'unit': case.unit,
        'run_s': run_s,
        'run_s_range': [min(times), max(times)],
        'cpu_s': statistics.median(run.cpu_s for run in runs),
        'compile_s': max(0.0, first.wall_s - run_s),
        'repeats': len(runs),
        'peak_host_bytes': max(run.peak_host_bytes for run in (first, *runs)),
        'peak_device_bytes': peak_device_bytes(),
        **({'facts': dict(case.facts)} if case.facts else {}),
    }


def machine() -> Record:
    """The facts of the machine and the software that a figure depends on."""
    devices = jax.devices()
    return {
        'device': devices[0].device_kind,
        'platform': devices[0].platform,
        'n_devices': len(devices),
        'n_cores': len(os.sched_getaffinity(0)),
        'processor': _processor(),
        'load': os.getloadavg()[0],
        'versions': {
            'python': platform.python_version(),
            'jax': jax.__version__,
            'flax': flax.__version__,
            'numpy': np.__version__,
        },
        'date': datetime.datetime.now(datetime.UTC).strftime('%Y-%m-%d'),
    }


def _processor() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(':', 1)[1].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.processor()


def run_cases(
    question: str, cases: Sequence[Case], *, repeats: int = 3, smoke: bool = False
) -> list[Record]:
    """Check every case's answer, then time all of them.

    The first run of a case compiles: its time less the median of the later ones is the compile
    time. The later runs take turns, so that a machine that grows busy slows all cases alike.

    Args:
      question: name of the benchmark.
      cases: the first is the baseline.
      repeats: timed runs of each case after the first.
      smoke: whether the sizes are only to show that it works.
    Returns:
      One record a case. `ratio` is its rate over the baseline's. Nothing is written.
    Raises:
      AssertionError: an answer is wrong.
    """
    if len({case.unit for case in cases}) > 1:
        raise ValueError(f'cases of {question!r} differ in unit')
    firsts = [_check_first_run(case) for case in cases]
    rounds = [[_run_once(case)[0] for case in cases] for _ in range(repeats)]
    records: list[Record] = []
    for case, first, runs in zip(cases, firsts, zip(*rounds, strict=True), strict=True):
        record = {'benchmark': question, 'smoke': smoke, **_record(case, first, runs)}
        record['baseline'] = cases[0].name
        record['ratio'] = record['rate'] / (records[0] if records else record)['rate']
        records.append({**record, **machine()})
    return records


def append_records(records: Sequence[Record], folder: Path = RESULTS) -> list[Path]:
    """Append records to `<folder>/<benchmark>.jsonl`; a killed run leaves the old file whole."""
    paths = []
    for question in dict.fromkeys(record['benchmark'] for record in records):
        path = Path(folder) / f'{question}.jsonl'
        old = path.read_text(encoding='utf-8') if path.exists() else ''
        new = [json.dumps(r, ensure_ascii=False) for r in records if r['benchmark'] == question]
        with atomic_path(path) as temporary:
            temporary.write_text(old + ''.join(line + '\n' for line in new), encoding='utf-8')
        paths.append(path)
    return paths


def read_records(folder: Path = RESULTS) -> list[Record]:
    """All records of a folder, in the order of writing within each file."""
    return [
        json.loads(line)
        for path in sorted(Path(folder).glob('*.jsonl'))
        for line in path.read_text(encoding='utf-8').splitlines()
        if line
    ]


def describe(record: Record) -> str:
    """One line for the terminal."""
    memory = record['peak_device_bytes'] or record['peak_host_bytes']
    return (
        f'{record["benchmark"]} · {record["case"]} · {"×".join(map(str, record["shape"]))}: '
        f'{record["rate"]:.4g} {record["unit"]} ({record["ratio"]:.2f} × baseline), '
        f'compile {record["compile_s"]:.1f} s, peak {memory / 2**20:.0f} MiB'
    )


def main(question: str, make_cases: Callable[[bool], Sequence[Case]]) -> None:
    """The command line that benchmark files share.

    Args:
      question: name of the benchmark and of its results file.
      make_cases: gives the cases; True asks for small ones, which show that it works.
    """
    parser = argparse.ArgumentParser(prog=f'python -m benchmarks.{question}')
    parser.add_argument('--smoke', action='store_true', help='small sizes, nothing kept')
    parser.add_argument('--repeats', type=int, default=3, help='timed runs per case')
    parser.add_argument('--results', type=Path, default=None, help='folder to append results to')
    options = parser.parse_args()
    repeats = 1 if options.smoke else options.repeats
    records = run_cases(question, make_cases(options.smoke), repeats=repeats, smoke=options.smoke)
    for record in records:
        print(describe(record))
    folder = options.results or (None if options.smoke else RESULTS)
    if folder is not None:
        append_records(records, folder)
