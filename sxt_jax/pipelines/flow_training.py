"""Training a network to give foreground and flows: its data, its scores, what it tells."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np
from absl import logging
from jax.sharding import Mesh

from sxt_jax.core.atomic import remove_abandoned
from sxt_jax.core.errors import InputError
from sxt_jax.core.memory import fits_in_memory
from sxt_jax.core.processes import everyone
from sxt_jax.core.progress import progress_bar
from sxt_jax.core.volume import ArrayLike
from sxt_jax.data.datasets import Example
from sxt_jax.data.intensity import Intensity
from sxt_jax.data.slice_targets import slice_examples
from sxt_jax.data.targets import CELLS, with_flows
from sxt_jax.inference import Slab, make_apply_fn, predict_slabs
from sxt_jax.inference.apply import ApplyFn
from sxt_jax.inference.orthogonal import HEADS as SLICE_HEADS
from sxt_jax.inference.orthogonal import predict_orthogonal
from sxt_jax.instances.gradient_maps import KINDS, labels_to_flows
from sxt_jax.models import build_model
from sxt_jax.models.slicewise import takes_slices
from sxt_jax.pipelines.task_cells import check_no_task
from sxt_jax.pipelines.training_data import (
    TrainingData,
    check_together,
    hold_out,
    make_objective,
    make_stream,
    read_pairs,
)
from sxt_jax.training.flow_evaluator import flow_scores, typical_radius
from sxt_jax.training.flow_objective import make_flow_loss
from sxt_jax.training.objectives import Loss, Objective

_HEADS = {'foreground', 'flows'}
_SLICE_KIND = 'heat'  # as Cellpose is trained
_TARGET_BYTES = 8  # of a voxel: labels and three components in half precision
_SLAB_DEPTH = 32


def learns_flows(config: Any) -> bool:
    """Whether labels are ids of cells, of which foreground and flows are learnt."""
    return bool(config.flows.kind)


def learns_slices(config: Any) -> bool:
    """Whether flows are learnt by a 2-D network, of slices in three orientations."""
    return learns_flows(config) and takes_slices(build_model(config.model))


def _check_flows(config: Any, model: nn.Module) -> None:
    """Whether the config's targets are what the network gives, and its other fields fit them."""
    kind, heads = config.flows.kind, set(getattr(model, 'head_activations', {}))
    name = config.model.name
    if kind not in KINDS:
        raise InputError('config.flows.kind', repr(kind), f'one of {KINDS}, or empty for classes')
    if not heads >= set(SLICE_HEADS if takes_slices(model) else _HEADS):
        found = f'{kind!r}, with the network {name!r}'
        expected = 'a network that gives flows: cellpose3d or cellpose2d'
        raise InputError('config.flows.kind', found, expected)
    check_no_task(config, f'flows of kind {kind!r}')
    if any(n is not None for n in config.data.working_shape or ()):
        found = f'{tuple(config.data.working_shape)}, with flows'
        raise InputError('config.data.working_shape', found, 'none: cells keep their own grid')
    for field in ('rotate_degrees', 'elastic_voxels'):
        if config.augmentation[field] > 0:
            found = f'{config.augmentation[field]}, with flows'
            raise InputError(f'config.augmentation.{field}', found, '0: flows are not bent')
    if takes_slices(model):
        _check_slices(config)
    make_loss(config, model)


def _check_slices(config: Any) -> None:
    """Whether the config's fields fit flows that have no component across the slice."""
    kind, depth = config.flows.kind, config.data.patch[0]
    found = f'{kind!r}, with the 2-D network {config.model.name!r}'
    if kind != _SLICE_KIND:
        raise InputError('config.flows.kind', found, repr(_SLICE_KIND))
    across = 'flows within slices, which keep their axis'
    if config.data.exchange_axes > 0:
        found = f'{config.data.exchange_axes}, with {across}'
        raise InputError('config.data.exchange_axes', found, '0')
    if config.augmentation.swap_axes and depth in config.data.patch[1:]:
        found = f'on, for patches {tuple(config.data.patch)} of {across}'
        raise InputError('config.augmentation.swap_axes', found, 'off, or patches of one slice')
    if config.distortion.probability > 0:
        found = f'{config.distortion.probability}, with a network of slices'
        raise InputError('config.distortion.probability', found, '0: it is for volumes')


