"""Averaging a network's answers over mirror images of its input."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp

from sxt_jax.core.errors import InputError
from sxt_jax.inference.apply import ApplyFn, Heads, side_multiple

AXES = 'zyx'


@dataclasses.dataclass(frozen=True)
class MirroredFn:
    """`apply_fn` averaged over all combinations of mirrored axes; see `mirrored`."""

    apply_fn: ApplyFn
    axes: str
    vector_heads: tuple[str, ...]

    @property
    def side_multiple(self) -> tuple[int, int, int]:
        return side_multiple(self.apply_fn)

    def _mirror_back(self, heads: Heads, flipped: tuple[str, ...]) -> Heads:
        dims = tuple(1 + AXES.index(axis) for axis in flipped)
        back = {name: jnp.flip(head, dims) for name, head in heads.items()}
        for name in self.vector_heads:
            if name in back:
                n = back[name].shape[-1]  # 3 (z, y, x), or 2 (y, x)
                signs = [-1.0 if axis in flipped else 1.0 for axis in AXES[-n:]]
                back[name] = back[name] * jnp.array(signs, back[name].dtype)
        return back

    def __call__(self, variables: Any, tiles: jax.Array) -> Heads:
        total: Heads | None = None
        for n in range(len(self.axes) + 1):
            for flipped in itertools.combinations(self.axes, n):
                dims = tuple(1 + AXES.index(axis) for axis in flipped)
                heads = self.apply_fn(variables, jnp.flip(tiles, dims))
                heads = self._mirror_back(heads, flipped)
                total = heads if total is None else jax.tree.map(jnp.add, total, heads)
        return jax.tree.map(lambda h: h / 2 ** len(self.axes), total)


def mirrored(
    apply_fn: ApplyFn, *, axes: str = AXES, vector_heads: tuple[str, ...] = ('flows',)
) -> MirroredFn:
    """`apply_fn` averaged over its input mirrored along every combination of axes.

    Costs 2 ** len(axes) times the work. Components of vector heads change sign with their axis.

    Args:
      apply_fn: function of tiles, see `make_apply_fn`.
      axes: axes to mirror, out of 'zyx'.
      vector_heads: heads whose last axis holds a vector (z, y, x) or (y, x).
    Returns:
      A function like `apply_fn`.
    Raises:
      InputError: an unknown or repeated axis.
    """
    if not set(axes) <= set(AXES) or len(set(axes)) < len(axes):
        raise InputError('axes to mirror', repr(axes), 'some of zyx, each once')
    return MirroredFn(apply_fn, axes, vector_heads)
