"""Which layers do the networks spend their time in, and how fast are they against PyTorch?

    python -m benchmarks.layers [--smoke | --full] [--only=NETWORK] [--most=8]

Every distinct convolution and normalisation of a network (see `network_layers`) is run by itself,
as the network calls it: forward as for inference, and 'step', which is forward and backward, with
the gradients of weights and image, as for training. The time of each, times the number of its
calls, is its share of the sum over all. The slowest are timed once more, in turns with PyTorch's
layer, where it is installed for the same device, of the same weights, image and gradient; the
faster one of its two memory layouts counts. Before that, results and gradients are compared with
it, or else with XLA's plain operations. All is in bfloat16 on accelerators.

Layers by themselves leave out what a compiler fuses with them, and pooling, concatenation and
activation.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import functools
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.device_peaks import torch_device, wait_for_torch
from benchmarks.harness import Case, Record, device_name, keep_records, run_cases
from benchmarks.network_layers import (
    KINDS,
    NETWORKS,
    Layer,
    Network,
    default_size,
    draw_like,
    explicit_pads,
    flop,
    make_network,
    step_flop,
    trace,
)
from sxt_jax.models.blocks import BatchNorm, Conv, ConvTranspose
from sxt_jax.ops.conv_cpu import lax_conv
from sxt_jax.ops.pool import upsample

QUESTION = 'layers'
IMAGES = ('x', 'coarse')
RUN_S = 0.02  # what a timed run should take at least
Results = Mapping[str, Any]  # 'y', and of a step the gradients of 'x', 'coarse', 'kernel', …


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What a layer is run on.

    Attributes:
      variables: of the layer, on the host, float32.
      images: 'x' and, if one is joined, 'coarse': [b, (z,) y, x, c] float32.
      gradient: of the result, likewise.
    """

    variables: dict[str, Any]
    images: dict[str, np.ndarray]
    gradient: np.ndarray


def draw_inputs(layer: Layer) -> Inputs:
    """Normal numbers."""
    rng = np.random.default_rng(0)
    images = {
        name: rng.standard_normal(shape, np.float32)
        for name, shape in zip(IMAGES, layer.inputs, strict=False)
    }
    gradient = rng.standard_normal(layer.output, np.float32)
    zeros = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in layer.inputs]
    options: dict[str, Any] = {'train': False} if isinstance(layer.module, BatchNorm) else {}
    init = functools.partial(layer.module.init, jax.random.key(0), **options)
    return Inputs(draw_like(jax.eval_shape(init, *zeros)), images, gradient)


def _with_gradients(layer: Layer, apply: Callable[..., jax.Array], kind: str) -> Callable[..., Any]:
    """A function of variables, images and gradient that gives `Results`; `apply` has no last."""

    def run(variables: Any, images: Mapping[str, jax.Array], gradient: jax.Array) -> Results:
        rest = {name: tree for name, tree in variables.items() if name != 'params'}

        def result(params: Any, images: Mapping[str, jax.Array]) -> jax.Array:
            inputs = [images[name] for name in IMAGES if name in images]  # jit sorts them
            return apply({'params': params, **rest}, *inputs)

        params = variables.get('params', {})
        if kind == 'forward':
            return {'y': result(params, images)}
        if layer.is_first:
            y, pull = jax.vjp(lambda p: result(p, images), params)
            return {'y': y, **pull(gradient)[0]}
        y, pull = jax.vjp(result, params, images)
        of_params, of_images = pull(gradient)
        return {'y': y, **of_params, **of_images}

    return run


@functools.cache
def our_layer(layer: Layer, kind: str) -> Callable[..., Results]:
    """The layer as the network calls it, compiled: variables, images, gradient → `Results`."""
    module = layer.module

    def apply(variables: Any, *images: jax.Array) -> jax.Array:
        if not isinstance(module, BatchNorm):
            return module.apply(variables, *images)  # type: ignore[return-value]
        if kind == 'forward':
            return module.apply(variables, *images, train=False)  # type: ignore[return-value]
        return module.apply(variables, *images, train=True, mutable=['batch_stats'])[0]

    return jax.jit(_with_gradients(layer, apply, kind))


