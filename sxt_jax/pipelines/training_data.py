"""From the folders of a config to examples, streams of patches and objectives."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from sxt_jax.core.errors import InputError
from sxt_jax.core.progress import progress_bar
from sxt_jax.core.volume import Volume
from sxt_jax.data.augment import Augmentation
from sxt_jax.data.classes import Classes, parse_classes
from sxt_jax.data.datasets import (
    Example,
    LabelMap,
    check_value_names,
    class_frequencies,
    detect_classes,
    open_pairs,
    prepare_examples,
    split_examples,
)
from sxt_jax.data.distort import Distortion
from sxt_jax.data.folds import split_folds
from sxt_jax.data.intensity import Intensity
from sxt_jax.data.labelled_slices import Unlabelled, value_range
from sxt_jax.data.pipeline import PatchStream
from sxt_jax.data.targets import CELLS, ObjectIds
from sxt_jax.io import (
    Pair,
    is_volume,
    list_volumes,
    open_volume,
    pair,
    split_dataset,
    without_labels,
)
from sxt_jax.pipelines.check_data import check_cells, check_pairs, check_volumes
from sxt_jax.pipelines.check_report import Report
from sxt_jax.pipelines.config_fields import binning, frozen_parts, make_sampling, working_shape
from sxt_jax.pipelines.task_cells import select_cells
from sxt_jax.training.objectives import Loss, Objective
from sxt_jax.training.optimizers import make_optimizer


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """Volumes, ready: what to train on, what to validate on, and their conventions.

    Attributes:
      train: labelled, to train on.
      validation: labelled, held out.
      classes: what labels mean.
      intensity: how gray values were normalised.
      unlabelled: to train on without labels.
      n_gray: how many of the channels are gray values; None: all. Probabilities follow them.
    """

    train: list[Example]
    validation: list[Example]
    classes: Classes
    intensity: Intensity
    unlabelled: list[Example] = dataclasses.field(default_factory=list)
    n_gray: int | None = None

    @property
    def n_channels(self) -> int:
        return int(self.train[0].image.shape[3])

    @functools.cached_property
    def value_range(self) -> float:
        """Of the gray values of unlabelled images; of the labelled, if there are no others."""
        return value_range(self.unlabelled or self.train)


def check_together(data: TrainingData) -> TrainingData:
    """The same data, if all have the channels of the first; warns of a validation without classes.

    Raises:
      InputError: naming the volume with other channels.
    """
    n_expected = data.n_channels
    for example in (*data.validation, *data.unlabelled):
        n_found = example.image.shape[3]
        if n_found != n_expected:
            expected = f'{n_expected} as in the training data'
            raise InputError(example.name, f'{n_found} channels', expected)
    if data.validation and not class_frequencies(data.validation, len(data.classes))[1:].any():
        logging.warning(
            'None of the classes occurs in the validation data (%s): no checkpoint is best by '
            'it, and the newest is used',
            ', '.join(example.name for example in data.validation),
        )
    return data


def read_pairs(
    config: Any,
    images: str,
    labels: str,
    *,
    intensity: str | Intensity,
    classes: Classes | None = None,
    lazy: bool = False,
) -> tuple[list[Example], Classes, Intensity]:
    """Labelled volumes of a folder, checked, on the working grid, normalised.

    Args:
      config: an experiment.
      images, labels: folders, as `io.pair` takes them.
      intensity: a kind of normalisation to fit, or one fitted before.
      classes: what label values mean; None: what the config says, else what occurs in the labels.
        With `CELLS` they are ids of cells. With a task each volume has its own.
      lazy: whether volumes are left in their files even if they fit in memory.

    Raises:
      InputError: an error in the data.
    """
    ids, ignore_value = classes is CELLS, config.data.ignore_value
    if config.data.task:
        return _read_cells(config, images, labels, intensity=intensity, known=classes, lazy=lazy)
    if classes is None and config.data.classes:
        classes = parse_classes(config.data.classes, ignore_value=ignore_value)
        _check_empty(config, classes)
    pairs, counts = _checked_pairs(images, labels, None if ids else classes, config, ids=ids)
    volumes = open_pairs(pairs)
    found, files = [labels for _, labels in volumes], [p.labels for p in pairs]
    if classes is None:
        classes = detect_classes(found, counts, files=files, ignore_value=ignore_value)
    elif not (ids or config.data.classes):
        check_value_names(classes, found, counts, files=files)
    logging.info('Classes: %s', classes)
    label_maps = [ObjectIds(ignore_value) if ids else classes] * len(pairs)
    examples, fitted = _prepare(
        config, pairs, volumes, label_maps=label_maps, intensity=intensity, lazy=lazy
    )
    return examples, classes, fitted


def _read_cells(
    config: Any,
    images: str,
    labels: str,
    *,
    intensity: str | Intensity,
    known: Classes | None,
    lazy: bool,
) -> tuple[list[Example], Classes, Intensity]:
    """As `read_pairs`, of the cells that serve the config's task; `known` are classes, if any."""
    chosen = select_cells(config, images, labels, new_names=known is not None)
    for classes in chosen.classes:
        _check_empty(config, classes)
    with progress_bar(unit='file', desc='checking', inner=True) as bar:
        report = check_cells(
            chosen.pairs,
            classes=chosen.classes,
            voxel_sizes_nm=[cell.voxel_size_nm for cell in chosen.cells],
            patch=_patch(config),
            on_file=lambda _: bar.update(),
        )
    _tell(report, f'Cells of {images}')
    examples, fitted = _prepare(
        config,
        chosen.pairs,
        chosen.open(),
        label_maps=chosen.classes,
        intensity=intensity,
        lazy=lazy,
    )
    logging.info('Classes: %s', chosen.task.classes)
    return examples, chosen.task.classes, fitted


