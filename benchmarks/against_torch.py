"""Are the 3-D networks on a CPU as fast here as in PyTorch?

    python -m benchmarks.against_torch [--smoke] [--only=cellpose3d]

For the forward pass and for one training step of each network: PyTorch with both of its memory
layouts, the faster one being the baseline, and this library, all in one process per network, with
as many threads, the same weights and the same input. A training step is forward pass, backward pass
and SGD with momentum; outputs, losses and norms of the gradients have to agree.
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
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from flax import linen as nn
from torch.nn import functional

from benchmarks import torch_networks as theirs
from benchmarks.harness import RESULTS, Case, Record, append_records, describe, run_cases
from sxt_jax.models import UNet3D
from sxt_jax.models.cellpose3d import Cellpose3DNet

QUESTION = 'against_torch'
LAYOUTS = {
    'PyTorch': torch.contiguous_format,
    'PyTorch, channels last': torch.channels_last_3d,
}
Run = Callable[[], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Pair:
    """One network here and in PyTorch.

    Attributes:
      ours, theirs: the networks.
      patch: (z, y, x) sides.
      batch: patches in a training step; the forward pass takes one.
      n_labels: classes of cross-entropy; None: squared differences of the heads.
    """

    ours: nn.Module
    theirs: torch.nn.Module
    patch: tuple[int, int, int]
    batch: int
    n_labels: int | None


def make_pair(name: str, smoke: bool) -> Pair:
    """The networks as published, or small ones."""
    torch.manual_seed(0)
    patch = (16,) * 3 if smoke else (64, 128, 128) if name == 'cellpose3d' else (64,) * 3
    if name == 'cellpose3d':
        features = 4 if smoke else 16
        return Pair(Cellpose3DNet(features), theirs.Cellpose3D(features), patch, 1, None)
    if name == 'acseg':
        filters: tuple[int, ...] = (4, 8) if smoke else (32, 64, 128, 256, 512)
        twin = theirs.UNet(filters, 2, theirs.BatchNormBlock, transposed=False)
        return Pair(UNet3D(2, filters), twin, patch, 2, 2)
    filters = (4, 8) if smoke else (32, 64, 128)
    twin = theirs.UNet(filters, 3, theirs.InstanceNormBlock, transposed=True)
    return Pair(UNet3D(3, filters, norm='instance', up='transposed'), twin, patch, 1, 3)


# The gradient through eighteen batch norms amplifies rounding. Against a float64 evaluation of the
# full network at 2 × 32³ its norm was 6e-3 off in PyTorch and 7e-5 here (2026-11-21).
GRADIENT_TOLERANCE = {'acseg': 3e-2, 'ncxt': 1e-3, 'cellpose3d': 1e-3}
NETWORKS = {'acseg': 'ACSeg U-Net', 'ncxt': 'NCXT U-Net', 'cellpose3d': 'Cellpose3D'}


def _data(pair: Pair, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Images [b, z, y, x, 1], and labels [b, z, y, x] or targets [b, z, y, x, 4]."""
    rng = np.random.default_rng(0)
    shape = (batch, *pair.patch)
    images = rng.random((*shape, 1), np.float32)
    if pair.n_labels is None:
        return images, rng.random((*shape, 4), np.float32)
    return images, rng.integers(0, pair.n_labels, shape)


def _to_torch(array: np.ndarray, layout: torch.memory_format) -> torch.Tensor:
    if array.ndim == 4:
        return torch.from_numpy(array)
    return torch.from_numpy(np.moveaxis(array, -1, 1)).contiguous(memory_format=layout)


def _laid_out(pair: Pair, layout: torch.memory_format) -> torch.nn.Module:
    network: Any = copy.deepcopy(pair.theirs)
    return network.to(memory_format=layout)


def torch_forward(pair: Pair, layout: torch.memory_format) -> Run:
    """A function that gives the output [b, z, y, x, c] of one patch in PyTorch."""
    network, images = _laid_out(pair, layout).eval(), _to_torch(_data(pair, 1)[0], layout)

    def run() -> np.ndarray:
        with torch.inference_mode():
            return network(images).moveaxis(1, -1).numpy()

    return run


def our_forward(pair: Pair, variables: dict[str, Any]) -> Run:
    """A function that gives the output [b, z, y, x, c] of one patch here."""
    images = jnp.asarray(_data(pair, 1)[0])
    apply = jax.jit(lambda variables, images: _output(pair.ours.apply(variables, images)))
    variables = jax.device_put(variables)
    return lambda: np.asarray(apply(variables, images))


def _output(heads: Any) -> jax.Array:
    if 'logits' in heads:
        return heads['logits']
    return jnp.concatenate([heads['foreground'], heads['flows']], -1)


