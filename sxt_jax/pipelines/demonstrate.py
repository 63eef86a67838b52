"""The main job from end to end on simulated tomograms: train, segment, score, measure, draw."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from sxt_jax.core.atomic import write_text
from sxt_jax.core.errors import InputError
from sxt_jax.core.progress import progress_bar
from sxt_jax.core.volume import Volume
from sxt_jax.data.phantom import merge_labels, t_cell
from sxt_jax.io import read_volume, write_table, write_volume
from sxt_jax.measure import classes as measure_classes
from sxt_jax.measure import surface_mesh, write_surface
from sxt_jax.pipelines.evaluate_volumes import Case, evaluate_volumes
from sxt_jax.pipelines.evaluation_report import save_evaluation
from sxt_jax.pipelines.segment_volume import load_segmenter, segment_file
from sxt_jax.pipelines.train_network import plot_curves, train_network
from sxt_jax.plots import orthogonal_slices, save_figure, side_by_side

_FORMAT = '.tif'


@dataclasses.dataclass(frozen=True)
class Demonstration:
    """What the demo leaves: files by what they are, and the Dice of each class."""

    files: dict[str, Path]
    dice: dict[str, float]


def demonstrate(config: Any, output: str | Path) -> Demonstration:
    """Simulate tomograms, train on all but one, and segment, score and measure that one.

    Args:
      config: `configs/demo.py`.
      output: folder for everything.
    """
    output = Path(output)
    note, now = output / 'demo.json', config.to_json_best_effort(indent=1)
    if note.exists() and note.read_text(encoding='utf-8') != now:
        # An earlier demo's network knows other tomograms.
        raise InputError(output, 'has a demo with another config in it', 'another --output')
    unseen = simulate_data(config, output / 'data')
    write_text(note, now)
    assert unseen.image is not None
    config.data.train = str(output / 'data' / 'train')
    train_network(config, output / 'training')
    curves = plot_curves(output / 'training', output / 'learning_curves.png')

    labels_path = output / f'labels{_FORMAT}'
    segment_file(load_segmenter(output / 'training'), unseen.image, labels_path)
    scores = evaluate_volumes([dataclasses.replace(unseen, prediction=labels_path)])
    files = {
        'labels': labels_path,
        'measurements': output / 'measurements.csv',
        'surface': output / 'cells.obj',
        'learning curves': curves,
        'overlay': output / 'overlay.png',
        'truth and prediction': output / 'comparison.png',
    }
    describe_result(unseen, files)
    save_evaluation(scores, output / 'evaluation')
    files['scores'] = output / 'evaluation' / 'scores.csv'
    table = scores.scores
    dice = dict(zip(table['class'].tolist(), table['dice'].tolist(), strict=True))
    return Demonstration(files, dice)


def simulate_data(config: Any, folder: Path) -> Case:
    """Write simulated pairs to `folder`/train and one more beside them, which is returned."""
    simulation = config.simulation
    unseen = None
    logging.info('Simulating %d tomograms of T cells', simulation.n_train + 1)
    for i in progress_bar(range(simulation.n_train + 1), unit='tomogram', desc='simulating'):
        tomogram = t_cell(config.seed + i, shape=tuple(simulation.shape))
        part = 'train' if i < simulation.n_train else 'unseen'
        image = folder / part / 'images' / f'cell_{i:02d}{_FORMAT}'
        labels = folder / part / 'labels' / image.name
        merged, names = merge_labels(tomogram.labels.data, simulation.task)
        write_volume(image, tomogram.image)
        write_volume(labels, Volume(merged, tomogram.labels.voxel_size_nm, class_names=names))
        unseen = Case(image.stem, labels, image=image)
    assert unseen is not None
    return unseen


def describe_result(unseen: Case, files: dict[str, Path]) -> None:
    """Write the table of measures, the figures, and the surface of the first class if found."""
    assert unseen.image is not None
    image, truth = read_volume(unseen.image), read_volume(unseen.truth)
    labels = read_volume(files['labels'])
    assert image.voxel_size_nm is not None
    names = {value: name for value, name in (labels.class_names or {}).items() if value}
    size = image.voxel_size_nm
    table = measure_classes(labels.data, voxel_size_nm=size, class_names=names, image=image.data)
    write_table(files['measurements'], table)
    drawn: dict[str, Any] = {'voxel_size_nm': size, 'class_names': names}
    position = _telling_position(truth.data, sorted(names))
    figure = orthogonal_slices(image.data, labels.data, position=position, **drawn)
    save_figure(files['overlay'], figure)
    figure = side_by_side(image.data, truth.data, labels.data, z=position[0], **drawn)
    save_figure(files['truth and prediction'], figure)
    first = labels.data == min(names)
    if not first.any():
        logging.warning('No %s was found: there is no surface to write', names[min(names)])
        del files['surface']
        return
    write_surface(files['surface'], surface_mesh(first, voxel_size_nm=size))


def _telling_position(labels: np.ndarray, values: Sequence[int]) -> tuple[int, int, int]:
    """The section of each axis in which the class seen least is seen best."""
    found = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        counts = np.stack([np.sum(labels == v, axis=others) for v in values])
        shares = counts / np.maximum(counts.max(1, keepdims=True), 1)
        found.append(int(np.argmax(shares.min(0) + 0.1 * shares.mean(0))))
    return found[0], found[1], found[2]
