"""Train a network on labelled tomograms, as a config describes it."""

from __future__ import annotations

import dataclasses
import json
import platform
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import flax
import flax.linen as nn
import jax
import numpy as np
import optax
from absl import logging
from jax.sharding import Mesh

import sxt_jax
from sxt_jax.core.atomic import write_text
from sxt_jax.core.devices import compute_dtype, make_device_mesh
from sxt_jax.core.errors import InputError
from sxt_jax.core.progress import progress_bar
from sxt_jax.core.volume import Volume
from sxt_jax.data.augment import Augmentation
from sxt_jax.data.classes import Classes, parse_classes
from sxt_jax.data.datasets import (
    Example,
    class_frequencies,
    detect_classes,
    fingerprint,
    open_pairs,
    prepare_examples,
)
from sxt_jax.data.distort import Distortion
from sxt_jax.data.intensity import Intensity
from sxt_jax.data.pipeline import PatchStream
from sxt_jax.data.targets import CELLS, ObjectIds
from sxt_jax.inference import make_apply_fn
from sxt_jax.io import Pair, pair
from sxt_jax.models import build_model, model_config
from sxt_jax.models.slicewise import input_shape
from sxt_jax.pipelines.check_config import (
    check_config,
    check_isotropy,
    check_resumed,
    make_sampling,
    working_shape,
)
from sxt_jax.pipelines.check_data import check_pairs
from sxt_jax.pipelines.flow_training import (
    flow_conventions,
    learns_flows,
    learns_slices,
    make_loss,
    predict_flows,
    split_with_targets,
    with_targets,
)
from sxt_jax.plots import learning_curves, save_figure
from sxt_jax.training.checkpoint import (
    Checkpoint,
    best_checkpoint,
    latest_checkpoint,
    remove_leftovers,
    restore_into,
)
from sxt_jax.training.evaluators import validation_scores
from sxt_jax.training.flow_evaluator import flow_scores, typical_radius
from sxt_jax.training.logbook import locked, read_metrics
from sxt_jax.training.loop import SCORE, Plan, Progress, Run, train
from sxt_jax.training.objectives import Loss, Objective, make_segmentation_loss
from sxt_jax.training.optimizers import make_optimizer
from sxt_jax.training.state import TrainState, create_state, start_from


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """Labelled volumes, ready: what to train on, what to validate on, and their conventions."""

    train: list[Example]
    validation: list[Example]
    classes: Classes
    intensity: Intensity

    @property
    def n_channels(self) -> int:
        return int(self.train[0].image.shape[3])


