"""How well does fibsem do on real electron micrographs of which few slices are labelled?

    python -m benchmarks.real_micrographs --data=DIR --output=DIR [--only=mitochondria,membranes]
        [--binning=2] [--steps=500]
    python -m benchmarks.real_micrographs --smoke --output=DIR

DIR is that of `benchmarks.real_data`, of which the serial-section TEM *vnc* is taken and cut in two
as there: 10 slices 50 nm apart, pixels of 4.6 nm. Of the first part 3 slices are labelled, and
`configs/fibsem.py:small` learns from them, one network an organelle: tiles that hold some of it,
mirrored and turned, Dice loss with squared denominators, tiles blended by a cosine window. Pixels
are binned 2 × 2 (`data.binning`): membranes are labelled some 40 nm wide, four of these pixels, and
a tile of 256 × 256 shows 2.4 µm, whole mitochondria and what is around them. With another binning
tiles show as much. `launch.segment` enlarges the results, and all pixels of the files are scored.

Steps are given beforehand, nothing is held out to choose a checkpoint, and the last weights are
used. Dice, precision and recall, at a probability of 0.5, are those of the unlabelled slices of the
first part, whose neighbours are labelled, and of the second part, of which nothing was seen.
Everything goes through the pipelines of the launch scripts. What is done is not done again, and the
same command goes on with a training that was stopped.

Mitochondria are those of classes.tif; mitochondria.tif has none in slices 1 and 7, and elsewhere
differs in 0.03 % of the pixels at most. The paper has no number for this stack; of mitochondria in
its own stacks, 0.86 and 0.76.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from benchmarks import real_data, real_slices
from benchmarks.harness import (
    RESULTS,
    Record,
    add_result_options,
    keep_records,
    machine,
    read_records,
)
from benchmarks.labelled_slices import MEASURES, score_rest
from configs import fibsem
from sxt_jax.core.atomic import write_text
from sxt_jax.io import read_volume
from sxt_jax.pipelines.train_network import plot_curves, train_network
from sxt_jax.plots import save_figure

QUESTION = 'real_micrographs'
# Label values of classes.tif, in which membranes have five by direction, as in `real_slices.vnc`.
ORGANELLES: Mapping[str, str] = {
    'mitochondria': 'background=rest,mitochondria=191',
    'membranes': 'background=rest,membranes=0+32+64+96+128',
}
TILE = 512  # pixels of the files, 2.4 µm
OVERLAP = 128
STEPS_PER_EPOCH = 50  # after which a training that was stopped goes on
FIELDS: Mapping[str, Any] = {
    'data.validation_fraction': 0.0,
    'augmentation.rotate_90': True,
    'augmentation.scale': 0.2,
    'augmentation.shift': 0.2,
    'augmentation.noise': 0.1,
    'optimizer.schedule': 'cosine',
}
SMOKE: Mapping[str, Any] = {
    'model.width': 2,
    'batch_size': 2,
    'data.patch': (1, 16, 16),
    'data.min_foreground': 5,
    'inference.tile': (1, 16, 16),
    'inference.overlap': (0, 0, 0),
}


def read_stack(organelle: str, folder: Path) -> real_slices.Stack:
    """The stack *vnc*, of which an organelle is to be found."""
    files = real_data.EXPERIMENTS['vnc']
    image = read_volume(folder / files.image)
    image = dataclasses.replace(image, voxel_size_nm=image.voxel_size_nm or files.voxel_size_nm)
    stack = real_slices.vnc(image, read_volume(folder / files.labels))
    fields = {**stack.fields, 'data.classes': ORGANELLES[organelle]}
    return dataclasses.replace(stack, fields=fields)


def make_config(
    stack: real_slices.Stack, folder: Path, *, steps: int, binning: int = 2, smoke: bool = False
) -> ConfigDict:
    """Of a training on the labelled slices of `folder`."""
    per_epoch = min(steps, STEPS_PER_EPOCH)
    side, overlap = TILE // binning, OVERLAP // binning
    config = fibsem.get_config('small')
    config.update_from_flattened_dict({
        **FIELDS,
        **stack.fields,
        'data.binning': (1, binning, binning),
        'data.patch': (1, side, side),
        'inference.tile': (1, side, side),
        'inference.overlap': (0, overlap, overlap),
        **(SMOKE if smoke else {}),
        'epochs': math.ceil(steps / per_epoch),
        'data.train': str(folder),
        'data.steps_per_epoch': per_epoch,
    })  # fmt: skip
    return config


def run(
    stack: real_slices.Stack, output: Path, *, steps: int, binning: int = 2, smoke: bool = False
) -> list[Record]:
    """Train, segment both parts and score them, unless it was done: a record each."""
    done = output / 'scores.json'
    if not done.exists():
        real_slices.prepare(stack, output)
        folder = output / 'train'
        config = make_config(stack, folder, steps=steps, binning=binning, smoke=smoke)
        facts = {'smoke': smoke, **train(config, output)}
        images, segmented = output / 'images', output / 'segmented'
        found = real_slices.segment(output / 'run', images, segmented)
        write_text(done, json.dumps(score(stack, found, output, facts), indent=1))
    return list(json.loads(done.read_text(encoding='utf-8')))


def train(config: ConfigDict, output: Path) -> Record:
    """Train, and tell of it; times of a part of a training would say nothing."""
    fresh = not (output / 'run').exists()
    wall, cpu = time.monotonic(), time.process_time()
    train_network(config, output / 'run')
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    plot_curves(output / 'run', output / 'curves.png')
    return {
        'steps': config.epochs * config.data.steps_per_epoch,
        'width': config.model.width,
        'binning': list(config.data.binning),
        'training_s': round(wall) if fresh else None,
        'training_cpu_s': round(cpu) if fresh else None,
    }


def score(
    stack: real_slices.Stack, found: Mapping[str, np.ndarray], output: Path, facts: Record
) -> list[Record]:
    """A record and a picture of both parts.

    Args:
      stack: with the truth.
      found: [z, y, x] labels −1 … 1 of each part.
      output: folder of the pictures.
      facts: for the records.
    """
    records = []
    for part, index in real_data.cut(stack.image.shape).items():
        trained_on = stack.labelled if part == 'train' else ()
        slices = [z for z in range(stack.image.shape[0]) if z not in trained_on]
        mask = (found[part] > 0).astype(np.uint8)
        scores = score_rest(mask, stack.truth[index].astype(np.uint8), trained_on)
        records.append({
            'benchmark': QUESTION,
            'class': stack.class_name,
            'part': 'unlabelled slices' if part == 'train' else 'other part',
            'labelled': list(stack.labelled),
            'scored': slices,
            'shape': list(stack.image.shape),
            **facts,
            **{name: round(value, 4) for name, value in scores.items()},
            **machine(),
        })  # fmt: skip
        save_figure(output / f'{part}.png', real_slices.draw(stack, index, slices, found[part]))
    return records


def table_rows(records: Sequence[Record]) -> list[tuple[str, ...]]:
    """Head and rows of a table: the newest of each organelle, binning and part."""
    newest = {
        (r['class'], tuple(r['binning']), r['part']): r
        for r in records
        if r['benchmark'] == QUESTION and not r['smoke']
    }
    rows = [
        (
            organelle,
            f'{y} × {x}',
            f'{len(r["labelled"])} of {r["shape"][0]}',
            part,
            *(f'{r[name]:.3f}' for name in MEASURES),
            f'{r["steps"]:,}',
            f'{r["training_cpu_s"] / 60:.0f} min' if r['training_cpu_s'] else '',
        )
        for (organelle, (_, y, x), part), r in newest.items()
    ]
    heads = ('organelle', 'binned', 'labelled slices', 'scored', *MEASURES, 'steps')
    return [(*heads, 'processor time'), *rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--data', type=Path, help='folder of the stacks')
    parser.add_argument('--output', type=Path, required=True)
    parser.add_argument('--only', default=','.join(ORGANELLES))
    parser.add_argument('--binning', type=int, default=2, help='pixels of a file, along y and x')
    parser.add_argument('--steps', type=int, default=500, help='of each training')
    add_result_options(parser, smoke='simulated slices, nothing kept')
    options = parser.parse_args()
    if options.data is None and not options.smoke:
        parser.error('--data, or --smoke')
    logging.set_verbosity(logging.WARNING)
    if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:  # one program serves all organelles
        jax.config.update('jax_compilation_cache_dir', str(options.output / 'compiled'))
    steps = min(4, options.steps) if options.smoke else options.steps
    for name in ('simulated',) if options.smoke else options.only.split(','):
        stack = real_slices.simulate() if options.smoke else read_stack(name, options.data)
        output = options.output / f'{name}_{options.binning}_{steps}'
        records = run(stack, output, steps=steps, binning=options.binning, smoke=options.smoke)
        for r in records:
            print({key: r[key] for key in ('class', 'part', *MEASURES)})
        known = read_records(options.results or RESULTS)
        new = [r for r in records if r not in known]
        keep_records(new, options.results, smoke=options.smoke)


if __name__ == '__main__':
    main()
