"""Train a network on labelled tomograms, as a config describes it."""

from __future__ import annotations

import functools
import json
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging
from jax.sharding import Mesh

import sxt_jax
from sxt_jax.core.atomic import write_text
from sxt_jax.core.devices import compute_dtype, make_device_mesh
from sxt_jax.core.errors import InputError
from sxt_jax.core.processes import check_same, everyone
from sxt_jax.data.datasets import fingerprint, sample_checksum
from sxt_jax.data.intensity import Intensity
from sxt_jax.models import build_model, model_config
from sxt_jax.models.slicewise import input_shape
from sxt_jax.pipelines.check_config import check_config, check_isotropy, check_resumed
from sxt_jax.pipelines.config_fields import working_shape
from sxt_jax.pipelines.trained_network import open_network, stages_of
from sxt_jax.pipelines.training_data import TrainingData
from sxt_jax.pipelines.training_task import find_task
from sxt_jax.plots import learning_curves, save_figure
from sxt_jax.training.checkpoint import (
    Checkpoint,
    best_checkpoint,
    latest_checkpoint,
    remove_leftovers,
    restore_into,
)
from sxt_jax.training.logbook import locked, read_metrics
from sxt_jax.training.loop import SCORE, Plan, Progress, Run, steps_left, train
from sxt_jax.training.objectives import steps_per_round
from sxt_jax.training.state import TrainState, create_state, start_from


class Load(Protocol):
    """Where training data come from."""

    def __call__(
        self, config: Any, *, intensity: str | Intensity, folder: str | Path
    ) -> TrainingData:
        """As `load_training_data`."""
        ...


def train_network(
    config: Any,
    workdir: str | Path,
    *,
    load: Load | None = None,
    on_start: Callable[[int], None] | None = None,
) -> Checkpoint:
    """Train as `config` says (see `configs/common.py`); goes on where an earlier run ended.

    Where this is one of several processes, all of which call it, they train one network together.

    Args:
      config: an experiment.
      workdir: folder for checkpoints, metrics and event files.
      load: where the data come from; None: from the folders of the config (`load_training_data`).
      on_start: called with the number of steps there are left to do, once everything is accepted
        and before anything is written; what it raises ends the training.

    Returns:
      The best checkpoint.

    Raises:
      InputError: anything wrong with the config or the data, told before the first step;
        a loss that is not finite; an interruption.
    """
    workdir, team = Path(workdir), everyone()
    check_config(config)
    with locked(workdir, team):
        team.first(lambda: remove_leftovers(workdir), name=f'tidy {workdir}')
        device_mesh = _dividing_devices(config)
        begun = team.each(lambda: _begun(workdir), name=f'open {workdir}')
        other = _initial_checkpoint(config) if begun is None else None
        intensity = _initial_intensity(config, begun, other)
        data = (load or load_training_data)(config, intensity=intensity, folder=workdir)
        check_isotropy(config, [*data.train, *data.unlabelled])
        model = build_network(config, n_classes=len(data.classes))
        run = describe_run(config, workdir, model, data, device_mesh)
        if team.size > 1:
            check_same(_learnt(run, data, begun, other), team, where=workdir)
        state, progress = _start(config, run, data, begun, other)
        if on_start is not None:
            on_start(steps_left(run, state, progress))
        team.first(lambda: write_records(config, workdir), name=f'describe {workdir}')
        train(run, state, progress)
        return best_checkpoint(workdir, metric=SCORE)


def plot_curves(workdir: str | Path, path: str | Path | None = None) -> Path:
    """Draw the losses and validation scores of a run; by default to `curves.png` in its folder."""
    path = Path(path or Path(workdir) / 'curves.png')
    rows = read_metrics(workdir)
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: np.array([row.get(name, np.nan) for row in rows]) for name in names}
    scores = [name for name in columns if name.split('/')[0] == SCORE]
    losses = [name for name in columns if name.split('/')[-1] == 'loss']
    save_figure(path, learning_curves(columns, losses=losses, scores=scores))
    return path


