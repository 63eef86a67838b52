"""How near are the networks to what the device can do at best?

    python -m benchmarks.roofline [--smoke | --full] [--only=NETWORK]

For the forward pass and one training step (SGD with momentum) of each network: a floor of its time,
which is its arithmetic over the device's rate of matrix products or its memory traffic over the
rate of reading and writing, whichever takes longer (see `device_peaks`, whose stored results of
this machine are used, or measured first); and the time it takes. Arithmetic and traffic are the
least that a direct computation needs, counted from the shapes of the layers (`network_layers`).

What the programs say of themselves stands beside it: 'lowered' counts all arithmetic as we wrote
it down before anything is optimised, 'compiled' what is left after that. Both count what a loop
does once, and on a CPU 3-D convolutions and many gradients are loops, so they can be far too low;
bytes of compiled programs count everything that any of its operations reads or writes, whether it
comes from a cache or not.

Results are compared with the network in float32 made of XLA's own convolutions: the maps of the
forward pass, the loss of a step, and how that loss changes along the gradient that the step found
(in bfloat16 the length of the gradient instead). All is in bfloat16 on accelerators. Weights and
images are random.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.device_peaks import Peaks, machine_name, peaks_here
from benchmarks.harness import RESULTS, Case, Record, keep_records, run_cases
from benchmarks.network_layers import (
    KINDS,
    NETWORKS,
    Costs,
    Network,
    default_size,
    draw_variables,
    least_costs,
    make_network,
)
from benchmarks.training_steps import xla_convolutions

QUESTION = 'roofline'
# Bfloat16 keeps eight bits, and a signal passes up to sixty convolutions.
TOLERANCE = {'float32': 1e-3, 'bfloat16': 0.1}
# Of the loss, how far it is followed along the gradient (at 1e-2 the slope of ACSeg is 40 % off, at
# 1e-3 6 %, at 3e-4 2 %), and how near the slope has to be.
STEP, GRADIENT_TOLERANCE = 3e-4, 0.05


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled program and what it says of itself.

    Attributes:
      run: of the arrays it was compiled for.
      facts: 'compile_s', 'lowered_flop', 'compiled_flop', 'compiled_bytes', 'program_bytes' (all
        that it holds at once); None where it is not told.
    """

    run: Callable[..., Any]
    facts: dict[str, float | None]


def compile_program(run: Callable[..., Any], *arrays: Any, donate: tuple[int, ...] = ()) -> Program:
    """Compile a function for arrays."""
    start = time.perf_counter()
    lowered = jax.jit(run, donate_argnums=donate).lower(*arrays)
    compiled = lowered.compile()
    seconds = time.perf_counter() - start
    cost: Mapping[str, float] = compiled.cost_analysis() or {}
    memory = compiled.memory_analysis()
    held = None
    if memory is not None:
        parts = ('argument', 'output', 'temp')
        held = sum(getattr(memory, f'{part}_size_in_bytes') for part in parts)
        held -= memory.alias_size_in_bytes
    facts = {
        'compile_s': seconds,
        'lowered_flop': (lowered.cost_analysis() or {}).get('flops'),
        'compiled_flop': cost.get('flops'),
        'compiled_bytes': cost.get('bytes accessed'),
        'program_bytes': held,
    }
    return Program(compiled, facts)


def draw_image(shape: Sequence[int]) -> np.ndarray:
    """Noise [b, (z,) y, x, 1] of mean 0."""
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def make_loss(model: Any) -> Callable[..., tuple[jax.Array, Any]]:
    """A function of parameters, statistics and image: mean squared distance of all maps to it."""

    def loss(params: Any, rest: Any, image: jax.Array) -> tuple[jax.Array, Any]:
        variables = {'params': params, **rest}
        heads, rest = model.apply(variables, image, train=True, mutable=list(rest))
        errors = [jnp.mean(jnp.square(head - image)) for head in heads.values()]
        return jnp.stack(errors).sum(), rest

    return loss


def by_xla(run: Callable[..., Any]) -> Callable[..., Any]:
    """The function compiled with XLA's own convolutions and all digits of float32."""
    run = jax.jit(run)

    def precise(*arrays: Any) -> Any:
        with xla_convolutions(), jax.default_matmul_precision('float32'):
            return run(*arrays)

    return precise