def make_loss(config: Any, model: nn.Module) -> Loss:
    """The config's loss of foreground and flows: that of slices, if the network takes them."""
    return make_flow_loss(slices=takes_slices(model), **_weights(config))


def _weights(config: Any) -> dict[str, Any]:
    return {name: config.flows[name] for name in ('foreground_weight', 'flow_weight')}


class FlowTraining:
    """Foreground and flows of cells are learnt: a `pipelines.training_task.Task`."""

    def check(self, config: Any, model: nn.Module) -> None:
        """Whether fields and network fit flows.

        Raises:
          InputError: naming the field.
        """
        _check_flows(config, model)

    def load(self, config: Any, *, intensity: str | Intensity, folder: Path) -> TrainingData:
        """Volumes of cells with their targets, of which some are held out."""
        fields, read = config.data, partial(read_pairs, config, classes=CELLS)
        train, _, fitted = read(fields.train, fields.labels, intensity=intensity)
        kept: dict[str, Any] = {'config': config, 'folder': folder / 'targets'}
        if fields.validation:
            held, _, _ = read(fields.validation, fields.validation_labels, intensity=fitted)
            train = with_targets(train, slices=learns_slices(config), **kept)
            held = with_targets(held, **kept)
        else:
            train, held = split_with_targets(train, **kept)
        return check_together(TrainingData(train, held, CELLS, fitted))

    def network_fields(self, n_classes: int) -> Mapping[str, Any]:
        """None: cells are of one class."""
        return {}

    def objectives(self, config: Any, model: nn.Module, data: TrainingData) -> list[Objective]:
        """One: foreground and flows."""
        stream = make_stream(config, data.train, n_classes=len(data.classes))
        return [make_objective(config, 'supervised', stream, make_loss(config, model))]

    def validator(
        self, config: Any, model: nn.Module, data: TrainingData, device_mesh: Mesh
    ) -> Callable[[Any], Mapping[str, float]]:
        """Scores of cells and of what they are made of."""
        apply_fn = make_apply_fn(model)
        radius = typical_radius(data.validation)  # once: it takes the ids of all volumes
        options: dict[str, Any] = {
            **config.inference, 'slices': learns_slices(config), 'device_mesh': device_mesh,
        }  # fmt: skip

        def validate(variables: Any) -> dict[str, float]:
            predict = partial(predict_flows, apply_fn, variables, **options)
            return flow_scores(predict, data.validation, cell_radius=radius, team=everyone())

        return validate

    def panels(
        self, config: Any, model: nn.Module, data: TrainingData, device_mesh: Mesh
    ) -> Callable[[Any], Mapping[str, np.ndarray]] | None:
        """None."""
        return None

    def facts(self, config: Any, model: nn.Module, data: TrainingData) -> Mapping[str, Any]:
        """Flows have conventions in place of classes."""
        gray, n_channels = data.intensity, data.n_channels
        conventions = flow_conventions(config, model, n_channels=n_channels, intensity=gray)
        return {'classes': None, 'conventions': conventions}

    def what(self, config: Any) -> str:
        return 'stacks of slices' if learns_slices(config) else 'volumes'


