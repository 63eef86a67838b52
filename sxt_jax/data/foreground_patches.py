"""Patches that hold enough of a class: how batches are made up where classes are rare."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from sxt_jax.core.box import Box
from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import slabs
from sxt_jax.data.datasets import Example, foreground_positions
from sxt_jax.data.patches import Sampling, random_patch, read_patch

_TRIES = 20  # of each kind of drawing


class ForegroundPatches:
    """Random patches with at least `min_foreground` voxels of a class, drawn for each patch.

    Patches are drawn at random from the volumes that hold as many voxels of the class, until one
    has enough: so every patch with enough is as likely as any other. After some in vain, patches
    around a random voxel of the class are tried, which may lie anywhere in them, and at last the
    one with the most is taken.

    Args:
      examples: labelled volumes; in memory, or drawing is slow.
      sampling: the patch, and `min_foreground`.
      n_classes: background included.
      seed: of the positions that patches are centred on.

    Raises:
      InputError: no volume holds as many voxels of any class.
    """

    def __init__(
        self, examples: Sequence[Example], *, sampling: Sampling, n_classes: int, seed: int
    ) -> None:
        self._examples, self._least = list(examples), sampling.min_foreground
        self._sampling = dataclasses.replace(sampling, foreground_probability=0.0)
        counts = np.array([_count_classes(e, n_classes) for e in self._examples])
        holding = [np.flatnonzero(counts[:, k] >= self._least) for k in range(n_classes)]
        self._holding = {k: found for k, found in enumerate(holding) if k and len(found)}
        if not self._holding:
            most = counts[:, 1:].max(initial=0)
            found = f'{self._least}, where no volume holds more than {most} voxels of a class'
            raise InputError('config.data.min_foreground', found, 'fewer voxels')
        self._positions = [foreground_positions(e, n_classes, seed=seed) for e in self._examples]

    def draw(self, rng: np.random.Generator) -> tuple[Example, Box]:
        """A volume, and a box of it that holds enough of a class."""
        k = list(self._holding)[rng.integers(len(self._holding))]
        most, best = -1, None
        for i in range(2 * _TRIES):
            which = int(rng.choice(self._holding[k]))
            example = self._examples[which]
            if i < _TRIES:
                box = random_patch(rng, example.shape, self._sampling)
            else:
                box = self._around(rng, example.shape, self._positions[which][k - 1])
            n_held = int(np.count_nonzero(read_patch(example.labels, box, pad_value=-1) == k))
            if n_held >= self._least:
                return example, box
            if n_held > most:
                most, best = n_held, (example, box)
        assert best is not None
        return best

    def _around(self, rng: np.random.Generator, shape: Sequence[int], positions: np.ndarray) -> Box:
        """A patch with one of the voxels at [n, 3] positions somewhere in it."""
        patch = self._sampling.patch
        voxel = positions[rng.integers(len(positions))]
        last = np.maximum(0, np.subtract(shape, patch))
        return Box.of_shape(patch, np.clip(voxel - rng.integers(patch), 0, last).tolist())


def _count_classes(example: Example, n_classes: int) -> np.ndarray:
    """[n_classes] voxels of each class."""
    counts = np.zeros(n_classes, np.int64)
    for slab in slabs(example.labels):
        counts += np.bincount(slab[slab >= 0], minlength=n_classes)
    return counts