def load_training_data(
    config: Any, *, intensity: str | Intensity, folder: str | Path
) -> TrainingData:
    """Volumes of the config's folders, checked, normalised, split, with what is learnt of them.

    Args:
      config: an experiment.
      intensity: a kind of normalisation to fit, or one fitted before.
      folder: for targets that are made of the labels and do not fit in memory.

    Raises:
      InputError: an error in the data.
    """
    task = find_task(config, build_model(config.model))
    return task.load(config, intensity=intensity, folder=Path(folder))


def _begun(workdir: Path) -> Checkpoint | None:
    """The checkpoint from which a run goes on."""
    found = latest_checkpoint(workdir)
    if found is not None and (names := stages_of(found.description)):
        raise InputError(workdir, f'a cascade of {", ".join(names)}', 'another --workdir')
    return found


def _initial_checkpoint(config: Any) -> Checkpoint | None:
    """The checkpoint whose weights a fresh run starts from; it may be gone when the run goes on."""
    path, stage = config.initial.checkpoint, config.get('stage')
    return open_network(path, stage=stage['name'] if stage else None) if path else None


def check_initial(config: Any, *, n_classes: int | None = None, n_channels: int = 1) -> None:
    """Whether a fresh run can start from the weights that the config names, if it does.

    Args:
      config: an experiment.
      n_classes: that are learnt; None: not known yet, and weights are not compared.
      n_channels: of the images.

    Raises:
      InputError: no checkpoint, or one whose weights are not of the config's network.
    """
    other = _initial_checkpoint(config)
    if other is None or n_classes is None:
        return
    model = build_network(config, n_classes=n_classes)
    image = jnp.zeros(input_shape(model, tuple(config.data.patch), n_channels))
    made = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), image)
    state = TrainState(jnp.zeros((), int), made['params'], made.get('batch_stats', {}), {})
    start_from(state, other.restore(), scope=config.initial.scope)


def _initial_intensity(
    config: Any, begun: Checkpoint | None, other: Checkpoint | None
) -> str | Intensity:
    """The normalisation to fit; where weights are taken over, they are used to theirs."""
    if other is not None and other.description['intensity'] is not None:
        intensity = Intensity.from_dict(other.description['intensity'])
        if intensity.kind == config.data.intensity:
            return intensity
    if config.initial.checkpoint and begun is not None:
        return Intensity.from_dict(begun.description['intensity'])
    return str(config.data.intensity)


def build_network(config: Any, *, n_classes: int) -> nn.Module:
    """The config's network for that many classes, in the config's compute dtype."""
    fields = {**config.model, 'dtype': compute_dtype(config.compute_dtype)}
    task = find_task(config, build_model(fields))
    return build_model({**fields, **task.network_fields(n_classes)})


def describe_run(
    config: Any, workdir: Path, model: nn.Module, data: TrainingData, device_mesh: Mesh
) -> Run:
    """The training run: what is learnt, for how long, and what its checkpoints tell."""
    task, fields = find_task(config, model), config.checkpoint
    plan = Plan(
        n_epochs=config.epochs,
        evaluate_every=fields.evaluate_every,
        checkpoint_every_steps=fields.every_steps,
        keep=fields.keep,
        patience=fields.patience,
        plateau=fields.plateau,
    )
    held = data.validation
    own_mesh = device_mesh if everyone().size == 1 else make_device_mesh(jax.local_devices())
    return Run(
        workdir=workdir,
        model=model,
        objectives=task.objectives(config, model, data),
        plan=plan,
        validate=task.validator(config, model, data, own_mesh) if held else None,
        key=jax.random.key(config.seed),
        device_mesh=device_mesh,
        description=describe_network(config, model, data),
        n_accumulate=config.accumulate,
        panels=task.panels(config, model, data, own_mesh) if held else None,
        team=everyone(),
    )


