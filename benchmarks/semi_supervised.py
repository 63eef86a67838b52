"""Do unlabelled tomograms help where imaging conditions are others than those of the labels?

    python -m benchmarks.semi_supervised --output=DIR [--seeds=5] [--size=small]

Cells on flat grids are simulated with their missing wedge (`data.phantom`), 40 nm a voxel. Some
slices of one tomogram are labelled, the plasma membrane and filopodia and one voxel around them, as
drawn with a brush; the rest of it and tomograms of other cells, zone plates, tilts, doses and
reconstructions have no labels. `configs/deep_sxt.py` is trained twice with the same number of steps
on labels: semi-supervised, and supervised only, without the image decoder. Both segment tomograms
of cells and conditions that neither has seen. Each seed has its own cells, noise, initial weights
and order of patches.

A step takes several crops: crops are small here, and of one of them alone batch normalisation would
learn other statistics than whole slices have (seen: a network that had learnt its slices by heart
found nothing in them). Published crops have 256 × 256 pixels.

Scores are over the voxels of all test tomograms of a seed: of the mask, label above 0, and as
published of the voxels whose label is above 0.9; the average precision, the mean over recalls from
0 to 1; and the precision at one and the same recall. The means and SDs over the seeds are told, the
relative gains, and Wilcoxon's signed-rank tests of them. Everything goes through the pipelines of
the launch scripts. DIR gets data, runs and labels; a seed that is done is not done again, and the
same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from scipy import ndimage, stats

from benchmarks.harness import RESULTS, Record, append_records, machine
from configs import deep_sxt
from sxt_jax.core.atomic import write_text
from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import Volume
from sxt_jax.data.phantom import adherent_cell_parameters, merge_labels, simulate
from sxt_jax.io import read_volume, write_volume
from sxt_jax.pipelines.segment_volume import Options, probability_path, segment_files
from sxt_jax.pipelines.train_network import train_network

QUESTION = 'semi_supervised'
MEMBRANES = {'membranes': (7, 8)}  # plasma membrane and filopodia
KINDS: Mapping[str, Mapping[str, Any]] = {
    'semi-supervised': {},
    'supervised only': {'model.heads': ('label',)},
}
VOXEL_SIZE_NM = 40.0
# How conditions differ from the preset, by which the labelled tomogram is made (25 nm zone plate,
# ±65°, SIRT); the dose is a share of its photons.
UNLABELLED: Sequence[Mapping[str, Any]] = (
    {'dose': 0.2},
    {'dose': 0.1},
    {'zone_plate_nm': 60.0, 'dose': 0.4},
    {'zone_plate_nm': 40.0, 'tilt_range_deg': 120.0, 'dose': 0.2},
    {'method': 'fbp', 'dose': 0.2},
    {'method': 'fbp', 'dose': 0.1, 'zone_plate_nm': 40.0},
)
UNSEEN: Sequence[Mapping[str, Any]] = (
    {'zone_plate_nm': 35.0, 'dose': 0.15},
    {'method': 'fbp', 'tilt_range_deg': 125.0, 'dose': 0.2},
    {'zone_plate_nm': 50.0, 'dose': 0.3},
    {'n_views': 66, 'dose': 0.5},
)
THRESHOLDS = {'': 0.0, '_at_0.9': 0.9}  # of the label
SCORES = ('precision', 'recall', 'dice')
AVERAGE = 'average_precision'
RECALL = 0.3
AT_RECALL = f'precision_at_recall_{RECALL}'
SHOWN = ('precision', 'recall', 'dice', 'precision_at_0.9', AT_RECALL, AVERAGE)
_BRUSH = ndimage.generate_binary_structure(2, 1)[None]


@dataclasses.dataclass(frozen=True)
class Size:
    """How large the experiment is.

    Attributes:
      shape: (z, y, x) of every tomogram.
      labelled: which slices have labels.
      epochs: of both kinds of training.
      steps: on labels in an epoch, and as many on unlabelled slices if there are so many.
      fields: of the config.
      scene: where cells are not as in the preset.
    """

    shape: tuple[int, int, int]
    labelled: tuple[int, ...]
    epochs: int
    steps: int
    fields: Mapping[str, Any]
    scene: Mapping[str, Any] = dataclasses.field(default_factory=dict)


# As much as there is room for in 5 µm; gold would set the gray values of so small slices, each of
# which is standardised by itself.
_SMALL_CELL = {
    'n_mitochondria': (3, 7),
    'n_lipid_droplets': (1, 4),
    'n_vacuoles': (1, 4),
    'n_filopodia': (5, 10),
    'n_fiducials': (0, 0),
}
SIZES = {
    'full': Size(
        (64, 256, 256), (16, 24, 32, 40), 100, 200,
        {'model.width': 32, 'data.patch': (1, 128, 128), 'batch_size': 4},
    ),
    'small': Size(
        (24, 128, 128), (6, 8, 10, 12, 14, 16), 20, 50,
        {'model.width': 8, 'data.patch': (1, 64, 64), 'batch_size': 8,
         'model.encoder_filters': (8, 8, 16, 32), 'model.image_filters': (32, 16, 8, 8),
         'model.label_filters': (32, 16, 8, 8), 'model.neck_filters': 64,
         'data.foreground_probability': 0.5, 'optimizer.learning_rate': 5e-4},
        _SMALL_CELL,
    ),
    'smoke': Size(
        (16, 48, 48), (4, 6), 1, 2,
        {'model.width': 2, 'model.encoder_filters': (2, 2), 'model.image_filters': (2, 2),
         'model.label_filters': (2, 2), 'model.neck_filters': 2, 'model.neck_kernels': (1,),
         'model.neck_depth': 1, 'data.patch': (1, 16, 16)},
        _SMALL_CELL,
    ),
}  # fmt: skip


def make_tomogram(
    seed: int, size: Size, *, dose: float = 1.0, **imaging: Any
) -> tuple[Volume, Volume]:
    """A tomogram of a cell, and its membranes as wide as a brush."""
    scene, preset = adherent_cell_parameters(size.shape, voxel_size_nm=VOXEL_SIZE_NM)
    assert preset.photons_per_pixel is not None
    photons = dose * preset.photons_per_pixel
    made = simulate(
        seed,
        scene=dataclasses.replace(scene, **size.scene),
        imaging=dataclasses.replace(preset, photons_per_pixel=photons, **imaging),
    )
    membranes, _ = merge_labels(np.asarray(made.labels.data), MEMBRANES)
    wide = ndimage.binary_dilation(membranes, _BRUSH).astype(np.uint8)
    return made.image, made.labels.with_data(wide)


def make_data(folder: Path, seed: int, size: Size) -> None:
    """Write the tomograms of a seed: `train`, `unlabelled`, `test`, and the `truth` of the last."""
    done = folder / 'data.json'
    if done.exists():
        return
    image, labels = make_tomogram(_seed(seed, 0), size)
    sparse = np.zeros_like(labels.data)
    sparse[list(size.labelled)] = labels.data[list(size.labelled)]
    write_volume(folder / 'train' / 'a.tif', image)
    write_volume(folder / 'train' / 'a.labels.tif', labels.with_data(sparse))
    for i, conditions in enumerate(UNLABELLED):
        image, _ = make_tomogram(_seed(seed, 1 + i), size, **conditions)
        write_volume(folder / 'unlabelled' / f'{i}.tif', image)
    for i, conditions in enumerate(UNSEEN):
        image, labels = make_tomogram(_seed(seed, 100 + i), size, **conditions)
        write_volume(folder / 'test' / f'{i}.tif', image)
        write_volume(folder / 'truth' / f'{i}.tif', labels)
    write_text(done, json.dumps({'unlabelled': UNLABELLED, 'unseen': UNSEEN}))


def _seed(seed: int, number: int) -> int:
    return 1000 * seed + number


def make_config(folder: Path, kind: str, seed: int, size: Size) -> ConfigDict:
    """The training of a seed: for a given number of steps, so nothing is held out."""
    config = deep_sxt.get_config()
    config.update_from_flattened_dict({
        'seed': seed,
        'epochs': size.epochs,
        'data.train': str(folder / 'train'),
        'data.unlabelled': str(folder / 'unlabelled'),
        'data.empty_slices': 'unlabelled',
        'data.validation_fraction': 0.0,
        'data.steps_per_epoch': size.steps,
        'data.unlabelled_slices': size.steps * size.fields.get('batch_size', 1),
        'checkpoint.evaluate_every': size.epochs,
        'checkpoint.patience': 0,
        **size.fields,
        **KINDS[kind],
    })  # fmt: skip
    return config


def run_kind(folder: Path, kind: str, seed: int, size: Size) -> Record:
    """Train, segment the test tomograms, and score them.

    Raises:
      InputError: a tomogram could not be segmented.
    """
    name = kind.replace(' ', '_')
    start = time.perf_counter()
    train_network(make_config(folder, kind, seed, size), folder / name)
    training_s = time.perf_counter() - start
    options = Options(probabilities=True)
    outcomes = segment_files(
        folder / name, folder / 'test', folder / f'{name}_out', options=options
    )
    pairs = []
    for outcome in outcomes:
        if outcome.error:
            raise InputError(outcome.source, outcome.error, 'a tomogram that can be segmented')
        label = 2 * read_volume(probability_path(outcome.labels)).data[..., 1] - 1
        truth = read_volume(folder / 'truth' / outcome.source.name).data > 0
        pairs.append((label.ravel(), truth.ravel()))
    labels, truths = (np.concatenate(arrays) for arrays in zip(*pairs, strict=True))
    return {
        'kind': kind,
        'seed': seed,
        'training_s': round(training_s, 1),
        **score(labels, truths),
        'conditions': [score(label, truth) for label, truth in pairs],
    }


def score(label: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Precision, recall and Dice of the voxels above each of `THRESHOLDS`, and of others.

    That is, the average precision, and the precision where the threshold is such that the recall is
    `RECALL`: masks that hold little are precise easily.
    """
    order = np.argsort(-label, kind='stable')
    hits = truth[order]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    at_hits, n_hits = precision[hits], int(hits.sum())
    found = {AVERAGE: float(at_hits.sum() / max(n_hits, 1))}
    found[AT_RECALL] = float(at_hits[max(0, round(RECALL * n_hits) - 1)]) if n_hits else 0.0
    for suffix, threshold in THRESHOLDS.items():
        mask = label > threshold
        both, n_mask, n_true = (int(a.sum()) for a in (mask & truth, mask, truth))
        found[f'precision{suffix}'] = both / max(n_mask, 1)
        found[f'recall{suffix}'] = both / max(n_true, 1)
        found[f'dice{suffix}'] = 2 * both / max(n_mask + n_true, 1)
    return found


