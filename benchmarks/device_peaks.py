"""How fast can the device at best multiply matrices and copy memory?

    python -m benchmarks.device_peaks [--smoke]

The two bounds that `roofline` holds networks against. Matrix products of square matrices, in
float32 (on GPUs with the precision that networks get, which may be TF32) and in bfloat16, summed in
float32; and an addition to every number of a large array, in place, which reads and writes it once
without touching fresh pages of memory. The best of a few sizes is kept, of JAX and, where PyTorch
is installed for the same device, of PyTorch. Products are compared with float64, sums are exact.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import (
    RESULTS,
    Case,
    Record,
    add_result_options,
    describe,
    device_name,
    keep_records,
    machine,
    read_records,
    run_cases,
)
from sxt_jax.core.devices import is_accelerated
from sxt_jax.ops.conv import matmul

QUESTION = 'device_peaks'
DTYPES = ('float32', 'bfloat16')
N_ROWS = 8  # of a product that are compared


@dataclasses.dataclass(frozen=True)
class Peaks:
    """What a device does at best.

    Attributes:
      flop_s: dtype → FLOP/s of matrix products.
      bytes_s: bytes/s, read and written together.
      library: whose.
    """

    flop_s: Mapping[str, float]
    bytes_s: float
    library: str = 'JAX'


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What is tried.

    Attributes:
      sides: of the matrices.
      n_numbers: float32 numbers of the arrays; more than caches hold.
      n_calls: operations in a run, of which none waits for the host.
    """

    sides: Sequence[int]
    n_numbers: Sequence[int]
    n_calls: int


def sizes_here(*, smoke: bool) -> Sizes:
    """That suit the device: a second or two a run on two cores, 20 ms on a GPU."""
    if smoke:
        return Sizes((64, 128), (2**12,), 2)
    if is_accelerated():
        return Sizes((4096, 8192, 16384), (2**27, 2**29), 10)
    return Sizes((1024, 2048, 3072), (2**27, 2**28), 1)


def torch_device() -> str | None:
    """The name in PyTorch of the device that JAX uses; None: not to be compared."""
    try:
        import torch
    except ImportError:
        return None
    if not is_accelerated():
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        return 'cpu'
    return 'cuda' if torch.cuda.is_available() else None


def wait_for_torch(device: str) -> None:
    """Until PyTorch has done what it was asked on a device."""
    if device != 'cpu':
        import torch

        torch.cuda.synchronize()


def matmul_cases(dtype: str, side: int, n_calls: int) -> Iterator[Case]:
    """Products of two matrices of normal numbers that bfloat16 holds exactly."""
    rng = np.random.default_rng(0)
    left, right = (
        np.asarray(rng.standard_normal((side, side), np.float32).astype(jnp.bfloat16), np.float32)
        for _ in range(2)
    )
    expected = left[:N_ROWS].astype(np.float64) @ right
    # Bfloat16 rounds the result to eight bits.
    tolerance = {'float32': 1e-5, 'bfloat16': 2.0**-8}[dtype]

    def check(found: Any) -> None:
        rows = np.array(found[:N_ROWS].tolist(), float)
        np.testing.assert_allclose(rows, expected, rtol=tolerance, atol=tolerance * side**0.5)

    def case(library: str, run: Callable[[], Any]) -> Case:
        flop = 2 * side**3 * n_calls
        facts = {'peak': 'matmul', 'library': library}
        name = f'matrix product, {dtype}, {library}'
        return Case(name, run, check, flop / 1e12, 'TFLOP/s', (side, side), dtype, facts)

    a, b = (jax.device_put(m.astype(dtype)) for m in (left, right))
    multiply = jax.jit(matmul)
    yield case('JAX', lambda: [multiply(a, b) for _ in range(n_calls)][-1])
    device = torch_device()
    if device is not None:
        yield case('PyTorch', _torch_matmul(left, right, dtype, device, n_calls))


def _torch_matmul(
    left: np.ndarray, right: np.ndarray, dtype: str, device: str, n_calls: int
) -> Callable[[], Any]:
    import torch

    torch.backends.cuda.matmul.allow_tf32 = True  # as XLA does
    a, b = (torch.from_numpy(m).to(device, getattr(torch, dtype)) for m in (left, right))

    def run() -> torch.Tensor:
        products = [a @ b for _ in range(n_calls)]
        wait_for_torch(device)
        return products[-1]

    return run


def copy_cases(n_numbers: int, n_calls: int) -> Iterator[Case]:
    """One added to every number of an array, in place."""

    def check(found: Any) -> None:
        assert bool((found == n_calls).all())

    def case(library: str, run: Callable[[], Any]) -> Case:
        n_bytes = 2 * 4 * n_numbers * n_calls
        facts = {'peak': 'copy', 'library': library}
        name = f'read and write, {library}'
        return Case(name, run, check, n_bytes / 1e9, 'GB/s', (n_numbers,), 'float32', facts)

    yield case('JAX', _jax_copy(n_numbers, n_calls))
    device = torch_device()
    if device is not None:
        yield case('PyTorch', _torch_copy(n_numbers, n_calls, device))


