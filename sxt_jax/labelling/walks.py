"""Random walks over an image: which voxels are visited from where (Biomedisa, Lösel et al. 2020).

A walker that started at gray value B steps to one of the six neighbours with a probability in
proportion to exp(−(B − I)² / 2σ²) of the neighbour's gray value I; B and σ² stay those of its
start. Outside of the volume the gray value is 0; a step that would leave it is not taken, but
counts as one.

What a step costs is memory: the six gray values around a voxel, and which of these neighbours
exist, are packed into one word of eight bytes, so that a step reads one place and writes one.
Random numbers are a function of seed, walker and step alone: hits do not depend on how walkers are
grouped or how many threads there are.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from sxt_jax.core.errors import InputError

# Walkers that move together: on a CPU they stay in the caches, elsewhere they fill the device.
_WALKERS_CPU = 2**14
_WALKERS = 2**20
_BORDER_BIT = 16  # of the second word; below are the last two gray values


class Starts(NamedTuple):
    """Where walks start, and what is theirs all the way; n starts.

    Attributes:
      voxels: [n] int32 flat index of the voxel.
      gray: [n] float32 gray value B, on the scale of the image.
      variances: [n] float32 σ², above 0.
    """

    voxels: np.ndarray
    gray: np.ndarray
    variances: np.ndarray


def count_hits(
    image: np.ndarray,
    starts: Starts,
    *,
    seed: int,
    n_walks: int,
    n_steps: int,
    on_walks: Callable[[int], Any] | None = None,
) -> np.ndarray:
    """How often each voxel is entered by the walks of all starts; starting does not count.

    Args:
      image: [z, y, x] uint8.
      starts: where walks start.
      seed: of the random numbers, 0 … 2³² − 1.
      n_walks: walks of each start.
      n_steps: steps of each walk.
      on_walks: called with the number of walks done.

    Returns:
      [z, y, x] int32.

    Raises:
      InputError: another rank or dtype, 2³¹ voxels and more, or a number that is negative.
    """
    _check(image, seed, n_walks, n_steps)
    n = len(starts.voxels) * n_walks
    if n == 0 or n_steps == 0:
        return np.zeros(image.shape, np.int32)
    words = tuple(jnp.asarray(word) for word in pack_neighbours(image))
    on_cpu = jax.default_backend() == 'cpu'
    size = min(_WALKERS_CPU if on_cpu else _WALKERS, 1 << (n - 1).bit_length())
    groups = range(0, n, size)
    # Loops of one program run on one core; programs run side by side.
    n_threads = min(len(groups), os.cpu_count() or 1) if on_cpu else 1

    def walk_some(first: int) -> jax.Array:
        hits = jnp.zeros(image.size, jnp.int32)
        for begin in groups[first::n_threads]:
            walkers = np.arange(begin, begin + size)
            chosen = np.minimum(walkers // n_walks, len(starts.voxels) - 1)
            hits = _walk(
                hits,
                words,
                *(jnp.asarray(column[chosen]) for column in starts),
                jnp.asarray(walkers.astype(np.uint32)),
                jnp.asarray(walkers < n),
                jnp.uint32(seed),
                shape=image.shape,
                n_steps=n_steps,
            )
            if on_walks is not None:
                hits.block_until_ready()
                on_walks(min(size, n - begin))
        return hits

    with ThreadPoolExecutor(n_threads) as pool:
        total = functools.reduce(jnp.add, pool.map(walk_some, range(n_threads)))
    return np.asarray(total).reshape(image.shape)


def pack_neighbours(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The surroundings of each voxel in two words.

    Args:
      image: [z, y, x] uint8.

    Returns:
      [voxels] uint32 twice: gray values of the neighbours z + 1, z − 1, y + 1, y − 1; then of
      x + 1, x − 1, and a bit for each of the six that is inside the volume.
    """
    padded = np.pad(image, 1).astype(np.uint32)
    inside = np.pad(np.ones(image.shape, np.uint32), 1)
    core = [slice(1, -1)] * 3
    words = [np.zeros(image.shape, np.uint32) for _ in range(2)]
    for number in range(6):
        axis, back = divmod(number, 2)
        moved = list(core)
        moved[axis] = slice(0, -2) if back else slice(2, None)
        words[number // 4] |= padded[tuple(moved)] << np.uint32(8 * (number % 4))
        words[1] |= inside[tuple(moved)] << np.uint32(_BORDER_BIT + number)
    return words[0].reshape(-1), words[1].reshape(-1)


@functools.partial(jax.jit, static_argnames=('shape', 'n_steps'), donate_argnames=('hits',))
def _walk(
    hits: jax.Array,
    words: tuple[jax.Array, jax.Array],
    voxels: jax.Array,
    gray: jax.Array,
    variances: jax.Array,
    walkers: jax.Array,
    live: jax.Array,
    seed: jax.Array,
    *,
    shape: tuple[int, int, int],
    n_steps: int,
) -> jax.Array:
    """Hits with those of one walk each; walkers that are not live leave none."""
    own = _scramble(_scramble(walkers) + seed)
    steepness = 1 / (2 * variances)

    def step(i: jax.Array, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        voxels, hits = state
        first, second = words[0][voxels], words[1][voxels]
        share = _uniform(own, i)
        way = _choose(first, second, gray, steepness, share)
        free = (second >> (_BORDER_BIT + way)) & 1
        length = jnp.where(way < 2, shape[1] * shape[2], jnp.where(way < 4, shape[2], 1))
        offset = jnp.where(way & 1, -length, length)
        voxels = voxels + jnp.where(free, offset, 0)
        counted = (free.astype(bool) & live).astype(jnp.int32)
        return voxels, hits.at[voxels].add(counted, mode='promise_in_bounds')

    return lax.fori_loop(0, n_steps, step, (voxels, hits))[1]


def _choose(
    first: jax.Array, second: jax.Array, gray: jax.Array, steepness: jax.Array, share: jax.Array
) -> jax.Array:
    """Which neighbour, 0 … 5, is stepped to; the first where no weight is above 0, as published."""
    sums: list[jax.Array] = []
    for number in range(6):
        word = first if number < 4 else second
        value = (word >> (8 * (number % 4))) & 0xFF
        weight = jnp.exp(-jnp.square(gray - value.astype(jnp.float32)) * steepness)
        sums.append(weight if not sums else sums[-1] + weight)
    drawn = share * sums[-1]
    passed = [((drawn >= upto) & (sums[-1] > 0)).astype(jnp.uint32) for upto in sums[:-1]]
    return functools.reduce(jnp.add, passed)


def _uniform(own: jax.Array, step: jax.Array) -> jax.Array:
    """[n] float32 in [0, 1), a function of the walker's own number and the step."""
    drawn = _scramble(own + step.astype(jnp.uint32) * jnp.uint32(0x9E3779B9))
    return (drawn >> 8).astype(jnp.float32) * jnp.float32(2**-24)


def _scramble(number: jax.Array) -> jax.Array:
    """A bijection of 32-bit numbers that mixes all bits (Wellons, "hash prospector", 2018)."""
    number = (number ^ (number >> 16)) * jnp.uint32(0x7FEB352D)
    number = (number ^ (number >> 15)) * jnp.uint32(0x846CA68B)
    return number ^ (number >> 16)


def _check(image: np.ndarray, seed: int, n_walks: int, n_steps: int) -> None:
    if image.ndim != 3 or image.dtype != np.uint8:
        raise InputError('image', f'{image.dtype} {list(image.shape)}', 'uint8 [z, y, x]')
    if image.size >= 2**31:
        raise InputError('image', f'{list(image.shape)}', 'fewer than 2³¹ voxels')
    for name, number in (('seed', seed), ('n_walks', n_walks), ('n_steps', n_steps)):
        if not 0 <= number < 2**32:
            raise InputError(name, f'{number}', '0 … 2³² − 1')