def train_network(config: Any, workdir: str | Path) -> Checkpoint:
    """Train as `config` says (see `configs/common.py`); goes on where an earlier run ended.

    Args:
      config: an experiment.
      workdir: folder for checkpoints, metrics and event files.

    Returns:
      The best checkpoint.

    Raises:
      InputError: anything wrong with the config or the data, told before the first step;
        a loss that is not finite; an interruption.
    """
    workdir = Path(workdir)
    check_config(config)
    with locked(workdir):
        remove_leftovers(workdir)
        device_mesh = _dividing_devices(config)
        begun = latest_checkpoint(workdir)
        other = _initial_checkpoint(config) if begun is None else None
        intensity = _initial_intensity(config, begun, other)
        data = load_training_data(config, intensity=intensity, folder=workdir)
        check_isotropy(config, data.train)
        model = build_network(config, n_classes=len(data.classes))
        run = describe_run(config, workdir, model, data, device_mesh)
        state, progress = _start(config, run, data, begun, other)
        _write_records(config, workdir)
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
    """Volumes of the config's folders, checked, on the working grid, normalised, split.

    Args:
      config: an experiment.
      intensity: a kind of normalisation to fit, or one fitted before.
      folder: for targets that are made of the labels and do not fit in memory.
    """
    fields = config.data
    classes = (
        parse_classes(fields.classes, ignore_value=fields.ignore_value) if fields.classes else None
    )
    train_pairs, counts = _checked_pairs(fields.train, fields.labels, classes, config)
    volumes = open_pairs(train_pairs)
    if learns_flows(config):
        classes = CELLS
    elif classes is None:
        labels = [labels for _, labels in volumes]
        classes = detect_classes(labels, counts, ignore_value=fields.ignore_value)
    logging.info('Classes: %s', classes)
    prepare = partial(_prepare, config=config, classes=classes)
    examples, intensity = prepare(train_pairs, volumes, intensity=intensity)
    kept: dict[str, Any] = {'config': config, 'folder': Path(folder) / 'targets'}
    if fields.validation:
        pairs, _ = _checked_pairs(fields.validation, fields.validation_labels, classes, config)
        held, _ = prepare(pairs, open_pairs(pairs), intensity=intensity)
        examples = with_targets(examples, slices=learns_slices(config), **kept)
        held = with_targets(held, **kept)
    else:
        examples, held = split_with_targets(examples, **kept)
    for example in held:
        n_found, n_expected = example.image.shape[3], examples[0].image.shape[3]
        if n_found != n_expected:
            expected = f'{n_expected} as in the training data'
            raise InputError(example.name, f'{n_found} channels', expected)
    if held and not class_frequencies(held, len(classes))[1:].any():
        logging.warning(
            'None of the classes occurs in the validation data (%s): no checkpoint is best by '
            'it, and the newest is used',
            ', '.join(example.name for example in held),
        )
    return TrainingData(examples, held, classes, intensity)


def _prepare(
    pairs: Sequence[Pair],
    volumes: Sequence[tuple[Volume, Volume]],
    *,
    config: Any,
    classes: Classes,
    intensity: str | Intensity,
) -> tuple[list[Example], Intensity]:
    """Volumes with classes, or ids of cells where flows are learnt."""
    flows = learns_flows(config)
    with progress_bar(total=len(pairs), unit='volume', desc='preparing', inner=True) as bar:
        return prepare_examples(
            pairs,
            volumes,
            classes=ObjectIds(config.data.ignore_value) if flows else classes,
            intensity=intensity,
            clip=config.data.clip,
            working_shape=working_shape(config),
            on_volume=bar.update,
        )


def _initial_checkpoint(config: Any) -> Checkpoint | None:
    """The checkpoint whose weights a fresh run starts from; it may be gone when the run goes on."""
    path = config.initial.checkpoint
    return best_checkpoint(path, metric=SCORE) if path else None


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
    return build_model(fields if learns_flows(config) else {**fields, 'n_labels': n_classes})


def describe_run(
    config: Any, workdir: Path, model: nn.Module, data: TrainingData, device_mesh: Mesh
) -> Run:
    """The training run: what is learnt, for how long, and what its checkpoints tell."""
    stream = make_stream(config, data.train, n_classes=len(data.classes))
    plan = Plan(
        n_epochs=config.epochs,
        evaluate_every=config.checkpoint.evaluate_every,
        checkpoint_every_steps=config.checkpoint.every_steps,
        keep=config.checkpoint.keep,
        patience=config.checkpoint.patience,
    )
    objective = Objective(
        name='supervised',
        stream=stream,
        loss=_make_loss(config, model, data),
        optimizer=make_optimizer(config.optimizer, n_steps=plan.n_epochs * stream.steps_per_epoch),
        frozen=tuple(part for part in config.frozen.split(',') if part),
        augmentation=Augmentation.from_config(dict(config.augmentation)),
        distortion=Distortion.from_config(dict(config.distortion)),
    )
    apply_fn, slices = make_apply_fn(model), learns_slices(config)

    # Once: it takes the ids of all volumes.
    radius = typical_radius(data.validation) if learns_flows(config) else None

    def validate(variables: Any) -> dict[str, float]:
        tiling: dict[str, Any] = dict(config.inference)
        if learns_flows(config):
            tiling = {**tiling, 'slices': slices, 'device_mesh': device_mesh}
            predict = partial(predict_flows, apply_fn, variables, **tiling)
            return flow_scores(predict, data.validation, cell_radius=radius)
        return validation_scores(
            apply_fn,
            variables,
            data.validation,
            classes=data.classes,
            tiling=tiling,
            device_mesh=device_mesh,
        )

    return Run(
        workdir=workdir,
        model=model,
        objectives=(objective,),
        plan=plan,
        validate=validate if data.validation else None,
        key=jax.random.key(config.seed),
        device_mesh=device_mesh,
        description=describe_network(config, model, data),
        n_accumulate=config.accumulate,
    )


