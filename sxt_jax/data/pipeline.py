"""The host pipeline: batches as pure functions of (seed, step), prepared ahead of the device."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
from collections.abc import Callable, Generator, Sequence
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np

from sxt_jax.core.box import Box
from sxt_jax.core.errors import InputError
from sxt_jax.core.tiles import make_grid
from sxt_jax.data.augment import exchange_axes
from sxt_jax.data.classes import IGNORE_INDEX
from sxt_jax.data.datasets import Example, foreground_positions
from sxt_jax.data.foreground_patches import ForegroundPatches
from sxt_jax.data.patches import (
    Sampling,
    grid_of_patches,
    random_order,
    random_patch,
    read_patch,
)

Batch = dict[str, np.ndarray]
T = TypeVar('T')


class Stream(Protocol):
    """Where an objective's batches come from."""

    @property
    def steps_per_epoch(self) -> int: ...

    def batch(self, step: int) -> Batch:
        """The batch of that step: the same whenever and however often it is asked for."""
        ...


@runtime_checkable
class PartedStream(Stream, Protocol):
    """One that several processes can draw from, each its own examples of a batch."""

    @property
    def batch_size(self) -> int: ...

    def batch(self, step: int, rows: slice = ...) -> Batch:
        """The examples `rows` of the batch of that step."""
        ...