def run_seed(folder: Path, seed: int, size: Size) -> list[Record]:
    """Both kinds of one seed; what was found before, if it was done before."""
    done = folder / 'scores.json'
    if not done.exists():
        make_data(folder, seed, size)
        rows = [run_kind(folder, kind, seed, size) for kind in KINDS]
        write_text(done, json.dumps(rows, indent=1))
    return json.loads(done.read_text(encoding='utf-8'))


def summarise(rows: Sequence[Record]) -> Record:
    """Means and SDs over the seeds, and by how much the precision of the unseen is better."""
    summary: Record = {}
    names = [AVERAGE, AT_RECALL, *(f'{name}{suffix}' for suffix in THRESHOLDS for name in SCORES)]
    for kind in KINDS:
        of_kind = [row for row in rows if row['kind'] == kind]
        table = np.array([[row[name] for name in names] for row in of_kind])
        mean, sd = table.mean(0), table.std(0, ddof=1) if len(table) > 1 else np.nan * table[0]
        values = zip(names, mean.tolist(), sd.tolist(), strict=True)
        summary[kind] = {name: {'mean': m, 'sd': s} for name, m, s in values}
    summary['compared'] = {}
    for name in SHOWN:
        semi, alone = (np.array([r[name] for r in rows if r['kind'] == kind]) for kind in KINDS)
        summary['compared'][name] = {
            'gain': float(semi.mean() / alone.mean() - 1) if alone.any() else None,
            'better': int(np.sum(semi > alone)),
            'p': float(stats.wilcoxon(semi, alone).pvalue) if np.any(semi != alone) else None,
        }
    return summary


