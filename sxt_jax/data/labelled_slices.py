"""Slices of volumes of which only some are labelled, one by one: what a 2-D network learns from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from sxt_jax.core.box import Box
from sxt_jax.core.volume import slabs
from sxt_jax.data.classes import IGNORE_INDEX
from sxt_jax.data.datasets import Example, crop_example


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
                cut = dataclasses.replace(cut, name=f'{example.name} slice {z}')
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


def value_range(examples: Sequence[Example]) -> float:
    """Largest minus smallest gray value of the images."""
    low, high = np.inf, -np.inf
    for example in examples:
        for slab in slabs(example.image):
            low, high = min(low, float(slab.min())), max(high, float(slab.max()))
    return high - low
