"""Are the networks as fast here as in PyTorch?

    python -m benchmarks.against_torch [--smoke | --small] [--only=cellpose3d] [--compiled]

For the forward pass and for one training step of each network: PyTorch with both of its memory
layouts, the fastest one being the baseline, and this library, all in one process per network, with
as many threads, the same weights and the same input. A training step is forward pass, backward pass
and SGD with momentum; outputs, losses and norms of the gradients have to agree. On GPUs both
compute in bfloat16 (PyTorch by its autocast), and what `torch.compile` makes of the network is a
case, too; on CPUs with --compiled.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from flax import linen as nn
from torch.nn import functional

from benchmarks import torch_networks as theirs
from benchmarks.device_peaks import torch_device
from benchmarks.harness import Case, Record, add_result_options, describe, keep_records, run_cases
from benchmarks.slice_latency import draw_variables
from sxt_jax.core.devices import compute_dtype, is_accelerated
from sxt_jax.models import DoubleDecoder, UNet3D
from sxt_jax.models.cellpose3d import Cellpose3DNet

QUESTION = 'against_torch'
NETWORKS = {
    'acseg': 'ACSeg U-Net',
    'ncxt': 'NCXT U-Net',
    'cellpose3d': 'Cellpose3D',
    'deep_sxt': 'deep_sxt, label',
}
Run = Callable[[], np.ndarray]

# The gradient through eighteen batch norms amplifies rounding. Against a float64 evaluation of the
# full network at 2 × 32³ its norm was 6e-3 off in PyTorch and 7e-5 here (2026-11-21).
GRADIENT_TOLERANCE = {'acseg': 3e-2, 'ncxt': 1e-3, 'cellpose3d': 1e-3, 'deep_sxt': 3e-2}
# Bfloat16 keeps eight bits, and roundings add up from layer to layer.
ON_ACCELERATORS = {'output': 0.1, 'loss': 5e-2, 'gradient': 0.3}


@dataclasses.dataclass(frozen=True)
class Pair:
    """One network here and in PyTorch.

    Attributes:
      ours, theirs: the networks.
      variables: of ours; theirs has the same weights.
      patch: (z, y, x) or (y, x) sides.
      batch: patches in a training step; the forward pass takes one.
      n_labels: classes of cross-entropy; None: squared differences of the heads.
      n_outputs: channels of the heads together.
    """

    ours: nn.Module
    theirs: torch.nn.Module
    variables: dict[str, Any]
    patch: tuple[int, ...]
    batch: int
    n_labels: int | None
    n_outputs: int


@dataclasses.dataclass(frozen=True)
class Layout:
    """One way to run PyTorch.

    Attributes:
      channels_last: of the memory.
      compiled: by `torch.compile`.
    """

    channels_last: bool = False
    compiled: bool = False

    def __str__(self) -> str:
        parts = ('channels last' * self.channels_last, 'compiled' * self.compiled)
        return ', '.join(['PyTorch', *filter(None, parts)])

    def memory(self, n_dims: int) -> torch.memory_format:
        """The same as PyTorch calls it."""
        if not self.channels_last:
            return torch.contiguous_format
        return torch.channels_last if n_dims == 2 else torch.channels_last_3d


def make_pair(name: str, size: str) -> Pair:
    """The networks as published, of patches of published sides ('full') or half of them ('small').

    With 'smoke' narrow ones, of tiny patches.
    """
    smoke, part = size == 'smoke', 2 if size == 'small' else 1
    torch.manual_seed(0)
    dtype = compute_dtype('auto')
    sides = (64, 128, 128) if name == 'cellpose3d' else (64,) * 3
    patch = (16,) * 3 if smoke else tuple(n // part for n in sides)
    if name == 'deep_sxt':
        slices = DoubleDecoder(width=4 if smoke else 64, heads=('label',), dtype=dtype)
        variables = draw_variables(slices)
        twin: torch.nn.Module = theirs.DoubleDecoder(slices.width, slices.heads)
        theirs.from_variables(twin, variables)
        return Pair(slices, twin, variables, (64, 64) if smoke else (256 // part,) * 2, 1, None, 1)
    if name == 'cellpose3d':
        features = 4 if smoke else 16
        twin = theirs.Cellpose3D(features)
        ours: nn.Module = Cellpose3DNet(features, dtype=dtype)
        return Pair(ours, twin, theirs.to_variables(twin), patch, 1, None, 4)
    if name == 'acseg':
        filters: tuple[int, ...] = (4, 8) if smoke else (32, 64, 128, 256, 512)
        twin = theirs.UNet(filters, 2, theirs.BatchNormBlock, transposed=False)
        ours = UNet3D(2, filters, dtype=dtype)
        return Pair(ours, twin, theirs.to_variables(twin), patch, 2, 2, 2)
    filters = (4, 8) if smoke else (32, 64, 128)
    twin = theirs.UNet(filters, 3, theirs.InstanceNormBlock, transposed=True)
    ours = UNet3D(3, filters, norm='instance', up='transposed', dtype=dtype)
    return Pair(ours, twin, theirs.to_variables(twin), patch, 1, 3, 3)


def _data(pair: Pair, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Images [b, …, 1], and labels [b, …] or targets [b, …, k]."""
    rng = np.random.default_rng(0)
    shape = (batch, *pair.patch)
    images = rng.random((*shape, 1), np.float32)
    if pair.n_labels is None:
        return images, rng.random((*shape, pair.n_outputs), np.float32)
    return images, rng.integers(0, pair.n_labels, shape)