def plain_layer(layer: Layer, kind: str) -> Callable[..., Results]:
    """Likewise by XLA's own operations, to compare with."""

    def apply(variables: Any, x: jax.Array, coarse: jax.Array | None = None) -> jax.Array:
        weights, module = variables['params'], layer.module
        if isinstance(module, Conv):
            if coarse is not None:
                factors = [n // m for n, m in zip(x.shape, coarse.shape, strict=True)][1:-1]
                x = jnp.concatenate([upsample(coarse, factors), x], -1)
            strides = (module.stride,) * (x.ndim - 2)
            y = lax_conv(x, weights['kernel'].astype(x.dtype), strides, explicit_pads(layer))
            return y + weights['bias'].astype(x.dtype) if module.use_bias else y
        if isinstance(module, ConvTranspose):
            return _plain_transpose(x, weights['kernel'], module.padding) + weights['bias']
        is_batch = isinstance(module, BatchNorm)
        axes = tuple(range(0 if is_batch else 1, x.ndim - 1))
        mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
        if is_batch and kind == 'forward':
            mean, var = variables['batch_stats']['mean'], variables['batch_stats']['var']
        y = (x - mean) / jnp.sqrt(var + module.epsilon)  # type: ignore[attr-defined]
        return y * weights['scale'] + weights['bias'] if is_batch else y

    run = jax.jit(_with_gradients(layer, apply, kind))

    def precise(variables: Any, images: Any, gradient: Any) -> Results:
        with jax.default_matmul_precision('float32'):
            return run({'params': {}, **variables}, images, gradient)

    return precise


def _plain_transpose(x: jax.Array, kernel: jax.Array, padding: Any) -> jax.Array:
    n_dims = x.ndim - 2
    spec = ('NHWC', 'HWIO', 'NHWC') if n_dims == 2 else ('NDHWC', 'DHWIO', 'NDHWC')
    return lax.conv_general_dilated(
        x, kernel, (1,) * n_dims, padding, (2,) * n_dims, dimension_numbers=spec
    )


def our_run(layer: Layer, kind: str, inputs: Inputs) -> Callable[[], Results]:
    """A function that runs the compiled layer on arrays of the device."""
    images = {name: jax.device_put(a.astype(layer.dtype)) for name, a in inputs.images.items()}
    gradient = jax.device_put(inputs.gradient.astype(layer.dtype))
    variables = jax.device_put(inputs.variables)
    return lambda: our_layer(layer, kind)(variables, images, gradient)


def torch_run(layer: Layer, kind: str, inputs: Inputs, layout: Any) -> Callable[[], Results]:
    """Likewise PyTorch's, in one of its memory layouts."""
    import torch

    from benchmarks import torch_layers as theirs

    torch.backends.cudnn.benchmark = True  # XLA tries its convolutions out, too
    dtype = getattr(torch, layer.dtype.name)
    like = torch.zeros((), dtype=dtype, device=torch_device())
    weights = theirs.torch_weights(layer, inputs.variables, layout, like)
    images = {name: theirs.to_torch(a, layout, like) for name, a in inputs.images.items()}
    apply = theirs.torch_layer(layer, train=kind == 'step')
    # Laid out as the result: for another layout the gradient of `instance_norm`, whose result is
    # never channels last, comes out wrong (PyTorch 2.13, CPU).
    kept = apply(weights, *images.values()).is_contiguous(memory_format=layout)
    gradient = theirs.to_torch(inputs.gradient, layout if kept else torch.contiguous_format, like)
    wanted = {name: weights[name] for name in inputs.variables.get('params', {})}
    wanted |= {} if layer.is_first else images

    def forward() -> Results:
        with torch.inference_mode():
            return {'y': apply(weights, *images.values())}

    def step() -> Results:
        y = apply(weights, *images.values())
        found = torch.autograd.grad(y, list(wanted.values()), gradient)
        return {'y': y, **dict(zip(wanted, found, strict=True))}

    if kind == 'forward':
        return forward
    for tensor in wanted.values():
        tensor.requires_grad_(True)
    return step


def on_host(layer: Layer, results: Results) -> dict[str, np.ndarray]:
    """Results of either library as this one's float32 arrays."""
    if isinstance(results['y'], jax.Array):
        return {name: np.asarray(a, np.float32) for name, a in results.items()}
    from benchmarks import torch_layers as theirs

    turn = {'kernel': lambda a: theirs.our_kernel(layer, a)}
    turn |= dict.fromkeys(('y', *IMAGES), theirs.to_numpy)
    return {
        name: turn.get(name, lambda a: a.detach().float().cpu().numpy())(a)
        for name, a in results.items()
    }


def compare(found: Results, expected: Results, dtype: Any) -> None:
    """Both on the host; the largest difference is held against the largest number.

    Raises:
      AssertionError: they differ, or not the same is there.
    """
    assert set(found) == set(expected), f'{sorted(found)} and {sorted(expected)}'
    tolerance = 1e-4 if dtype == jnp.float32 else 3e-2
    for name, values in expected.items():
        limit = tolerance * np.abs(values).max()
        np.testing.assert_allclose(found[name], values, rtol=0, atol=limit, err_msg=name)


def repeated(run: Callable[[], Results], n_calls: int, device: str | None) -> Callable[[], Results]:
    """Calls in a row; `device` is the one that PyTorch runs on, None: JAX runs."""

    def runs() -> Results:
        for _ in range(n_calls):
            results = run()
        if device is not None:
            wait_for_torch(device)
        return results

    return runs


def seconds(run: Callable[[], Results], repeats: int) -> float:
    """The shortest of some runs after a first: other jobs disturb it least."""
    jax.block_until_ready(run())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - start)
    return min(times)


