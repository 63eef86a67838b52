"""The training step: one jitted program over all devices."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from sxt_jax.core.devices import replicated, split_batch
from sxt_jax.models.slicewise import apply_to_volumes
from sxt_jax.training.objectives import Objective
from sxt_jax.training.state import TrainState, make_variables, objective_optimizer

Metrics = dict[str, jax.Array]
TrainStep = Callable[[TrainState, dict[str, jax.Array], jax.Array], tuple[TrainState, Metrics]]


def make_train_step(
    model: nn.Module,
    objective: Objective,
    *,
    device_mesh: Mesh,
    n_accumulate: int = 1,
) -> TrainStep:
    """`train_step(state, batch, key) -> (state, metrics)`, jitted, with the state donated.

    The batch is split over the devices along axis 0; gradients, and the statistics of batch
    normalisation, are those of the whole (micro)batch whatever the number of devices.

    Args:
      model: the network; computes in its own dtype, parameters stay float32.
      objective: what is learnt.
      device_mesh: the devices.
      n_accumulate: the batch is taken in that many parts one after the other, and their mean
        gradient applied: the memory of a part for nearly the effect of the whole (batch
        normalisation sees the parts). Divides the batch size, as the number of devices does the
        parts' size.

    Returns:
      The step. Metrics are float32 means over the batch: 'loss', 'gradient_norm', and what the
      loss reports.
    """

    def loss_of(
        params: Any, batch_stats: Any, batch: Any, key: jax.Array
    ) -> tuple[jax.Array, tuple[Any, Metrics]]:
        variables = make_variables(params, batch_stats)
        outputs, updated = _apply(model, variables, batch['image'], key, objective)
        losses, extra = objective.loss(outputs, batch)
        means = {name: jnp.mean(value) for name, value in extra.items()}
        return jnp.mean(losses), (updated.get('batch_stats', batch_stats), means)

    def train_step(state: TrainState, batch: Any, key: jax.Array) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(key, state.step)
        batch = objective.prepare(key, batch)
        gradient_of = jax.value_and_grad(loss_of, has_aux=True)
        if n_accumulate == 1:
            found = gradient_of(state.params, state.batch_stats, batch, key)
            (loss, (stats, extra)), gradients = found
        else:
            found = _accumulate(gradient_of, state, batch, key, n_accumulate)
            loss, stats, extra, gradients = found
        optimizer = objective_optimizer(objective, state.params)
        updates, optimizer_state = optimizer.update(
            gradients, state.optimizer_states[objective.name], state.params
        )
        metrics = {'loss': loss, 'gradient_norm': optax.tree.norm(gradients), **extra}
        return (
            TrainState(
                step=state.step + 1,
                params=optax.apply_updates(state.params, updates),
                batch_stats=stats,
                optimizer_states={**state.optimizer_states, objective.name: optimizer_state},
            ),
            metrics,
        )

    everywhere = replicated(device_mesh)
    return jax.jit(
        train_step,
        in_shardings=(everywhere, split_batch(device_mesh), everywhere),
        out_shardings=everywhere,
        donate_argnums=0,
    )


def _apply(
    model: nn.Module, variables: Any, image: jax.Array, key: jax.Array, objective: Objective
) -> tuple[Any, Any]:
    """Outputs [b, z, y, x, k] by head, and what was updated."""
    with nn.intercept_methods(_without_training(objective.frozen)):
        return apply_to_volumes(
            model, variables, image, train=True, mutable=['batch_stats'], rngs={'dropout': key}
        )


def _without_training(frozen: Sequence[str]) -> Any:
    """Calls modules whose path is frozen with `train=False`."""

    def call(function: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        path = '/'.join(context.module.path)
        if 'train' in kwargs and any(re.search(pattern, path) for pattern in frozen):
            kwargs = {**kwargs, 'train': False}
        return function(*args, **kwargs)

    return call


def _accumulate(
    gradient_of: Any, state: TrainState, batch: Any, key: jax.Array, n_parts: int
) -> Any:
    """Mean loss, last statistics, mean metrics and mean gradient over the parts of a batch."""

    def part(array: jax.Array) -> jax.Array:
        # Parts take every n-th patch, so that each device keeps to its own share.
        parts = array.reshape(len(array) // n_parts, n_parts, *array.shape[1:])
        return jnp.moveaxis(parts, 1, 0)

    def add(carry: Any, numbered: Any) -> tuple[Any, None]:
        (stats, total), (number, part) = carry, numbered
        part_key = jax.random.fold_in(key, number)
        (loss, (stats, extra)), gradients = gradient_of(state.params, stats, part, part_key)
        return (stats, jax.tree.map(jnp.add, total, (loss, extra, gradients))), None

    parts = jax.tree.map(part, batch)
    first = jax.tree.map(lambda array: array[0], parts)
    shapes = jax.eval_shape(gradient_of, state.params, state.batch_stats, first, key)
    (loss, (_, extra)), gradients = shapes
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), (loss, extra, gradients))
    numbered = jnp.arange(n_parts), parts
    (stats, total), _ = jax.lax.scan(add, (state.batch_stats, zeros), numbered)
    loss, extra, gradients = jax.tree.map(lambda sum_: sum_ / n_parts, total)
    return loss, stats, extra, gradients
