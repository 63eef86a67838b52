"""How do training and inference scale over the devices of a machine, and what do these exchange?

    python -m benchmarks.scaling [--devices=1,2,4,8] [--smoke] [--full]

The training step of the ACSeg U-Net and its tiled inference, each in two ways: 'strong' is the same
batch or volume over more devices, 'weak' a batch or volume that grows with them. One device is the
baseline; efficiency is the rate over that of one device, by device. Every answer is first compared
with that of one device for the same batch or volume.

Traffic is what each device gives to collective operations in a step or a volume, by kind, as the
compiled programs have it (`benchmarks.traffic`). Beside it stands what data parallelism needs: of a
step the float32 gradients, of a volume the blended probabilities and weights of its voxels. A step
that moves more than gradients, statistics of batch normalisation and a few scalars, and inference
that moves anything but sums, is an error.

Devices are the first of those that JAX finds. Where there is only a CPU they are made up, and share
its cores: answers and traffic are real then, times are not, and no efficiency is told. Convolutions
are XLA's own there, as on accelerators: those made for CPUs have larger gradients.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import Case, Record, add_result_options, describe, keep_records, run_cases
from benchmarks.tiled_inference import PUBLISHED_FILTERS
from benchmarks.traffic import Traffic, count_traffic, watch_inference
from benchmarks.training_steps import OneBatch, xla_convolutions
from configs.acseg import get_config
from sxt_jax.core.blocks import bucket
from sxt_jax.core.devices import (
    compute_dtype,
    is_accelerated,
    make_device_mesh,
    replicated,
    split_batch,
)
from sxt_jax.data.augment import Augmentation
from sxt_jax.inference import make_apply_fn, predict_volume
from sxt_jax.inference.apply import ApplyFn
from sxt_jax.models import UNet3D
from sxt_jax.training.objectives import Objective, make_segmentation_loss
from sxt_jax.training.optimizers import make_optimizer
from sxt_jax.training.state import TrainState, create_state
from sxt_jax.training.step import make_train_step

QUESTION = 'scaling'
DEVICES = (1, 2, 4, 8)
WAYS = ('strong', 'weak')
FEW_SCALARS = 16  # loss, accuracy, …
N_LABELS = UNet3D.n_labels
Answer = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What is computed.

    Attributes:
      filters: of the U-Net.
      side: of training patches, voxels.
      share: patches of a device, of the batches that grow; others have those of `most` devices.
      most: the largest number of devices.
      n_steps: steps in a run.
      tile: side of inference tiles, which overlap by half.
      depth: slices of a device, of the volumes that grow; others have those of `most` devices.
      sides: (y, x) of the slices.
    """

    filters: tuple[int, ...]
    side: int
    share: int
    most: int
    n_steps: int
    tile: int
    depth: int
    sides: tuple[int, int]

    @property
    def patch(self) -> tuple[int, int, int]:
        return (self.side,) * 3

    def amount(self, way: str, n_devices: int) -> int:
        """How many shares there are to compute."""
        return n_devices if way == 'weak' else self.most


@dataclasses.dataclass(frozen=True)
class Job:
    """Work on some devices.

    Attributes:
      run: does it once.
      traffic: bytes that each device exchanges in a step, or for a volume.
      needed: bytes that it must exchange where there are several.
      allowed: bytes that it may exchange.
    """

    run: Callable[[], Answer]
    traffic: Traffic
    needed: int
    allowed: int


def choose_sizes(kind: str, n_devices: int) -> Sizes:
    """Sizes for a machine; of a 'full' run one device can still hold all there is.

    Args:
      kind: 'smoke', 'default' or 'full'.
      n_devices: the largest number of them.
    """
    if kind == 'smoke':
        return Sizes((2, 4), 8, 1, n_devices, 2, 8, 8, (16, 16))
    if not is_accelerated() and kind == 'default':
        return Sizes((4, 8), 16, 1, n_devices, 2, 16, 16, (32, 32))
    if kind == 'default':
        return Sizes(PUBLISHED_FILTERS, 64, 3, n_devices, 10, 64, 64, (256, 256))
    return Sizes(PUBLISHED_FILTERS, 64, 8, n_devices, 20, 64, 128, (512, 512))


@functools.lru_cache
def published_network(sizes: Sizes) -> tuple[UNet3D, Objective, TrainState]:
    """The U-Net, how it is trained, and its freshly initialised state on the first device."""
    config = get_config()
    model = UNet3D(filters=sizes.filters, dtype=compute_dtype('auto'))
    stream: Any = OneBatch(sizes.share, sizes.patch)  # only what is asked of it here
    objective = Objective(
        name='supervised',
        stream=stream,
        loss=make_segmentation_loss(dict(config.loss)),
        optimizer=make_optimizer(config.optimizer, n_steps=sizes.n_steps),
        augmentation=Augmentation.from_config(config.augmentation),
    )
    alone, shape = make_device_mesh(jax.devices()[:1]), (1, *sizes.patch, 1)
    key = jax.random.key(0)
    return (
        model,
        objective,
        create_state(key, model, [objective], input_shape=shape, device_mesh=alone),
    )


