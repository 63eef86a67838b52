"""From a model to the function of tiles that inference runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp

from sxt_jax.core.errors import InputError
from sxt_jax.models import slicewise

Heads = dict[str, jax.Array]
Finish = Callable[[Heads], Heads]


class ApplyFn(Protocol):
    """(variables, tiles [b, z, y, x, c]) -> head name -> [b, z, y, x, k].

    May have an attribute `side_multiple`, an int or one for each of z, y, x, that divides the sides
    of all tiles it takes. Must be hashable, and the same object for the same network, as what is
    compiled for it is kept by it.
    """

    def __call__(self, variables: Any, tiles: jax.Array, /) -> Heads: ...

    def __hash__(self) -> int: ...


def side_multiple(apply_fn: ApplyFn) -> tuple[int, int, int]:
    """What divides the tile sides (z, y, x) that the function takes; 1 where it does not say."""
    multiple = getattr(apply_fn, 'side_multiple', 1)
    z, y, x = (multiple,) * 3 if isinstance(multiple, int) else multiple
    return z, y, x


def keep_classes(heads: Heads) -> Heads:
    """The most probable class of every voxel and nothing else: a byte to the host, not 4 k.

    Args:
      heads: among them 'probs' [..., k].

    Returns:
      'classes' [...], uint8 up to 256 classes, else int32.
    """
    probs = heads['probs']
    dtype = jnp.uint8 if probs.shape[-1] <= 256 else jnp.int32
    return {'classes': jnp.argmax(probs, axis=-1).astype(dtype)}


def add_classes(heads: Heads) -> Heads:
    """All heads, and 'classes' as of `keep_classes`."""
    return {**heads, **keep_classes(heads)}


def _activate(name: str, values: jax.Array, activation: str | None) -> tuple[str, jax.Array]:
    values = values.astype(jnp.float32)
    if activation is None:
        return name, values
    functions = {'softmax': jax.nn.softmax, 'sigmoid': jax.nn.sigmoid, 'tanh': jnp.tanh}
    if activation not in functions:
        raise InputError(f'activation of head {name}', repr(activation), ', '.join(functions))
    return 'probs' if name == 'logits' else name, functions[activation](values)


@dataclasses.dataclass(frozen=True, eq=False)
class ModelFn:
    """A model in inference mode with its heads' activations; 2-D models take slices as a batch."""

    model: nn.Module

    @property
    def side_multiple(self) -> tuple[int, int, int]:
        return slicewise.side_multiple(self.model)

    def __call__(self, variables: Any, tiles: jax.Array) -> Heads:
        outputs = slicewise.apply_to_volumes(self.model, variables, tiles, train=False)
        activations = getattr(self.model, 'head_activations', {})
        return dict(_activate(n, v, activations.get(n)) for n, v in outputs.items())


def make_apply_fn(model: nn.Module) -> ModelFn:
    """The function of tiles of a model, in inference mode, its heads made into what they mean.

    The model's `head_activations` (head name -> 'softmax', 'sigmoid', 'tanh' or None) are applied
    in float32; activated 'logits' are called 'probs'. A model with `n_dims` 2 gets the slices of
    the tiles as a batch. Make it once per model: what is compiled is kept with it.

    Args:
      model: its `apply(variables, x, train=False)` gives head name -> array.
    Returns:
      (variables, tiles [b, z, y, x, c] float32) -> head name -> [b, z, y, x, k] float32.
    """
    return ModelFn(model)
