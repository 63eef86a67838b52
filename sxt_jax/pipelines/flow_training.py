"""Training a network to give foreground and flows: its data, its scores, what it tells."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
from absl import logging

from sxt_jax.core.atomic import remove_abandoned
from sxt_jax.core.errors import InputError
from sxt_jax.data.datasets import Example, fits_in_memory
from sxt_jax.data.intensity import Intensity
from sxt_jax.data.targets import with_flows
from sxt_jax.instances.gradient_maps import KINDS, labels_to_flows
from sxt_jax.training.flow_objective import make_flow_loss
from sxt_jax.training.objectives import Loss

_HEADS = {'foreground', 'flows'}
_TARGET_BYTES = 8  # of a voxel: labels and three components in half precision


def learns_flows(config: Any) -> bool:
    """Whether labels are ids of cells, of which foreground and flows are learnt."""
    return bool(config.flows.kind)


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
    if not (heads >= _HEADS and getattr(model, 'n_dims', 3) == 3):
        found = f'{kind!r}, with the network {name!r}'
        raise InputError('config.flows.kind', found, 'a 3-D network that gives flows: cellpose3d')
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
    make_flow_loss(**_weights(config))


def make_loss(config: Any) -> Loss:
    """The config's loss of foreground and flows."""
    return make_flow_loss(**_weights(config))


def _weights(config: Any) -> dict[str, float]:
    return {name: config.flows[name] for name in ('foreground_weight', 'flow_weight')}


def make_targets(
    examples: Sequence[Example],
    *,
    kind: str,
    folder: Path,
    on_volume: Callable[[], Any] | None = None,
) -> list[Example]:
    """Volumes of ids of cells with foreground and flows in their place.

    Args:
      examples: their labels are ids (`data.targets.ObjectIds`).
      kind: of flows, see `instances.labels_to_flows`.
      folder: where targets are kept that do not fit in memory.
      on_volume: called after each.
    """
    n_voxels = sum(math.prod(example.shape) for example in examples)
    kept = None if fits_in_memory(_TARGET_BYTES * n_voxels) else folder / kind
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        remove_abandoned(kept)
        logging.info('Foreground and flows do not fit in memory and are kept in %s', kept)
    made = []
    for example in examples:
        made.append(with_flows(example, partial(labels_to_flows, kind=kind), folder=kept))
        if on_volume is not None:
            on_volume()
    return made


def flow_conventions(config: Any, *, n_channels: int, intensity: Intensity) -> dict[str, Any]:
    """What a checkpoint tells of its inputs and heads, in the words of an imported network."""
    gray: dict[str, Any] = {'kind': intensity.kind, 'clip': [0.0, 1.0] if intensity.clip else None}
    if intensity.kind == 'percentile':
        gray['low_percent'], gray['high_percent'] = intensity.percentiles
    return {
        'n_channels': n_channels,
        'intensity': gray,
        'heads': {
            'foreground': 'after tanh; above 0.5 where cells are',
            'flows': '(z, y, x) towards the centre',
        },
        'flow_kind': config.flows.kind,
        'patch': list(config.data.patch),
        'overlap': list(config.inference.overlap),
        'blend': config.inference.blend,
    }
