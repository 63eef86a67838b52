"""How well are cells told apart on real images, trained on one part of a stack?

    python -m benchmarks.real_cells --image=FILE --labels=FILE --output=DIR [--kind=heat]
        [--steps=2000] [--test_fraction=1/3] [--axis=y] [--dataset=NAME] [--label_dataset=NAME]
        [--patch=32,64,64] [--features=8]
    python -m benchmarks.real_cells --smoke --output=DIR

The stack is cut across one axis. Cells that the cut divides count in each part as what is left of
them there. `configs/cellpose3d.py` is trained on the first part, with small patches, mirror images
and Adam since one stack and some thousand steps are all there is, for a number of steps that is
given beforehand: the second part is segmented once, at the end, and scored. Everything goes through
the pipelines of the launch scripts. DIR gets both parts, the run, the instances and a picture; the
same command goes on with a training that was stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from skimage.color import hsv2rgb
from skimage.segmentation import find_boundaries

from benchmarks.harness import Record, add_result_options, keep_records, machine
from benchmarks.scenes import make_cells, n_cells_in
from configs import cellpose3d
from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import Volume
from sxt_jax.instances.gradient_maps import KINDS
from sxt_jax.io import read_volume, write_volume
from sxt_jax.metrics import (
    average_precision,
    contingency_table,
    matched_dice,
    panoptic_quality,
)
from sxt_jax.pipelines.segment_volume import Options, segment_files
from sxt_jax.pipelines.train_network import plot_curves, train_network
from sxt_jax.plots import save_figure
from sxt_jax.plots.figures import new_figure, scale_bar

AXES = 'zyx'
STEPS_PER_EPOCH = 250
SMALL_STACK = {
    'batch_size': 2,
    'data.patch': (24, 40, 40),
    'data.validation_fraction': 0.0,
    'distortion.shuffle_side': 9,
    'distortion.inpaint_side': 5,
    'augmentation.flip_axes': 'zyx',
    'augmentation.rotate_90': True,
    'augmentation.scale': 0.2,
    'augmentation.shift': 0.1,
    'optimizer.name': 'adam',  # of some thousand steps RAdam takes two to warm up
    'optimizer.schedule': 'cosine',
    'inference.tile': (24, 40, 40),
    'inference.overlap': (8, 16, 16),
    'checkpoint.evaluate_every': 1,
}
SMOKE = {
    'model.features': 2,
    'data.patch': (16, 16, 16),
    'distortion.probability': 0.0,
    'distortion.shuffle_side': 5,
    'distortion.inpaint_side': 3,
    'inference.tile': (16, 24, 24),
    'inference.overlap': (8, 8, 8),
    'inference.batch_size': 4,
}
SIMULATED = (32, 72, 64)
_COLUMNS = (
    'data', 'flows', 'features', 'steps', 'training', 'cells trained on', 'cells', 'found',
    'mean Dice', 'AP@0.5', 'PQ',
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Part:
    """One side of the cut."""

    image: Volume
    labels: Volume

    @property
    def n_cells(self) -> int:
        return len(_sizes(self.labels))

    def write(self, folder: Path) -> Part:
        """As a pair of `launch.train`."""
        write_volume(folder / 'images' / 'stack.tif', self.image)
        write_volume(folder / 'labels' / 'stack.tif', self.labels)
        return self


def cut(image: Volume, labels: Volume, *, axis: str, test_fraction: float) -> tuple[Part, Part]:
    """What is trained on, and the last part of the axis, which is tested on.

    Raises:
      InputError: shapes differ, or a part has no cells.
    """
    if labels.shape != image.shape:
        raise InputError('labels', f'shape {labels.shape}', f'{image.shape} as the image')
    number = AXES.index(axis)
    n = image.shape[number]
    at = n - round(test_fraction * n)
    parts = []
    for name, chosen in (('training', slice(0, at)), ('test', slice(at, n))):
        index = tuple(chosen if a == number else slice(None) for a in range(3))
        part = Part(
            image.with_data(np.asarray(image.data[index]), axes=image.axes),
            labels.with_data(np.asarray(labels.data[index]), axes='zyx'),
        )
        if not part.n_cells:
            raise InputError(f'{name} part', f'no cells along {axis}', 'a cut that leaves cells')
        parts.append(part)
    return parts[0], parts[1]


def _sizes(labels: Volume) -> np.ndarray:
    """Voxels of every cell."""
    ids, sizes = np.unique(labels.data, return_counts=True)
    return sizes[ids > 0]


def typical_radius(labels: Volume) -> float:
    """Of the ball with the median volume of the cells, in voxels along x."""
    size = labels.voxel_size_nm or (1.0, 1.0, 1.0)
    volume = np.median(_sizes(labels)) * math.prod(side / size[2] for side in size)
    return float(np.cbrt(3 * volume / (4 * math.pi)))


def fields_of(patch: Sequence[int] | None, features: int | None) -> dict[str, Any]:
    """Fields of the config: where patches are larger, a step takes one of them."""
    fields: dict[str, Any] = {} if features is None else {'model.features': features}
    if patch is not None:
        fields |= {'data.patch': tuple(patch), 'inference.tile': tuple(patch), 'batch_size': 1}
    return fields


def make_config(
    folder: Path,
    *,
    kind: str,
    steps: int,
    fields: Mapping[str, Any] | None = None,
    smoke: bool = False,
) -> Any:
    """The config of Cellpose3D for one small stack."""
    per_epoch = min(steps, STEPS_PER_EPOCH)
    fields = {**SMALL_STACK, **(fields or {}), **(SMOKE if smoke else {})}
    config = cellpose3d.get_config()
    config.update_from_flattened_dict({
        **fields,
        'flows.kind': kind,
        'data.train': str(folder),
        'data.steps_per_epoch': per_epoch,
        'epochs': math.ceil(steps / per_epoch),
    })  # fmt: skip
    return config


def run(
    parts: tuple[Part, Part],
    name: str,
    output: Path,
    *,
    kind: str,
    steps: int,
    fields: Mapping[str, Any] | None = None,
    smoke: bool = False,
) -> Record:
    """Train on the first part, segment the second, score and draw it."""
    train, test = parts
    for folder, part in (('train', train), ('test', test)):
        part.write(output / folder)
    config = make_config(output / 'train', kind=kind, steps=steps, fields=fields, smoke=smoke)
    fresh, begun = not (output / 'run').exists(), time.monotonic()
    train_network(config, output / 'run')
    training_s = round(time.monotonic() - begun) if fresh else None  # of a part it says nothing
    plot_curves(output / 'run', output / 'curves.png')
    radius = typical_radius(train.labels)
    begun = time.monotonic()
    found = segment(output / 'run', output / 'test' / 'images', output / 'instances', radius)
    segmenting_s = time.monotonic() - begun
    save_figure(output / 'comparison.png', picture(test.image, test.labels.data, found))
    return {
        'benchmark': 'real_cells',
        'smoke': smoke,
        'data': name,
        'flows': kind,
        'features': config.model.features,
        'patch': list(config.data.patch),
        'batch_size': config.batch_size,
        'steps': config.epochs * config.data.steps_per_epoch,
        'cells_trained': train.n_cells,
        'cell_radius': round(radius, 2),
        **score(found, test.labels.data),
        'training_s': training_s,
        'segmenting_s': round(segmenting_s, 1),
        **machine(),
    }


def segment(checkpoint: Path, image: Path, output: Path, cell_radius: float) -> np.ndarray:
    """Instances of the only image of a folder.

    Raises:
      InputError: it could not be segmented.
    """
    options = Options(instances=True, cell_radius=cell_radius, probabilities=True)
    (outcome,) = segment_files(checkpoint, image, output, options=options)
    if outcome.error:
        raise InputError(outcome.source, outcome.error, 'an image that can be segmented')
    return read_volume(outcome.labels).data


def score(found: np.ndarray, truth: np.ndarray) -> dict[str, float | int]:
    """Scores of cells, rounded for the record."""
    table = contingency_table(found, truth)
    return {
        'cells': len(table.true_ids),
        'found': len(table.pred_ids),
        'matched_dice': round(matched_dice(table).mean, 4),
        'ap_50': round(float(average_precision(table, thresholds=(0.5,)).ap[0]), 4),
        'pq': round(panoptic_quality(table).pq, 4),
    }


def picture(image: Volume, truth: np.ndarray, found: np.ndarray) -> Figure:
    """Three slices, each with its true and its predicted cells in the colours of their ids.

    A predicted cell that is the best match of a true one has its colour.
    """
    size = tuple(side / 1000 for side in image.voxel_size_nm) if image.voxel_size_nm else (1.0,) * 3
    gray = np.asarray(image.data, np.float32)
    low, high = np.percentile(gray, (1, 99.5))
    gray = np.clip((gray - low) / max(high - low, 1e-6), 0, 1)
    panels = {'image': None, 'truth': truth, 'prediction': _named_alike(found, truth)}
    depth, height, width = truth.shape
    drawn = new_figure(9, 3 * 3 * (height * size[1]) / (width * size[2]) + 0.4)
    rows = drawn.subplots(3, 3, squeeze=False)
    for axes, title in zip(rows[0], panels, strict=True):
        axes.set_title(title, fontsize=9, pad=3)
    for row, share in zip(rows, (0.25, 0.5, 0.75), strict=True):
        z = int(share * depth)
        for axes, cells in zip(row, panels.values(), strict=True):
            _draw(axes, gray[z], None if cells is None else cells[z], size)
        row[0].set_ylabel(f'z = {z}', fontsize=8)
    unit = 'µm' if image.voxel_size_nm else 'voxels'
    scale_bar(rows[0, 0], extent=(width * size[2], height * size[1]), unit=unit)
    return drawn


def _named_alike(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Predicted cells with the ids of the true cells that they match; others get unused ids."""
    matched = matched_dice(found, truth)
    names = np.arange(int(found.max(initial=0)) + 1) + int(truth.max(initial=0))
    names[0] = 0
    order = np.argsort(matched.dice)  # of several true cells the best one gives the name
    hit = order[matched.matches[order] > 0]
    names[matched.matches[hit].astype(int)] = matched.labels[hit]
    return names[found]


