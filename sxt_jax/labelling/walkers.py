"""Groups of walkers that move through a region of a volume on one device."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from sxt_jax.core.blocks import bucket
from sxt_jax.core.box import Box
from sxt_jax.core.volume import ArrayLike
from sxt_jax.labelling.neighbours import (
    FREE_BIT,
    LEVEL_BITS,
    RIM_BIT,
    mark_voxels,
    pack_neighbours,
)

_SMALLEST_GROUP = 64


class Group(NamedTuple):
    """n walkers.

    Attributes:
      voxels: [3, n] where they are in the volume.
      steps: [n] how many steps they have made.
      levels: [n] gray level B of their start.
      variances: [n] σ² of their start, above 0.
      starts: [n] number of their start.
      walks: [n] number of the walk of this start.
    """

    voxels: Any
    steps: Any
    levels: Any
    variances: Any
    starts: Any
    walks: Any


_DTYPES = Group(np.int32, np.int32, np.float32, np.float32, np.uint32, np.uint32)


class Surroundings:
    """What a device knows of a region: the neighbours of its voxels."""

    def __init__(self, levels: ArrayLike, box: Box, device: jax.Device) -> None:
        marked = mark_voxels(levels, box)
        # Programs are compiled for few sizes, not for the shape of every volume.
        flat = np.pad(marked.reshape(-1), (0, bucket(marked.size) - marked.size))
        _, y, x = marked.shape
        self.box, self.padded_shape, self.device = box, marked.shape, device
        self.strides = jax.device_put(np.array([y * x, x, 1], np.int32), device)
        self.words = pack_neighbours(jax.device_put(flat, device), self.strides)


class Region:
    """Hits in a region of a volume, of walkers that one thread sends through it."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._of = surroundings
        with jax.default_device(surroundings.device):
            self._hits = jnp.zeros(len(surroundings.words[0]), jnp.int32)

    def walk(self, group: Group, *, seed: int, n_steps: int) -> tuple[np.ndarray, np.ndarray]:
        """Add the hits of walkers until they have made `n_steps` or come to the rim.

        Returns:
          [3, n] voxel in the volume in which each is then, and [n] its steps.
        """
        n, corner = len(group.steps), np.reshape(self._of.box.start, (3, 1)) - 1
        local = np.ravel_multi_index(tuple(group.voxels - corner), self._of.padded_shape)
        spare = (0, _padded(n) - n)
        # Those that only fill the group up have made all their steps.
        fill = Group(0, n_steps, 0, 1, 0, 0)
        padded = (
            np.pad(np.asarray(column, dtype), spare, constant_values=value)
            for column, dtype, value in zip(
                group._replace(voxels=local), _DTYPES, fill, strict=True
            )
        )
        numbers = jax.device_put((*padded, np.int32(n_steps), np.uint32(seed)), self._of.device)
        self._hits, ends, made = _walk(self._hits, self._of.words, self._of.strides, *numbers)
        places = np.unravel_index(np.asarray(ends)[:n], self._of.padded_shape)
        return np.asarray(places) + corner, np.asarray(made)[:n]

    def hits_to_host(self) -> np.ndarray:
        """[z, y, x] int32 of the region."""
        shape = self._of.padded_shape
        hits = np.asarray(self._hits)[: int(np.prod(shape))].reshape(shape)
        return hits[1:-1, 1:-1, 1:-1]


def _padded(n: int) -> int:
    """Groups are of few sizes, for each of which a program is compiled: the next power of 4."""
    return max(_SMALLEST_GROUP, 1 << -(-(n - 1).bit_length() // 2) * 2)


@functools.partial(jax.jit, donate_argnames=('hits',))
def _walk(
    hits: jax.Array,
    words: tuple[jax.Array, jax.Array],
    strides: jax.Array,
    voxels: jax.Array,
    steps: jax.Array,
    level: jax.Array,
    variances: jax.Array,
    starts: jax.Array,
    walks: jax.Array,
    n_steps: jax.Array,
    seed: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Hits with those of walkers until they end or come to the rim, and voxel and steps of each."""
    own = _scramble(_scramble(_scramble(starts) + walks) + seed)
    steepness = 1 / (2 * variances)

    def step(
        _: jax.Array, state: tuple[jax.Array, jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        voxels, steps, hits = state
        first, second = words[0][voxels], words[1][voxels]
        way = _choose(first, second, level, steepness, _uniform(own, steps))
        free = jnp.where(way < 3, first >> (FREE_BIT + way), second >> (FREE_BIT - 3 + way)) & 1
        going = (steps < n_steps) & ((first >> RIM_BIT) & 1 == 0)
        free = (free == 1) & going
        length = jnp.where(way < 2, strides[0], jnp.where(way < 4, strides[1], 1))
        voxels = voxels + jnp.where(free, jnp.where(way & 1, -length, length), 0)
        hits = hits.at[voxels].add(free.astype(jnp.int32), mode='promise_in_bounds')
        return voxels, steps + going, hits

    most = jnp.max(n_steps - steps)
    voxels, steps, hits = lax.fori_loop(0, most, step, (voxels, steps, hits))
    return hits, voxels, steps


def _choose(
    first: jax.Array, second: jax.Array, level: jax.Array, steepness: jax.Array, share: jax.Array
) -> jax.Array:
    """Which neighbour, 0 … 5, is stepped to; the first where no weight is above 0, as published."""
    sums: list[jax.Array] = []
    for number in range(6):
        word = first if number < 3 else second
        value = (word >> (LEVEL_BITS * (number % 3))) & (2**LEVEL_BITS - 1)
        weight = jnp.exp(-jnp.square(level - value.astype(jnp.float32)) * steepness)
        sums.append(weight if not sums else sums[-1] + weight)
    drawn = share * sums[-1]
    passed = [((drawn >= upto) & (sums[-1] > 0)).astype(jnp.uint32) for upto in sums[:-1]]
    return functools.reduce(jnp.add, passed)


def _uniform(own: jax.Array, steps: jax.Array) -> jax.Array:
    """[n] float32 in [0, 1), a function of the walker's own number and the step."""
    drawn = _scramble(own + steps.astype(jnp.uint32) * jnp.uint32(0x9E3779B9))
    return (drawn >> 8).astype(jnp.float32) * jnp.float32(2**-24)


def _scramble(number: jax.Array) -> jax.Array:
    """A bijection of 32-bit numbers that mixes all bits (Wellons, "hash prospector", 2018)."""
    number = (number ^ (number >> 16)) * jnp.uint32(0x7FEB352D)
    number = (number ^ (number >> 15)) * jnp.uint32(0x846CA68B)
    return number ^ (number >> 16)
