"""Slices of volumes of which only some are labelled, one by one: what a 2-D network learns from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from sxt_jax.core.box import Box
from sxt_jax.core.errors import InputError
from sxt_jax.core.memory import fits_in_memory
from sxt_jax.core.volume import load, slabs
from sxt_jax.data.classes import IGNORE_INDEX
from sxt_jax.data.datasets import Example, crop_example, split_examples

CHOICES = ('even', 'random')


@dataclasses.dataclass(frozen=True)
class Unlabelled:
    """Every voxel has no label, whatever its value (a `data.datasets.LabelMap`)."""

    dtype: ClassVar[Any] = np.int16

    def indices(self, labels: np.ndarray, *, name: str = 'labels') -> np.ndarray:
        """`IGNORE_INDEX` of that shape."""
        return np.full(labels.shape, IGNORE_INDEX, self.dtype)


def cut_slices(
    examples: Sequence[Example], *, empty_are_labelled: bool = True
) -> tuple[list[Example], list[Example]]:
    """The labelled slices of volumes, and the others, each an example of one slice.

    Args:
      examples: with class indices.
      empty_are_labelled: whether a slice that holds nothing but background, and no ignored pixel,
        was looked at. If not, it counts as unlabelled, as a sparse stack of labels has it.

    Returns:
      Slices with a counted pixel, and slices without.
    """
    labelled: list[Example] = []
    unlabelled: list[Example] = []
    for example in examples:
        for z, told in enumerate(_told(example, empty_are_labelled)):
            cut = crop_example(example, Box((z, 0, 0), (z + 1, *example.shape[1:])))
            if example.shape[0] > 1:
                name = f'{example.name} slice {z}'
                cut = dataclasses.replace(cut, name=name, stack=example.name)
            (labelled if told else unlabelled).append(cut)
    return labelled, unlabelled


def _told(example: Example, empty_are_labelled: bool) -> np.ndarray:
    """[z] whether a slice is labelled."""
    told = []
    for slab in slabs(example.labels):
        flat = slab.reshape(len(slab), -1)
        labelled = (flat != IGNORE_INDEX).any(1)
        if not empty_are_labelled:
            labelled &= (flat != 0).any(1)
        told.append(labelled)
    return np.concatenate(told)


def choose_slices(n: int, k: int, *, choice: str = 'even', seed: int = 0) -> np.ndarray:
    """Which k of n slices to learn from.

    Args:
      n: slices there are.
      k: slices wanted, at most n.
      choice: 'even': in the middles of k equal parts of the stack; 'random': any k, by the seed.
      seed: of 'random'.

    Returns:
      [k] ascending numbers.

    Raises:
      InputError: no such choice, or more slices than there are.
    """
    if not 0 < k <= n:
        raise InputError('config.data.labelled_slices', f'{k} of {n} labelled slices', f'1 … {n}')
    if choice == 'even':
        return (2 * np.arange(k) + 1) * n // (2 * k)
    if choice != 'random':
        raise InputError('config.data.labelled_choice', repr(choice), f'one of {CHOICES}')
    return np.sort(np.random.default_rng(seed).permutation(n)[:k])


def split_slices(
    labelled: Sequence[Example], *, n: int, choice: str, fraction: float, seed: int
) -> tuple[list[Example], list[Example], list[Example]]:
    """Labelled slices to train on, to validate on, and those left over.

    Args:
      labelled: slices in their order.
      n: how many to train on; 0: all but a random `fraction`, on which to validate.
      choice: which n, see `choose_slices`.
      fraction: how many of the others to validate on, as a share of n (at least one, evenly
        spread); 0: none.
      seed: decides what is random.

    Raises:
      InputError: there are not as many slices.
    """
    if not n:
        train, held = split_examples(labelled, fraction=fraction, seed=seed)
        return train, held, []
    chosen = set(choose_slices(len(labelled), n, choice=choice, seed=seed).tolist())
    others = [e for i, e in enumerate(labelled) if i not in chosen]
    n_held = max(1, round(fraction * n)) if fraction > 0 else 0
    if n_held > len(others):
        found = f'{n} of {len(labelled)} labelled slices, with {n_held} more to validate on'
        expected = 'fewer, or data.validation_fraction=0'
        raise InputError('config.data.labelled_slices', found, expected)
    checked = set(choose_slices(len(others), n_held).tolist()) if n_held else set()
    return (
        [e for i, e in enumerate(labelled) if i in chosen],
        [e for i, e in enumerate(others) if i in checked],
        [e for i, e in enumerate(others) if i not in checked],
    )


def hold_slices(slices: Sequence[Example]) -> list[Example]:
    """The same slices in host memory if they fit; patches are many times faster to cut there."""
    n_bytes = sum(int(np.prod(e.shape)) * (4 * e.image.shape[3] + 2) for e in slices)
    if not fits_in_memory(n_bytes):
        return list(slices)
    return [dataclasses.replace(e, image=load(e.image), labels=load(e.labels)) for e in slices]


def value_range(examples: Sequence[Example]) -> float:
    """Largest minus smallest gray value of the images."""
    low, high = np.inf, -np.inf
    for example in examples:
        for slab in slabs(example.image):
            low, high = min(low, float(slab.min())), max(high, float(slab.max()))
    return high - low