def with_targets(
    examples: list[Example], *, config: Any, folder: Path, slices: bool = False
) -> list[Example]:
    """Volumes of ids of cells with foreground and flows in their place.

    Args:
      examples: their labels are ids (`data.targets.ObjectIds`).
      config: what is learnt.
      folder: where targets are kept that do not fit in memory.
      slices: make three stacks of slices of each volume, to train a 2-D network. Volumes to
        validate on are never slices: truth is 3-D, whatever the network.
    """
    kind = config.flows.kind
    n_voxels = sum(math.prod(example.shape) for example in examples)
    kept, team = None, everyone()
    fits = fits_in_memory((3 if slices else 1) * _TARGET_BYTES * n_voxels)
    if not all(team.gather(fits, name=f'memory for {folder}')):
        kept = folder / ('slices' if slices else kind)
        kept.mkdir(parents=True, exist_ok=True)
        remove_abandoned(kept)
        logging.info('Foreground and flows do not fit in memory and are kept in %s', kept)
    if kept is not None and not team.is_first:
        team.wait(name=f'targets in {kept}')  # what the first process keeps, the others find
    made, flows_of = [], partial(labels_to_flows, kind=kind)
    with progress_bar(total=len(examples), unit='volume', desc='flows', inner=True) as bar:
        for example in examples:
            if slices:
                made += slice_examples(example, flows_of, folder=kept)
            else:
                made.append(with_flows(example, flows_of, folder=kept))
            bar.update()
    if kept is not None and team.is_first:
        team.wait(name=f'targets in {kept}')
    return made


def split_with_targets(
    examples: list[Example], *, config: Any, folder: Path
) -> tuple[list[Example], list[Example]]:
    """What to train on and what to validate on, with their targets; see `hold_out`.

    Args:
      examples, config, folder: see `with_targets`.
    """
    split = partial(hold_out, config)
    targets = partial(with_targets, config=config, folder=folder)
    if not learns_slices(config):
        return split(targets(examples))  # flows first: the cut goes through cells
    train, held = split(examples)
    if len(examples) > 1:
        held = targets(held)
    elif held:
        held = split(targets(examples))[1]
    return targets(train, slices=True), held


def predict_flows(
    apply_fn: ApplyFn, variables: Any, image: ArrayLike, *, slices: bool, **tiling: Any
) -> Iterator[Slab]:
    """Foreground and flows of a volume to validate on, as `launch.segment` predicts them.

    Args:
      apply_fn, variables, image, tiling: see `predict_slabs`.
      slices: whether the network is 2-D, and sees slices in three orientations.
    """
    if not slices:
        yield from predict_slabs(apply_fn, variables, image, **tiling)
        return
    heads = predict_orthogonal(apply_fn, variables, image, **tiling)
    if heads['flows'].shape[-1] == 2:  # of one slice; the truth has three components
        heads['flows'] = np.pad(heads['flows'], [(0, 0)] * 3 + [(1, 0)])
    for z in range(0, image.shape[0], _SLAB_DEPTH):
        stop = min(z + _SLAB_DEPTH, image.shape[0])
        yield Slab(z, stop, {name: head[z:stop] for name, head in heads.items()})


def flow_conventions(
    config: Any, model: nn.Module, *, n_channels: int, intensity: Intensity
) -> dict[str, Any]:
    """What a checkpoint tells of its inputs and heads, in the words of an imported network."""
    gray: dict[str, Any] = {'kind': intensity.kind, 'clip': [0.0, 1.0] if intensity.clip else None}
    if intensity.kind == 'percentile':
        gray['low_percent'], gray['high_percent'] = intensity.percentiles
    heads = {
        'foreground': 'after tanh; above 0.5 where cells are',
        'flows': '(z, y, x) towards the centre',
    }
    if takes_slices(model):
        heads = {
            'foreground': 'probability',
            'foreground_logit': 'its logit; of three orientations the mean counts',
            'flows': '(y, x) towards the centre of the cell in the slice',
        }
    return {
        'n_channels': n_channels,
        'intensity': gray,
        'heads': heads,
        'flow_kind': config.flows.kind,
        'patch': list(config.data.patch),
        'overlap': list(config.inference.overlap),
        'blend': config.inference.blend,
    }
