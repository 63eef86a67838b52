"""Cells of a stack of which a few slices are labelled: split slice by slice, tracked, written."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from absl import logging

from sxt_jax.core.errors import InputError
from sxt_jax.core.progress import progress_bar
from sxt_jax.core.volume import ArrayLike, Volume
from sxt_jax.io import open_volume, open_writer
from sxt_jax.pipelines.output_file import check_output_file
from sxt_jax.pipelines.slice_store import SliceStore
from sxt_jax.propagation import Recipe, Tracks, link, regions_of, relabel, split_stack
from sxt_jax.propagation.stack import in_steps

_HALF = 128
_LARGEST_ID = 2**30  # islands get larger ones, in int32


@dataclasses.dataclass(frozen=True)
class Options:
    """What is wanted.

    Attributes:
      recipe: how slices are split.
      ignore_value: label of pixels without a label; None: slices of nothing but 0 are unlabelled.
      keep_islands: whether islands that meet no cell are written, with numbers above the cells'.
    """

    recipe: Recipe = dataclasses.field(default_factory=Recipe)
    ignore_value: int | None = None
    keep_islands: bool = True


@dataclasses.dataclass(frozen=True)
class Propagation:
    """What was written.

    Attributes:
      labelled: places of the labelled slices.
      n_cells: cells of these.
      n_islands: islands that meet no cell.
    """

    labelled: tuple[int, ...]
    n_cells: int
    n_islands: int


class LabelledSlices(Mapping[int, np.ndarray]):
    """The labelled slices of a stack of labels, by place; one is in memory at a time.

    Args:
      labels: [z, y, x] ids of cells, 0 and what is negative is outside.
      ignore_value: of pixels without a label; None: slices of nothing but 0 have none.
      name: of the labels, for errors.

    Attributes:
      largest: largest id.

    Raises:
      InputError: ids that are not whole or too large, or no labelled slice.
    """

    def __init__(self, labels: ArrayLike, *, ignore_value: int | None, name: str) -> None:
        self._labels, self._ignore, self._name = labels, ignore_value, name
        self._places, self.largest = [], 0
        for z in range(labels.shape[0]):
            values = np.asarray(labels[z : z + 1])[0]
            if not (values if ignore_value is None else values != ignore_value).any():
                continue
            self._places.append(z)
            self.largest = max(self.largest, int(self._whole(values, z).max()))
        if not self._places or not self.largest:
            found = 'no labelled slice' if not self._places else 'no cells in the labelled slices'
            raise InputError(name, found, 'slices with ids of cells, one at least')

    def __getitem__(self, place: int) -> np.ndarray:
        """[y, x] int32."""
        if place not in self._places:
            raise KeyError(place)
        return self._whole(np.asarray(self._labels[place : place + 1])[0], place)

    def __iter__(self) -> Iterator[int]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def _whole(self, values: np.ndarray, place: int) -> np.ndarray:
        where = f'{self._name}, slice {place}'
        if values.dtype.kind not in 'iu' and (values != np.rint(values)).any():
            raise InputError(where, f'values such as {values.ravel()[0]}', 'whole numbers')
        if self._ignore is not None:
            values = np.where(values == self._ignore, 0, values)
        if values.max(initial=0) > _LARGEST_ID:
            raise InputError(where, f'id {values.max()}', 'ids of cells up to 2³⁰')
        return np.maximum(values, 0).astype(np.int32)


def propagate_file(
    image: str | Path,
    labels: str | Path,
    output: str | Path,
    *,
    maps: str | Path | None = None,
    options: Options | None = None,
    dataset: str | None = None,
    label_dataset: str | None = None,
) -> Propagation:
    """Write the cells of a stack, of which some slices are labelled.

    Everything goes slice by slice; what is found waits, compressed, beside the output until it is
    known which island is of which cell.

    Args:
      image: file of the stack.
      labels: file of the same shape, with ids of cells in the labelled slices; a cell has one id in
        all of them.
      output: file for the instances, int32.
      maps: file of mask and boundary, two channels: probabilities of a network of cells; not needed
        for the method 'flow'.
      options: how.
      dataset, label_dataset: data set of the image and of the labels, see `io.open_volume`.

    Raises:
      InputError: a file is missing or does not fit, nothing is labelled, the mask is empty, or the
        output cannot be written.
    """
    options, output = options or Options(), Path(output)
    check_output_file(output, [image, labels, *([maps] if maps else [])])
    stack, given = open_volume(image, dataset=dataset), open_volume(labels, dataset=label_dataset)
    _check_plain(stack, image)
    _check_plain(given, labels, shape=stack.shape, like=image)
    cells = LabelledSlices(given.data, ignore_value=options.ignore_value, name=str(labels))
    opened = _open_maps(maps, stack, image, cells, options.recipe)
    logging.info('%d labelled slices of %d, %d cells', len(cells), stack.shape[0], cells.largest)
    size = stack.voxel_size_nm or given.voxel_size_nm
    begun = time.perf_counter()
    folder = next(path for path in output.resolve().parents if path.exists())
    with SliceStore(folder, stack.shape[0]) as regions:
        _split(stack.data, cells, opened, regions, options.recipe)
        bar = progress_bar(regions, total=stack.shape[0], unit='slice', desc='tracking')
        tracks = link(bar, cells=cells, keep_islands=options.keep_islands)
        _write(output, stack.shape, size, regions, tracks)
    logging.info('%d slices in %.1f s', stack.shape[0], time.perf_counter() - begun)
    islands = np.setdiff1d(tracks.track, [0, *tracks.cell_ids])
    return Propagation(tuple(cells), len(tracks.cell_ids), len(islands))


def _split(
    image: ArrayLike,
    cells: LabelledSlices,
    maps: ArrayLike | None,
    regions: SliceStore,
    recipe: Recipe,
) -> None:
    found = split_stack(image, cells, maps, first_island=cells.largest + 1, recipe=recipe)
    for z, labels in progress_bar(found, total=image.shape[0], unit='slice', desc='cells'):
        regions.put(z, regions_of(labels))


def _write(
    output: Path,
    shape: tuple[int, int, int],
    voxel_size_nm: tuple[float, float, float] | None,
    regions: SliceStore,
    tracks: Tracks,
) -> None:
    found = enumerate(relabel(regions, tracks))
    with open_writer(output, shape=shape, dtype=np.int32, voxel_size_nm=voxel_size_nm) as writer:
        for z, labels in progress_bar(found, total=shape[0], unit='slice', desc='writing'):
            writer.write(z, np.asarray(labels)[None])


def _check_plain(
    volume: Volume,
    path: str | Path,
    *,
    shape: tuple[int, int, int] | None = None,
    like: str | Path = '',
) -> None:
    if volume.n_channels > 1:
        raise InputError(path, f'{volume.n_channels} channels', 'one')
    if shape is not None and volume.shape != shape:
        raise InputError(path, f'shape {list(volume.shape)}', f'{list(shape)} as {like}')


def _open_maps(
    maps: str | Path | None,
    stack: Volume,
    image: str | Path,
    cells: LabelledSlices,
    recipe: Recipe,
) -> ArrayLike | None:
    """The maps, if they are needed and show something where cells are labelled."""
    if not recipe.needs_maps:
        return None
    if maps is None:
        raise InputError('--maps', 'none', f'mask and boundary of cells, for {recipe.method!r}')
    volume = open_volume(maps)
    if volume.n_channels != 2:
        raise InputError(maps, f'{volume.n_channels} channels', 'two, mask and boundary of cells')
    if volume.shape != stack.shape:
        raise InputError(maps, f'shape {list(volume.shape)}', f'{list(stack.shape)} as {image}')
    place = next((z for z in cells if cells[z].any()), next(iter(cells)))
    values = np.asarray(volume.data[place : place + 1])[0]
    try:
        mask = in_steps(values)[..., 0]
    except InputError as error:
        raise InputError(maps, error.found, error.expected) from error
    if not (mask >= _HALF).any():
        expected = 'probabilities, up to 255 as uint8 or up to 1 as floating point'
        raise InputError(maps, f'no cell in the mask of slice {place}, which is labelled', expected)
    return volume.data
