"""Does the host memory of `launch.segment` grow with the volume?

    python -m benchmarks.streaming_memory [--smoke]

A TIFF is segmented to a TIFF of labels and one of probabilities, by what `launch.segment` calls for
a file, once for a small and once for a deep volume, each in a process of its own; and likewise with
a network that works on a fixed grid, as the published ACSeg does. The peak is of anonymous memory:
pages of mapped files, which the system may drop at will, do not count. All volumes are many slabs
deep: with two or three slabs, reading ahead and writing behind are never at work together.
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

from benchmarks.harness import Case, Record, add_result_options, describe, keep_records, run_cases
from sxt_jax.core.devices import make_device_mesh
from sxt_jax.data.classes import Classes
from sxt_jax.data.intensity import Intensity
from sxt_jax.io import open_volume, open_writer
from sxt_jax.pipelines.segment_volume import Options, Segmenter, probability_path, segment_file

QUESTION = 'streaming_memory'
VOXEL_SIZE_NM = (30.0, 20.0, 20.0)
GRIDS = {'own grid': None, 'fixed grid': 64}  # sides of the grid the network works on
SIZES: dict[str, Any] = {'shapes': [(512, 160, 160), (2560, 160, 160)], 'tile': 64, 'smoke': False}
# Peaks differ by up to 45 MiB from run to run: growth to be found must be far above that.
SMOKE: dict[str, Any] = {'shapes': [(256, 96, 96), (4096, 96, 96)], 'tile': 32, 'smoke': True}


def bright(variables: Any, tiles: jax.Array) -> dict[str, jax.Array]:
    """Cheap, with a known answer: class 1 where the mean over 3³ voxels is above 1/2."""
    mean = tiles
    for axis in (1, 2, 3):
        longer = jnp.pad(mean, [(int(a == axis),) * 2 for a in range(5)], mode='edge')
        n = mean.shape[axis]
        three = [jax.lax.slice_in_dim(longer, i, i + n, axis=axis) for i in range(3)]
        mean = jnp.mean(jnp.stack(three), axis=0)
    return {'probs': jnp.concatenate([1 - mean, mean], axis=-1)}


def make_segmenter(grid: str, tile: int) -> Segmenter:
    """What `load_segmenter` would make of a checkpoint."""
    side = GRIDS[grid]
    return Segmenter(
        apply_fn=bright,
        variables=None,
        classes=Classes(('background', 'bright'), (0, 1)),
        intensity=Intensity('unit'),
        n_channels=1,
        working_shape=None if side is None else (side,) * 3,
        tiling={'tile': tile, 'overlap': 4, 'blend': 'cosine', 'batch_size': 1},
        voxel_size_nm=VOXEL_SIZE_NM,
        device_mesh=make_device_mesh(),
    )


def make_volume(path: Path, shape: tuple[int, int, int]) -> None:
    """A TIFF that grows from dark to bright along z, with noise; written slice by slice."""
    rng = np.random.default_rng(0)
    options: Any = {'shape': shape, 'dtype': np.uint8, 'voxel_size_nm': VOXEL_SIZE_NM}
    with open_writer(path, **options) as writer:
        for z in range(shape[0]):
            gray = 255 * z / (shape[0] - 1) + rng.normal(0, 4, (1, *shape[1:]))
            writer.write(z, np.clip(np.rint(gray), 0, 255).astype(np.uint8))


def check_file(target: Path, shape: tuple[int, int, int]) -> None:
    """Labels and probabilities of some slices all along the volume."""
    labels, probs = open_volume(target), open_volume(probability_path(target))
    assert labels.shape == probs.shape == shape
    assert labels.voxel_size_nm == VOXEL_SIZE_NM
    for share in (0.02, 0.25, 0.48, 0.52, 0.75, 0.98):
        z = round(share * (shape[0] - 1))
        np.testing.assert_array_equal(np.asarray(labels.data[z]), share > 0.5)
        assert abs(np.mean(probs.data[z][..., 1]) - share) < 0.03


def measure_here(shape: tuple[int, int, int], tile: int, grid: str, folder: Path) -> Record:
    """The record of one size, measured in this process."""
    source, target = folder / 'volume.tif', folder / 'labels' / 'volume.tif'
    make_volume(source, shape)
    segmenter = make_segmenter(grid, tile)
    case = Case(
        f'segment_file, {grid}',
        run=lambda: segment_file(segmenter, source, target, options=Options(probabilities=True)),
        check=lambda _: check_file(target, shape),
        work=np.prod(shape, dtype=float) / 1e6,
        unit='Mvoxel/s',
        shape=shape,
        facts={'tile': tile, 'output_bytes': int(np.prod(shape)) * (1 + 2 * 4)},
        compiles=False,  # it does, for a second; one run is what a file takes, and enough
    )
    (record,) = run_cases(QUESTION, [case], repeats=1)
    return record


def measure_apart(shape: tuple[int, int, int], tile: int, grid: str) -> Record:
    """The record of one size, measured in a new process."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, '-m', 'benchmarks.streaming_memory', '--folder', folder]
        command += ['--tile', str(tile), '--grid', grid, '--shape', *map(str, shape)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f'the measuring process failed:\n{done.stderr}')
    record: Record = json.loads(done.stdout.splitlines()[-1])
    return record


def compare(
    *, shapes: list[tuple[int, int, int]], tile: int, grid: str, smoke: bool
) -> list[Record]:
    """Records of all sizes; the first is the baseline of rate and memory."""
    records = [measure_apart(shape, tile, grid) for shape in shapes]
    for record in records:
        record['smoke'] = smoke
        record['ratio'] = record['rate'] / records[0]['rate']
        record['facts']['peak_ratio'] = record['peak_host_bytes'] / records[0]['peak_host_bytes']
    return records


def main() -> None:
    parser = argparse.ArgumentParser(prog='python -m benchmarks.streaming_memory')
    add_result_options(parser)
    parser.add_argument('--folder', type=Path, help='(for the measuring process)')
    parser.add_argument('--shape', type=int, nargs=3, help='(for the measuring process)')
    parser.add_argument('--grid', choices=GRIDS, help='(for the measuring process)')
    parser.add_argument('--tile', type=int, default=SIZES['tile'], help='side of the tiles')
    options = parser.parse_args()
    if options.shape:
        shape = tuple(options.shape)
        print(json.dumps(measure_here(shape, options.tile, options.grid, options.folder)))
        return
    sizes = SMOKE if options.smoke else {**SIZES, 'tile': options.tile}
    records = [record for grid in GRIDS for record in compare(grid=grid, **sizes)]
    for record in records:
        print(f'{describe(record)} ({record["facts"]["peak_ratio"]:.3f} × that of the smallest)')
    keep_records(records, options.results, smoke=options.smoke)


if __name__ == '__main__':
    main()