def torch_step(pair: Pair, layout: torch.memory_format) -> Run:
    """A function that does a training step in PyTorch and gives loss and gradient norm."""
    images, targets = (_to_torch(array, layout) for array in _data(pair, pair.batch))
    network = _laid_out(pair, layout).train()
    # At rate 0 a step does all its work and leaves the weights, so that all steps give one answer.
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0, momentum=0.9)
    loss_fn = functional.mse_loss if pair.n_labels is None else functional.cross_entropy

    def run() -> np.ndarray:
        optimizer.zero_grad()
        loss = loss_fn(network(images), targets)
        loss.backward()
        optimizer.step()
        norms = [p.grad.norm() for p in network.parameters() if p.grad is not None]
        return np.array([loss.item(), torch.stack(norms).norm().item()])

    return run


def our_step(pair: Pair, variables: dict[str, Any]) -> Run:
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
        return state, jnp.stack([loss, optax.global_norm(gradient)])

    params, rest = variables['params'], {k: v for k, v in variables.items() if k != 'params'}
    states = [jax.device_put((params, rest, optimizer.init(params)))]
    donating = jax.jit(step, donate_argnums=0)

    def run() -> np.ndarray:
        state, answer = donating(states.pop())
        states.append(state)
        return np.asarray(answer)

    return run


def make_cases(name: str, kind: str, smoke: bool) -> list[Case]:
    """PyTorch's faster layout, its other one, and ours.

    Args:
      name: of the network, one of `NETWORKS`.
      kind: 'forward' or 'step'.
      smoke: small sizes.
    """
    pair = make_pair(name, smoke)
    variables = theirs.to_variables(pair.theirs)
    torch_run, our_run = {
        'forward': (torch_forward, our_forward),
        'step': (torch_step, our_step),
    }[kind]
    runs = {layout: torch_run(pair, form) for layout, form in LAYOUTS.items()}
    expected = runs['PyTorch']()

    def check(found: np.ndarray) -> None:
        if kind == 'step':
            np.testing.assert_allclose(found[0], expected[0], rtol=1e-3)
            np.testing.assert_allclose(found[1], expected[1], rtol=GRADIENT_TOLERANCE[name])
        else:
            np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())

    batch = pair.batch if kind == 'step' else 1
    shape = (batch, *pair.patch)
    work, unit = (1.0, 'steps/s') if kind == 'step' else (np.prod(shape) / 1e6, 'Mvoxel/s')
    facts = {'threads': torch.get_num_threads(), 'torch': torch.__version__}
    title = f'{NETWORKS[name]}, {"training step" if kind == "step" else "forward"}'

    def case(label: str, run: Run) -> Case:
        return Case(f'{title}: {label}', run, check, work, unit, shape, facts=facts)

    ordered = sorted(runs, key=lambda layout: _seconds(runs[layout]))
    ours = our_run(pair, variables)
    return [*(case(layout, runs[layout]) for layout in ordered), case('ours', ours)]


def _seconds(run: Run) -> float:
    """The shorter of two runs after a first."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def run_pair(name: str, *, smoke: bool, repeats: int) -> list[Record]:
    """Records of a network, forward pass and training step."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    return [
        record
        for kind in ('forward', 'step')
        for record in run_cases(
            QUESTION, make_cases(name, kind, smoke), repeats=repeats, smoke=smoke
        )
    ]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog=f'python -m benchmarks.{QUESTION}')
    parser.add_argument('--smoke', action='store_true', help='small sizes, nothing kept')
    parser.add_argument('--repeats', type=int, default=3, help='timed runs per case')
    parser.add_argument('--only', choices=NETWORKS, default=None, help='one network')
    parser.add_argument('--results', type=Path, default=None, help='folder to append results to')
    options = parser.parse_args()
    if options.only is None:
        # Each in its own process: gigabytes that a network before has left to the C library's
        # allocator made PyTorch's smaller ones up to 1.5 times as fast as they are by themselves.
        for name in NETWORKS:
            command = [sys.executable, '-m', f'benchmarks.{QUESTION}', f'--only={name}']
            subprocess.run([*command, *sys.argv[1:]], check=True)
        return
    repeats = 1 if options.smoke else options.repeats
    records = run_pair(options.only, smoke=options.smoke, repeats=repeats)
    for record in records:
        print(f'{describe(record)}, {record["cpu_s"]:.2f} s of processor time', flush=True)
    folder = options.results or (None if options.smoke else RESULTS)
    if folder is not None:
        append_records(records, folder)


if __name__ == '__main__':
    main()
