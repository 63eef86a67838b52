"""Optimizers and learning-rate schedules by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import optax

from sxt_jax.core.errors import InputError

OPTIMIZERS = ('sgd', 'adam', 'adamw', 'radam')
SCHEDULES = ('constant', 'inverse_time', 'cosine')


def make_schedule(config: Mapping[str, Any], *, n_steps: int) -> optax.Schedule:
    """Learning rate as a function of the step.

    Args:
      config: `schedule` (one of `SCHEDULES`), `learning_rate`, `decay` (a step, of
        'inverse_time': η / (1 + decay · step), as Keras' `decay`), `warmup_steps`.
      n_steps: length of the run; for 'cosine'.
    """
    kind, rate = config['schedule'], config['learning_rate']
    if kind == 'constant':
        schedule = optax.constant_schedule(rate)
    elif kind == 'inverse_time':
        schedule = _inverse_time(rate, config['decay'])
    elif kind == 'cosine':
        schedule = optax.cosine_decay_schedule(rate, max(1, n_steps - config['warmup_steps']))
    else:
        raise InputError('optimizer.schedule', repr(kind), f'one of {SCHEDULES}')
    if config['warmup_steps'] > 0:
        warmup = optax.linear_schedule(0.0, rate, config['warmup_steps'])
        schedule = optax.join_schedules([warmup, schedule], [config['warmup_steps']])
    return schedule


def _inverse_time(rate: float, decay: float) -> optax.Schedule:
    # `join_schedules` also asks for the steps before the warm-up's end, as negative ones.
    return lambda step: rate / (1 + decay * jnp.maximum(step, 0))


def make_optimizer(config: Mapping[str, Any], *, n_steps: int) -> optax.GradientTransformation:
    """The optimizer a config names.

    Args:
      config: `name` (one of `OPTIMIZERS`), `momentum`, `nesterov`, `weight_decay`, `epsilon`
        (1e-8 where there is none), `clip_norm` (0: gradients are not clipped) and the fields of
        `make_schedule`.
      n_steps: length of the run.
    """
    schedule = make_schedule(config, n_steps=n_steps)
    name, epsilon = config['name'], config.get('epsilon', 1e-8)
    if name == 'sgd':
        momentum = config['momentum'] or None
        made = optax.sgd(schedule, momentum, nesterov=config['nesterov'])
    elif name == 'adam':
        made = optax.adam(schedule, eps=epsilon)
    elif name == 'adamw':
        made = optax.adamw(schedule, eps=epsilon, weight_decay=config['weight_decay'])
    elif name == 'radam':
        made = optax.radam(schedule, eps=epsilon)
    else:
        raise InputError('optimizer.name', repr(name), f'one of {OPTIMIZERS}')
    if config['clip_norm'] > 0:
        made = optax.chain(optax.clip_by_global_norm(config['clip_norm']), made)
    return made
