"""Does the host memory of streaming inference grow with the volume?

    python -m benchmarks.streaming_memory [--smoke]

A volume is read lazily from a file and its prediction is written slab by slab to another, once for
a small and once for a deep volume, each in a process of its own. The peak is of anonymous memory:
pages of memory-mapped files, which the system may drop at will, do not count. Both volumes are many
slabs deep: with two or three slabs, reading ahead and writing behind are never at work together.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from benchmarks.harness import RESULTS, Case, Record, append_records, describe, run_cases
from sxt_jax.inference import predict_slabs

QUESTION = 'streaming_memory'
REACH = 1  # voxels that `blur` looks to either side


def blur(variables: Any, tiles: jax.Array) -> dict[str, jax.Array]:
    """Two channels, cheap and with a known answer: the mean over 3³ voxels, and the voxel."""
    mean = tiles
    for axis in (1, 2, 3):
        mean = (mean + jnp.roll(mean, 1, axis) + jnp.roll(mean, -1, axis)) / 3
    return {'out': jnp.concatenate([mean, tiles], axis=-1)}


def make_volume(path: Path, shape: tuple[int, int, int]) -> None:
    """A .npy file of uint8 noise, written slice by slice."""
    rng = np.random.default_rng(0)
    volume = np.lib.format.open_memmap(path, mode='w+', dtype=np.uint8, shape=shape)
    for z in range(shape[0]):
        volume[z] = rng.integers(0, 256, shape[1:], np.uint8)


def predict_file(source: Path, target: Path, *, tile: int) -> Path:
    """Predict from file to file, holding no more than slabs."""
    image = np.load(source, mmap_mode='r')
    slabs = predict_slabs(
        blur, None, image, tile=tile, overlap=4, margin=REACH, blend='constant', batch_size=1
    )
    out = np.lib.format.open_memmap(target, mode='w+', dtype=np.float32, shape=(*image.shape, 2))
    for slab in slabs:
        out[slab.z_start : slab.z_stop] = slab.heads['out']
    return target


def check_file(source: Path, target: Path) -> None:
    """Compare with SciPy some slices at the end of the volume, where a slab gone wrong shows."""
    image, out = np.load(source, mmap_mode='r'), np.load(target, mmap_mode='r')
    last = np.asarray(image[-6:], np.float32)
    np.testing.assert_allclose(out[-5:, ..., 1], last[1:], atol=1e-3)
    mean = ndimage.uniform_filter(last, 3)
    np.testing.assert_allclose(out[-5:-1, 1:-1, 1:-1, 0], mean[1:-1, 1:-1, 1:-1], atol=1e-2)


def measure_here(shape: tuple[int, int, int], tile: int, folder: Path) -> Record:
    """The record of one size, measured in this process."""
    source, target = folder / 'volume.npy', folder / 'prediction.npy'
    make_volume(source, shape)
    case = Case(
        'slab by slab, file to file',
        run=lambda: predict_file(source, target, tile=tile),
        check=lambda answer: check_file(source, answer),
        work=np.prod(shape, dtype=float) / 1e6,
        unit='Mvoxel/s',
        shape=shape,
        facts={'tile': tile, 'output_bytes': int(np.prod(shape)) * 2 * 4},
    )
    (record,) = run_cases(QUESTION, [case], repeats=1)
    return record


def measure_apart(shape: tuple[int, int, int], tile: int) -> Record:
    """The record of one size, measured in a new process."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, '-m', 'benchmarks.streaming_memory', '--folder', folder]
        command += ['--tile', str(tile), '--shape', *map(str, shape)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f'the measuring process failed:\n{done.stderr}')
    record: Record = json.loads(done.stdout.splitlines()[-1])
    return record


def compare(shapes: list[tuple[int, int, int]], tile: int, *, smoke: bool) -> list[Record]:
    """Records of all sizes; the first is the baseline of rate and memory."""
    records = [measure_apart(shape, tile) for shape in shapes]
    for record in records:
        record['smoke'] = smoke
        record['ratio'] = record['rate'] / records[0]['rate']
        record['facts']['peak_ratio'] = record['peak_host_bytes'] / records[0]['peak_host_bytes']
    return records


def main() -> None:
    parser = argparse.ArgumentParser(prog='python -m benchmarks.streaming_memory')
    parser.add_argument('--smoke', action='store_true', help='small sizes, nothing kept')
    parser.add_argument('--results', type=Path, default=None, help='folder to append results to')
    parser.add_argument('--folder', type=Path, help='(for the measuring process)')
    parser.add_argument('--shape', type=int, nargs=3, help='(for the measuring process)')
    parser.add_argument('--tile', type=int, default=64, help='side of the tiles')
    options = parser.parse_args()
    if options.shape:
        print(json.dumps(measure_here(tuple(options.shape), options.tile, options.folder)))
        return
    shapes, tile = [(512, 256, 256), (2048, 256, 256)], options.tile
    if options.smoke:
        shapes, tile = [(256, 96, 96), (1280, 96, 96)], 32
    records = compare(shapes, tile, smoke=options.smoke)
    for record in records:
        print(f'{describe(record)} ({record["facts"]["peak_ratio"]:.3f} × that of the smallest)')
    folder = options.results or (None if options.smoke else RESULTS)
    if folder is not None:
        append_records(records, folder)


if __name__ == '__main__':
    main()
