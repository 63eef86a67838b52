"""Does a network learn as much of smart-interpolated labels as of the hand-labelled slices alone?

    python -m benchmarks.interpolated_training --output=DIR [--every=8] [--sizes=1,2,4]
        [--repeats=3] [--steps=300]
    python -m benchmarks.interpolated_training --smoke --output=DIR

Simulated tomograms of T cells and beads, of which every `--every`-th slice is labelled by hand
(truth). The same small U-Net is trained for the same number of steps on n of them,

- `sparse`: on the labelled slices, other voxels do not count;
- `interpolated`: on what `labelling.interpolate` makes of these slices;
- `dense`: on the truth of every slice, the upper bound,

and scored on tomograms that no training saw. Everything goes through the pipelines of the launch
scripts. DIR gets data, trainings, scores and the learning curves; the same command goes on with
what was stopped. Published for real tomograms, every 20th slice labelled: Erozan et al. 2024.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging

from benchmarks.harness import Record, add_result_options, keep_records, machine
from configs import demo
from sxt_jax.core.progress import progress_bar
from sxt_jax.core.volume import Volume
from sxt_jax.data.phantom import merge_labels, t_cell
from sxt_jax.io import write_volume
from sxt_jax.labelling import interpolate
from sxt_jax.metrics import dice
from sxt_jax.pipelines.evaluation import Columns, groups, statistics
from sxt_jax.pipelines.learning_curve import measure_scores
from sxt_jax.pipelines.learning_curve_fit import (
    average_tomograms,
    fit_curves,
    join_tables,
    report,
    save_curves,
)

METHODS = ('sparse', 'interpolated', 'dense')
TARGETS = (0.9, 0.95)
UNLABELLED = 255
SMALL_NETWORK = {
    'epochs': 1,
    'data.validation_fraction': 0.0,  # n tomograms are n tomograms; the last weights are taken
    'data.patch': (24, 24, 24),
    'inference.tile': (24, 24, 24),
    'inference.overlap': (12, 12, 12),
}
SMOKE: dict[str, Any] = {
    'model.filters': (4, 8),
    'model.pool_sizes': ((2, 2, 2),),
    'batch_size': 2,
    'data.patch': (16, 16, 16),
    'inference.tile': (16, 16, 16),
    'inference.overlap': (8, 8, 8),
}


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What is simulated, and how often and on how much of it a network is trained.

    Attributes:
      every: distance of labelled slices.
      sizes: numbers of tomograms trained on.
      repeats: trainings of each size.
      steps: of each training.
      side: of the tomograms, in voxels.
      n_test: tomograms to score on.
      seed: of the first tomogram; the next ones have the next.
      fields: of the config, that differ.
    """

    every: int = 8
    sizes: tuple[int, ...] = (1, 2, 4)
    repeats: int = 3
    steps: int = 300
    side: int = 64
    n_test: int = 3
    seed: int = 100
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def simulate(experiment: Experiment, folder: Path) -> dict[str, dict[str, float]]:
    """Write tomograms to train on, their labels of each method, and tomograms to test on.

    Returns:
      Method → class → mean Dice of the labels in all voxels, for 'interpolated'.
    """
    n = experiment.n_test + max(experiment.sizes)
    found: dict[str, list[float]] = {}
    for i in progress_bar(range(n), unit='tomogram', desc='simulating'):
        tomogram = t_cell(experiment.seed + i, shape=(experiment.side,) * 3)
        truth, names = merge_labels(tomogram.labels.data, 'acseg')
        size, name = tomogram.labels.voxel_size_nm, f'cell_{i:02d}.tif'
        if i < experiment.n_test:
            write_volume(folder / 'test' / 'images' / name, tomogram.image)
            unseen = Volume(truth, size, class_names=names)
            write_volume(folder / 'test' / 'labels' / name, unseen)
            continue
        # The first labelled slice differs, or all tomograms would have theirs at the same heights.
        first = (i * 3) % experiment.every
        by_method = label(np.asarray(tomogram.image.data), truth, first, experiment.every, seed=i)
        write_volume(folder / 'images' / name, tomogram.image)
        for method, labels in by_method.items():
            write_volume(folder / method / name, Volume(labels, size, class_names=names))
        for value, class_name in names.items():
            if value and (truth == value).any():
                made = by_method['interpolated']
                found.setdefault(class_name, []).append(float(dice(made == value, truth == value)))
    return {'interpolated': {name: float(np.mean(values)) for name, values in found.items()}}


def label(
    image: np.ndarray, truth: np.ndarray, first: int, every: int, *, seed: int
) -> dict[str, np.ndarray]:
    """Labels of each method, where slices `first`, `first` + `every`, … are labelled by hand."""
    sparse = np.full_like(truth, UNLABELLED)
    sparse[first::every] = truth[first::every]
    made = interpolate(
        image,
        sparse,
        key=jax.random.key(seed),
        unlabelled=UNLABELLED,  # else slices of nothing but background would not count
        keep_slices=True,
        keep_hits=False,
    )
    labels = made.labels.astype(truth.dtype)
    return dict(zip(METHODS, (sparse, labels, truth), strict=True))