def make_stream(config: Any, examples: Sequence[Example], *, n_classes: int) -> PatchStream:
    """The config's stream of patches of these examples."""
    return PatchStream(
        examples,
        sampling=make_sampling(config),
        batch_size=config.batch_size,
        seed=config.seed,
        n_classes=n_classes,
        steps_per_epoch=config.data.steps_per_epoch or None,
    )


def describe_network(config: Any, model: nn.Module, data: TrainingData) -> dict[str, Any]:
    """All that `segment_files` needs besides the weights, JSON-able."""
    sizes = [e.voxel_size_nm for e in data.train if e.voxel_size_nm is not None]
    flows: dict[str, Any] = {}
    if learns_flows(config):
        gray, n_channels = data.intensity, data.n_channels
        conventions = flow_conventions(config, model, n_channels=n_channels, intensity=gray)
        flows = {'classes': None, 'conventions': conventions}
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
        **flows,
    }


def _make_loss(config: Any, model: nn.Module, data: TrainingData) -> Loss:
    if learns_flows(config):
        return make_loss(config, model)
    return make_segmentation_loss(dict(config.loss), class_weights=_class_weights(config, data))


def _start(
    config: Any, run: Run, data: TrainingData, begun: Checkpoint | None, other: Checkpoint | None
) -> tuple[TrainState, Progress]:
    """The state of the checkpoint `begun`, or a fresh one, perhaps with the weights of `other`."""
    (objective,) = run.objectives
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
        'Training %s (%s parameters) on %d %s, validating on %d volumes; %d steps an epoch',
        config.model.name,
        f'{n_weights:,}',
        len(data.train),
        'stacks of slices' if learns_slices(config) else 'volumes',
        len(data.validation),
        objective.stream.steps_per_epoch,
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


def _checked_pairs(
    images: str, labels: str, classes: Classes | None, config: Any
) -> tuple[Sequence[Pair], Sequence[Mapping[int, int]]]:
    """Pairs of a folder in which no error was found, and the voxels of each of their labels.

    Warnings are logged.
    """
    flows = learns_flows(config)
    datasets: dict[str, Any] = {
        'dataset': config.data.dataset or None,
        'label_dataset': config.data.label_dataset or None,
    }
    with progress_bar(unit='file', desc='checking', inner=True) as bar:
        report = check_pairs(
            images,
            labels or None,
            **datasets,
            class_names=classes.value_names if classes and not flows else None,
            ignore_label=config.data.ignore_value,
            instances=flows,
            patch=None if working_shape(config) else tuple(config.data.patch),
            on_file=lambda _: bar.update(),
        )
    logging.info('Training data in %s:\n%s', images, report.format_table())
    for problem in report.problems:
        logging.warning('%s', problem)
    report.raise_if_errors()
    counts = [entry.label_counts or {} for entry in report.entries if entry.role == 'labels']
    return pair(images, labels or None, **datasets), counts


def _class_weights(config: Any, data: TrainingData) -> list[float] | None:
    """1 / frequency, with mean 1 over the voxels."""
    if not config.class_balance:
        return None
    frequency = class_frequencies(data.train, len(data.classes))
    weights = [1 / (f * int((frequency > 0).sum())) if f > 0 else 0.0 for f in frequency]
    logging.info('Class weights: %s', ', '.join(f'{w:.3g}' for w in weights))
    return weights


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


def _write_records(config: Any, workdir: Path) -> None:
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