def their_device() -> str:
    """Where PyTorch runs: on the kind of device that JAX does.

    Raises:
      SystemExit: it is not installed for that.
    """
    device = torch_device()
    if device is None:
        raise SystemExit('PyTorch is not installed for this device: nothing to compare with')
    return device


def _to_torch(array: np.ndarray, layout: Layout) -> torch.Tensor:
    tensor = torch.from_numpy(array)
    if array.dtype.kind == 'f':
        tensor = tensor.moveaxis(-1, 1).contiguous(memory_format=layout.memory(array.ndim - 2))
    return tensor.to(their_device())


def _laid_out(pair: Pair, layout: Layout) -> Callable[[torch.Tensor], torch.Tensor]:
    """What gives all heads, in float32."""
    network: Any = copy.deepcopy(pair.theirs)
    device = their_device()
    network = network.to(device, memory_format=layout.memory(len(pair.patch)))
    called = torch.compile(network) if layout.compiled else network
    on_gpu = device != 'cpu'

    def forward(images: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=on_gpu):
            heads = called(images)
        return (heads['label'] if isinstance(heads, dict) else heads).float()

    forward.network = network  # type: ignore[attr-defined]
    return forward


def torch_forward(pair: Pair, layout: Layout) -> Run:
    """A function that gives the output [b, …, c] of one patch in PyTorch."""
    forward: Any = _laid_out(pair, layout)
    forward.network.eval()
    images = _to_torch(_data(pair, 1)[0], layout)

    def run() -> np.ndarray:
        with torch.inference_mode():
            return forward(images).moveaxis(1, -1).cpu().numpy()

    return run


def our_forward(pair: Pair) -> Run:
    """A function that gives the output [b, …, c] of one patch here."""
    images = jnp.asarray(_data(pair, 1)[0])
    apply = jax.jit(lambda variables, images: _output(pair.ours.apply(variables, images)))
    variables = jax.device_put(pair.variables)
    return lambda: np.asarray(apply(variables, images))


def _output(heads: Any) -> jax.Array:
    for name in ('logits', 'label'):
        if name in heads:
            return heads[name]
    return jnp.concatenate([heads['foreground'], heads['flows']], -1)


def torch_step(pair: Pair, layout: Layout) -> Run:
    """A function that does a training step in PyTorch and gives loss and gradient norm."""
    images, targets = (_to_torch(array, layout) for array in _data(pair, pair.batch))
    forward: Any = _laid_out(pair, layout)
    network = forward.network.train()
    # At rate 0 a step does all its work and leaves the weights, so that all steps give one answer.
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0, momentum=0.9)
    loss_fn = functional.mse_loss if pair.n_labels is None else functional.cross_entropy

    def run() -> np.ndarray:
        optimizer.zero_grad()
        loss = loss_fn(forward(images), targets)
        loss.backward()
        optimizer.step()
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients, foreach=None)
        return np.array([loss.item(), norm.item()])

    return run


def our_step(pair: Pair) -> Run:
    """A function that does a training step here and gives loss and gradient norm."""
    images, targets = map(jnp.asarray, _data(pair, pair.batch))
    optimizer = optax.sgd(0.0, momentum=0.9)

    def loss_fn(params: Any, rest: Any) -> tuple[jax.Array, Any]:
        heads, rest = pair.ours.apply(
            {'params': params, **rest}, images, train=True, mutable=list(rest)
        )
        output = _output(heads)
        if pair.n_labels is None:
            return jnp.mean(jnp.square(output - targets)), rest
        one_hot = jax.nn.one_hot(targets, pair.n_labels)
        return optax.softmax_cross_entropy(output, one_hot).mean(), rest

    def step(state: Any) -> tuple[Any, jax.Array]:
        params, rest, momenta = state
        (loss, rest), gradient = jax.value_and_grad(loss_fn, has_aux=True)(params, rest)
        updates, momenta = optimizer.update(gradient, momenta, params)
        state = optax.apply_updates(params, updates), rest, momenta
        return state, jnp.stack([loss, optax.tree.norm(gradient)])

    params, rest = (
        pair.variables['params'],
        {k: v for k, v in pair.variables.items() if k != 'params'},
    )
    states = [jax.device_put((params, rest, optimizer.init(params)))]
    donating = jax.jit(step, donate_argnums=0)

    def run() -> np.ndarray:
        state, answer = donating(states.pop())
        states.append(state)
        return np.asarray(answer)

    return run


