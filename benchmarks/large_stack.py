"""Does a stack that is many times larger than the memory pass through `launch.segment`?

    python -m benchmarks.large_stack --folder=DIR [--gib=1,4,64] [--variant=context] [--width=4]
        [--sides=4000,6000]

A stack of slices of 4000 × 6000 pixels, as FIB-SEM gives them, uint8, in a Zarr of which next to
nothing is stored: of 64 slices a corner, the rest being one gray value, and then the same again by
links in the file system. A ResUNet of random weights, of the width given (64 as published),
segments it as a command of its own, from a checkpoint in DIR, to an OME-Zarr of labels. With
`context` pixels are binned 4 × 4 and probabilities enlarged again, as the paper does; with `full`
they are not; with `cells` there are two maps, which are written as well.

Told are the greatest resident memory of that command, libraries and all, and the rate; checked is
that slices that are alike are labelled alike all along the stack, and not all the same. DIR gets a
byte a voxel at most; results that are there from an earlier command are removed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tensorstore as ts
from ml_collections import ConfigDict
from scipy import ndimage

from benchmarks.harness import RESULTS, Record, append_records, machine
from configs import fibsem
from sxt_jax.data.cell_maps import CODES
from sxt_jax.data.classes import Classes
from sxt_jax.data.datasets import Example
from sxt_jax.data.intensity import Intensity
from sxt_jax.io import open_volume
from sxt_jax.pipelines.segment_volume import probability_path
from sxt_jax.pipelines.train_network import build_network, describe_network
from sxt_jax.pipelines.training_data import TrainingData
from sxt_jax.training.checkpoint import save_checkpoint

QUESTION = 'large_stack'
VARIANTS = {'context': 'context', 'full': '', 'cells': 'cells_context'}
CHUNK = (16, 256, 256)
PERIOD = 64  # slices, after which the stack begins again
VOXEL_NM = (4.0, 4.0, 4.0)
LIMIT_GIB = 6.0


def make_stack(path: Path, shape: tuple[int, int, int]) -> None:
    """A plain Zarr 2 array: `PERIOD` slices are written, the others are links to their chunks.

    Of a slice, a corner of 4 × 4 chunks has blobs in noise; the rest is one gray value, of which
    nothing is stored.
    """
    period = (min(PERIOD, shape[0]), *shape[1:])
    spec = {
        'driver': 'zarr',
        'kvstore': {'driver': 'file', 'path': f'{path.resolve()}/'},
        'metadata': {
            'shape': shape, 'chunks': CHUNK, 'dtype': '|u1', 'fill_value': 120,
            'compressor': {'id': 'zstd', 'level': 1}, 'dimension_separator': '/',
        },
    }  # fmt: skip
    array = ts.open(spec, create=True, delete_existing=True).result()
    rng = np.random.default_rng(0)
    sides = tuple(min(4 * c, n) for c, n in zip(CHUNK[1:], shape[1:], strict=True))
    for z in range(0, period[0], CHUNK[0]):
        depth = min(CHUNK[0], period[0] - z)
        blobs = ndimage.gaussian_filter(rng.standard_normal((1, *sides)), (0, 12, 12)) > 0.02
        gray = 120 + 40 * blobs + rng.normal(0, 8, (depth, *sides))
        array[z : z + depth, : sides[0], : sides[1]] = np.clip(gray, 0, 255).astype(np.uint8)
    n_rows = -(-period[0] // CHUNK[0])
    for row in range(n_rows, -(-shape[0] // CHUNK[0])):
        (path / str(row)).symlink_to(str(row % n_rows), target_is_directory=True)
    attributes = {'axes': list('zyx'), 'voxel_size_nm': VOXEL_NM}
    (path / '.zattrs').write_text(json.dumps(attributes))


def make_config(variant: str, width: int) -> ConfigDict:
    """The published experiment with a network of that width."""
    config = fibsem.get_config(VARIANTS[variant])
    config.model.width = width
    return config


def make_checkpoint(folder: Path, config: ConfigDict) -> None:
    """What a training writes, with weights as they are drawn."""
    classes = CODES if config.model.heads == 'cells' else Classes(('background', 'blob'), (0, 1))
    model = build_network(config, n_classes=2)
    labels = np.zeros((1, 16, 16), np.int16)
    example = Example('none', labels[..., None].astype(np.float32), labels, None)
    facts = describe_network(
        config, model, TrainingData([example], [], classes, Intensity('slice'))
    )
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 64, 64, 1)))
    tree = {name: jax.device_get(variables[name]) for name in ('params', 'batch_stats')}
    save_checkpoint(folder, 0, tree, facts)


def run_command(command: list[str]) -> tuple[float, int]:
    """Seconds, and greatest resident memory in bytes, of a command that must succeed."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    told = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f'{command}: {told.decode()[-3000:]}')
    return time.perf_counter() - start, usage.ru_maxrss * 1024