def forward_case(network: Network) -> tuple[Program, Callable[[], Any], Callable[[Any], None]]:
    """The program, a run of it and a check of what it gives."""
    model, shape = network.model, network.shapes['forward']
    variables, image = jax.device_put((draw_variables(model, shape), draw_image(shape)))
    program = compile_program(model.apply, variables, image)

    def check(found: Mapping[str, jax.Array]) -> None:
        expected = by_xla(model.clone(dtype=jnp.float32).apply)(variables, image)
        assert set(found) == set(expected)
        for name, values in expected.items():
            error = jnp.linalg.norm(found[name] - values) / jnp.linalg.norm(values)
            assert error < TOLERANCE[network.dtype.name], f'{name}: {error}'

    return program, lambda: program.run(variables, image), check


def step_case(network: Network) -> tuple[Program, Callable[[], Any], Callable[[Any], None]]:
    """Likewise of a training step."""
    model, shape = network.model, network.shapes['step']
    variables = draw_variables(model, shape)
    image = jax.device_put(draw_image(shape))
    params, rest = variables['params'], {k: v for k, v in variables.items() if k != 'params'}
    # At rate 0 a step does all its work and leaves the weights, so that all steps give one answer.
    optimizer, loss_fn = optax.sgd(0.0, momentum=0.9), make_loss(model)

    def step(state: Any, image: jax.Array) -> tuple[Any, jax.Array]:
        params, rest, momenta = state
        (loss, rest), gradient = jax.value_and_grad(loss_fn, has_aux=True)(params, rest, image)
        updates, momenta = optimizer.update(gradient, momenta, params)
        return (optax.apply_updates(params, updates), rest, momenta), loss

    states = [jax.device_put((params, rest, optimizer.init(params)))]
    program = compile_program(step, states[0], image, donate=(0,))

    def run() -> jax.Array:
        state, loss = program.run(states.pop(), image)
        states.append(state)
        return loss

    def check(loss: jax.Array) -> None:
        gradient = states[0][2][0].trace  # momenta, which began at 0
        check_step(model, (params, rest, image), float(loss), gradient)

    return program, run, check


def check_step(model: Any, arrays: tuple[Any, Any, jax.Array], loss: float, gradient: Any) -> None:
    """Compare loss and gradient of a step with those of XLA's convolutions.

    In float32 along the gradient: how the loss changes there is its length. In bfloat16 gradients
    of the same length point elsewhere (ACSeg's cosine was 0.3), so the lengths alone are compared.

    Args:
      model: in the type that the step computes in.
      arrays: parameters, statistics and image.
      loss, gradient: what the step found.
    Raises:
      AssertionError: they differ.
    """
    params, *others = arrays
    precise = by_xla(make_loss(model.clone(dtype=jnp.float32)))
    expected, length = float(precise(*arrays)[0]), float(optax.tree.norm(gradient))
    dtype = jnp.dtype(model.dtype).name
    np.testing.assert_allclose(loss, expected, rtol=TOLERANCE[dtype])
    if dtype != 'float32':
        same = by_xla(jax.grad(make_loss(model), has_aux=True))(*arrays)[0]
        np.testing.assert_allclose(length, optax.tree.norm(same), rtol=GRADIENT_TOLERANCE)
        return
    by = STEP * expected / length

    def moved(by: float) -> float:
        there = jax.tree.map(lambda p, g: p + by / length * g, params, gradient)
        return float(precise(there, *others)[0])

    slope = (moved(by) - moved(-by)) / (2 * by)
    np.testing.assert_allclose(slope, length, rtol=GRADIENT_TOLERANCE)


def floor_seconds(costs: Costs, flop_s: float, bytes_s: float) -> float:
    """The least time at these rates, if arithmetic and memory do not wait for each other."""
    return max(costs.flop / flop_s, costs.n_bytes / bytes_s)