def make_checks(name: str, expected: np.ndarray) -> dict[str, Callable[[np.ndarray], None]]:
    """Of a 'forward' pass and of a 'step', against PyTorch's."""
    fast = is_accelerated()
    output = ON_ACCELERATORS['output'] if fast else 1e-3
    loss = ON_ACCELERATORS['loss'] if fast else 1e-3
    gradient = ON_ACCELERATORS['gradient'] if fast else GRADIENT_TOLERANCE[name]

    def forward(found: np.ndarray) -> None:
        np.testing.assert_allclose(found, expected, atol=output * np.abs(expected).max())

    def step(found: np.ndarray) -> None:
        np.testing.assert_allclose(found[0], expected[0], rtol=loss)
        np.testing.assert_allclose(found[1], expected[1], rtol=gradient)

    return {'forward': forward, 'step': step}


def make_cases(name: str, kind: str, size: str, *, compiled: bool = False) -> list[Case]:
    """PyTorch's fastest way, its other ones, and ours.

    Args:
      name: of the network, one of `NETWORKS`.
      kind: 'forward' or 'step'.
      size: 'full', 'small' or 'smoke'.
      compiled: whether `torch.compile` is timed, too.
    """
    pair = make_pair(name, size)
    torch_run, our_run = {
        'forward': (torch_forward, our_forward),
        'step': (torch_step, our_step),
    }[kind]
    ways = [Layout(), Layout(channels_last=True)]
    if compiled:
        ways += [dataclasses.replace(way, compiled=True) for way in ways]
    runs = {str(way): torch_run(pair, way) for way in ways}
    check = make_checks(name, runs[str(ways[0])]())[kind]
    batch = pair.batch if kind == 'step' else 1
    shape = (batch, *pair.patch)
    unit = 'steps/s' if kind == 'step' else ('Mvoxel/s', 'Mpixel/s')[len(pair.patch) == 2]
    work = 1.0 if kind == 'step' else np.prod(shape) / 1e6
    facts = {'threads': torch.get_num_threads(), 'torch': torch.__version__}
    title = f'{NETWORKS[name]}, {"training step" if kind == "step" else "forward"}'

    def case(label: str, run: Run) -> Case:
        dtype = jnp.dtype(compute_dtype('auto')).name
        return Case(f'{title}: {label}', run, check, work, unit, shape, dtype, facts)

    ordered = sorted(runs, key=lambda way: _seconds(runs[way]))
    return [*(case(way, runs[way]) for way in ordered), case('ours', our_run(pair))]


def _seconds(run: Run) -> float:
    """The shorter of two runs after a first."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def run_pair(name: str, *, size: str, repeats: int, compiled: bool = False) -> list[Record]:
    """Records of a network, forward pass and training step."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.backends.cudnn.benchmark = True  # XLA tries its convolutions out, too
    return [
        record
        for kind in ('forward', 'step')
        for record in run_cases(
            QUESTION,
            make_cases(name, kind, size, compiled=compiled),
            repeats=repeats,
            smoke=size == 'smoke',
            in_a_row=True,
        )
    ]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog=f'python -m benchmarks.{QUESTION}')
    add_result_options(parser)
    parser.add_argument('--small', action='store_true', help='half of the sides of patches')
    parser.add_argument('--repeats', type=int, default=3, help='timed runs per case')
    parser.add_argument('--only', choices=NETWORKS, default=None, help='one network')
    parser.add_argument('--compiled', action='store_true', help='torch.compile on CPUs, too')
    options = parser.parse_args()
    if options.only is None:
        # Each in its own process: gigabytes that a network before has left to the C library's
        # allocator made PyTorch's smaller ones up to 1.5 times as fast as they are by themselves.
        for name in NETWORKS:
            command = [sys.executable, '-m', f'benchmarks.{QUESTION}', f'--only={name}']
            subprocess.run([*command, *sys.argv[1:]], check=True)
        return
    repeats = 1 if options.smoke else options.repeats
    compiled = options.compiled or is_accelerated()
    size = 'smoke' if options.smoke else 'small' if options.small else 'full'
    records = run_pair(options.only, size=size, repeats=repeats, compiled=compiled)
    for record in records:
        print(f'{describe(record)}, {record["cpu_s"]:.2f} s of processor time', flush=True)
    keep_records(records, options.results, smoke=options.smoke)


if __name__ == '__main__':
    main()
