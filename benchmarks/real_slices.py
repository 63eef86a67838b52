"""How well does deep_sxt do on real slices of which few are labelled?

    python -m benchmarks.real_slices --data=DIR --output=DIR [--only=sxt,vnc] [--steps=800]
    python -m benchmarks.real_slices --smoke --output=DIR

DIR is that of `benchmarks.real_data`, of which two stacks are taken and cut in two as there:

| name | what | labelled slices of the first part; others | pixels |
|---|---|---|---|
| sxt | cryo SXT, mitochondria | 2 of 6; empty (`data.empty_slices`) | as they are |
| vnc | TEM, membranes: five values | 3 of 10; of value 1 (`data.ignore_value`) | binned 2 × 2 |

`configs/deep_sxt.py:small` is trained on the first part, semi-supervised (the unlabelled slices
teach the image) and supervised only, for a number of steps that is given beforehand; nothing is
held out to choose a checkpoint. Scored are the unlabelled slices of the first part, whose images
were seen in semi-supervised training and whose neighbours are labelled, and the second part, of
which nothing was seen. Scores are those of `benchmarks.semi_supervised`: of the mask (label above
0) and, as published, of the pixels whose label is above 0.9. Everything goes through the pipelines
of the launch scripts. The same command goes on with a training that was stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging

from benchmarks import real_data
from benchmarks.harness import Record, add_result_options, keep_records, machine
from benchmarks.semi_supervised import KINDS, SCORES, THRESHOLDS, score
from configs import deep_sxt
from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import Volume
from sxt_jax.data.classes import parse_classes
from sxt_jax.io import read_volume, write_volume
from sxt_jax.pipelines.segment_volume import Options, probability_path, segment_files
from sxt_jax.pipelines.train_network import plot_curves, train_network
from sxt_jax.plots import save_figure, side_by_side

QUESTION = 'real_slices'
STEPS_PER_EPOCH = 10  # on labels; on unlabelled slices as many as there are
FIELDS = {
    'data.validation_fraction': 0.0,
    'checkpoint.patience': 0,
    'optimizer.learning_rate': 1e-3,
    'optimizer.schedule': 'cosine',
}
SMOKE = {
    'model.width': 2,
    'model.encoder_filters': (2, 2),
    'model.image_filters': (2, 2),
    'model.label_filters': (2, 2),
    'model.neck_filters': 2,
    'model.neck_kernels': (1,),
    'model.neck_depth': 1,
    'data.patch': (1, 16, 16),
    'inference.tile': (1, 16, 16),
    'inference.overlap': (0, 4, 4),
}


@dataclasses.dataclass(frozen=True)
class Stack:
    """A stack of slices, few of them labelled.

    Attributes:
      image, labels: [z, y, x], all of them labelled.
      labelled: the slices whose labels are used.
      unlabelled_value: label value of the others.
      fields: of the config: what labels mean, which slices are unlabelled.
    """

    image: Volume
    labels: Volume
    labelled: tuple[int, ...]
    unlabelled_value: int
    fields: Mapping[str, Any]

    @property
    def truth(self) -> np.ndarray:
        classes = parse_classes(self.fields['data.classes'])
        return classes.indices(np.asarray(self.labels.data)) == 1

    @property
    def class_name(self) -> str:
        return parse_classes(self.fields['data.classes']).names[1]


def read_stack(name: str, folder: Path) -> Stack:
    """'sxt' or 'vnc', from their files."""
    files = real_data.EXPERIMENTS[name]
    image, labels = (read_volume(folder / file) for file in (files.image, files.labels))
    image = dataclasses.replace(image, voxel_size_nm=image.voxel_size_nm or files.voxel_size_nm)
    if name == 'sxt':
        return sxt(image, labels)
    return vnc(_halve(image), Volume(labels.data[:, ::2, ::2]))


def sxt(image: Volume, labels: Volume) -> Stack:
    """Labels 0 and 1; slices that nobody labelled are empty."""
    fields = {'data.classes': 'mitochondria=1', 'data.empty_slices': 'unlabelled'}
    return Stack(image, labels, (1, 4), 0, fields)


def vnc(image: Volume, labels: Volume) -> Stack:
    """Membranes have five label values, by direction, and 0 is one of them."""
    classes = 'background=rest,membranes=0+32+64+96+128'
    return Stack(image, labels, (1, 4, 7), 1, {'data.classes': classes, 'data.ignore_value': 1})


def _halve(image: Volume) -> Volume:
    """Means of 2 × 2 pixels."""
    z, y, x = image.shape
    data = image.data[:, : y // 2 * 2, : x // 2 * 2].reshape(z, y // 2, 2, x // 2, 2).mean((2, 4))
    assert image.voxel_size_nm is not None
    size_z, size_y, size_x = image.voxel_size_nm
    return Volume(np.rint(data).astype(image.data.dtype), (size_z, 2 * size_y, 2 * size_x))


def prepare(stack: Stack, output: Path) -> None:
    """Write the images of both parts, and the first with its sparse labels to train on."""
    for part, index in real_data.cut(stack.image.shape).items():
        image = stack.image.with_data(np.asarray(stack.image.data)[index])
        write_volume(output / 'images' / f'{part}.tif', image)
        if part == 'train':
            sparse = np.full_like(stack.labels.data[index], stack.unlabelled_value)
            sparse[list(stack.labelled)] = stack.labels.data[index][list(stack.labelled)]
            write_volume(output / 'train' / 'a.tif', image)
            write_volume(output / 'train' / 'a.labels.tif', image.with_data(sparse))


def make_config(stack: Stack, folder: Path, kind: str, *, steps: int, smoke: bool = False) -> Any:
    """Of one training: `steps` are those on labels."""
    per_epoch = min(steps, STEPS_PER_EPOCH)
    epochs = math.ceil(steps / per_epoch)
    config = deep_sxt.get_config('small')
    config.update_from_flattened_dict({
        **FIELDS,
        **stack.fields,
        **KINDS[kind],
        **(SMOKE if smoke else {}),
        'epochs': epochs,
        'data.train': str(folder),
        'data.steps_per_epoch': per_epoch,
        'checkpoint.evaluate_every': max(1, epochs // 10),
    })  # fmt: skip
    return config


def run(
    name: str, stack: Stack, output: Path, kind: str, *, steps: int, smoke: bool
) -> list[Record]:
    """Train, segment both parts and score them: a record each."""
    workdir = output / kind.replace(' ', '_')
    config = make_config(stack, output / 'train', kind, steps=steps, smoke=smoke)
    fresh, begun = not workdir.exists(), time.monotonic()
    train_network(config, workdir)
    training_s = round(time.monotonic() - begun) if fresh else None  # of a part it says nothing
    plot_curves(workdir, output / f'{workdir.name}.curves.png')
    found = segment(workdir, output / 'images', output / f'{workdir.name}_out')
    unlabelled = [z for z in range(stack.image.shape[0]) if z not in stack.labelled]
    records = []
    for part, index in real_data.cut(stack.image.shape).items():
        slices = unlabelled if part == 'train' else list(range(stack.image.shape[0]))
        truth = stack.truth[index][slices]
        scores = score(found[part][slices].ravel(), truth.ravel())
        records.append({
            'benchmark': QUESTION,
            'smoke': smoke,
            'data': name,
            'class': stack.class_name,
            'kind': kind,
            'part': 'unlabelled slices' if part == 'train' else 'other part',
            'labelled': list(stack.labelled),
            'scored': slices,
            'shape': list(stack.image.shape),
            'steps': steps,
            'training_s': training_s,
            **{key: round(value, 4) for key, value in scores.items()},
            **machine(),
        })  # fmt: skip
        picture = draw(stack, index, slices, found[part])
        save_figure(output / f'{workdir.name}.{part}.png', picture)
    return records


def segment(checkpoint: Path, images: Path, output: Path) -> dict[str, np.ndarray]:
    """Labels −1 … 1 of every image of a folder, by name.

    Raises:
      InputError: an image could not be segmented.
    """
    found = {}
    for outcome in segment_files(checkpoint, images, output, options=Options(probabilities=True)):
        if outcome.error:
            raise InputError(outcome.source, outcome.error, 'an image that can be segmented')
        probabilities = read_volume(probability_path(outcome.labels)).data
        found[outcome.source.stem] = 2 * probabilities[..., 1] - 1
    return found


def draw(stack: Stack, index: tuple[slice, ...], slices: Sequence[int], label: np.ndarray) -> Any:
    """Image, truth and prediction of the middle one of the slices."""
    z = slices[len(slices) // 2]
    image, truth = np.asarray(stack.image.data)[index], stack.truth[index]
    return side_by_side(
        image[z : z + 1],
        truth[z : z + 1].astype(np.uint8),
        (label[z : z + 1] > 0).astype(np.uint8),
        voxel_size_nm=stack.image.voxel_size_nm,
        class_names={1: stack.class_name},
    )


def table_rows(records: Sequence[Record]) -> list[tuple[str, ...]]:
    """Head and rows of a table: the newest of each stack, kind of training and part."""
    names = [f'{name}{suffix}' for suffix in THRESHOLDS for name in SCORES]
    newest = {
        (r['data'], r['kind'], r['part']): r
        for r in records
        if r['benchmark'] == QUESTION and not r['smoke']
    }
    rows = [
        (
            f'{r["data"]}: {r["class"]}',
            kind,
            f'{len(r["labelled"])} of {r["shape"][0]}',
            part,
            *(f'{r[name]:.3f}' for name in names),
            f'{r["steps"]:,}',
            f'{r["training_s"] / 60:.0f} min' if r['training_s'] else '',
        )
        for (_, kind, part), r in newest.items()
    ]
    columns = [name.replace('_at_', ' at ') for name in names]
    return [
        ('data', 'training', 'labelled slices', 'scored', *columns, 'steps on labels', 'training'),
        *rows,
    ]


def simulate() -> Stack:
    """Bright discs, whose label values are those of two directions."""
    rng = np.random.default_rng(0)
    y, x = np.ogrid[:48, :32]
    disc = (y % 16 - 8) ** 2 + (x % 16 - 8) ** 2 < 30
    labels = np.where(disc, np.where(x < 16, 0, 32), 255) + np.zeros((8, 1, 1), int)
    image = 3 * (labels < 255) + rng.standard_normal(labels.shape)
    return vnc(Volume(image.astype(np.float32)), Volume(labels.astype(np.uint8)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--data', type=Path, help='folder of the stacks')
    parser.add_argument('--output', type=Path, required=True)
    parser.add_argument('--only', default='sxt,vnc')
    parser.add_argument('--kinds', default=','.join(KINDS), help='of training')
    parser.add_argument('--steps', type=int, default=800, help='on labels, of each training')
    add_result_options(parser, smoke='simulated slices, nothing kept')
    options = parser.parse_args()
    if options.data is None and not options.smoke:
        parser.error('--data, or --smoke')
    logging.set_verbosity(logging.INFO)
    if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:  # programs serve several trainings
        jax.config.update('jax_compilation_cache_dir', str(options.output / 'compiled'))
    steps = min(4, options.steps) if options.smoke else options.steps
    for name in ('simulated',) if options.smoke else options.only.split(','):
        stack = simulate() if options.smoke else read_stack(name, options.data)
        prepare(stack, options.output / name)
        for kind in options.kinds.split(','):
            records = run(
                name, stack, options.output / name, kind, steps=steps, smoke=options.smoke
            )
            for r in records:
                print({key: r[key] for key in ('data', 'kind', 'part', *SCORES)})
            keep_records(records, options.results, smoke=options.smoke)


if __name__ == '__main__':
    main()
