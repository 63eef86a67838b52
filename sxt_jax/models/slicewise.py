"""Networks on volumes, whether they are 3-D or take one slice at a time.

A network says how many spatial axes it has by its property `n_dims`; one that says nothing is 3-D.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from flax import linen as nn


def takes_slices(model: nn.Module) -> bool:
    """Whether the network is 2-D."""
    return getattr(model, 'n_dims', 3) == 2


def apply_to_volumes(model: nn.Module, variables: Any, volumes: jax.Array, **options: Any) -> Any:
    """`model.apply` of volumes; a 2-D network gets their slices as one batch.

    Args:
      model: the network.
      variables: of it.
      volumes: [b, z, y, x, c].
      **options: of `model.apply`.

    Returns:
      Head name -> [b, z, …]; with `mutable` also what was updated, as from `model.apply`.
    """
    if not takes_slices(model):
        return model.apply(variables, volumes, **options)
    b, z = volumes.shape[:2]
    found = model.apply(variables, volumes.reshape(b * z, *volumes.shape[2:]), **options)
    heads, *updated = found if isinstance(found, tuple) else (found,)
    heads = {name: head.reshape(b, z, *head.shape[1:]) for name, head in heads.items()}
    return (heads, *updated) if updated else heads


def input_shape(model: nn.Module, sides: Sequence[int], n_channels: int) -> tuple[int, ...]:
    """Of one input of the network, cut from a volume of sides (z, y, x)."""
    return (1, *(sides[1:] if takes_slices(model) else sides), n_channels)


def side_multiple(model: nn.Module) -> tuple[int, int, int]:
    """What divides the sides (z, y, x) of the volumes a network takes; 1 where it does not say."""
    n_dims = 2 if takes_slices(model) else 3
    multiple = getattr(model, 'side_multiple', 1)
    sides = (multiple,) * n_dims if isinstance(multiple, int) else tuple(multiple)
    z, y, x = (1,) * (3 - n_dims) + sides
    return z, y, x
