"""The state of a training run: one set of variables, one optimizer state an objective."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from absl import logging
from jax.sharding import Mesh

from sxt_jax.core.devices import place, replicated
from sxt_jax.core.errors import InputError
from sxt_jax.training.objectives import Objective, parameter_path, trainable_mask

SCOPES = ('all', 'encoder', 'matching')
_TOLD = 8  # arrays of weights that are named in the log


@flax.struct.dataclass
class TrainState:
    """What a step changes (a pytree).

    Attributes:
      step: int32, steps done.
      params: parameters, float32.
      batch_stats: running statistics of batch normalisation; {} where there is none.
      optimizer_states: by objective name.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    optimizer_states: dict[str, Any]

    @property
    def variables(self) -> dict[str, Any]:
        """What `model.apply` takes."""
        return make_variables(self.params, self.batch_stats)


def make_variables(params: Any, batch_stats: Any) -> dict[str, Any]:
    """What `model.apply` takes; without running statistics where there are none."""
    return {'params': params, **({'batch_stats': batch_stats} if batch_stats else {})}


def objective_optimizer(objective: Objective, params: Any) -> optax.GradientTransformation:
    """The objective's optimizer, without changes to, or state of, frozen parameters."""
    if not objective.frozen:
        return objective.optimizer
    names = jax.tree.map(
        lambda trainable: 'trainable' if trainable else 'frozen',
        trainable_mask(params, objective.frozen),
    )
    return optax.partition({'trainable': objective.optimizer, 'frozen': optax.set_to_zero()}, names)


def create_state(
    key: jax.Array,
    model: nn.Module,
    objectives: Sequence[Objective],
    *,
    input_shape: Sequence[int],
    device_mesh: Mesh,
) -> TrainState:
    """Freshly initialised state, on every device of the mesh.

    Args:
      key: randomness of the initial weights.
      model: the network.
      objectives: what is learnt.
      input_shape: of a batch of the network's inputs.
      device_mesh: the devices.
    """

    def init(key: jax.Array) -> TrainState:
        variables = model.init(key, jnp.zeros(input_shape, jnp.float32), train=False)
        params = variables['params']
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            batch_stats=variables.get('batch_stats', {}),
            optimizer_states={
                o.name: objective_optimizer(o, params).init(params) for o in objectives
            },
        )

    return jax.jit(init, out_shardings=replicated(device_mesh))(key)


def start_from(state: TrainState, variables: Mapping[str, Any], *, scope: str) -> TrainState:
    """The state with weights taken from another network (fine-tuning, transfer).

    Args:
      state: freshly initialised.
      variables: 'params' and, where there are any, 'batch_stats' of the other network.
      scope: 'all' takes every weight and needs the same network; 'encoder' every weight whose
        path begins with 'encoder'; 'matching' every weight of the same path and shape.

    Raises:
      InputError: a weight is missing or has another shape, or nothing was taken.
    """
    if scope not in SCOPES:
        raise InputError('initial.scope', repr(scope), f'one of {SCOPES}')
    taken: list[str] = []
    fresh: list[str] = []

    def choose(other: dict[str, Any], path: Any, leaf: jax.Array) -> jax.Array:
        text = parameter_path(path)
        if scope == 'encoder' and not text.startswith('encoder'):
            fresh.append(text)
            return leaf
        found = other.get(text)
        if found is not None and found.shape == leaf.shape:
            taken.append(text)
            return place(jnp.asarray(found, leaf.dtype), leaf.sharding)
        shape = 'nothing' if found is None else f'shape {found.shape}'
        if scope == 'matching':
            fresh.append(f'{text} {leaf.shape} (there: {shape})')
            return leaf
        expected = f'shape {leaf.shape}: the same config.model, or initial.scope matching'
        raise InputError(f'initial weights {text}', shape, expected)

    def merge(tree: Any, other: Any) -> Any:
        flat = {parameter_path(p): a for p, a in jax.tree_util.tree_leaves_with_path(other)}
        return jax.tree_util.tree_map_with_path(lambda p, leaf: choose(flat, p, leaf), tree)

    params = merge(state.params, variables['params'])
    batch_stats = merge(state.batch_stats, variables.get('batch_stats', {}))
    if not taken:
        raise InputError('initial weights', f'none taken by scope {scope!r}', 'weights that match')
    n_all = len(taken) + len(fresh)
    logging.info('Taken: %d of %d arrays of weights and statistics', len(taken), n_all)
    if fresh:
        others = f' and {len(fresh) - _TOLD} more' if len(fresh) > _TOLD else ''
        logging.info('Left as initialised: %s%s', ', '.join(fresh[:_TOLD]), others)
    return dataclasses.replace(state, params=params, batch_stats=batch_stats)