class PatchStream:
    """Batches of image patches with their labels and, where the examples have them, flows.

    Args:
      examples: labelled volumes; of those with a band patches are centred on its voxels.
      sampling: how patches are drawn.
      batch_size: patches in a batch.
      seed: of the drawing.
      n_classes: number of classes, background included.
      steps_per_epoch: None: as many as show every patch of the grid once; for 'random', as many
        as hold the voxels of all volumes; for 'each', as show every volume once.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        *,
        sampling: Sampling,
        batch_size: int,
        seed: int,
        n_classes: int,
        steps_per_epoch: int | None = None,
    ) -> None:
        self._examples, self._sampling = list(examples), sampling
        self._batch_size, self._seed = batch_size, seed
        stride = sampling.stride if sampling.kind == 'strided' else sampling.patch
        grid = Sampling(sampling.patch, 'strided', stride)
        self._grid = [(e, box) for e in self._examples for box in grid_of_patches(e.shape, grid)]
        self._foreground: list[list[np.ndarray]] = [[] for _ in self._examples]
        if sampling.kind != 'strided' and sampling.foreground_probability > 0:
            self._foreground = [
                foreground_positions(e, n_classes, seed=seed) for e in self._examples
            ]
        n_drawn = len(self._examples if sampling.kind == 'each' else self._grid)
        if any(e.band is not None for e in self._examples):
            n_drawn = self._stay_in_bands()
        self._composed: ForegroundPatches | None = None
        if sampling.foreground_share > 0:
            self._composed = ForegroundPatches(
                self._examples, sampling=sampling, n_classes=n_classes, seed=seed
            )
        self.steps_per_epoch = steps_per_epoch or max(1, n_drawn // batch_size)

    def _stay_in_bands(self) -> int:
        """Patches are centred on voxels of the examples' bands; how many cover the bands once.

        Examples without a labelled voxel in their band are left out.
        """
        found = [
            (e, e.band.positions(e.labels, seed=self._seed))
            for e in self._examples
            if e.band is not None
        ]
        found = [(e, positions) for e, positions in found if len(positions)]
        if not found:
            expected = 'volumes in which the earlier stage finds more than one class'
            raise InputError('surface stage', 'no labelled voxel near a surface', expected)
        self._examples = [e for e, _ in found]
        self._foreground = [[positions] for _, positions in found]
        self._sampling = dataclasses.replace(self._sampling, foreground_probability=1.0)
        if self._sampling.kind == 'each':
            return len(self._examples)
        grids = [make_grid(e.shape, tile=self._sampling.patch, overlap=(0, 0, 0)) for e, _ in found]
        touched = (
            e.band.choose_tiles(grid)
            for e, grid in zip(self._examples, grids, strict=True)
            if e.band is not None
        )
        return sum(int(tiles.sum()) for tiles in touched)

    @property
    def batch_size(self) -> int:
        return self._batch_size

    def batch(self, step: int, rows: slice = slice(None)) -> Batch:
        """{'image': [b, z, y, x, c] float32, 'labels': [b, z, y, x] int16} of that step.

        And 'flows': [b, z, y, x, 3] float32, if the examples have flows. With `rows` only those
        patches are drawn and read.
        """
        numbers = range(step * self._batch_size, (step + 1) * self._batch_size)[rows]
        patches = [self._patch(number) for number in numbers]
        return {name: np.stack([patch[name] for patch in patches]) for name in patches[0]}

    def _patch(self, number: int) -> Batch:
        """The `number`-th patch of the run."""
        example, box, order = self._draw(number)
        patch = {
            'image': read_patch(example.image, box),
            'labels': read_patch(example.labels, box, pad_value=IGNORE_INDEX),
        }
        if example.flows is not None:
            patch['flows'] = read_patch(example.flows, box, pad_value=0).astype(np.float32)
        if order == (0, 1, 2):
            return patch
        return {name: exchange_axes(name, array, order=order) for name, array in patch.items()}

    def _draw(self, number: int) -> tuple[Example, Box, tuple[int, int, int]]:
        """Example, box in it, and which of its axes become those of the `number`-th patch."""
        if self._sampling.kind == 'strided':
            epoch, place = divmod(number, len(self._grid))
            return *self._grid[self._order(epoch, len(self._grid))[place]], (0, 1, 2)
        rng = np.random.default_rng((self._seed, number))
        place_in_batch = number % self._batch_size
        if self._composed and place_in_batch < self._sampling.n_composed(self._batch_size):
            return *self._composed.draw(rng), (0, 1, 2)
        if self._sampling.kind == 'each':
            epoch, place = divmod(number, len(self._examples))
            which = int(self._order(epoch, len(self._examples))[place])
        else:
            which = int(rng.integers(len(self._examples)))
        shape = self._examples[which].shape
        order = random_order(rng, shape, self._sampling)
        # The patch's axis k is the volume's axis order[k].
        z, y, x = (self._sampling.patch[order.index(axis)] for axis in range(3))
        cut = dataclasses.replace(self._sampling, patch=(z, y, x))
        box = random_patch(rng, shape, cut, self._foreground[which])
        return self._examples[which], box, order

    def _order(self, epoch: int, n: int) -> np.ndarray:
        """The order of `n` patches or volumes in an epoch; the last one asked for is kept."""
        if getattr(self, '_ordered_epoch', None) != epoch:
            self._ordered_epoch = epoch
            self._last_order = np.random.default_rng((self._seed, epoch)).permutation(n)
        return self._last_order


def prefetch(
    make: Callable[[int], T], steps: range, *, n_ahead: int = 2
) -> Generator[tuple[int, T], None, None]:
    """(step, make(step)) in order, made ahead in a thread while the device works.

    One thread: readers of compressed files are not safe in several. Closing the iterator waits
    for the item being made.

    Args:
      make: makes the item of a step, e.g. a batch on the devices.
      steps: which steps.
      n_ahead: how many items are made ahead; they are held in memory.
    """
    with concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix='prefetch') as executor:
        pending: collections.deque[tuple[int, concurrent.futures.Future[T]]] = collections.deque()
        try:
            for step in steps:
                pending.append((step, executor.submit(make, step)))
                if len(pending) > n_ahead:
                    ready, item = pending.popleft()
                    yield ready, item.result()
            while pending:
                ready, item = pending.popleft()
                yield ready, item.result()
        finally:
            for _, item in pending:
                item.cancel()