def make_cases(layer: Layer, kind: str, n_calls: int) -> list[Case]:
    """Ours, and PyTorch's in both layouts if it is there."""
    inputs = draw_inputs(layer)
    device = torch_device()
    runs = {}
    if device is not None:
        from benchmarks.torch_layers import layouts

        n_dims = len(layer.output) - 2
        runs = {
            name: torch_run(layer, kind, inputs, form) for name, form in layouts(n_dims).items()
        }
    if runs:
        expected = on_host(layer, runs['PyTorch']())
    else:
        plain = plain_layer(layer, kind)
        expected = on_host(layer, plain(inputs.variables, inputs.images, inputs.gradient))

    def check(results: Results) -> None:
        compare(on_host(layer, results), expected, layer.dtype)

    def case(name: str, run: Callable[[], Results], device: str | None) -> Case:
        facts = {'n_calls': n_calls}
        shape = layer.inputs[0]
        calls = repeated(run, n_calls, device)
        return Case(name, calls, check, n_calls, 'calls/s', shape, layer.dtype.name, facts)

    ours = case('ours', our_run(layer, kind, inputs), None)
    return [ours, *(case(name, run, device) for name, run in runs.items())]


def rank(network: Network, kind: str, repeats: int) -> dict[Layer, tuple[int, float]]:
    """Distinct layers of a network → calls and seconds of one, those that take most first."""
    found = {}
    for layer, count in Counter(trace(network.model, network.shapes[kind]).layers).items():
        run = our_run(layer, kind, draw_inputs(layer))
        once = seconds(run, 1)
        n_calls = calls_for(once)
        found[layer] = count, seconds(repeated(run, n_calls, None), repeats) / n_calls
    return dict(sorted(found.items(), key=lambda item: -math.prod(item[1])))


def calls_for(once: float) -> int:
    """How many calls of so many seconds make a run that a clock can time."""
    return max(1, math.ceil(RUN_S / max(once, 1e-6)))


def measure(name: str, kind: str, *, size: str, most: int = 8, repeats: int = 3) -> list[Record]:
    """A record of each of the slowest layers of a network, the slowest first.

    Args:
      name: one of `network_layers.NETWORKS`.
      kind: 'forward' or 'step'.
      size: 'smoke', 'small' or 'full'.
      most: layers timed against PyTorch.
      repeats: timed runs.
    Raises:
      AssertionError: a layer gives other results than PyTorch's, or XLA's.
    """
    network = make_network(name, size)
    ranked = rank(network, kind, repeats)
    total = sum(count * s for count, s in ranked.values())
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')
    records = []
    for layer, (count, s) in list(ranked.items())[:most]:
        ours, *theirs = run_cases(
            QUESTION,
            make_cases(layer, kind, calls_for(s)),
            repeats=repeats,
            smoke=size == 'smoke',
            in_a_row=True,
        )
        facts = {
            'network': network.title,
            'size': size,
            'kind': kind,
            'layer': layer.name,
            'count': count,
            'share': count * s / total,
            'sum_s': total,
            'flop': flop(layer) if kind == 'forward' else step_flop(layer),
            'run': started,
            **_per_call('', ours),
            **_fastest(theirs),
        }
        title = f'{network.title}, {kind}: {layer.name}'
        records.append({**ours, 'case': title, 'baseline': title, 'facts': facts})
    return records