def measure(name: str, kind: str, peaks: Peaks, *, size: str, repeats: int = 3) -> Record:
    """The record of a network's forward pass or training step.

    Args:
      name: one of `network_layers.NETWORKS`.
      kind: 'forward' or 'step'.
      peaks: of this device.
      size: 'smoke', 'small' or 'full'.
      repeats: timed runs.
    Raises:
      AssertionError: a result or a gradient is wrong.
    """
    network = make_network(name, size)
    program, run, check = {'forward': forward_case, 'step': step_case}[kind](network)
    costs, dtype = least_costs(network, kind), network.dtype.name
    facts = {
        'network': network.title,
        'size': size,
        'kind': kind,
        'flop': costs.flop,
        'least_bytes': costs.n_bytes,
        'peak_flop_s': peaks.flop_s[dtype],
        'peak_bytes_s': peaks.bytes_s,
        'floor_s': floor_seconds(costs, peaks.flop_s[dtype], peaks.bytes_s),
        **program.facts,
    }
    shape = network.shapes[kind]
    title = f'{network.title}, {kind}'
    case = Case(title, run, check, 1.0, 'runs/s', shape, dtype, facts)
    (record,) = run_cases(QUESTION, [case], repeats=repeats, smoke=size == 'smoke')
    # Compiled beforehand, so the first run tells nothing of it.
    return {**record, **({'compile_s': program.facts['compile_s']} if repeats else {})}


def table_rows(records: Sequence[Record]) -> list[tuple[str, ...]]:
    """Heads and rows of a table: a network and pass a row, the newest of each."""
    newest = {
        (r['device'], r['processor'], r['n_cores'], r['case'], *r['shape']): r
        for r in records
        if r['benchmark'] == QUESTION and not r['smoke'] and r['repeats']
    }
    heads = (
        'network', 'pass', 'image', 'type', 'GFLOP', 'lowered · compiled', 'MB', 'compiled',
        'floor, ms', 'bound by', 'ms', 'share of the floor', 'share of products', 'compilation',
        'memory', 'device', 'load',
    )  # fmt: skip
    return [heads, *map(_row, newest.values())]


def _row(record: Record) -> tuple[str, ...]:
    facts, seconds = record['facts'], record['run_s']
    by_products = facts['flop'] / facts['peak_flop_s'] >= facts['floor_s']
    told = (_told(facts[f'{what}_flop'], 1e9) for what in ('lowered', 'compiled'))
    return (
        facts['network'],
        facts['kind'],
        '×'.join(map(str, record['shape'][:-1])),
        record['dtype'],
        f'{facts["flop"] / 1e9:.3g}',
        ' · '.join(told),
        f'{facts["least_bytes"] / 1e6:.3g}',
        _told(facts['compiled_bytes'], 1e6),
        f'{1e3 * facts["floor_s"]:.3g}',
        'products' if by_products else 'memory',
        f'{1e3 * seconds:.3g}',
        f'{facts["floor_s"] / seconds:.0%}',
        f'{facts["flop"] / facts["peak_flop_s"] / seconds:.0%}',
        f'{record["compile_s"]:.1f} s',
        f'{_told(_peak_bytes(record), 2**20)} MiB',
        machine_name(record),
        f'{record["load"]:.1f}',
    )


def _told(value: float | None, unit: float) -> str:
    return '?' if value is None else f'{value / unit:.3g}'


def _peak_bytes(record: Record) -> float | None:
    """Of the program, as it says; else what a run added to the memory of the host."""
    held: float | None = record['facts']['program_bytes']
    return record['added_host_bytes'] if held is None else held


def describe(record: Record) -> str:
    """One line for the terminal."""
    row = dict(zip(table_rows([])[0], _row(record), strict=True))
    skipped = ('network', 'pass', 'type', 'device', 'load')
    named = ', '.join(f'{name} {value}' for name, value in row.items() if name not in skipped)
    return f'{record["case"]}: {named}'


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog=f'python -m benchmarks.{QUESTION}')
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument('--smoke', action='store_true', help='small sizes, nothing kept')
    sizes.add_argument('--full', action='store_true', help="the papers' sizes (accelerators: yes)")
    parser.add_argument('--only', choices=NETWORKS, default=None, help='one network')
    parser.add_argument('--repeats', type=int, default=3, help='timed runs per case')
    parser.add_argument('--results', type=Path, default=None, help='folder to append results to')
    options = parser.parse_args()
    size = 'smoke' if options.smoke else 'full' if options.full else default_size()
    repeats = 1 if options.smoke else options.repeats
    peaks = peaks_here(options.results or RESULTS, smoke=options.smoke)
    for name in [options.only] if options.only else NETWORKS:
        for kind in KINDS:
            record = measure(name, kind, peaks, size=size, repeats=repeats)
            print(describe(record), flush=True)
            keep_records([record], options.results, smoke=options.smoke)


if __name__ == '__main__':
    main()
