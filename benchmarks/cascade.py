"""Does a coarse stage help where a network's field of view is too small, and a surface stage?

    python -m benchmarks.cascade --output=DIR [--only=organelles|surface] [--seeds=3] [--size=small]
    python -m benchmarks.cascade --output=DIR --size=full      # on an accelerator

Two questions, on simulated tomograms of a cell in a capillary (`data.phantom`):

- organelles: the nucleus absorbs as much as the cytoplasm; what tells them apart are a faint
  envelope, texture below the noise of a voxel, and what lies around. Of that a network with one
  pooling sees nine voxels, where the nucleus has a radius of 16 (`--size=small`);
- surface: whole cells with ruffled surfaces, of which bins of 4³ voxels (`--size=small`) lose the
  ruffles: the ratio of surface to volume comes out too small, as Erozan et al. 2024 report.

Norms are those of batches: instance norm, as published, takes the level out of tiles that lie
within one material, and absolute absorption with it (seen: a Dice of 0.72 for whole cells after 600
steps, where after 200 it was 0.95). Ways to train the network, all with the same optimiser and
batches:

- `single`: on voxels, as many steps as two stages of the cascade together;
- `coarse`: on bins of voxels; the first stage of the cascades by itself;
- `coarse, surface`: and a second network that learns and runs on voxels along the surfaces that the
  first found (the second level of ACSeg, Erozan et al. 2024);
- `coarse, fine`: the cascade of Ekman et al. 2020, out-of-fold probabilities and all;
- `coarse, fine, surface`: and a third network along the surfaces, from the second's weights.

Scored on tomograms that no training saw: Dice of each class and their mean; Dice of the whole cell
and the error of its surface-to-volume ratio, |found / true - 1|; and the error of the mean linear
absorption coefficient over what was found of a class in the absorption without noise, likewise.
Each seed has its own cells, noise, weights and patches. Everything goes through the pipelines of
the launch scripts. DIR gets data, runs and labels; the same command goes on where it was stopped.
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
from absl import logging
from ml_collections import ConfigDict

from benchmarks.harness import Record, keep_records, machine
from configs import cascade
from sxt_jax.core.atomic import write_text
from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import Volume
from sxt_jax.data.phantom import Absorption, merge_labels, simulate, t_cell_parameters
from sxt_jax.io import read_volume, write_volume
from sxt_jax.measure import volume_and_surface
from sxt_jax.metrics import dice
from sxt_jax.pipelines.segment_volume import segment_files
from sxt_jax.pipelines.train_cascade import train_experiment

QUESTION = 'cascade'
STAGES = ('coarse', 'fine', 'surface')
# Workdirs of ways: those in one workdir share their first stages.
WORKDIRS: Mapping[str, str] = {
    'single': 'single',
    'coarse': 'cascade',
    'coarse, surface': 'refined',
    'coarse, fine': 'cascade',
    'coarse, fine, surface': 'cascade',
}
FILLED = (1, 6, 7, 8)  # cytoplasm, vacuoles, plasma membrane and filopodia


@dataclasses.dataclass(frozen=True)
class Question:
    """What is asked.

    Attributes:
      ways: to train, the first and those that are compared with the one before.
      task: classes, and the phantom's materials in them.
      cells: parameters of the scene.
    """

    ways: tuple[str, ...]
    task: Mapping[str, tuple[int, ...]]
    cells: Mapping[str, Any]


QUESTIONS = {
    'organelles': Question(
        ('single', 'coarse', 'coarse, fine', 'coarse, fine, surface'),
        {'cytoplasm': FILLED, 'nucleus': (2, 3), 'mitochondria': (4,), 'lipid droplets': (5,)},
        {
            'n_cells': (1, 1),
            'nucleus_fraction': (0.5, 0.6),  # far from the plasma membrane, too
            'n_mitochondria': (12, 24),
            'n_lipid_droplets': (6, 12),
            'lipid_droplet_radius_nm': (200, 350),
            'absorption': Absorption(nucleus=Absorption.cytoplasm),
        },
    ),
    'surface': Question(
        ('single', 'coarse', 'coarse, surface'),
        {'cell': tuple(range(1, 9))},
        {'n_cells': (1, 1), 'cell_roughness': 0.06},
    ),
}
MEAN, CELL, RATIO, LAC = 'mean of classes', 'cell', 'SA:V error', 'LAC error'
SHOWN = (*QUESTIONS['organelles'].task, MEAN, CELL, RATIO, LAC)
LESS_IS_BETTER = (RATIO, LAC)


@dataclasses.dataclass(frozen=True)
class Size:
    """How large the experiment is.

    Attributes:
      side: of the tomograms, in voxels.
      voxel_size_nm: of them.
      photons: on a pixel and view; they set the noise of a voxel.
      n_train, n_test: tomograms of each seed.
      steps: of each stage.
      fields: of the config, that differ.
    """

    side: int
    voxel_size_nm: float
    photons: float
    n_train: int
    n_test: int
    steps: int
    fields: Mapping[str, Any]


SIZES = {
    'full': Size(
        256, 25.0, 600.0, 24, 6, 5000,
        {'model.filters': (32, 64), 'batch_size': 8, 'data.patch': (32, 32, 32),
         'inference.tile': (32, 32, 32), 'inference.overlap': (8, 8, 8),
         'stages.coarse.data.binning': (8, 8, 8), 'out_of_fold.folds': 4},
    ),
    'small': Size(
        72, 90.0, 150.0, 6, 3, 200,
        {'model.filters': (8, 16), 'batch_size': 4, 'data.patch': (24, 24, 24),
         'inference.tile': (72, 72, 72), 'inference.overlap': (8, 8, 8),
         'stages.coarse.data.binning': (4, 4, 4), 'stages.coarse.data.patch': (16, 16, 16),
         'stages.coarse.inference.tile': (18, 18, 18),
         'stages.surface.inference.tile': (24, 24, 24), 'out_of_fold.folds': 2},
    ),
    'smoke': Size(
        24, 270.0, 150.0, 2, 1, 2,
        {'model.filters': (2, 4), 'batch_size': 1, 'data.patch': (12, 12, 12),
         'inference.tile': (12, 12, 12), 'inference.overlap': (4, 4, 4),
         'stages.coarse.data.binning': (2, 2, 2), 'out_of_fold.folds': 2},
    ),
}  # fmt: skip


def make_tomogram(seed: int, size: Size, question: Question) -> tuple[Volume, Volume, Volume]:
    """A tomogram, its labels, and its absorption without noise, in 1/µm."""
    shape = (size.side,) * 3
    scene, imaging = t_cell_parameters(shape, voxel_size_nm=size.voxel_size_nm)
    made = simulate(
        seed,
        scene=dataclasses.replace(scene, **question.cells),
        imaging=dataclasses.replace(imaging, photons_per_pixel=size.photons),
    )
    labels, names = merge_labels(np.asarray(made.labels.data), question.task)
    named = Volume(labels, made.image.voxel_size_nm, class_names=names)
    return made.image, named, made.absorption


def make_data(folder: Path, seed: int, size: Size, question: Question) -> None:
    """Write the tomograms of a seed: `train`, `test`, and `truth` and `absorption` of the last."""
    done = folder / 'done'
    if done.exists():
        return
    for i in range(size.n_train):
        image, labels, _ = make_tomogram(1000 * seed + i, size, question)
        write_volume(folder / 'train' / 'images' / f'{i}.tif', image)
        write_volume(folder / 'train' / 'labels' / f'{i}.tif', labels)
    for i in range(size.n_test):
        image, labels, absorption = make_tomogram(1000 * seed + 500 + i, size, question)
        write_volume(folder / 'test' / f'{i}.tif', image)
        write_volume(folder / 'truth' / f'{i}.tif', labels)
        write_volume(folder / 'absorption' / f'{i}.tif', absorption)
    write_text(done, '')


def make_config(folder: Path, way: str, seed: int, size: Size, question: Question) -> ConfigDict:
    """A cascade, or the single network, for a given number of steps."""
    config = cascade.get_config('refine')
    config.update_from_flattened_dict({
        'seed': seed,
        'epochs': 1,
        'data.train': str(folder / 'train'),
        'data.classes': ','.join(f'{name}={k}' for k, name in enumerate(question.task, start=1)),
        'data.validation_fraction': 0.0,  # the last weights are taken
        'data.steps_per_epoch': size.steps,
        'model.norm': 'batch',
        'model.norm_momentum': 0.9,
        'optimizer.learning_rate': 3e-3,
        'optimizer.schedule': 'cosine',
        **size.fields,
    })  # fmt: skip
    if way != 'single':
        config.stages.order = stages = tuple(way.split(', '))
        if 'fine' in stages:
            config.stages.surface.initial.checkpoint = str(folder / WORKDIRS[way] / 'fine')
            config.stages.surface.initial.scope = 'all'
        return config
    with config.unlocked():
        del config.stages
        del config.out_of_fold
    config.data.steps_per_epoch = 2 * size.steps
    return config


def run_way(folder: Path, way: str, seed: int, size: Size, question: Question) -> Record:
    """Train, segment the test tomograms, and score them.

    Cascades share their first stages, which are not trained again.

    Raises:
      InputError: a tomogram could not be segmented.
    """
    start = time.perf_counter()
    workdir = folder / WORKDIRS[way]
    train_experiment(make_config(folder, way, seed, size, question), workdir)
    training_s = time.perf_counter() - start
    output = folder / 'found' / way.replace(', ', '_')
    scores = []
    for outcome in segment_files(workdir, folder / 'test', output):
        if outcome.error:
            raise InputError(outcome.source, outcome.error, 'a tomogram that can be segmented')
        found, truth, absorption = (
            read_volume(path / outcome.source.name)
            for path in (output, folder / 'truth', folder / 'absorption')
        )
        scores.append(score(found, truth, absorption, tuple(question.task)))
    means = {name: float(np.nanmean([row[name] for row in scores])) for name in scores[0]}
    return {'way': way, 'seed': seed, 'added_training_s': round(training_s, 1), **means}


def score(
    found: Volume, truth: Volume, absorption: Volume, classes: Sequence[str]
) -> dict[str, float]:
    """Scores of one tomogram, see above; NaN of classes that it does not have."""
    mask, true = np.asarray(found.data), np.asarray(truth.data)
    lac = np.asarray(absorption.data, np.float64)
    by_class, lac_errors = {}, []
    for k, name in enumerate(classes, start=1):
        here, there = mask == k, true == k
        by_class[name] = float(dice(here, there)) if there.any() else np.nan
        if here.any() and there.any():
            lac_errors.append(abs(lac[here].mean() / lac[there].mean() - 1))
    size = truth.voxel_size_nm
    assert size is not None
    ratios = [
        volume_and_surface(part > 0, voxel_size_nm=size)['surface_to_volume_per_um']
        for part in (mask, true)
    ]
    return {
        **by_class,
        MEAN: float(np.nanmean(list(by_class.values()))),
        CELL: float(dice(mask > 0, true > 0)),
        RATIO: abs(ratios[0] / ratios[1] - 1),
        LAC: float(np.mean(lac_errors)) if lac_errors else np.nan,
    }


def run_seed(folder: Path, seed: int, size: Size, question: Question) -> list[Record]:
    """All ways of one seed; what was found before, if it was done before."""
    done = folder / 'scores.json'
    if not done.exists():
        make_data(folder, seed, size, question)
        rows = [run_way(folder, way, seed, size, question) for way in question.ways]
        write_text(done, json.dumps(rows, indent=1))
    return json.loads(done.read_text(encoding='utf-8'))


def table_rows(records: Sequence[Record]) -> list[tuple[str, ...]]:
    """Heading and rows of the newest run of each question and size: mean ± SD over the seeds.

    Below each way how many seeds it is better in than the way above it.
    """
    newest = {
        (r['question'], r['size']): r
        for r in records
        if r['benchmark'] == QUESTION and not r['smoke']
    }
    table: list[tuple[str, ...]] = [('cells', 'size', 'way', *SHOWN)]
    for key, record in newest.items():
        before: dict[int, Record] = {}
        for way in dict.fromkeys(row['way'] for row in record['rows']):
            rows = {row['seed']: row for row in record['rows'] if row['way'] == way}
            table.append((*key, way, *(_cell(rows, before, name) for name in SHOWN)))
            before = rows
    return table


def _cell(rows: Mapping[int, Record], before: Mapping[int, Record], name: str) -> str:
    if name not in next(iter(rows.values())):
        return ''
    values = np.array([row[name] for row in rows.values()])
    spread = f' ± {values.std(ddof=1):.3f}' if len(values) > 1 else ''
    text = f'{values.mean():.3f}{spread}'
    if not before:
        return text
    sign = -1 if name in LESS_IS_BETTER else 1
    better = sum(sign * (row[name] - before[seed][name]) > 0 for seed, row in rows.items())
    return f'{text} ({better} of {len(rows)})'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--output', type=Path, required=True, help='folder for data and runs')
    parser.add_argument('--only', choices=QUESTIONS, help='one question')
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--first_seed', type=int, default=0)
    parser.add_argument('--size', choices=SIZES, default='small')
    parser.add_argument('--results', type=Path, default=None, help='folder to append results to')
    args = parser.parse_args()
    logging.set_verbosity(logging.INFO)
    if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:  # the same programs serve every seed
        jax.config.update('jax_compilation_cache_dir', str(args.output / 'compiled'))
    records = [ask(name, args) for name in ([args.only] if args.only else QUESTIONS)]
    for row in table_rows([{**record, 'smoke': False} for record in records]):
        print(' | '.join(row))


def ask(name: str, args: argparse.Namespace) -> Record:
    """Run all seeds of a question, and keep the record."""
    size, rows = SIZES[args.size], []
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        folder = args.output / args.size / name / str(seed)
        found = run_seed(folder, seed, size, QUESTIONS[name])
        print(*map(json.dumps, found), sep='\n', flush=True)
        rows += found
    record = {
        'benchmark': QUESTION,
        'question': name,
        'smoke': args.size == 'smoke',
        **dataclasses.asdict(size),
        'size': args.size,
        'rows': rows,
        **machine(),
    }
    keep_records([record], args.results, smoke=record['smoke'])
    return record


if __name__ == '__main__':
    main()