def check_labels(path: Path, shape: tuple[int, int, int]) -> None:
    """Slices a period apart are equal, and have more than one class."""
    labels = open_volume(path)
    assert labels.shape == shape, (labels.shape, shape)
    assert labels.voxel_size_nm == VOXEL_NM
    for z in {0, min(17, shape[0] - 1)}:
        first = np.asarray(labels.data[z])
        assert len(np.unique(first)) > 1, f'slice {z} has one class'
        last = z + (shape[0] - 1 - z) // PERIOD * PERIOD
        np.testing.assert_array_equal(np.asarray(labels.data[last]), first)


def measure(
    folder: Path, n_slices: int, *, variant: str, width: int, sides: tuple[int, int]
) -> Record:
    """Segment a stack of that many slices."""
    shape = (n_slices, *sides)
    source, output, run = folder / 'stack.zarr', folder / 'labels', folder / f'{variant}_{width}'
    for path in (source, output, run):
        shutil.rmtree(path, ignore_errors=True)
    make_stack(source, shape)
    make_checkpoint(run, make_config(variant, width))
    command = [sys.executable, '-m', 'launch.segment', f'--checkpoint={run}', f'--input={source}',
               f'--output={output}']  # fmt: skip
    if variant == 'cells':
        command.append('--probabilities')
    seconds, peak = run_command(command)
    check_labels(output / source.name, shape)
    if variant == 'cells':
        assert open_volume(probability_path(output / source.name)).data.shape == (*shape, 2)
    shutil.rmtree(output)
    n_voxels = float(np.prod(shape, dtype=float))
    return {
        'benchmark': QUESTION,
        'case': f'{variant}, width {width}',
        'variant': variant,
        'width': width,
        'shape': list(shape),
        'stack_gib': n_voxels / 2**30,
        'seconds': seconds,
        'mvoxel_per_s': n_voxels / 1e6 / seconds,
        'peak_rss_gib': peak / 2**30,
    }


def describe(records: list[Record]) -> str:
    """A line a size, and how the memory grows."""
    lines = [
        f'{r["case"]}: {r["stack_gib"]:.2f} GiB, {r["shape"][0]} slices: peak '
        f'{r["peak_rss_gib"]:.2f} GiB, {r["mvoxel_per_s"]:.1f} Mvoxel/s, {r["seconds"]:.0f} s'
        for r in records
    ]
    if len(records) > 1:
        first, last = records[0], records[-1]
        more, larger = (last[k] - first[k] for k in ('peak_rss_gib', 'stack_gib'))
        lines.append(f'growth: {1024 * more:.0f} MiB for {larger:.2f} GiB more of the stack')
    return '\n'.join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--folder', type=Path, required=True)
    parser.add_argument('--gib', default='1,4', help='sizes of the stacks')
    parser.add_argument('--variant', choices=VARIANTS, default='context')
    parser.add_argument('--width', type=int, default=4, help='of the network')
    parser.add_argument('--sides', default='4000,6000', help='(y, x) of the slices')
    parser.add_argument('--smoke', action='store_true', help='small sizes, nothing kept')
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    y, x = (600, 700) if args.smoke else map(int, args.sides.split(','))
    options: dict[str, Any] = {'variant': args.variant, 'width': args.width, 'sides': (y, x)}
    n_slices = [round(float(g) * 2**30 / (y * x)) for g in args.gib.split(',')]
    records = []
    for n in [70, 140] if args.smoke else n_slices:
        records.append({**measure(args.folder, n, **options), 'smoke': args.smoke, **machine()})
        print(describe(records), flush=True)
    over = [r for r in records if r['peak_rss_gib'] > LIMIT_GIB]
    if not args.smoke:
        append_records(records, RESULTS)
    if over:
        sys.exit(f'more than {LIMIT_GIB} GiB of memory: {describe(over)}')


if __name__ == '__main__':
    main()
