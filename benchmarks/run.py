"""All benchmarks of speed and memory by one command, and the tables of the READMEs from them.

    python -m benchmarks.run [--only=papers,layers] [--device=cpu|gpu|tpu] [--full] [--smoke]

Each runs in a process of its own, so that one that fails, or leaves memory behind, does not touch
the next; what it writes goes to the terminal as it comes. Without --full sizes are such that two
CPU cores are done in 20 minutes; with it they are the papers' (on accelerators they are anyway).
Records go to benchmarks/results, then the tables of README.md and benchmarks/README.md, and the
figures, are made anew (not with --results or --smoke). Peers (PyTorch, OpenCV, Cellpose: `pip
install -e '.[peers]'`) are timed where they are installed. The benchmarks of accuracy train
networks for minutes to hours and are commands of their own: `benchmarks/README.md` lists them.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import report
from benchmarks.harness import RESULTS

PLATFORMS = {'cpu': 'cpu', 'gpu': 'cuda', 'tpu': 'tpu'}
ROOT = Path(__file__).parents[1]


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """How one is run.

    Attributes:
      small: options for two CPU cores.
      full: with --full, or on an accelerator.
      needs: a package without which there is nothing to run.
    """

    small: tuple[str, ...] = ()
    full: tuple[str, ...] = ()
    needs: str = ''


BENCHMARKS: Mapping[str, Benchmark] = {
    'device_peaks': Benchmark(),  # others give their share of these
    'papers': Benchmark(('--repeats=1',), ('--full',)),
    'slice_latency': Benchmark(('--size=331x321', '--repeats=1', '--only=network')),
    'roofline': Benchmark(('--repeats=1',), ('--full',)),
    'layers': Benchmark(('--kind=step', '--most=4', '--repeats=2'), ('--full',)),
    'against_torch': Benchmark(('--small', '--repeats=3'), needs='torch'),
    'training_steps': Benchmark(('--repeats=1',)),
    'tiled_inference': Benchmark(('--repeats=1',)),
    'scaling': Benchmark(('--repeats=1',), ('--full',)),
    'overlap': Benchmark((), ('--full',)),
    'instances': Benchmark(('--only=instances', '--noise', '0.1', '--shape', '64', '128', '128')),
    'voxel_operations': Benchmark(),
    'optical_flow': Benchmark(('--sides', '1024')),
    'linking': Benchmark(('--only=linking',), ('--only=linking',)),
    'shape_features': Benchmark(('--repeats=1',)),
    'random_walks': Benchmark(('--repeats=1',)),
    'streaming_memory': Benchmark(),
}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a benchmark.

    Attributes:
      name: of it.
      seconds: that it took.
      state: 'done', 'failed (exit status 1)' or why it was left out.
    """

    name: str
    seconds: float
    state: str


def command(name: str, *, full: bool, smoke: bool, results: Path | None) -> list[str]:
    """What to run."""
    benchmark = BENCHMARKS[name]
    options = ('--smoke',) if smoke else benchmark.full if full else benchmark.small
    kept = () if results is None else (f'--results={results}',)
    return [sys.executable, '-m', f'benchmarks.{name}', *options, *kept]


def environment(device: str | None) -> dict[str, str]:
    """Of the processes: the device, and no compiled programs of former runs, as compiling is timed.

    Args:
      device: one of `PLATFORMS`; None: the fastest there is.
    """
    variables = dict(os.environ)
    variables.pop('JAX_COMPILATION_CACHE_DIR', None)
    paths = [str(ROOT), *filter(None, [variables.get('PYTHONPATH')])]
    variables['PYTHONPATH'] = os.pathsep.join(paths)
    if device is not None:
        variables['JAX_PLATFORMS'] = PLATFORMS[device]
    return variables


def is_accelerator(variables: Mapping[str, str]) -> bool:
    """Whether the processes will find one; asked of a process, as this one holds no device."""
    asked = 'from sxt_jax.core.devices import is_accelerated; print(is_accelerated())'
    found = subprocess.run(
        [sys.executable, '-c', asked], env=dict(variables), capture_output=True, text=True
    )
    if found.returncode:
        raise SystemExit(f'no such device: {found.stderr.strip().splitlines()[-1]}')
    return found.stdout.strip() == 'True'


def run_one(name: str, arguments: Sequence[str], variables: Mapping[str, str]) -> Outcome:
    """Run it; an interruption interrupts it, too."""
    benchmark, start = BENCHMARKS[name], time.perf_counter()
    if benchmark.needs and not _installed(benchmark.needs):
        return Outcome(name, 0.0, f'left out: {benchmark.needs} is not installed')
    print(f'\n== {" ".join(["python", *arguments[1:]])}', flush=True)
    status = subprocess.run(list(arguments), env=dict(variables)).returncode
    state = 'done' if status == 0 else f'failed (exit status {status})'
    return Outcome(name, time.perf_counter() - start, state)


def _installed(package: str) -> bool:
    from importlib.util import find_spec

    return find_spec(package) is not None


def chosen(text: str) -> list[str]:
    """The benchmarks of a list with commas, in our order; all of an empty one.

    Raises:
      SystemExit: there is none of a name.
    """
    names = [name.strip() for name in text.split(',') if name.strip()]
    unknown = set(names) - set(BENCHMARKS)
    if unknown:
        raise SystemExit(f'no benchmark {sorted(unknown)}; there are {", ".join(BENCHMARKS)}')
    return [name for name in BENCHMARKS if not names or name in names]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog='python -m benchmarks.run')
    parser.add_argument('--only', default='', help='names with commas: ' + ', '.join(BENCHMARKS))
    parser.add_argument('--device', choices=PLATFORMS, help='default: the fastest there is')
    parser.add_argument('--full', action='store_true', help="the papers' sizes on a CPU, too")
    parser.add_argument('--smoke', action='store_true', help='tiny sizes, nothing kept')
    parser.add_argument('--results', type=Path, help='another folder; READMEs are left alone')
    options = parser.parse_args()
    names, variables = chosen(options.only), environment(options.device)
    full = options.full or is_accelerator(variables)
    outcomes = []
    for name in names:
        arguments = command(name, full=full, smoke=options.smoke, results=options.results)
        outcomes.append(run_one(name, arguments, variables))
    print('\n' + summary(outcomes), flush=True)
    if options.results is None and not options.smoke:
        report.write(RESULTS, [ROOT / 'README.md', ROOT / 'benchmarks' / 'README.md'], RESULTS)
    if any(outcome.state.startswith('failed') for outcome in outcomes):
        sys.exit(1)


def summary(outcomes: Sequence[Outcome]) -> str:
    """A line for each, and the sum."""
    lines = [f'{o.name:20s} {o.seconds:7.1f} s  {o.state}' for o in outcomes]
    total = sum(outcome.seconds for outcome in outcomes)
    return '\n'.join([*lines, f'{"in all":20s} {total:7.1f} s'])


if __name__ == '__main__':
    main()