def _jax_copy(n_numbers: int, n_calls: int) -> Callable[[], jax.Array]:
    add = jax.jit(lambda x: x + 1, donate_argnums=0)
    held = [jnp.zeros(n_numbers)]

    def run() -> jax.Array:
        x = held.pop()
        for _ in range(n_calls):
            x = add(x)
        held.append(x)
        return x

    return run


def _torch_copy(n_numbers: int, n_calls: int, device: str) -> Callable[[], Any]:
    import torch

    x = torch.zeros(n_numbers, device=device)

    def run() -> torch.Tensor:
        for _ in range(n_calls):
            x.add_(1)
        wait_for_torch(device)
        return x

    return run


def measure_peaks(*, smoke: bool = False, repeats: int = 3) -> list[Record]:
    """The best of all sizes, a record for each kind of work and library.

    Args:
      smoke: small sizes.
      repeats: timed runs of each size.
    Raises:
      AssertionError: a wrong product or sum.
    """
    sizes = sizes_here(smoke=smoke)
    # Each made when its turn has come: the arrays of one size at a time.
    groups = [
        *(
            functools.partial(matmul_cases, dtype, side, sizes.n_calls)
            for dtype, side in itertools.product(DTYPES, sizes.sides)
        ),
        *(functools.partial(copy_cases, n, sizes.n_calls) for n in sizes.n_numbers),
    ]
    best: dict[str, Record] = {}
    for make_cases in groups:
        for record in run_cases(QUESTION, list(make_cases()), repeats=repeats, smoke=smoke):
            name = record['case']
            if name not in best or record['rate'] > best[name]['rate']:
                best[name] = record
    return list(best.values())


def newest_peaks(
    records: Sequence[Record],
    *,
    device: str,
    processor: str | None = None,
    n_cores: int | None = None,
    library: str = 'JAX',
) -> Peaks | None:
    """The peaks of a device that stored results tell; None where one is missing.

    Args:
      records: of any benchmarks; small runs do not count.
      device: as `harness.machine` names it; 'cpu' needs the next two.
      processor, n_cores: of the host; None: any.
      library: 'JAX' or 'PyTorch'.
    """
    wanted = {'device': device, 'processor': processor, 'n_cores': n_cores}
    flop_s: dict[str, float] = {}
    bytes_s = None
    for r in records:
        if r['benchmark'] != QUESTION or r['smoke'] or r['facts']['library'] != library:
            continue
        if any(value not in (None, r[name]) for name, value in wanted.items()):
            continue
        if r['facts']['peak'] == 'matmul':
            flop_s[r['dtype']] = r['rate'] * 1e12
        else:
            bytes_s = r['rate'] * 1e9
    if bytes_s is None or set(DTYPES) - set(flop_s):
        return None
    return Peaks(flop_s, bytes_s, library)


def peaks_here(folder: Path = RESULTS, *, smoke: bool = False) -> Peaks:
    """Those of this machine, as stored, else measured now."""
    here = machine()
    place: dict[str, Any] = {'device': here['device']}
    if not is_accelerated():
        place |= {'processor': here['processor'], 'n_cores': here['n_cores']}
    stored = None if smoke else newest_peaks(read_records(folder), **place)
    if stored is not None:
        return stored
    measured = measure_peaks(smoke=smoke)
    found = newest_peaks([{**r, 'smoke': False} for r in measured], device=here['device'])
    assert found is not None
    return found


def table_rows(records: Sequence[Record]) -> list[tuple[str, ...]]:
    """Heads and rows of a table: a kind of work on a device a row, the newest of each."""
    newest = {
        (r['device'], r['processor'], r['n_cores'], r['case']): r
        for r in records
        if r['benchmark'] == QUESTION and not r['smoke'] and r['repeats']
    }
    heads = ('device', 'work', 'size', 'rate', 'load')
    rows = [
        (
            machine_name(r),
            r['case'],
            '×'.join(f'{n:,}' for n in r['shape']),
            f'{r["rate"]:.3g} {r["unit"]}',
            f'{r["load"]:.1f}',
        )
        for r in newest.values()
    ]
    return [heads, *rows]


def machine_name(record: Record) -> str:
    """The device of a record, and of a CPU which one."""
    name = device_name(record)
    return name if record['platform'] != 'cpu' else f'{name} ({record["processor"]})'


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog=f'python -m benchmarks.{QUESTION}')
    add_result_options(parser)
    parser.add_argument('--repeats', type=int, default=3, help='timed runs per case')
    options = parser.parse_args()
    repeats = 1 if options.smoke else options.repeats
    records = measure_peaks(smoke=options.smoke, repeats=repeats)
    for record in records:
        print(describe(record), flush=True)
    keep_records(records, options.results, smoke=options.smoke)


if __name__ == '__main__':
    main()
