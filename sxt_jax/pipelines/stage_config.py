"""The stages of a cascade's config: each is an ordinary experiment.

`config.stages.order` names them; `config.stages.<name>` has the fields of which a stage has values
of its own (None: those of the whole config), and `where` it sees the volume.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sxt_jax.core.errors import InputError
from sxt_jax.models import build_model
from sxt_jax.models.slicewise import takes_slices
from sxt_jax.pipelines.check_config import check_config
from sxt_jax.pipelines.class_training import ClassTraining
from sxt_jax.pipelines.trained_network import EVERYWHERE, PLACES, SURFACE
from sxt_jax.pipelines.training_task import find_task


def is_cascade(config: Any) -> bool:
    """Whether an experiment has stages."""
    return 'stages' in config


def stage_names(config: Any) -> tuple[str, ...]:
    """In the order in which they are trained and run.

    Raises:
      InputError: no stage, or names that are none.
    """
    names = tuple(config.stages.order)
    known = sorted(name for name in config.stages if name != 'order')
    if not names or len(set(names)) < len(names) or not set(names) <= set(known):
        raise InputError('config.stages.order', f'{names}', f'each once, of {", ".join(known)}')
    for name in names:
        if not re.fullmatch(r'[A-Za-z]\w*', name) or name == 'checkpoints':
            raise InputError('config.stages.order', repr(name), 'letters: it names a folder')
    return names


def stage_config(config: Any, name: str) -> Any:
    """The experiment of a stage: the whole config with its own values.

    Its field `stage` has the stage's name, `where` and `surface_voxels`. Where the whole config
    starts from another cascade (`initial.checkpoint`), the stage does from that one's stage.
    """
    stage = config.stages[name]
    made = config.copy_and_resolve_references()
    with made.unlocked():
        del made['stages']
        del made['out_of_fold']
        _take(made, stage)
        made.stage = {
            'name': name,
            'where': stage.where,
            'surface_voxels': stage.surface_voxels if stage.where == SURFACE else 0,
        }
    same_stage = Path(made.initial.checkpoint) / name
    if made.initial.checkpoint and same_stage.is_dir():
        made.initial.checkpoint = str(same_stage)
    return made


def _take(fields: Any, own: Any) -> None:
    """Put values that are not None, or the command line's (None,), in place of others."""
    for name, value in own.items():
        if name in ('where', 'surface_voxels'):
            continue
        if isinstance(fields[name], Mapping) or hasattr(fields[name], 'items'):
            _take(fields[name], value)
        elif value is not None and value != (None,):
            fields[name] = value


def check_cascade(config: Any) -> None:
    """Everything that can be told of a cascade from its config alone.

    Raises:
      InputError: naming the stage and the field.
    """
    folds = config.out_of_fold.folds
    if folds < 0 or folds == 1:
        raise InputError('config.out_of_fold.folds', f'{folds}', '2 or more, or 0: none')
    for number, name in enumerate(stage_names(config)):
        stage = stage_config(config, name)
        try:
            _check_stage(stage, is_first=number == 0)
            check_config(stage)
        except InputError as error:
            raise InputError(f'stage {name}: {error.where}', error.found, error.expected) from error


def _check_stage(config: Any, *, is_first: bool) -> None:
    where, data = config.stage['where'], config.data
    if where not in PLACES:
        raise InputError('where', repr(where), f'one of {", ".join(PLACES)}')
    model = build_model(config.model)
    if takes_slices(model) or not isinstance(find_task(config, model), ClassTraining):
        found = f'{config.model.name!r}, with flows' if config.flows.kind else config.model.name
        raise InputError('config.model', found, 'a network of volumes that gives classes: unet3d')
    if where != SURFACE:
        return
    if is_first:
        raise InputError('where', repr(where), f'{EVERYWHERE}: nothing was found before it')
    if config.stage['surface_voxels'] < 0:
        raise InputError('surface_voxels', f'{config.stage["surface_voxels"]}', '0 or more')
    if data.sampling == 'strided':
        raise InputError('config.data.sampling', repr(data.sampling), 'random or each: on surfaces')
    for name in ('foreground_probability', 'foreground_share'):
        if data[name]:
            raise InputError(f'config.data.{name}', f'{data[name]}', '0: patches lie on surfaces')
