"""Look over a config before any work is done: ranges, what fits the network, the data, the run."""

from __future__ import annotations

import itertools
import json
import math
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn

from sxt_jax.core.devices import compute_dtype
from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import equal_sides
from sxt_jax.data.augment import Augmentation
from sxt_jax.data.classes import parse_classes
from sxt_jax.data.datasets import Example
from sxt_jax.data.distort import Distortion
from sxt_jax.data.intensity import KINDS
from sxt_jax.inference import make_apply_fn
from sxt_jax.inference.windows import BLENDS
from sxt_jax.models import build_model
from sxt_jax.pipelines.check_report import size_text
from sxt_jax.pipelines.config_fields import as_triple, make_sampling, working_shape
from sxt_jax.pipelines.mask_training import learns_mask
from sxt_jax.pipelines.slice_data import check_no_slice_fields
from sxt_jax.pipelines.task_cells import check_task
from sxt_jax.pipelines.training_task import find_task
from sxt_jax.training.loop import SCORE
from sxt_jax.training.mask_evaluator import MASK_LOSS
from sxt_jax.training.optimizers import make_optimizer
from sxt_jax.training.state import SCOPES

_AT_LEAST_ONE = (
    'epochs',
    'accumulate',
    'batch_size',
    'checkpoint.evaluate_every',
    'checkpoint.keep',
    'data.repeats',
    'augmentation.elastic_points',
)
_AT_LEAST_ZERO = (
    'seed', 'data.steps_per_epoch', 'data.unlabelled_slices',
    'checkpoint.every_steps', 'checkpoint.patience', 'optimizer.warmup_steps',
    'optimizer.weight_decay', 'optimizer.clip_norm', 'optimizer.decay',
    'augmentation.scale', 'augmentation.shift', 'augmentation.noise',
    'augmentation.rotate_degrees', 'augmentation.elastic_voxels', 'loss.cross_entropy', 'loss.dice',
    'loss.dice_squared', 'data.labelled_slices',
)  # fmt: skip

# What may differ when a run goes on: how long it is, where its files lie, how it is looked after.
_FREE = (
    'description', 'epochs', 'checkpoint.', 'inference.', 'initial.', 'data.train', 'data.labels',
    'data.validation', 'data.validation_labels', 'data.unlabelled', 'data.dataset',
    'data.label_dataset',
)  # fmt: skip


def check_config(config: Any) -> None:
    """Everything that can be told from the config alone, before data are read for long.

    Raises:
      InputError: naming the field.
    """
    if 'stages' in config:
        raise InputError('config.stages', 'a cascade', 'an experiment of one network')
    if not config.data.train:
        raise InputError('config.data.train', 'no folder', '--config.data.train=DIR')
    _check_ranges(config)
    _check_choices(config)
    model = build_model({**config.model, 'dtype': compute_dtype(config.compute_dtype)})
    _check_tiles(config, model)
    _check_unlabelled(config, model)
    _check_folds(config)
    check_no_slice_fields(config, model)
    find_task(config, model).check(config, model)
    # What is made here is made again once the data are known; these tell what is wrong.
    make_optimizer(config.optimizer, n_steps=1)
    Augmentation.from_config(dict(config.augmentation))
    Distortion.from_config(dict(config.distortion))
    make_sampling(config)
    if config.data.classes:
        parse_classes(config.data.classes, ignore_value=config.data.ignore_value)
    check_task(config)
    working_shape(config)


def _check_unlabelled(config: Any, model: nn.Module) -> None:
    """Fields that are for networks which learn a mask."""
    if not learns_mask(model):
        found = f'given, with the network {config.model.name!r}'
        expected = 'one that learns without labels: double_decoder'
        for name in ('unlabelled', 'unlabelled_slices'):
            if config.data[name]:
                raise InputError(f'config.data.{name}', found, expected)
    plateaus = (SCORE, *([MASK_LOSS] if learns_mask(model) else []))
    if config.checkpoint.plateau not in plateaus:
        found = repr(config.checkpoint.plateau)
        raise InputError('config.checkpoint.plateau', found, f'one of {plateaus}')
    if config.data.repeats > 1 and config.data.sampling != 'each':
        found = f'{config.data.repeats}, with sampling {config.data.sampling!r}'
        raise InputError('config.data.repeats', found, "1, or sampling 'each'")


def _check_folds(config: Any) -> None:
    """A fold that there is, and nothing else to say what is held out."""
    fields = config.data
    if fields.folds < 0 or fields.folds == 1:
        raise InputError('config.data.folds', f'{fields.folds}', '2 or more, or 0: none')
    if not 0 <= fields.fold < max(1, fields.folds):
        expected = f'0 … {fields.folds - 1}' if fields.folds else '0, or data.folds=N too'
        raise InputError('config.data.fold', f'{fields.fold}', expected)
    for name in ('validation', 'labelled_slices') if fields.folds else ():
        if fields[name]:
            found = f'{fields.folds}, with config.data.{name}={fields[name]}'
            raise InputError('config.data.folds', found, 'one of them')


def _check_choices(config: Any) -> None:
    for name, choices in (
        ('data.intensity', KINDS),
        ('inference.blend', BLENDS),
        ('initial.scope', SCOPES),
    ):
        if _field(config, name) not in choices:
            raise InputError(f'config.{name}', repr(_field(config, name)), f'one of {choices}')
    for pattern in config.frozen.split(','):
        try:
            re.compile(pattern)
        except re.error as error:
            found = f'{pattern!r} is no regular expression ({error})'
            raise InputError('config.frozen', found, "parts of parameters' paths") from error
    if config.inference.batch_size is not None and config.inference.batch_size < 1:
        raise InputError(
            'config.inference.batch_size', f'{config.inference.batch_size}', '1 or more'
        )


