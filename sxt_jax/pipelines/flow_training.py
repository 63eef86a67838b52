"""Training a network to give foreground and flows: its data, its scores, what it tells."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np
from absl import logging

from sxt_jax.core.atomic import remove_abandoned
from sxt_jax.core.errors import InputError
from sxt_jax.core.progress import progress_bar
from sxt_jax.core.volume import ArrayLike
from sxt_jax.data.datasets import Example, fits_in_memory, split_examples
from sxt_jax.data.intensity import Intensity
from sxt_jax.data.slice_targets import slice_examples
from sxt_jax.data.targets import with_flows
from sxt_jax.inference import Slab, predict_slabs
from sxt_jax.inference.apply import ApplyFn
from sxt_jax.inference.orthogonal import HEADS as SLICE_HEADS
from sxt_jax.inference.orthogonal import predict_orthogonal
from sxt_jax.instances.gradient_maps import KINDS, labels_to_flows
from sxt_jax.models import build_model
from sxt_jax.models.slicewise import takes_slices
from sxt_jax.training.flow_objective import make_flow_loss
from sxt_jax.training.objectives import Loss

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


def check_flows(config: Any, model: nn.Module) -> None:
    """Whether the config's targets are what the network gives, and its other fields fit them.

    Raises:
      InputError: naming the field.
    """
    kind, heads = config.flows.kind, set(getattr(model, 'head_activations', {}))
    name = config.model.name
    if kind and kind not in KINDS:
        raise InputError('config.flows.kind', repr(kind), f'one of {KINDS}, or empty for classes')
    if not kind:
        if heads >= _HEADS:
            found = f'empty, with the network {name!r}, which gives foreground and flows'
            raise InputError('config.flows.kind', found, f'one of {KINDS}')
        return
    if not heads >= set(SLICE_HEADS if takes_slices(model) else _HEADS):
        found = f'{kind!r}, with the network {name!r}'
        expected = 'a network that gives flows: cellpose3d or cellpose2d'
        raise InputError('config.flows.kind', found, expected)
    if config.data.classes:
        found = f'{config.data.classes!r}, with flows of kind {kind!r}'
        raise InputError('config.data.classes', found, 'nothing: labels are ids of cells')
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


def with_targets(
    examples: list[Example], *, config: Any, folder: Path, slices: bool = False
) -> list[Example]:
    """Volumes of ids of cells with foreground and flows in their place; of classes, as they are.

    Args:
      examples: where flows are learnt, their labels are ids (`data.targets.ObjectIds`).
      config: what is learnt.
      folder: where targets are kept that do not fit in memory.
      slices: make three stacks of slices of each volume, to train a 2-D network. Volumes to
        validate on are never slices: truth is 3-D, whatever the network.
    """
    if not learns_flows(config):
        return examples
    kind = config.flows.kind
    n_voxels = sum(math.prod(example.shape) for example in examples)
    kept = None
    if not fits_in_memory((3 if slices else 1) * _TARGET_BYTES * n_voxels):
        kept = folder / ('slices' if slices else kind)
        kept.mkdir(parents=True, exist_ok=True)
        remove_abandoned(kept)
        logging.info('Foreground and flows do not fit in memory and are kept in %s', kept)
    made, flows_of = [], partial(labels_to_flows, kind=kind)
    with progress_bar(total=len(examples), unit='volume', desc='flows', inner=True) as bar:
        for example in examples:
            if slices:
                made += slice_examples(example, flows_of, folder=kept)
            else:
                made.append(with_flows(example, flows_of, folder=kept))
            bar.update()
    return made


def split_with_targets(
    examples: list[Example], *, config: Any, folder: Path
) -> tuple[list[Example], list[Example]]:
    """What to train on and what to validate on, with their targets; see `split_examples`.

    Args:
      examples, config, folder: see `with_targets`.
    """
    split = partial(split_examples, fraction=config.data.validation_fraction, seed=config.seed)
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
