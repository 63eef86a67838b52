"""How well does the main job do on real images, trained on one part and scored on another?

    python -m benchmarks.real_data --data=DIR --output=DIR [--only=sxt,nuclei]

DIR holds, under these names, openly published stacks (this project does not ship them):

| name | files | what | source |
|---|---|---|---|
| sxt | sxt/cryo_sxt.tif, .labels.tif | cryo SXT, mitochondria | Nahas et al. 2022 (Contour) |
| ovule | ovule/ovule_left.h5 | confocal, cell boundaries | Wolny et al. 2020, PlantSeg |
| nuclei | nuclei3d/nuclei.tif, .labels.tif | fluorescence, nuclei | StarDist sample |
| vnc | vnc/raw.tif, classes.tif | TEM, membranes and mitochondria | Gerhard et al. 2013 |

The stack is cut in two along its longest axis; a gap between the parts keeps them apart. The first
part is trained on (its last fifth validates), the second is segmented and scored, with Otsu's and
an adaptive threshold for comparison. Everything goes through the pipelines of the launch scripts.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from skimage.segmentation import find_boundaries

from benchmarks.harness import append_records, machine
from sxt_jax.core.volume import Volume
from sxt_jax.io import read_volume, write_volume
from sxt_jax.pipelines.evaluate_volumes import Options, evaluate_volumes
from sxt_jax.pipelines.evaluation import predict_with_checkpoint
from sxt_jax.pipelines.evaluation_report import report, save_evaluation
from sxt_jax.pipelines.train_network import plot_curves, train_network
from sxt_jax.plots import save_figure, side_by_side

_TRAIN_SHARE = 0.6
_GAP = 4  # voxels between the parts


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A stack, what is to be found in it, and the config that is trained.

    Attributes:
      image, labels: files under the data folder.
      task: label volume → class ids.
      class_names: of the ids.
      variant: of `configs/stack.py`.
      voxel_size_nm: where the files do not say.
      settings: fields of the config that differ.
    """

    image: str
    labels: str
    task: Callable[[np.ndarray], np.ndarray]
    class_names: dict[int, str]
    variant: str = ''
    voxel_size_nm: tuple[float, float, float] | None = None
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)


def _foreground(labels: np.ndarray) -> np.ndarray:
    return (labels > 0).astype(np.uint8)


def _boundaries(labels: np.ndarray) -> np.ndarray:
    """Voxels of a cell that touch another."""
    return find_boundaries(labels, mode='thick').astype(np.uint8)


def _membranes_and_mitochondria(classes: np.ndarray) -> np.ndarray:
    return np.select([classes <= 128, classes == 191], [1, 2]).astype(np.uint8)


EXPERIMENTS = {
    'sxt': Experiment(
        'sxt/cryo_sxt.tif',
        'sxt/cryo_sxt.labels.tif',
        _foreground,
        {1: 'mitochondria'},
        variant='thin',
    ),
    'ovule': Experiment(
        'ovule/ovule_left.h5::raw', 'ovule/ovule_left.h5::label', _boundaries, {1: 'boundaries'}
    ),
    'nuclei': Experiment(
        'nuclei3d/nuclei.tif', 'nuclei3d/nuclei.labels.tif', _foreground, {1: 'nuclei'}
    ),
    'vnc': Experiment(
        'vnc/raw.tif',
        'vnc/classes.tif',
        _membranes_and_mitochondria,
        {1: 'membranes', 2: 'mitochondria'},
        variant='thin',
        voxel_size_nm=(50.0, 4.6, 4.6),
    ),
}


def cut(shape: Sequence[int]) -> dict[str, tuple[slice, ...]]:
    """Where 'train' and 'test' are in a stack [z, y, x]."""
    axis = int(np.argmax(shape))
    at = round(_TRAIN_SHARE * shape[axis])
    parts = {'train': slice(0, at), 'test': slice(at + _GAP, None)}
    return {
        part: tuple(chosen if a == axis else slice(None) for a in range(3))
        for part, chosen in parts.items()
    }


def prepare(experiment: Experiment, data: Path, output: Path) -> None:
    """Cut the stack and write both parts as pairs to `output`/train and `output`/test."""
    image = read_volume(data / experiment.image)
    labels = experiment.task(read_volume(data / experiment.labels).data)
    size = image.voxel_size_nm or experiment.voxel_size_nm
    for part, index in cut(image.shape).items():
        write_volume(output / part / 'images' / 'stack.tif', Volume(image.data[index], size))
        write_volume(
            output / part / 'labels' / 'stack.tif',
            Volume(labels[index], size, class_names={0: 'background', **experiment.class_names}),
        )


def run(name: str, data: Path, output: Path, *, overrides: dict[str, Any]) -> list[dict[str, Any]]:
    """Train, segment and score one experiment; one record a class and method."""
    experiment = EXPERIMENTS[name]
    prepare(experiment, data, output)
    config = importlib.import_module('configs.stack').get_config(experiment.variant)
    config.data.train = str(output / 'train')
    config.data.classes = ','.join(f'{n}={v}' for v, n in experiment.class_names.items())
    config.update_from_flattened_dict({**experiment.settings, **overrides})
    begun = time.monotonic()
    train_network(config, output / 'run')
    training_s = time.monotonic() - begun
    plot_curves(output / 'run', output / 'curves.png')
    begun = time.monotonic()
    (case,), classes = predict_with_checkpoint(
        output / 'run', output / 'test' / 'labels', output / 'test' / 'images', output / 'result'
    )
    segmenting_s = time.monotonic() - begun
    result = evaluate_volumes(
        [case], options=Options(baselines=('otsu', 'adaptive'), classes=classes)
    )
    logging.info('%s\n%s', name, report(result))
    save_evaluation(result, output / 'evaluation')
    assert case.image is not None
    assert case.prediction is not None
    image, truth, found = (read_volume(p) for p in (case.image, case.truth, case.prediction))
    figure = side_by_side(
        image.data,
        truth.data,
        found.data,
        voxel_size_nm=image.voxel_size_nm,
        class_names=experiment.class_names,
    )
    save_figure(output / 'comparison.png', figure)
    table = result.scores
    scores = ('dice', 'iou', 'precision', 'recall')
    return [
        {
            'benchmark': 'real_data',
            'data': name,
            'class': str(table['class'][i]),
            'method': str(table['method'][i]),
            **{score: round(float(table[score][i]), 4) for score in scores},
            'training_s': round(training_s),
            'segmenting_s': round(segmenting_s, 1),
            'steps': config.epochs * config.data.steps_per_epoch,
            **machine(),
        }
        for i in range(len(table['class']))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--data', type=Path, required=True)
    parser.add_argument('--output', type=Path, required=True)
    parser.add_argument('--only', default=','.join(EXPERIMENTS))
    parser.add_argument('--epochs', type=int, help='instead of the configs’')
    arguments = parser.parse_args()
    logging.set_verbosity(logging.INFO)
    overrides = {'epochs': arguments.epochs} if arguments.epochs else {}
    for name in arguments.only.split(','):
        records = run(name, arguments.data, arguments.output / name, overrides=overrides)
        append_records(records)
        for record in records:
            kind = ', '.join(record[key] for key in ('data', 'class', 'method'))
            print(f'{kind}: Dice {record["dice"]:.3f}')


if __name__ == '__main__':
    main()
