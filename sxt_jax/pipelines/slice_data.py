"""Stacks of which some slices are labelled, as networks of slices learn from them."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import flax.linen as nn
from absl import logging

from sxt_jax.core.errors import InputError
from sxt_jax.data.binning import NO_BINNING
from sxt_jax.data.classes import Classes
from sxt_jax.data.datasets import Example
from sxt_jax.data.folds import split_slice_folds
from sxt_jax.data.intensity import Intensity
from sxt_jax.data.labelled_slices import CHOICES, cut_slices, hold_slices, split_slices
from sxt_jax.models.slicewise import takes_slices
from sxt_jax.pipelines.config_fields import binning, working_shape
from sxt_jax.pipelines.training_data import TrainingData, read_pairs

EMPTY_SLICES = ('background', 'unlabelled')
_ONE_SLICE = 'one slice: the network is 2-D'


def load_slices(
    config: Any, *, intensity: str | Intensity, classes: Classes | None = None
) -> TrainingData:
    """Labelled slices of stacks, of which some are held out; the others are left in their files.

    Args:
      config: an experiment.
      intensity: a kind of normalisation to fit, or one fitted before.
      classes: as of `read_pairs`.

    Raises:
      InputError: an error in the data, or fewer labelled slices than wanted.
    """
    fields = config.data
    read = partial(read_pairs, config, lazy=True)
    volumes, classes, fitted = read(
        fields.train, fields.labels, intensity=intensity, classes=classes
    )
    labelled, _ = cut_labelled(config, volumes)
    if not labelled:
        raise InputError(fields.train, 'no slice with a label', 'some labelled slices')
    train, held, _ = split_labelled(config, labelled)
    if fields.validation:
        images, labels = fields.validation, fields.validation_labels
        volumes, _, _ = read(images, labels, intensity=fitted, classes=classes)
        held, _ = cut_labelled(config, volumes)
    logging.info(
        '%d labelled slices to train on, %d to validate on, of %d',
        len(train), len(held), len(labelled),
    )  # fmt: skip
    return TrainingData(hold_slices(train), hold_slices(held), classes, fitted)


def cut_labelled(config: Any, volumes: list[Example]) -> tuple[list[Example], list[Example]]:
    """Labelled and unlabelled slices of volumes; `data.empty_slices` says which are which."""
    return cut_slices(volumes, empty_are_labelled=config.data.empty_slices == 'background')


def split_labelled(
    config: Any, labelled: list[Example]
) -> tuple[list[Example], list[Example], list[Example]]:
    """To train on, to validate on unless there is a folder for that, and those left over.

    Folds are of whole volumes, or of neighbouring slices (`split_slice_folds`).
    """
    fields = config.data
    if fields.folds:
        folds = {'n_folds': fields.folds, 'fold': fields.fold}
        return *split_slice_folds(labelled, **folds, seed=config.seed), []
    return split_slices(
        labelled,
        n=fields.labelled_slices,
        choice=fields.labelled_choice,
        fraction=0.0 if fields.validation else fields.validation_fraction,
        seed=config.seed,
    )


def check_slices(config: Any) -> None:
    """Whether fields fit a network of slices.

    Raises:
      InputError: naming the field.
    """
    for name, sides in (
        ('data.patch', config.data.patch),
        ('inference.tile', config.inference.tile),
    ):
        if sides[0] != 1:
            raise InputError(f'config.{name}', f'{tuple(sides)}', _ONE_SLICE)
    for name, found in (
        ('data.exchange_axes', config.data.exchange_axes),
        ('distortion.probability', config.distortion.probability),
    ):
        if found:
            raise InputError(f'config.{name}', f'{found}', f'0: not with {_ONE_SLICE}')
    if working_shape(config):
        found = f'{tuple(config.data.working_shape)}'
        expected = 'none: slices keep their own grid, or data.binning'
        raise InputError('config.data.working_shape', found, expected)
    for name, choices in (('empty_slices', EMPTY_SLICES), ('labelled_choice', CHOICES)):
        if config.data[name] not in choices:
            raise InputError(f'config.data.{name}', repr(config.data[name]), f'one of {choices}')
    if binning(config)[0] != 1:
        found = f'{tuple(config.data.binning)}'
        raise InputError('config.data.binning', found, '1 along z: slices are not joined')


def check_no_slice_fields(config: Any, model: nn.Module) -> None:
    """Fields that are for networks of slices with classes or maps; for others they do nothing.

    Raises:
      InputError: one of them is given, or binning with flows.
    """
    name = f'with the network {config.model.name!r}'
    if takes_slices(model) and not config.flows.kind:
        return
    for field, default in (
        ('labelled_slices', 0), ('labelled_choice', CHOICES[0]), ('empty_slices', EMPTY_SLICES[0]),
    ):  # fmt: skip
        if config.data[field] != default:
            found = f'{config.data[field]!r}, {name}'
            expected = 'a network of slices, such as resunet: others learn of volumes'
            raise InputError(f'config.data.{field}', found, expected)
    if config.flows.kind:
        check_no_binning(config)


def check_no_binning(config: Any) -> None:
    """Binning where there is none.

    Raises:
      InputError: it is given.
    """
    if binning(config) != NO_BINNING:
        found = f'{tuple(config.data.binning)}, with the network {config.model.name!r}'
        expected = 'one that gives classes or the maps of cells: unet3d, resunet, setr, transunet'
        raise InputError('config.data.binning', found, expected)


def slice_facts(config: Any) -> dict[str, Any]:
    """What checkpoints of networks of slices tell besides what all tell."""
    return {'binning': list(binning(config))} if math.prod(binning(config)) > 1 else {}