def _draw(axes: Axes, gray: np.ndarray, cells: np.ndarray | None, size: Sequence[float]) -> None:
    shown = np.repeat(gray[..., None], 3, -1)
    if cells is not None:
        hues = colours_of(cells)
        inside = (cells > 0)[..., None]
        shown = np.where(inside, 0.55 * shown + 0.45 * hues, shown)
        shown = np.where(find_boundaries(cells, mode='inner')[..., None], hues, shown)
    height, width = gray.shape
    axes.imshow(shown, extent=(0, width * size[2], height * size[1], 0), interpolation='nearest')
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def colours_of(cells: np.ndarray) -> np.ndarray:
    """[…, 3] a colour for each id, always the same; ids that follow each other differ much."""
    ids = cells.astype(np.float64)
    hue, tone = (ids * 0.61803) % 1, (ids * 0.41421) % 1
    colours: np.ndarray = hsv2rgb(np.stack([hue, 0.55 + 0.45 * tone, 1 - 0.25 * tone], -1))
    return colours


def table_rows(records: Sequence[Record]) -> list[tuple[str, ...]]:
    """Heads and rows of a table: the newest record of each image and way of training."""
    newest = {
        (r['data'], r['flows'], r['features'], *r['patch'], r['steps']): r
        for r in records
        if r['benchmark'] == 'real_cells' and not r['smoke']
    }
    rows = [
        (
            r['data'],
            r['flows'],
            str(r['features']),
            f'{r["steps"]:,}',
            f'{r["training_s"] / 60:.0f} min' if r['training_s'] else '',
            *(str(r[name]) for name in ('cells_trained', 'cells', 'found')),
            *(f'{r[name]:.3f}' for name in ('matched_dice', 'ap_50', 'pq')),
        )
        for r in newest.values()
    ]
    return [_COLUMNS, *rows]