def _per_call(whose: str, record: Record) -> dict[str, float]:
    """Time and processor time of one call; the latter tells more where other jobs run beside."""
    n_calls = record['facts']['n_calls']
    if not record['repeats']:
        return {}
    return {f'{whose}{name}': record[name] / n_calls for name in ('run_s', 'cpu_s')}


def _fastest(theirs: Sequence[Record]) -> dict[str, Any]:
    if not theirs or not theirs[0]['repeats']:
        return {}
    best = min(theirs, key=lambda record: record['run_s'])
    return {**_per_call('torch_', best), 'torch_layout': best['case']}


def table_rows(records: Sequence[Record]) -> list[tuple[str, ...]]:
    """Heads and rows of a table: a layer a row, of the newest run of each network and pass."""
    runs: dict[tuple[Any, ...], str] = {}
    mine = [r for r in records if r['benchmark'] == QUESTION and not r['smoke'] and r['repeats']]
    for r in mine:
        runs[_run_key(r)] = max(r['facts']['run'], runs.get(_run_key(r), ''))
    heads = ('network', 'pass', 'layer', 'calls', 'ms', 'share', 'GFLOP/s', 'PyTorch, ms',
             "× PyTorch's time", 'type', 'device', 'load')  # fmt: skip
    newest = [r for r in mine if r['facts']['run'] == runs[_run_key(r)]]
    return [heads, *map(_row, newest)]


def _run_key(record: Record) -> tuple[Any, ...]:
    facts = record['facts']
    return record['device'], record['n_cores'], facts['network'], facts['kind'], facts['size']


def _row(record: Record) -> tuple[str, ...]:
    facts = record['facts']
    theirs = facts.get('torch_run_s')
    return (
        facts['network'],
        facts['kind'],
        facts['layer'],
        str(facts['count']),
        f'{1e3 * facts["run_s"]:.3g}',
        f'{facts["share"]:.0%}',
        f'{facts["flop"] / facts["run_s"] / 1e9:.3g}' if facts['flop'] else '',
        f'{1e3 * theirs:.3g}' if theirs else '',
        f'{facts["run_s"] / theirs:.2f}' if theirs else '',
        record['dtype'],
        device_name(record),
        f'{record["load"]:.1f}',
    )


def describe(record: Record) -> str:
    """One line for the terminal."""
    facts = record['facts']
    _, _, _, calls, ms, share, rate, theirs, ratio, *_ = _row(record)
    line = f'{record["case"]}: {calls} × {ms} ms, {share} of the network'
    line += f', {rate} GFLOP/s' if rate else ''
    if theirs:
        cpu = facts['cpu_s'] / facts['torch_cpu_s']
        line += f', PyTorch {theirs} ms, {ratio} × its time, {cpu:.2f} × its processor time'
    return line


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog=f'python -m benchmarks.{QUESTION}')
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument('--smoke', action='store_true', help='small sizes, nothing kept')
    sizes.add_argument('--full', action='store_true', help="the papers' sizes (accelerators: yes)")
    parser.add_argument('--only', choices=NETWORKS, default=None, help='one network')
    parser.add_argument('--kind', choices=KINDS, default=None, help='forwards or steps alone')
    parser.add_argument('--most', type=int, default=8, help='layers timed against PyTorch')
    parser.add_argument('--repeats', type=int, default=3, help='timed runs per case')
    parser.add_argument('--results', type=Path, default=None, help='folder to append results to')
    options = parser.parse_args()
    size = 'smoke' if options.smoke else 'full' if options.full else default_size()
    repeats = 1 if options.smoke else options.repeats
    for name in [options.only] if options.only else NETWORKS:
        for kind in [options.kind] if options.kind else KINDS:
            records = measure(name, kind, size=size, most=options.most, repeats=repeats)
            for record in records:
                print(describe(record), flush=True)
            keep_records(records, options.results, smoke=options.smoke)


if __name__ == '__main__':
    main()
