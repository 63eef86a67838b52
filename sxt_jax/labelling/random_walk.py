"""Random walks over an image: which voxels are visited from where (Biomedisa, Lösel et al. 2020).

A walker that started at gray value B steps to one of the six neighbours with a probability in
proportion to exp(−(B − I)² / 2σ²) of the neighbour's gray value I; B and σ² stay those of its
start. Outside of the volume the gray value is 0; a step that would leave it is not taken, but
counts as one.

Walks are done block by block: a walker that comes to the rim of the region around its block stops
there and goes on from the block that it has come to. So a volume may be larger than any memory, and
where no walk comes nothing is done. Random numbers are a function of seed, start, walk and step
alone: hits do not depend on blocks, groups, threads or the number of devices.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np

from sxt_jax.core.blocks import Block, make_blocks
from sxt_jax.core.devices import usable_cores
from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import ArrayLike
from sxt_jax.labelling.walkers import Region, Surroundings, Walkers

# Walkers that move together: on a CPU they stay in the caches, elsewhere they fill the device.
_WALKERS_CPU = 2**14
_WALKERS = 2**20
_BLOCK_CPU = 96
_BLOCK = 384
# A region reaches this many standard deviations of a free walk beyond its block, within limits:
# few walkers come to its rim.
_DEVIATIONS = 3
_HALO = (16, 64)


class Starts(NamedTuple):
    """Where walks start, and what is theirs all the way; n starts.

    Attributes:
      voxels: [n] int64 flat index of the voxel, rising.
      levels: [n] float32 gray value B, in the levels of the image.
      variances: [n] float32 σ², in squared levels, above 0.
    """

    voxels: np.ndarray
    levels: np.ndarray
    variances: np.ndarray


def add_hits(
    hits: np.ndarray,
    levels: ArrayLike,
    starts: Starts,
    *,
    seed: int,
    walks: range,
    n_steps: int,
    devices: Sequence[jax.Device] | None = None,
    on_walks: Callable[[int], Any] | None = None,
) -> None:
    """Add how often each voxel is entered by walks of all starts; starting does not count.

    Args:
      hits: [z, y, x] int32, changed in place.
      levels: [z, y, x] uint16 gray levels below 512; read block by block where walkers come.
      starts: where walks start.
      seed: of the random numbers, 0 … 2³² − 1.
      walks: which walks of each start, such as `range(10)`.
      n_steps: steps of each walk.
      devices: that share the walks; None: all of this process.
      on_walks: called with the number of walks that have come to their end, from several threads.

    Raises:
      InputError: another rank or dtype, or a number that is negative.
    """
    _check(hits, levels, seed, n_steps)
    workers = _workers(devices)
    walk = _Walk(hits, levels, starts, seed, n_steps, workers, on_walks or (lambda n: None))
    waiting: list[Walkers] = []
    for block, here in walk.by_block(starts.voxels):
        waiting += walk.through(block, walk.at_start(here, walks.start), n_walks=len(walks))
    while waiting:
        walkers = Walkers(*(np.concatenate(columns) for columns in zip(*waiting, strict=True)))
        waiting = []
        for block, here in walk.by_block(walkers.voxels):
            # Those with equally much left to do go together.
            order = here[np.argsort(walkers.steps[here], kind='stable')]
            part = Walkers(*(column[order] for column in walkers))
            waiting += walk.through(block, part, n_walks=1)


def _workers(devices: Sequence[jax.Device] | None) -> list[jax.Device]:
    """The devices of the threads that share the walks.

    Loops of one program run on one core: on CPUs there are as many threads as cores.
    """
    devices = list(devices) if devices is not None else jax.local_devices()
    if devices[0].platform != 'cpu':
        return devices
    return [devices[i % len(devices)] for i in range(max(usable_cores(), len(devices)))]


@dataclasses.dataclass(frozen=True)
class _Walk:
    """What is the same for all walkers, and where they leave their hits."""

    hits: np.ndarray
    levels: ArrayLike
    starts: Starts
    seed: int
    n_steps: int
    workers: Sequence[jax.Device]
    on_walks: Callable[[int], Any]

    @property
    def _on_cpu(self) -> bool:
        return self.workers[0].platform == 'cpu'

    @property
    def group_size(self) -> int:
        return _WALKERS_CPU if self._on_cpu else _WALKERS

    def by_block(self, voxels: np.ndarray) -> Iterator[tuple[Block, np.ndarray]]:
        """Blocks with the numbers of the voxels in their core, where there are any."""
        shape = self.levels.shape
        side = _BLOCK_CPU if self._on_cpu else _BLOCK
        halo = int(np.clip(np.ceil(_DEVIATIONS * np.sqrt(self.n_steps / 3)), *_HALO))
        # Where a region would reach from end to end, one block is enough.
        sides = [length if length <= side + 2 * halo else side for length in shape]
        blocks = list(make_blocks(shape, block=sides, halo=[halo] * 3))
        counts = [-(-length // side) for length, side in zip(shape, sides, strict=True)]
        owners = np.zeros(len(voxels), np.int32)
        for axis in range(3):
            place = voxels // int(np.prod(shape[axis + 1 :])) % shape[axis] // sides[axis]
            owners = owners * np.int32(counts[axis]) + place.astype(np.int32)
        order = np.argsort(owners, kind='stable')
        bounds = np.searchsorted(owners, np.arange(len(blocks) + 1), sorter=order)
        for block, first, last in zip(blocks, bounds, bounds[1:], strict=False):
            if last > first:
                yield block, order[first:last]

    def at_start(self, here: np.ndarray, walk: int) -> Walkers:
        """A walker at each of these starts."""
        voxels, levels, variances = (column[here] for column in self.starts)
        return Walkers(
            voxels, np.zeros_like(here), levels, variances, here, np.full_like(here, walk)
        )

    def through(self, block: Block, walkers: Walkers, *, n_walks: int) -> list[Walkers]:
        """Add the hits in a block's region; walkers that have come to its rim are returned.

        Each of the walkers stands for `n_walks`; those of one start are near each other and go
        together.
        """
        box, n = block.region, len(walkers.steps) * n_walks
        surroundings = Surroundings(self.levels, box, walkers, n_walks)
        known = {device: surroundings.put(device) for device in dict.fromkeys(self.workers)}
        groups = _Shared(range(0, n, self.group_size))

        def work(device: jax.Device) -> tuple[np.ndarray, list[Walkers]] | None:
            region, stopped = None, []
            for first in groups:
                region = region or Region(surroundings, known[device])
                size = min(self.group_size, n - first)
                left = region.walk(first, size, seed=self.seed, n_steps=self.n_steps)
                stopped.append(left)
                self.on_walks(size - len(left.steps))
            return None if region is None else (region.hits_to_host(), stopped)

        with ThreadPoolExecutor(len(self.workers)) as pool:
            try:
                results = [result for result in pool.map(work, self.workers) if result]
            except BaseException:
                groups.close()  # an interruption: the others end after their group
                raise
        for entered, _ in results:
            self.hits[box.slices] += entered
        return [left for _, stopped in results for left in stopped if len(left.steps)]


class _Shared:
    """Numbers that several threads take from."""

    def __init__(self, numbers: Iterable[int]) -> None:
        self._numbers, self._lock = iter(numbers), threading.Lock()

    def __iter__(self) -> Iterator[int]:
        while True:
            with self._lock:
                number = next(self._numbers, None)
            if number is None:
                return
            yield number

    def close(self) -> None:
        with self._lock:
            self._numbers = iter(())


def _check(hits: np.ndarray, levels: ArrayLike, seed: int, n_steps: int) -> None:
    if len(levels.shape) != 3 or levels.dtype != np.uint16:
        raise InputError('levels', f'{levels.dtype} {list(levels.shape)}', 'uint16 [z, y, x]')
    if hits.shape != tuple(levels.shape) or hits.dtype != np.int32:
        raise InputError('hits', f'{hits.dtype} {list(hits.shape)}', f'int32 {list(levels.shape)}')
    for name, number in (('seed', seed), ('n_steps', n_steps)):
        if not 0 <= number < (2**32 if name == 'seed' else 2**31):
            raise InputError(name, f'{number}', '0 … 2³¹ − 1, seeds to 2³² − 1')