def simulate() -> tuple[Volume, Volume]:
    """A small stack of cells with dark borders."""
    labels = make_cells(SIMULATED, n_cells_in(SIMULATED))
    rng = np.random.default_rng(0)
    bright = (labels > 0) & ~find_boundaries(labels, mode='inner')
    image = 20 + 100 * bright + 8 * rng.standard_normal(labels.shape)
    return Volume(image.astype(np.float32)), Volume(labels.astype(np.uint16))


def _sides(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(',')))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--image', help='gray values, [z, y, x]')
    parser.add_argument('--labels', help='ids of cells, 0 outside')
    parser.add_argument('--dataset', help='of the image, in HDF5 or OME-Zarr')
    parser.add_argument('--label_dataset', help='of the labels')
    parser.add_argument('--name', help='of the data, in the results; default: the image’s')
    parser.add_argument('--kind', choices=KINDS, default='heat', help='of the flows')
    parser.add_argument('--steps', type=int, default=2000)
    parser.add_argument('--test_fraction', type=Fraction, default=Fraction(1, 3))
    parser.add_argument('--axis', choices=list(AXES), default='y')
    parser.add_argument('--patch', type=_sides, help='z,y,x voxels; default: 24,40,40')
    parser.add_argument('--features', type=int, help='of the network; default: 16, as published')
    parser.add_argument('--output', type=Path, required=True)
    add_result_options(parser, smoke='simulated cells, nothing kept')
    options = parser.parse_args()
    logging.set_verbosity(logging.INFO)
    if options.smoke:
        image, labels = simulate()
    elif options.image and options.labels:
        image = read_volume(options.image, dataset=options.dataset)
        labels = read_volume(options.labels, dataset=options.label_dataset)
    else:
        parser.error('--image and --labels, or --smoke')
    parts = cut(image, labels, axis=options.axis, test_fraction=float(options.test_fraction))
    name = options.name or ('simulated' if options.smoke else Path(options.image).stem)
    steps = min(4, options.steps) if options.smoke else options.steps
    record = run(
        parts,
        name,
        options.output,
        kind=options.kind,
        steps=steps,
        fields=fields_of(options.patch, options.features),
        smoke=options.smoke,
    )
    print({key: record[key] for key in ('data', 'cells', 'found', 'matched_dice', 'ap_50', 'pq')})
    keep_records([record], options.results, smoke=options.smoke)


if __name__ == '__main__':
    main()