def make_training(sizes: Sizes, n_shares: int, n_devices: int) -> Job:
    """Steps of the published training from one start, on a batch of that many shares."""
    model, objective, state = published_network(sizes)
    device_mesh, key = make_device_mesh(jax.devices()[:n_devices]), jax.random.key(0)
    first = jax.device_put(state, replicated(device_mesh))
    patches = OneBatch(sizes.share * n_shares, sizes.patch).batch(0)
    batch = jax.device_put(patches, split_batch(device_mesh))
    step: Any = make_train_step(model, objective, device_mesh=device_mesh)
    with contextlib.nullcontext() if is_accelerated() else xla_convolutions():
        program = step.lower(first, batch, key).compile()

    def run() -> Answer:
        state, seen = jax.tree.map(jnp.copy, first), []
        for _ in range(sizes.n_steps):
            state, metrics = program(state, batch, key)
            seen.append(metrics)
        on_host, statistics = jax.device_get((seen, jax.tree.leaves(state.batch_stats)))
        answer = {name: np.array([m[name] for m in on_host]) for name in ('loss', 'gradient_norm')}
        return {**answer, 'statistics': np.concatenate(statistics)}

    gradients, statistics = (4 * _n_numbers(t) for t in (first.params, first.batch_stats))
    allowed = gradients + statistics + 4 * FEW_SCALARS
    return Job(run, count_traffic(program.as_text()), gradients, allowed)


