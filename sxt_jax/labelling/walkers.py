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


class Walkers(NamedTuple):
    """n walkers on their way.

    Attributes:
      voxels: [n] flat index of where they are.
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


_DTYPES = Walkers(np.int32, np.int32, np.float32, np.float32, np.uint32, np.uint32)


class OnDevice(NamedTuple):
    """What a device knows of a region.

    Attributes:
      words: neighbours of its voxels (`pack_neighbours`).
      strides: [3] how far voxels along z, y, x are apart.
      walkers: who sets out there, with voxels of the region.
    """

    words: tuple[jax.Array, jax.Array]
    strides: jax.Array
    walkers: Walkers


class Surroundings:
    """A region of a volume, and who walks there."""

    def __init__(self, levels: ArrayLike, box: Box, walkers: Walkers, n_walks: int) -> None:
        """Read the region.

        Args:
          levels: [z, y, x] uint16 gray levels of the volume.
          box: the region.
          walkers: with voxels of the volume; each stands for `n_walks` of them, of this walk and
            the next ones.
        """
        marked = mark_voxels(levels, box)
        self._padded_shape, self._shape = marked.shape, tuple(levels.shape)
        self._corner = np.reshape(box.start, (3, 1)) - 1
        local = walkers._replace(voxels=self._to_region(walkers.voxels))
        self._walkers = Walkers(*map(_fill_up, map(np.asarray, local, _DTYPES)))
        self._marked = _fill_up(marked)
        self.n_walks = n_walks

    def put(self, device: jax.Device) -> OnDevice:
        """All that walkers need, on a device."""
        _, y, x = self._padded_shape
        strides = np.array([y * x, x, 1], np.int32)
        marked, strides, walkers = jax.device_put((self._marked, strides, self._walkers), device)
        return OnDevice(pack_neighbours(marked, strides), strides, walkers)

    def _to_region(self, voxels: np.ndarray) -> np.ndarray:
        places = np.asarray(np.unravel_index(voxels, self._shape)) - self._corner
        return np.ravel_multi_index(tuple(places), self._padded_shape)

    def to_volume(self, voxels: np.ndarray) -> np.ndarray:
        """[n] flat index, in the volume, of voxels of the region."""
        places = np.asarray(np.unravel_index(voxels, self._padded_shape)) + self._corner
        return np.ravel_multi_index(tuple(places), self._shape)

    def inner(self, field: jax.Array) -> np.ndarray:
        """[z, y, x] values of the region, of a flat field with one for each voxel."""
        n_voxels = int(np.prod(self._padded_shape))
        return np.asarray(field)[:n_voxels].reshape(self._padded_shape)[1:-1, 1:-1, 1:-1]


class Region:
    """Hits in a region of a volume, of walkers that one thread sends through it."""

    def __init__(self, surroundings: Surroundings, known: OnDevice) -> None:
        self._of, self._known = surroundings, known
        self._hits = jnp.zeros_like(known.words[0], jnp.int32)

    def walk(self, first: int, n: int, *, seed: int, n_steps: int) -> Walkers:
        """Add the hits of `n` walkers, until they have made `n_steps` or come to the rim.

        Args:
          first: number of the first, those that one stands for counted.

        Returns:
          Those that came to the rim, with voxels of the volume.
        """
        words, strides, walkers = self._known
        # Walkers that all of a block stand for may be more than int32 can number.
        row, before = divmod(first, self._of.n_walks)
        numbers = np.array([row, before, n, self._of.n_walks, n_steps], np.int32)
        group = _set_out(walkers, numbers, size=_padded(n))
        self._hits, ends, made, n_left = _walk(
            self._hits, words, strides, group, numbers[-1], np.uint32(seed)
        )
        if not int(n_left):  # nothing to fetch
            return Walkers(*(np.zeros(0, dtype) for dtype in _DTYPES))
        left = np.flatnonzero(np.asarray(made) < n_steps)
        stopped = group._replace(voxels=ends, steps=made)
        found = Walkers(*(np.asarray(column)[left] for column in stopped))
        return found._replace(voxels=self._of.to_volume(found.voxels))

    def hits_to_host(self) -> np.ndarray:
        """[z, y, x] int32 of the region."""
        return self._of.inner(self._hits)


def _fill_up(array: np.ndarray) -> np.ndarray:
    """Flat, with zeros behind: programs are compiled for few sizes, not for every region."""
    return np.pad(array.reshape(-1), (0, bucket(array.size) - array.size))


def _padded(n: int) -> int:
    """Groups are of few sizes, for each of which a program is compiled: the next power of 4."""
    return max(_SMALLEST_GROUP, 1 << -(-(n - 1).bit_length() // 2) * 2)


@functools.partial(jax.jit, static_argnames='size')
def _set_out(walkers: Walkers, numbers: jax.Array, *, size: int) -> Walkers:
    """A group of walkers.

    Args:
      walkers: each stands for several.
      numbers: the first of `walkers`, how many of its walks are left out, how many walkers there
        are in the group, how many each stands for, and how many steps they all make.
      size: of the group, with what fills it up.
    """
    row, before, n, n_walks, n_steps = numbers
    number = before + jnp.minimum(jnp.arange(size, dtype=jnp.int32), n - 1)
    group = Walkers(*(column[row + number // n_walks] for column in walkers))
    # Those that only fill the group up have made all their steps.
    steps = jnp.where(jnp.arange(size) < n, group.steps, n_steps)
    walks = group.walks + (number % n_walks).astype(jnp.uint32)
    return group._replace(steps=steps, walks=walks)


@functools.partial(jax.jit, donate_argnames=('hits',))
def _walk(
    hits: jax.Array,
    words: tuple[jax.Array, jax.Array],
    strides: jax.Array,
    walkers: Walkers,
    n_steps: jax.Array,
    seed: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Hits with those of walkers until they end or come to the rim; where these are then, the steps
    of each, and how many have steps left."""
    own = _scramble(_scramble(_scramble(walkers.starts) + walkers.walks) + seed)
    level, steepness = walkers.levels, 1 / (2 * walkers.variances)

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

    most = jnp.max(n_steps - walkers.steps)
    start = (walkers.voxels, walkers.steps, hits)
    voxels, steps, hits = lax.fori_loop(0, most, step, start)
    return hits, voxels, steps, jnp.sum(steps < n_steps)


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