def describe_network(config: Any, model: nn.Module, data: TrainingData) -> dict[str, Any]:
    """All that `segment_files` needs besides the weights, JSON-able."""
    sizes = [e.voxel_size_nm for e in data.train if e.voxel_size_nm is not None]
    return {
        'description': config.description,
        'model': model_config(model),
        'n_channels': data.n_channels,
        'classes': data.classes.to_dict(),
        'volumes': {
            'train': [fingerprint(example) for example in data.train],
            'validation': [fingerprint(example) for example in data.validation],
        },
        'intensity': data.intensity.to_dict(),
        'working_shape': working_shape(config),
        'tiling': dict(config.inference),
        'voxel_size_nm': sizes[0] if sizes else None,
        'config': json.loads(config.to_json_best_effort()),
        'version': sxt_jax.__version__,
        **find_task(config, model).facts(config, model, data),
    }


def _learnt(
    run: Run, data: TrainingData, begun: Checkpoint | None, other: Checkpoint | None
) -> dict[str, Any]:
    """All that the weights depend on, JSON-able: processes that train together must have the same.

    Of images a few slices are looked at, which no description of a network tells of.
    """
    examples, unlabelled = [*data.train, *data.validation], [*data.unlabelled]
    images = [example.image for example in examples] + [volume.image for volume in unlabelled]
    config = run.description['config']
    return {
        **{f'config.{name}': value for name, value in config.items()},
        **{name: value for name, value in run.description.items() if name != 'config'},
        'images': [[*image.shape, sample_checksum(image)] for image in images],
        'number of steps': [run.plan.n_epochs, steps_per_round(run.objectives)],
        'checkpoint to go on from': begun and [begun.step, begun.digest],
        'checkpoint to start from': other and [other.step, other.digest],
    }


def _start(
    config: Any, run: Run, data: TrainingData, begun: Checkpoint | None, other: Checkpoint | None
) -> tuple[TrainState, Progress]:
    """The state of the checkpoint `begun`, or a fresh one, perhaps with the weights of `other`."""
    patch = tuple(config.data.patch)
    state = create_state(
        run.key,
        run.model,
        run.objectives,
        input_shape=input_shape(run.model, patch, data.n_channels),
        device_mesh=run.device_mesh,
    )
    n_weights = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    logging.info(
        'Training %s (%s parameters) on %d %s, validating on %d; %d steps an epoch',
        config.model.name,
        f'{n_weights:,}',
        len(data.train),
        find_task(config, run.model).what(config),
        len(data.validation),
        steps_per_round(run.objectives),
    )
    if begun is not None:
        check_resumed(begun.description, run.description, workdir=run.workdir)
        logging.info('Going on from %s', begun.path)
        state = restore_into(begun, state, device_mesh=run.device_mesh)
        return state, Progress.of(begun.description)
    if other is not None:
        logging.info('Starting from the weights of %s, %s', other.path, other.description['model'])
        state = start_from(state, other.restore(), scope=config.initial.scope)
    return state, Progress()


def _dividing_devices(config: Any) -> Mesh:
    """As many devices as share the batch evenly: the batch is the experiment's, not the machine's.

    Raises:
      InputError: they are of several processes, which none can leave.
    """
    devices, n_patches = jax.devices(), config.batch_size // config.accumulate
    n = max(n for n in range(1, len(devices) + 1) if n_patches % n == 0)
    if n < len(devices) and jax.process_count() > 1:
        expected = f'a multiple of {len(devices)} devices'
        raise InputError('config.batch_size', f'{n_patches} patches at once', expected)
    if n < len(devices):
        logging.warning(
            'Training on %d of %d devices, among which %d patches divide evenly: '
            'another config.batch_size uses all',
            n, len(devices), n_patches,
        )  # fmt: skip
    return make_device_mesh(devices[:n])


def write_records(config: Any, workdir: Path) -> None:
    """What ran here: the whole config, the command, the versions."""
    write_text(workdir / 'config.json', config.to_json_best_effort(indent=1))
    environment = {
        'command': sys.argv,
        'python': platform.python_version(),
        'sxt_jax': sxt_jax.__version__,
        **{module.__name__: module.__version__ for module in (jax, flax, optax)},
        'devices': [str(device) for device in jax.devices()],
    }
    write_text(workdir / 'environment.json', json.dumps(environment, indent=1))