def _check_ranges(config: Any) -> None:
    """Numbers that make no run."""
    for names, least in ((_AT_LEAST_ONE, 1), (_AT_LEAST_ZERO, 0)):
        for name in names:
            if not least <= _field(config, name) < math.inf:
                raise InputError(f'config.{name}', f'{_field(config, name)}', f'at least {least}')
    for name, expected, fits in (
        ('optimizer.learning_rate', 'above 0', lambda v: 0 < v < math.inf),
        ('data.foreground_probability', '0 … 1', lambda v: 0 <= v <= 1),
        ('optimizer.epsilon', 'above 0', lambda v: 0 < v < math.inf),
        ('optimizer.momentum', '0 … below 1', lambda v: 0 <= v < 1),
        ('data.validation_fraction', '0 … below 1', lambda v: 0 <= v < 1),
        ('model.norm_momentum', '0 … below 1', lambda v: 0 <= v < 1),
    ):
        if not fits(_field(config, name, default=0.5)):
            raise InputError(f'config.{name}', f'{_field(config, name)}', expected)
    if config.batch_size % config.accumulate:
        raise InputError(
            'config.batch_size', str(config.batch_size), f'a multiple of {config.accumulate} parts'
        )


def _check_tiles(config: Any, model: nn.Module) -> None:
    """Patches and tiles that the network can take."""
    multiple = make_apply_fn(model).side_multiple
    for name, least in (
        ('data.patch', 1),
        ('data.stride', 1),
        ('inference.tile', 1),
        ('inference.overlap', 0),
    ):
        sides = as_triple(name, _field(config, name), least=least)
        whole = name in ('data.patch', 'inference.tile')
        if whole and any(s % m for s, m in zip(sides, multiple, strict=True)):
            raise InputError(f'config.{name}', f'{sides}', f'multiples of {multiple}')
    tile, overlap = config.inference.tile, config.inference.overlap
    room = tuple(t - m for t, m in zip(tile, multiple, strict=True))  # tiles start at multiples
    if any(o > r for o, r in zip(overlap, room, strict=True)):
        raise InputError('config.inference.overlap', f'{overlap}', f'at most {room} with the tile')


def check_isotropy(config: Any, examples: Sequence[Example]) -> None:
    """Augmentation that exchanges or turns axes needs voxels as long along the one as the other.

    Raises:
      InputError: naming the volume, its voxels and the field.
    """
    augmentation, patch = config.augmentation, tuple(config.data.patch)
    in_plane = ((1, 2),)
    for name, planes in (
        ('swap_axes', [p for p in ((0, 1), (0, 2), (1, 2)) if patch[p[0]] == patch[p[1]]]),
        ('rotate_90', in_plane),
        ('rotate_degrees', in_plane),
    ):
        for example, (a, b) in itertools.product(examples if augmentation[name] else (), planes):
            size = example.voxel_size_nm
            if size is not None and not equal_sides((size[a], size[b])):
                raise InputError(
                    example.name,
                    f'voxels of {size_text(size)} nm (z, y, x) with --config.augmentation.{name}',
                    f'equal sides along {"zyx"[a]} and {"zyx"[b]}, or the option off',
                )


def check_resumed(
    before: Mapping[str, Any], now: Mapping[str, Any], *, workdir: str | Path
) -> None:
    """Whether a run can go on from a checkpoint: the same experiment on the same kind of data.

    Args:
      before, now: descriptions of the checkpoint and of the run, JSON-able.
      workdir: of the run, for the message.

    Raises:
      InputError: naming what differs.
    """
    now = json.loads(json.dumps(now))  # tuples are lists, as in what was saved
    for what in ('classes', 'volumes', 'unlabelled', 'intensity', 'n_channels'):
        if before.get(what) != now.get(what):
            raise _changed(workdir, what, _text(now.get(what)), _text(before.get(what)))
    check_same_fields(before['config'], now['config'], workdir=workdir)


def check_same_fields(
    before: Mapping[str, Any], now: Mapping[str, Any], *, workdir: str | Path
) -> None:
    """The part of `check_resumed` that is told by configs alone, as dictionaries of JSON.

    Raises:
      InputError: naming the field that differs.
    """
    old, new = dict(_flatten(before)), dict(_flatten(now))
    for name in sorted(old.keys() & new.keys()):
        if old[name] != new[name] and not any(
            name.startswith(free) if free.endswith('.') else name == free for free in _FREE
        ):
            raise _changed(workdir, f'config.{name}', new[name], old[name])


def _changed(workdir: str | Path, what: str, found: Any, expected: Any) -> InputError:
    return InputError(
        workdir,
        f'{what} is now {found}',
        f'{expected}, with which the run there began, or another --workdir (which starts from '
        f'these weights with --config.initial.checkpoint={workdir})',
    )


def _text(value: Any) -> str:
    """Of a description's entry, without the punctuation of Python."""
    return textwrap.shorten(re.sub(r"[{}\[\]'\"]", '', str(value)), 200, placeholder=' …')


def _flatten(fields: Mapping[str, Any], prefix: str = '') -> Iterator[tuple[str, Any]]:
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f'{prefix}{name}.')
        else:
            yield f'{prefix}{name}', value


def _field(config: Any, name: str, default: Any = None) -> Any:
    for part in name.split('.'):
        config = config.get(part, default)
    return config
