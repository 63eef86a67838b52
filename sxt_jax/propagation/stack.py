"""A stack of slices, of which a few are labelled, split into cells slice by slice."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import numpy as np
from skimage.measure import label as label_equal

from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import ArrayLike
from sxt_jax.ops import farneback
from sxt_jax.propagation.cells import Recipe, centroids, split_cells
from sxt_jax.propagation.moving import (
    Moved,
    go_on_with,
    gray_for_flow,
    labels_of,
    move,
    start,
)


class Step(NamedTuple):
    """From a slice to the one beside it.

    Attributes:
      source: the labelled slice that labels come from.
      before, here: the slice that was reached, and the next one.
    """

    source: int
    before: int
    here: int


class _Ready(NamedTuple):
    flows: jax.Array | None
    maps: np.ndarray | None


def steps_between(labelled: Iterable[int], n_slices: int) -> list[Step]:
    """From each labelled slice forwards, then backwards, as far as none is nearer.

    Args:
      labelled: places of the labelled slices, one at least.
      n_slices: of the stack.
    """
    places = sorted(labelled)
    ends = [(a + b) // 2 for a, b in itertools.pairwise(places)]
    steps = []
    for place, first, last in zip(places, [-1, *ends], [*ends, n_slices - 1], strict=True):
        steps += [Step(place, z - 1, z) for z in range(place + 1, last + 1)]
        steps += [Step(place, z + 1, z) for z in range(place - 1, first, -1)]
    return steps


def split_stack(
    image: ArrayLike,
    labelled: Mapping[int, np.ndarray],
    maps: ArrayLike | None,
    *,
    first_island: int,
    recipe: Recipe,
) -> Iterator[tuple[int, np.ndarray]]:
    """Cells and islands of every slice, see `split_cells`; those of labelled slices are as given.

    Cells have the numbers of the nearest labelled slice, islands new ones in every slice: `link`
    tells whose they are. What the next slice needs, flow and maps, is got ready while the last is
    split. In memory are two slices.

    Args:
      image: [z, y, x] gray values; only read where labels are moved.
      labelled: by its place in the stack, each labelled slice, [y, x] numbers of cells, 0 outside.
      maps: [z, y, x, 2] mask and boundary, uint8 up to 255 or floating point up to 1; None where
        the recipe needs none.
      first_island: number of the first island of a slice, above those of all cells.
      recipe: how.

    Yields:
      Place and [y, x] int32, each slice once; in order from labelled slices on.

    Raises:
      InputError: no labelled slice, shapes that differ, or maps of another type.
    """
    _check(image, labelled, maps, recipe)
    steps = steps_between(labelled, image.shape[0])
    preparation = _Preparation(image, maps, recipe)
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(preparation, steps[0]) if steps else None
        moved: Moved | None = None
        for place, own_steps in _by_source(steps, labelled):
            given = np.asarray(labelled[place], np.int32)
            yield place, given
            points = centroids(given)
            for i, step in own_steps:
                assert ahead is not None
                ready = ahead.result()
                if i + 1 < len(steps):
                    ahead = pool.submit(preparation, steps[i + 1])
                if step.before == place and recipe.needs_flow:
                    moved = start(given)
                here, moved = _arrive(moved, ready.flows)
                found = split_cells(
                    ready.maps, here, points, first_island=first_island, recipe=recipe
                )
                if recipe.method == 'frames' and moved is not None:
                    moved = go_on_with(np.where(found < first_island, found, 0), moved)
                yield step.here, found


def regions_of(labels: np.ndarray) -> np.ndarray:
    """[y, x] int32, connected pixels of equal labels numbered from 1: what `link` tracks.

    Args:
      labels: [y, x] whole numbers, 0 is background.
    """
    return label_equal(labels, connectivity=1).astype(np.int32, copy=False)


def _by_source(
    steps: list[Step], labelled: Mapping[int, np.ndarray]
) -> Iterator[tuple[int, list[tuple[int, Step]]]]:
    """Each labelled slice with the steps that set out from it, numbered through."""
    for place in sorted(labelled):
        yield place, [(i, step) for i, step in enumerate(steps) if step.source == place]


def _arrive(moved: Moved | None, flows: jax.Array | None) -> tuple[np.ndarray | None, Moved | None]:
    if moved is None or flows is None:
        return None, None
    moved = move(moved, flows)
    return labels_of(moved), moved


class _Preparation:
    """What a step needs of image and maps. Called in the order of the steps, by one thread."""

    def __init__(self, image: ArrayLike, maps: ArrayLike | None, recipe: Recipe) -> None:
        self._image, self._maps, self._recipe = image, maps, recipe
        self._last: tuple[int, np.ndarray] | None = None

    def __call__(self, step: Step) -> _Ready:
        flows = maps = None
        if self._recipe.needs_flow:
            before, here = self._gray(step.before), self._gray(step.here)
            flows = jax.block_until_ready(farneback(here, before))
        if self._recipe.needs_maps:
            assert self._maps is not None
            maps = in_steps(np.asarray(self._maps[step.here : step.here + 1])[0])
        return _Ready(flows, maps)

    def _gray(self, z: int) -> np.ndarray:
        if self._last is None or self._last[0] != z:
            image = np.asarray(self._image[z : z + 1])[0]
            if not np.isfinite(image).all():
                raise InputError(f'image, slice {z}', 'NaN or infinity', 'finite gray values')
            self._last = z, gray_for_flow(image)
        return self._last[1]


def in_steps(maps: np.ndarray) -> np.ndarray:
    """Probabilities as uint8 from 0 to 255.

    Raises:
      InputError: neither uint8 nor floating point.
    """
    if maps.dtype == np.uint8:
        return maps
    if maps.dtype.kind != 'f':
        raise InputError('maps', f'{maps.dtype}', 'uint8 from 0 to 255, or floating point')
    return np.rint(255 * np.clip(np.nan_to_num(maps), 0, 1)).astype(np.uint8)


def _check(
    image: ArrayLike, labelled: Mapping[int, np.ndarray], maps: ArrayLike | None, recipe: Recipe
) -> None:
    shape = tuple(image.shape)
    if len(shape) != 3:
        raise InputError('image', f'shape {list(shape)}', '[z, y, x]')
    if not labelled:
        raise InputError('labels', 'no labelled slice', 'one at least')
    for place in labelled:
        if not 0 <= place < shape[0]:
            raise InputError('labels', f'labelled slice {place}', f'slices 0 to {shape[0] - 1}')
    if recipe.needs_maps:
        found = 'none' if maps is None else f'shape {list(maps.shape)}'
        if maps is None or tuple(maps.shape) != (*shape, 2):
            raise InputError('maps', found, f'mask and boundary, {[*shape, 2]}')