def _check_empty(config: Any, classes: Classes) -> None:
    """Slices of zeros are no empty slices where 0 is a class."""
    if config.data.empty_slices == 'unlabelled' and not classes.is_background(0):
        found = f'slices of zeros unlabelled, where 0 is not background ({classes})'
        expected = 'data.ignore_value=N, the label value of unlabelled slices'
        raise InputError('config.data.empty_slices', found, expected)


def read_unlabelled(config: Any, folder: str, *, intensity: Intensity) -> list[Example]:
    """Volumes of a folder without labels, as `read_pairs`; labels beside images are left out.

    Raises:
      InputError: an error in the data.
    """
    files = _images(folder, config.data.dataset or None)
    with progress_bar(total=len(files), unit='file', desc='checking', inner=True) as bar:
        report = check_volumes(files, patch=_patch(config), on_file=lambda _: bar.update())
    _tell(report, f'Unlabelled data in {folder}')
    pairs = [Pair(file, file, split_dataset(file)[0].stem) for file in files]
    images = [open_volume(file) for file in files]
    nothing = [Volume(np.broadcast_to(np.int8(0), image.shape)) for image in images]
    volumes = list(zip(images, nothing, strict=True))
    label_maps = [Unlabelled()] * len(pairs)
    examples, _ = _prepare(config, pairs, volumes, label_maps=label_maps, intensity=intensity)
    return examples


def _images(folder: str, dataset: str | None) -> list[Path]:
    """The volumes of a folder that are no labels of others."""
    found, path = list_volumes(folder, dataset=dataset), Path(folder)
    if found == [path] and path.is_dir():  # slices of one volume, or slices with their labels
        each = sorted(file for file in path.iterdir() if is_volume(file))
        images = without_labels(each)
        return images if len(images) < len(each) else found
    return without_labels(found)


def _prepare(
    config: Any,
    pairs: Sequence[Pair],
    volumes: Sequence[tuple[Volume, Volume]],
    *,
    label_maps: Sequence[LabelMap],
    intensity: str | Intensity,
    lazy: bool = False,
) -> tuple[list[Example], Intensity]:
    with progress_bar(total=len(pairs), unit='volume', desc='preparing', inner=True) as bar:
        return prepare_examples(
            pairs,
            volumes,
            label_maps=label_maps,
            intensity=intensity,
            clip=config.data.clip,
            working_shape=working_shape(config),
            binning=binning(config),
            lazy=lazy,
            on_volume=bar.update,
        )