def _n_numbers(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def volume_shape(sizes: Sizes, n_shares: int) -> tuple[int, int, int]:
    """Of a volume of that many shares."""
    return sizes.depth * n_shares, *sizes.sides


@functools.lru_cache
def published_inference(sizes: Sizes) -> tuple[ApplyFn, Any]:
    """One function of tiles for all jobs, as what is compiled is kept by it, and its variables."""
    model, _, state = published_network(sizes)
    return make_apply_fn(model), jax.device_get(state.variables)


def make_inference(sizes: Sizes, n_shares: int, n_devices: int) -> Job:
    """A volume of that many shares, into host memory."""
    apply_fn, variables = published_inference(sizes)
    shape = volume_shape(sizes, n_shares)
    image = np.random.default_rng(0).standard_normal(shape, np.float32)
    options: Any = {'tile': sizes.tile, 'overlap': sizes.tile // 2, 'blend': 'constant'}
    options['device_mesh'] = make_device_mesh(jax.devices()[:n_devices])

    def run() -> Answer:
        return predict_volume(apply_fn, variables, image, **options)

    with watch_inference() as meter:
        run()
    values = 4 * (N_LABELS + 1)  # bytes of a voxel: probabilities and weight
    # Slices are handed on in whole chunks, of which the last may be next to empty.
    z, y, x = 2 * shape[0], bucket(shape[1]), bucket(shape[2])
    return Job(run, meter.traffic, values * int(np.prod(shape)), values * z * y * x)


TASKS: Mapping[str, Callable[[Sizes, int, int], Job]] = {
    'training': make_training,
    'inference': make_inference,
}


def check_traffic(job: Job, n_devices: int) -> None:
    """Nothing is exchanged but sums, and no more of them than needed; nothing by one device.

    Raises:
      AssertionError: telling what is.
    """
    kinds = {'all-reduce', 'reduce-scatter'} if n_devices > 1 else set()
    assert set(job.traffic) <= kinds, f'{job.traffic} bytes between {n_devices} devices'
    total = sum(job.traffic.values())
    assert total <= job.allowed, f'{job.traffic}: {total} bytes, {job.allowed} are allowed'
    if n_devices > 1:  # half of it where gradients are summed in bfloat16
        assert 2 * total >= job.needed, f'{job.traffic}: {total} bytes, {job.needed} are needed'


def make_cases(task: str, way: str, devices: Sequence[int], sizes: Sizes) -> list[Case]:
    """A case for each number of devices, of which the first is 1."""
    return [_case(task, way, n, sizes) for n in devices]


@functools.lru_cache
def make_job(task: str, sizes: Sizes, n_shares: int, n_devices: int) -> Job:
    """What both ways have in common is compiled once."""
    return TASKS[task](sizes, n_shares, n_devices)


@functools.lru_cache
def answer_of_one(task: str, sizes: Sizes, n_shares: int) -> Answer:
    """What one device makes of that many shares."""
    return make_job(task, sizes, n_shares, 1).run()


def _case(task: str, way: str, n: int, sizes: Sizes) -> Case:
    n_shares = sizes.amount(way, n)
    job, expected = make_job(task, sizes, n_shares, n), answer_of_one(task, sizes, n_shares)

    def check(found: Answer) -> None:
        check_traffic(job, n)
        check_answer(task, found, expected)

    shape: tuple[int, ...] = volume_shape(sizes, n_shares)
    work, unit = float(np.prod(shape)) / 1e6, 'Mvoxel/s'
    if task == 'training':
        shape = (sizes.share * n_shares, *sizes.patch)
        work, unit = float(shape[0] * sizes.n_steps), 'patches/s'
    facts = {
        'task': task,
        'way': way,
        'devices': n,
        'fake': not is_accelerated(),
        'filters': list(sizes.filters),
        'traffic': job.traffic,
        'needed_bytes': job.needed if n > 1 else 0,
    }
    name, dtype = f'{task}, {way}, {n}', jnp.dtype(compute_dtype('auto')).name
    return Case(name, job.run, check, work, unit, shape, dtype, facts)


def check_answer(task: str, found: Answer, expected: Answer) -> None:
    """Several devices find what one does, but for rounding."""
    assert found.keys() == expected.keys()
    near: dict[str, Any] = {'rtol': 5e-2 if is_accelerated() else 1e-3, 'atol': 1e-5}
    if task == 'inference':
        near = {'rtol': 0, 'atol': 3e-2 if is_accelerated() else 1e-4}
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, err_msg=name, **near)


def measure(devices: Sequence[int], sizes: Sizes, *, repeats: int, smoke: bool) -> list[Record]:
    """Records of all tasks and ways, with the efficiency where devices are real."""
    records = []
    for task in TASKS:
        for way in WAYS:
            cases = make_cases(task, way, devices, sizes)
            records += run_cases(QUESTION, cases, repeats=repeats, smoke=smoke)
    for record in records:
        facts = record['facts']
        facts['efficiency'] = None if facts['fake'] else record['ratio'] / facts['devices']
    return records


HEADS = ('task', 'scaling', 'devices', 'shape', 'type', 'device', 'time', 'rate', 'efficiency',
         'traffic of a device', 'needed')  # fmt: skip


def table_rows(records: Sequence[Record]) -> list[tuple[str, ...]]:
    """Heads and rows of a table, the newest of each kind; of fake devices no times."""
    newest = {
        (f['task'], f['way'], r['platform'], r['device'], f['devices'], *r['shape'], r['dtype']): r
        for r in records
        if r['benchmark'] == QUESTION and not r['smoke'] and r['repeats']
        for f in (r['facts'],)
    }
    return [HEADS, *(_row(record) for record in newest.values())]


def _row(record: Record) -> tuple[str, ...]:
    facts = record['facts']
    steps = record['shape'][0] / record['rate'] if facts['task'] == 'training' else record['run_s']
    times = ('fake',) * 3
    if not facts['fake']:
        rate = f'{record["rate"]:.3g} {record["unit"]}'
        times = (f'{steps:.3g} s', rate, f'{facts["efficiency"]:.2f}')
    return (
        facts['task'],
        facts['way'],
        str(facts['devices']),
        '×'.join(map(str, record['shape'])),
        record['dtype'],
        f'fake, of {record["n_cores"]} CPU cores' if facts['fake'] else record['device'],
        *times,
        describe_traffic(facts['traffic']),
        f'{facts["needed_bytes"] / 1e6:.3g} MB' if facts['needed_bytes'] else 'nothing',
    )


def describe_traffic(traffic: Traffic) -> str:
    """'all-reduce 1.2 MB, …', or 'nothing'."""
    parts = [f'{kind} {n_bytes / 1e6:.3g} MB' for kind, n_bytes in sorted(traffic.items())]
    return ', '.join(parts) or 'nothing'


def make_devices(n: int) -> None:
    """Let the CPU pass for that many devices, which matters where JAX finds nothing else.

    To be called before JAX looks for devices.
    """
    if 'xla_force_host_platform_device_count' not in os.environ.get('XLA_FLAGS', ''):
        jax.config.update('jax_num_cpu_devices', n)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--devices', help='numbers of them; default: those of 1,2,4,8 there are')
    add_result_options(parser)
    parser.add_argument('--full', action='store_true', help='sizes for large machines')
    parser.add_argument('--repeats', type=int, default=3, help='timed runs of each')
    args = parser.parse_args()
    asked = sorted({1, *map(int, args.devices.split(','))}) if args.devices else list(DEVICES)
    make_devices(max(asked))
    devices = [n for n in asked if n <= jax.device_count()]
    if args.devices and devices != asked:
        parser.error(f'--devices={args.devices}: there are {jax.device_count()}')
    kind = 'smoke' if args.smoke else 'full' if args.full else 'default'
    repeats = 1 if args.smoke else args.repeats
    sizes = choose_sizes(kind, max(devices))
    records = measure(devices, sizes, repeats=repeats, smoke=args.smoke)
    for record in records:
        told = 'times of fake devices tell nothing' if record['facts']['fake'] else ''
        if not told:
            told = f'efficiency {record["facts"]["efficiency"]:.2f}'
        print(f'{describe(record)}; {told}; {describe_traffic(record["facts"]["traffic"])}')
    keep_records(records, args.results, smoke=args.smoke)


if __name__ == '__main__':
    main()