def table_rows(records: Sequence[Record]) -> list[tuple[str, ...]]:
    """Heading and rows of the newest run of each size: means and SDs, gains and how sure they are.

    A gain is that of the means; the number of seeds that gained, and p of Wilcoxon's test.
    """
    newest = {r['size']: r for r in records if r.get('benchmark') == QUESTION}
    rows = [('size', 'training', *SHOWN)]
    for size, record in newest.items():
        for kind in KINDS:
            cells = (f'{record[kind][n]["mean"]:.3f} ± {record[kind][n]["sd"]:.3f}' for n in SHOWN)
            rows.append((size, kind, *cells))
        rows.append((size, 'relative gain', *(_gain(record, name) for name in SHOWN)))
    return [tuple(name.replace('_', ' ') for name in row) for row in rows]


def _gain(record: Record, name: str) -> str:
    found = record['compared'].get(name)
    if not found or found['gain'] is None:
        return ''
    p = '' if found['p'] is None else f', p {found["p"]:.2g}'
    return f'{found["gain"]:+.0%} ({found["better"]} of {record["seeds"]}{p})'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--output', type=Path, required=True, help='folder for data and runs')
    parser.add_argument('--seeds', type=int, default=5)
    parser.add_argument('--size', choices=SIZES, default='small')
    args = parser.parse_args()
    if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:  # the same programs serve every seed
        jax.config.update('jax_compilation_cache_dir', str(args.output / 'compiled'))
    size, rows = SIZES[args.size], []
    for seed in range(args.seeds):
        rows += run_seed(args.output / args.size / str(seed), seed, size)
        print(*(json.dumps({k: v for k, v in r.items() if k != 'conditions'}) for r in rows[-2:]),
              sep='\n', flush=True)  # fmt: skip
    summary = summarise(rows)
    record = {
        'benchmark': QUESTION,
        'smoke': args.size == 'smoke',
        'size': args.size,
        'seeds': args.seeds,
        **{f: getattr(size, f) for f in ('shape', 'labelled', 'epochs', 'steps')},
        'fields': dict(size.fields),
        'rows': rows,
        **summary,
        **machine(),
    }
    if args.size != 'smoke':
        append_records([record], RESULTS)
    for row in table_rows([record]):
        print(' | '.join(row))


if __name__ == '__main__':
    main()
