"""How a benchmark is run: its answer is checked first, then it is timed, then it is written down.

A benchmark file answers one question with several `Case`s; the first is the baseline that the
others are compared with in the same process and run. Every case becomes one JSON line in
`benchmarks/results/<question>.jsonl`, with all that is needed to read the figure later. `python -m
benchmarks.report` makes the README's table from these files.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import datetime
import json
import os
import platform
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
      compiles: whether the first run is slower than later ones; if not, it is timed as they are.
    """

    name: str
    run: Callable[[], Any]
    check: Callable[[Any], None]
    work: float
    unit: str
    shape: Sequence[int]
    dtype: str = 'float32'
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    compiles: bool = True


def anonymous_bytes() -> int:
    """Host memory this process holds itself, in bytes: file pages of a memory map do not count."""
    with open('/proc/self/status', encoding='ascii') as status:
        for line in status:
            if line.startswith('RssAnon:'):
                return int(line.split()[1]) * 1024
    raise RuntimeError('/proc/self/status has no RssAnon line')


def device_memory() -> tuple[int, int] | None:
    """Bytes in use and their highest so far, each of the fullest device; None if it is not told."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    told = [s for s in stats if {'bytes_in_use', 'peak_bytes_in_use'} <= s.keys()]
    if not told:
        return None
    in_use, highest = ([s[name] for s in told] for name in ('bytes_in_use', 'peak_bytes_in_use'))
    return max(in_use), max(highest)


class PeakMemory:
    """The highest memory use while sampling, and that at the start.

    Attributes:
      start, peak: of the host, as `anonymous_bytes` tells it.
      device_start, device_peak: of the fullest device, None where it is not told. Devices tell
        their highest use since the process began: where the body raises it, that is the peak,
        else the highest sample.
    """

    def __init__(self) -> None:
        self.start = self.peak = anonymous_bytes()
        device = device_memory()
        self.device_start = self.device_peak = device and device[0]
        self._highest = device[1] if device else 0

    @property
    def added(self) -> int:
        """Bytes of the host above those at the start."""
        return self.peak - self.start

    @property
    def device_added(self) -> int | None:
        """Likewise of the device."""
        if self.device_peak is None or self.device_start is None:
            return None
        return self.device_peak - self.device_start

    def sample(self) -> None:
        self.peak = max(self.peak, anonymous_bytes())
        device = device_memory()
        if device is not None and self.device_peak is not None:
            in_use, highest = device
            seen = highest if highest > self._highest else in_use
            self.device_peak = max(self.device_peak, seen)


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


def release_memory() -> None:
    """Give free memory of the heap back to the system, so that the next use of it shows."""
    trim = getattr(ctypes.CDLL(None), 'malloc_trim', None)  # glibc's
    if trim is not None:
        trim(0)


@dataclasses.dataclass(frozen=True)
class _Run:
    """One run of a case: wall and processor time (all threads of this process), memory."""

    wall_s: float
    cpu_s: float
    memory: PeakMemory


def _run_once(case: Case) -> tuple[_Run, Any]:
    with watch_memory() as memory:
        cpu, wall = time.process_time(), time.perf_counter()
        answer = jax.block_until_ready(case.run())
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return _Run(wall, cpu, memory), answer


def _check_first_run(case: Case) -> _Run:
    if not case.compiles:
        release_memory()
    run, answer = _run_once(case)
    case.check(answer)
    return run


def _memory_runs(case: Case, runs: Sequence[_Run]) -> Sequence[_Run]:
    """Runs whose memory tells what a run takes; those that were timed use the heap again.

    Of a slow case, which does not compile, they are the timed ones.
    """
    if not case.compiles:
        return runs
    release_memory()
    return [_run_once(case)[0]]


def _record(case: Case, first: _Run, runs: Sequence[_Run]) -> Record:
    facts = {'facts': dict(case.facts)} if case.facts else {}
    record: Record = {'case': case.name, 'shape': list(case.shape), 'dtype': case.dtype}
    if not runs:
        return {**record, 'repeats': 0, **facts}
    times = [run.wall_s for run in runs]
    measured = _memory_runs(case, runs)
    run_s = statistics.median(times)
    return {
        **record,
        'rate': case.work / run_s,
        'unit': case.unit,
        'run_s': run_s,
        'run_s_range': [min(times), max(times)],
        'cpu_s': statistics.median(run.cpu_s for run in runs),
        'compile_s': max(0.0, first.wall_s - run_s) if case.compiles else 0.0,
        'repeats': len(runs),
        'peak_host_bytes': max(run.memory.peak for run in (first, *runs, *measured)),
        'added_host_bytes': max(run.memory.added for run in measured),
        'peak_device_bytes': _most(run.memory.device_peak for run in (first, *runs, *measured)),
        'added_device_bytes': _most(run.memory.device_added for run in measured),
        **facts,
    }


def _most(values: Iterable[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)


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


def device_name(record: Record) -> str:
    """What tables call the device of a record."""
    cores = f'{record["n_cores"]} CPU cores'
    return cores if record['platform'] == 'cpu' else str(record['device'])


def _processor() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(':', 1)[1].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.processor()


def run_cases(
    question: str,
    cases: Sequence[Case],
    *,
    repeats: int = 3,
    smoke: bool = False,
    in_a_row: bool = False,
) -> list[Record]:
    """Check every case's answer, then time all of them.

    The first run of a case compiles: its time less the median of the later ones is the compile
    time. The later runs take turns, so that a machine that grows busy slows all cases alike. What
    a run adds to memory is seen in one more, after the free memory was given back: that would slow
    the timed ones.

    Args:
      question: name of the benchmark.
      cases: the first is the baseline.
      repeats: timed runs of each case; 0: answers are checked and nothing is timed.
      smoke: whether the sizes are only to show that it works.
      in_a_row: whether each timed run follows one of the same case that is not timed, for work that
        is done over and over. Else each finds what the others left: on a virtual machine that gives
        free memory back to its host, who frees it between runs pays for it in each.
    Returns:
      One record a case. `ratio` is its rate over the baseline's. Nothing is written.
    Raises:
      AssertionError: an answer is wrong.
    """
    if len({case.unit for case in cases}) > 1:
        raise ValueError(f'cases of {question!r} differ in unit')
    firsts = [_check_first_run(case) for case in cases]
    runs = [[] if case.compiles else [first] for case, first in zip(cases, firsts, strict=True)]
    for _ in range(repeats):
        for case, done in zip(cases, runs, strict=True):
            if len(done) < repeats:
                if in_a_row:
                    jax.block_until_ready(case.run())
                done.append(_run_once(case)[0])
    records: list[Record] = []
    for case, first, done in zip(cases, firsts, runs, strict=True):
        timed = _record(case, first, done[:repeats])
        record = {'benchmark': question, 'smoke': smoke, **timed, 'baseline': cases[0].name}
        if repeats:
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


def keep_records(records: Sequence[Record], folder: Path | None, *, smoke: bool) -> None:
    """Append records where the command line says: of small sizes only if it names a folder."""
    if folder is not None or not smoke:
        append_records(records, folder or RESULTS)


def add_result_options(
    parser: argparse.ArgumentParser, *, smoke: str = 'small sizes, nothing kept'
) -> None:
    """`--smoke` and `--results`, as `keep_records` takes them."""
    parser.add_argument('--smoke', action='store_true', help=smoke)
    parser.add_argument('--results', type=Path, default=None, help='folder to append results to')


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
    name = f'{record["benchmark"]} · {record["case"]} · {"×".join(map(str, record["shape"]))}'
    if not record['repeats']:
        return f'{name}: checked'
    on_device = record['peak_device_bytes'] is not None
    place = 'device' if on_device else 'host'
    peak, added = (record[f'{what}_{place}_bytes'] / 2**20 for what in ('peak', 'added'))
    return (
        f'{name}: {record["rate"]:.4g} {record["unit"]} ({record["ratio"]:.2f} × baseline), '
        f'compile {record["compile_s"]:.1f} s, '
        f'peak {peak:.0f} MiB of the {place}, {added:.0f} of them by a run'
    )


def main(question: str, make_cases: Callable[[bool], Sequence[Case]]) -> None:
    """The command line that benchmark files share.

    Args:
      question: name of the benchmark and of its results file.
      make_cases: gives the cases; True asks for small ones, which show that it works.
    """
    parser = argparse.ArgumentParser(prog=f'python -m benchmarks.{question}')
    add_result_options(parser)
    parser.add_argument('--repeats', type=int, default=3, help='timed runs per case')
    options = parser.parse_args()
    repeats = 1 if options.smoke else options.repeats
    records = run_cases(question, make_cases(options.smoke), repeats=repeats, smoke=options.smoke)
    for record in records:
        print(describe(record))
    keep_records(records, options.results, smoke=options.smoke)
