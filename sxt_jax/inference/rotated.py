"""Averaging a network's answers over the four quarter turns of its slices."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from sxt_jax.core.errors import InputError
from sxt_jax.inference.apply import ApplyFn, Heads, side_multiple

_IN_PLANE = (2, 3)  # y and x of [b, z, y, x, c]


@dataclasses.dataclass(frozen=True)
class RotatedFn:
    """`apply_fn` averaged over quarter turns; see `rotated`."""

    apply_fn: ApplyFn

    @property
    def side_multiple(self) -> tuple[int, int, int]:
        return side_multiple(self.apply_fn)

    def __call__(self, variables: Any, tiles: jax.Array) -> Heads:
        total: Heads | None = None
        for turns in range(4):
            heads = self.apply_fn(variables, jnp.rot90(tiles, turns, _IN_PLANE))
            heads = {name: jnp.rot90(head, -turns, _IN_PLANE) for name, head in heads.items()}
            total = heads if total is None else jax.tree.map(jnp.add, total, heads)
        return jax.tree.map(lambda head: head / 4, total)


def rotated(apply_fn: ApplyFn) -> RotatedFn:
    """`apply_fn` averaged over its input turned by 0, 90, 180 and 270° about z.

    Costs four times the work. As published for deep_sxt (Dyhr et al. 2023).

    Args:
      apply_fn: function of tiles, see `make_apply_fn`; heads are numbers, not vectors.

    Returns:
      A function like `apply_fn`.

    Raises:
      InputError: the sides (y, x) of its tiles are not alike.
    """
    _, y, x = side_multiple(apply_fn)
    if y != x:
        raise InputError('rotations', f'a network of sides {y} (y) and {x} (x)', 'equal ones')
    return RotatedFn(apply_fn)