def make_config(experiment: Experiment, folder: Path, method: str) -> Any:
    """The demo's network, trained on the labels of a method."""
    config = demo.get_config()
    config.update_from_flattened_dict({
        **SMALL_NETWORK,
        'data.train': str(folder / 'images'),
        'data.labels': str(folder / method),
        'data.classes': 'cytoplasm=1,beads=2',
        'data.ignore_value': UNLABELLED,
        'data.steps_per_epoch': experiment.steps,
        **experiment.fields,
    })  # fmt: skip
    return config


def run(
    experiment: Experiment, output: Path, *, methods: Sequence[str] = METHODS
) -> tuple[Columns, list[Record]]:
    """Simulate, train, segment and score.

    Returns:
      One row a training and class; and a record of each method, class and size.
    """
    quality = simulate(experiment, output / 'data')
    tables: dict[str, Columns] = {}
    for repeats in range(1, experiment.repeats + 1):  # the first curves of all methods come first
        for method in methods:
            tables[method] = measure_scores(
                make_config(experiment, output / 'data', method),
                output / 'data' / 'test',
                output / method,
                sizes=experiment.sizes,
                repeats=repeats,
                method=method,
            )
    points = average_tomograms(join_tables(list(tables.values())))
    told = {name: getattr(experiment, name) for name in ('every', 'steps', 'side', 'n_test')}
    records = []
    for which, chosen in groups(points, ('method', 'class', 'n_tomograms')):
        found = statistics(points['dice'][chosen])
        label_dice = quality.get(which['method'], {}).get(which['class'])
        records.append({
            'benchmark': 'interpolated_training',
            **which,
            'mean_dice': round(float(found['mean']), 4),
            'sd_dice': None if found['n'] < 2 else round(float(found['sd']), 4),
            'n': found['n'],
            'label_dice': None if label_dice is None else round(label_dice, 4),
            **told,
        })  # fmt: skip
    return points, records


def table_rows(records: Sequence[Record]) -> list[tuple[str, ...]]:
    """Heads and rows of a table: mean ± SD of Dice by class and number of tomograms."""
    newest = {
        (r['every'], r['class'], int(r['n_tomograms']), r['method']): r
        for r in records
        if r['benchmark'] == 'interpolated_training' and not r['smoke']
    }
    rows = []
    for every, name, n in dict.fromkeys(key[:3] for key in newest):
        cells = [newest.get((every, name, n, method)) for method in METHODS]
        shown = [_cell(record) if record else '' for record in cells]
        rows.append((f'every {every}th', name, str(n), *shown))
    return [('labelled slices', 'class', 'tomograms', *METHODS), *rows]


def _cell(record: Record) -> str:
    spread = '' if record['sd_dice'] is None else f' ± {record["sd_dice"]:.3f}'
    return f'{record["mean_dice"]:.3f}{spread}'


def smallest_gain(points: Columns) -> float:
    """Of mean Dice over repeats, interpolated − sparse: the least of all classes and sizes."""
    means = {
        tuple(which.values()): points['dice'][chosen].mean()
        for which, chosen in groups(points, ('method', 'class', 'n_tomograms'))
    }
    pairs = [key[1:] for key in means if key[0] == 'sparse']
    return float(min(means['interpolated', *key] - means['sparse', *key] for key in pairs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--output', type=Path, required=True)
    parser.add_argument('--every', type=int, default=8, help='distance of labelled slices')
    parser.add_argument('--sizes', default='1,2,4', help='numbers of tomograms')
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--steps', type=int, default=300, help='of each training')
    add_result_options(parser, smoke='minutes less, nothing kept')
    options = parser.parse_args()
    logging.set_verbosity(logging.INFO)
    if not os.environ.get('JAX_COMPILATION_CACHE_DIR'):  # dozens of trainings, one program
        jax.config.update('jax_compilation_cache_dir', str(options.output / 'xla'))
    sizes = tuple(map(int, options.sizes.split(',')))
    experiment = Experiment(options.every, sizes, options.repeats, options.steps)
    if options.smoke:
        experiment = Experiment(4, (1, 2), 2, 2, side=32, n_test=1, fields=SMOKE)
    points, records = run(experiment, options.output)
    fits = fit_curves(points, targets=TARGETS)
    print(report(points, fits))
    print(f'interpolated − sparse: at least {smallest_gain(points):+.4f}')
    save_curves(points, fits, options.output)
    whole = {**machine(), 'smoke': options.smoke}
    whole_records = [{**record, **whole} for record in records]
    keep_records(whole_records, options.results, smoke=options.smoke)


if __name__ == '__main__':
    main()