def _patch(config: Any) -> tuple[int, ...] | None:
    """Voxels of the files that a patch takes; None where they are resized to one grid."""
    if working_shape(config):
        return None
    return tuple(p * n for p, n in zip(config.data.patch, binning(config), strict=True))


def _tell(report: Report, what: str) -> None:
    """Warnings are logged, the first error is raised."""
    logging.info('%s:\n%s', what, report.format_table())
    for problem in report.problems:
        logging.warning('%s', problem)
    report.raise_if_errors()


def _checked_pairs(
    images: str, labels: str, classes: Classes | None, config: Any, *, ids: bool
) -> tuple[Sequence[Pair], Sequence[Mapping[int, int]]]:
    """Pairs of a folder in which no error was found, and the voxels of each of their labels."""
    datasets: dict[str, Any] = {
        'dataset': config.data.dataset or None,
        'label_dataset': config.data.label_dataset or None,
    }
    with progress_bar(unit='file', desc='checking', inner=True) as bar:
        report = check_pairs(
            images,
            labels or None,
            **datasets,
            classes=classes,
            ignore_label=config.data.ignore_value,
            instances=ids,
            patch=_patch(config),
            on_file=lambda _: bar.update(),
        )
    _tell(report, f'Training data in {images}')
    counts = [entry.label_counts or {} for entry in report.entries if entry.role == 'labels']
    return pair(images, labels or None, **datasets), counts


def hold_out(config: Any, examples: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """To train on and to validate on: all but a fold and the fold, or by `split_examples`.

    Raises:
      InputError: fewer examples than folds.
    """
    fields, seed = config.data, config.seed
    if fields.folds:
        return split_folds(examples, n_folds=fields.folds, fold=fields.fold, seed=seed)
    return split_examples(examples, fraction=fields.validation_fraction, seed=seed)


def make_stream(
    config: Any,
    examples: Sequence[Example],
    *,
    n_classes: int,
    seed: int | None = None,
    steps_per_epoch: int | None = None,
    labelled: bool = True,
) -> PatchStream:
    """The config's stream of patches of these examples.

    Args:
      config: an experiment.
      examples: what patches are cut from.
      n_classes: background included.
      seed: None: the config's.
      steps_per_epoch: None: what the config says, or as many as show all.
      labelled: whether patches are drawn by what is in them, if the config says so.
    """
    sampling = make_sampling(config)
    steps = steps_per_epoch or config.data.steps_per_epoch
    if not steps and config.data.repeats > 1:
        steps = max(1, config.data.repeats * len(examples) // config.batch_size)
    return PatchStream(
        examples,
        sampling=sampling if labelled else sampling.anywhere,
        batch_size=config.batch_size,
        seed=config.seed if seed is None else seed,
        n_classes=n_classes,
        steps_per_epoch=steps or None,
    )


def make_objective(
    config: Any,
    name: str,
    stream: PatchStream,
    loss: Loss,
    *,
    frozen: Sequence[str] = (),
    n_gray: int | None = None,
) -> Objective:
    """What is learnt from a stream, with the config's optimizer and augmentation.

    Args:
      config: an experiment.
      name: of the objective.
      stream: its data.
      loss: what is minimised.
      frozen: regular expressions of parameters it does not change, besides the config's.
      n_gray: see `TrainingData`.
    """
    return Objective(
        name=name,
        stream=stream,
        loss=loss,
        optimizer=make_optimizer(config.optimizer, n_steps=config.epochs * stream.steps_per_epoch),
        frozen=(*frozen_parts(config), *frozen),
        augmentation=Augmentation.from_config(dict(config.augmentation)),
        distortion=Distortion.from_config(dict(config.distortion)),
        n_gray=n_gray,
    )
