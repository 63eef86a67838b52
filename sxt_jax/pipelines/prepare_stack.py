"""Prepare a stack of slices as microscopes write it: aligned, cropped, of even contrast.

As before the segmentation of FIB-SEM stacks (Machireddy et al. 2023): slices are moved in their
plane onto each other, the padding that this leaves is cropped, and their gray levels are evened.
The stack is read twice, slice by slice, and written once; slices are moved by whole pixels, so no
gray value is made up by interpolation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
from absl import logging
from scipy import ndimage
from scipy.linalg import solveh_banded

from sxt_jax.core.errors import InputError
from sxt_jax.core.progress import progress_bar
from sxt_jax.core.volume import Volume
from sxt_jax.data import contrast
from sxt_jax.data.binning import bin_mean
from sxt_jax.inference.slabs import work_ahead
from sxt_jax.io import open_volume, open_writer, write_table
from sxt_jax.ops.phase_correlation import shift_between, spectrum
from sxt_jax.pipelines.output_file import check_output_file

CONTRASTS = ('none', 'equalise', 'match')
_COMPARED_SIDE = 2048  # slices with a longer side are binned before they are compared
_MIN_SIDE = 8
_GAPS = (1, 2)  # slices are compared with the next and with the one after it
_TYPICAL_ERROR_PX = 0.25  # of a comparison; those that are off by far more count little
_N_WEIGHINGS = 20


@dataclasses.dataclass(frozen=True)
class Options:
    """How a stack is prepared.

    Attributes:
      align: whether slices are moved onto each other.
      max_shift: pixels by which neighbouring slices may be displaced.
      keep_drift: slices over which a slow drift is left as it is, since it may be that of slanted
        structures; 0: what slices have in common with their neighbours is put on top of each other.
      crop: whether only what all slices show is kept; otherwise slices keep their size, and what
        they do not show is `padding`, or 0.
      padding: gray level of what was padded before, which is not counted and cropped; None: none.
      contrast: one of `CONTRASTS`: 'equalise' every slice's histogram, as published, or 'match' it
        to that of the slices around it.
      contrast_slices: of 'match': standard deviation of the weights of slices around; inf: all.
    """

    align: bool = True
    max_shift: int = 64
    keep_drift: float = 0.0
    crop: bool = True
    padding: int | None = None
    contrast: str = 'none'
    contrast_slices: float = 20.0


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What was done to a stack.

    Attributes:
      moves: [z, 2] int pixels (y, x) by which slices were moved.
      offsets: [z, 2] float pixels (y, x) at which what the first slice shows was found; with
        `keep_drift`, how far that is from the slow course.
      agreement: [z] height of the peak of the comparison with the slice before; nan for the first.
      box: ((y, x) start, (y, x) stop) of what was kept, in pixels of the first slice; may reach
        out of it.
    """

    moves: np.ndarray
    offsets: np.ndarray
    agreement: np.ndarray
    box: tuple[tuple[int, int], tuple[int, int]]


def prepare_stack(
    source: str | Path,
    output: str | Path,
    *,
    options: Options | None = None,
    dataset: str | None = None,
) -> Prepared:
    """Align, crop and even a stack, and write it with a table of how slices were moved beside it.

    Args:
      source: a stack in any of the formats that are read, or a folder of slices.
      output: the file, of a format that is written; OME-Zarr for what is large.
      options: what is done.
      dataset: name of the data set in HDF5 or OME-Zarr.

    Returns:
      What was done. The table is `output` with the suffix `.shifts.csv`.

    Raises:
      InputError: no stack, options that make no sense, gray levels that cannot be counted, slices
        that have nothing in common.
    """
    options, output = options or Options(), Path(output)
    _check(options)
    check_output_file(output, [source])
    volume, name = open_volume(source, dataset=dataset), str(source)
    _check_volume(volume, name, options)
    survey = _survey(volume, name, options)
    offsets = _offsets(survey.steps, volume.shape[0], keep_drift=options.keep_drift)
    moves = -np.rint(offsets).astype(int)
    box = _common_box(survey.boxes, moves, name) if options.crop else ((0, 0), volume.shape[1:])
    _write(volume, output, moves, box, _even_all(survey.levels, volume, options), options)
    agreement = np.array([np.nan, *(survey.steps[z, 1][2] for z in range(1, volume.shape[0]))])
    prepared = Prepared(moves, offsets, agreement, box)
    _write_moves(output, prepared)
    return prepared


def _check(options: Options) -> None:
    if options.contrast not in CONTRASTS:
        raise InputError('contrast', repr(options.contrast), f'one of {CONTRASTS}')
    if options.max_shift < 1:
        raise InputError('max_shift', f'{options.max_shift}', 'at least 1 pixel')
    if not 0 <= options.keep_drift < np.inf:
        raise InputError('keep_drift', f'{options.keep_drift}', 'a number of slices, or 0')
    if not options.contrast_slices > 0:
        expected = 'a number of slices above 0, or inf'
        raise InputError('contrast_slices', f'{options.contrast_slices}', expected)


def _check_volume(volume: Volume, name: str, options: Options) -> None:
    if volume.n_channels > 1:
        raise InputError(name, f'{volume.n_channels} channels', 'one')
    if min(volume.shape[1:]) // _binning(volume.shape) < _MIN_SIDE:
        expected = f'sides of {_MIN_SIDE} pixels or more, and no strips'
        raise InputError(name, f'slices of {volume.shape[1:]}', expected)
    if options.contrast != 'none' and volume.dtype.name not in contrast.DTYPES:
        found = f'voxels of {volume.dtype.name}, whose gray levels cannot be counted'
        raise InputError(name, found, f'one of {", ".join(contrast.DTYPES)}, or --contrast=none')
    if options.padding is not None and volume.dtype.kind in 'iu':
        info = np.iinfo(volume.dtype)
        if not info.min <= options.padding <= info.max:
            raise InputError('padding', f'{options.padding}', f'a gray level of {volume.dtype}')


@dataclasses.dataclass(frozen=True)
class _Survey:
    """What the first reading finds.

    Attributes:
      steps: (slice, gap) → shift y and x in pixels against the slice `gap` before, and agreement.
      boxes: [z, 2, 2] start and stop (y, x) of what is not padding.
      levels: of each slice, where contrast is to be changed, what `_gray_levels` tells.
    """

    steps: dict[tuple[int, int], tuple[float, float, float]]
    boxes: np.ndarray
    levels: list[np.ndarray]


def _survey(volume: Volume, name: str, options: Options) -> _Survey:
    """Read all slices once; while the device compares two, the host reads and counts the next."""
    n_slices, shape = volume.shape[0], volume.shape[1:]
    binning = _binning(volume.shape)
    compared = tuple(n // binning for n in shape)
    reach = max(1, min(-(-options.max_shift // binning), min(compared) // 2 - 2))
    steps: dict[tuple[int, int], tuple[jax.Array, jax.Array]] = {}
    boxes, levels = np.empty((n_slices, 2, 2), int), []
    before: list[jax.Array] = []
    with progress_bar(total=n_slices, unit='slice', desc='comparing') as bar:
        for z, image in enumerate(_slices(volume)):
            boxes[z] = _shown(image, options.padding, f'{name} slice {z}')
            if options.contrast != 'none':
                levels.append(_gray_levels(image, options))
            if options.align:
                transformed = spectrum(_reduced(image, binning, options.padding))
                for gap, other in zip(_GAPS, reversed(before), strict=False):
                    steps[z, gap] = shift_between(
                        other, transformed, shape=compared, max_shift=reach
                    )
                before = [*before, transformed][-max(_GAPS) :]
            bar.update()
    return _Survey(_told(steps, n_slices, binning), boxes, levels)


def _binning(shape: tuple[int, int, int]) -> int:
    """Pixels of a side that are one where slices are compared."""
    return max(1, -(-max(shape[1:]) // _COMPARED_SIDE))


def _told(
    steps: dict[tuple[int, int], tuple[jax.Array, jax.Array]], n_slices: int, binning: int
) -> dict[tuple[int, int], tuple[float, float, float]]:
    """The steps as numbers, in pixels of the file; of slices that are not compared 0."""
    found = {
        key: (binning * float(shift[0]), binning * float(shift[1]), float(height))
        for key, (shift, height) in jax.device_get(steps).items()
    }
    return {**{(z, 1): (0.0, 0.0, np.nan) for z in range(1, n_slices)}, **found}


def _slices(volume: Volume) -> Iterator[np.ndarray]:
    data = volume.data

    def read() -> Iterator[np.ndarray]:
        for z in range(volume.shape[0]):
            yield np.asarray(data[z : z + 1, :, :]).reshape(volume.shape[1:])

    return work_ahead(read())


def _shown(image: np.ndarray, padding: int | None, name: str) -> np.ndarray:
    """[2, 2] start and stop (y, x) of the box around what is not padding.

    Raises:
      InputError: nothing is, or a voxel is not a finite number.
    """
    if image.dtype.kind == 'f' and not np.isfinite(image).all():
        raise InputError(name, 'NaN or infinite voxels', 'finite gray values')
    if padding is None:
        return np.array([(0, 0), image.shape])
    shown = image != padding
    sides = [np.flatnonzero(shown.any(axis)) for axis in (1, 0)]
    if not len(sides[0]):
        raise InputError(name, f'nothing but padding ({padding})', 'an image')
    return np.array([[s[0] for s in sides], [s[-1] + 1 for s in sides]])


def _reduced(image: np.ndarray, binning: int, padding: int | None) -> np.ndarray:
    """[y, x] float32 means of bins; padding, whose edge would be compared, is a mean itself."""
    gray = image.astype(np.float32)
    if padding is not None:
        outside = image == padding
        gray[outside] = gray[~outside].mean()
    y, x = (n // binning for n in gray.shape)
    return bin_mean(gray[None, : y * binning, : x * binning], (1, binning, binning))[0]


def _offsets(
    steps: dict[tuple[int, int], tuple[float, float, float]], n_slices: int, *, keep_drift: float
) -> np.ndarray:
    """[z, 2] where all slices are against the first, from how pairs of them are displaced.

    Each pair tells a difference; the offsets agree with them as well as they can, where pairs count
    by their agreement squared, and little if they are off by pixels (weights
    1 / (1 + (error / `_TYPICAL_ERROR_PX`)²), found by turns). So a slice that was not recognised,
    which agrees with none, does not displace those behind it.
    """
    pairs = np.array([(z - gap, z) for z, gap in steps], int).reshape(-1, 2)
    told = np.array(list(steps.values())).reshape(-1, 3)
    wanted, trust = told[:, :2], np.clip(np.nan_to_num(told[:, 2], nan=1), 1e-3, 1) ** 2
    offsets = np.zeros((n_slices, 2))
    if n_slices > 1:
        weights = trust
        for _ in range(_N_WEIGHINGS):
            offsets = _least_squares(pairs, wanted, weights, n_slices)
            error = np.linalg.norm(offsets[pairs[:, 1]] - offsets[pairs[:, 0]] - wanted, axis=1)
            weights = trust / (1 + (error / _TYPICAL_ERROR_PX) ** 2)
    if keep_drift:
        drift = ndimage.gaussian_filter1d(offsets, keep_drift, axis=0, mode='nearest')
        offsets = offsets - drift
    return offsets


def _least_squares(
    pairs: np.ndarray, wanted: np.ndarray, weights: np.ndarray, n_slices: int
) -> np.ndarray:
    """[z, 2] offsets whose differences are nearest to those wanted; the first is 0.

    The normal equations have a band of three diagonals on each side at most (`_GAPS`).
    """
    bands = np.zeros((1 + max(_GAPS), n_slices))
    right = np.zeros((n_slices, 2))
    first, second = pairs.T
    np.add.at(bands[0], first, weights)
    np.add.at(bands[0], second, weights)
    for gap in _GAPS:
        of_gap = second - first == gap
        np.add.at(bands[gap], first[of_gap], -weights[of_gap])
    np.add.at(right, second, weights[:, None] * wanted)
    np.add.at(right, first, -weights[:, None] * wanted)
    bands[0, 0] += 1.0  # holds the first slice where it is
    bands[0] += 1e-9
    found = solveh_banded(bands, right, lower=True)
    return found - found[0]


def _common_box(
    boxes: np.ndarray, moves: np.ndarray, name: str
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Start and stop (y, x) of what all moved slices show."""
    start, stop = (boxes[:, 0] + moves).max(0), (boxes[:, 1] + moves).min(0)
    if np.any(stop - start < 1):
        found = f'slices that, moved by up to {np.abs(moves).max(0)} pixels, share nothing'
        raise InputError(name, found, 'other options: --max_shift, --keep_drift, --nocrop')
    share = np.prod(stop - start) / np.prod((boxes[:, 1] - boxes[:, 0]).max(0))
    if share < 0.5:
        logging.warning('%s: all slices together show %.0f %% of one', name, 100 * share)
    return (int(start[0]), int(start[1])), (int(stop[0]), int(stop[1]))


def _gray_levels(image: np.ndarray, options: Options) -> np.ndarray:
    """What is kept of a slice's histogram: its new levels as they are, or its quantiles."""
    counts = contrast.histogram(image, padding=options.padding)
    if options.contrast == 'equalise':
        return contrast.equalising_table(counts, image.dtype)
    return contrast.quantiles(counts)


def _even_all(
    levels: list[np.ndarray], volume: Volume, options: Options
) -> Callable[[int, np.ndarray], np.ndarray]:
    """A function of the number of a slice and its image: the image with new gray levels."""
    if not levels:
        return lambda z, image: image
    equalise = options.contrast == 'equalise'
    if not equalise:
        own = np.array(levels)
        wanted = contrast.running_reference(own, n_slices=options.contrast_slices)

    def change(z: int, image: np.ndarray) -> np.ndarray:
        table = levels[z] if equalise else contrast.matching_table(own[z], wanted[z], volume.dtype)
        changed = contrast.apply_table(image, table)
        return (
            changed
            if options.padding is None
            else np.where(image == options.padding, image, changed)
        )

    return change


def _write(
    volume: Volume,
    output: Path,
    moves: np.ndarray,
    box: tuple[tuple[int, int], tuple[int, int]],
    change: Callable[[int, np.ndarray], np.ndarray],
    options: Options,
) -> None:
    """Read all slices again, and write them moved and with new gray levels."""
    shape = tuple(b - a for a, b in zip(*box, strict=True))
    fill = options.padding or 0
    with (
        open_writer(
            output,
            shape=(volume.shape[0], *shape),
            dtype=volume.dtype,
            voxel_size_nm=volume.voxel_size_nm,
        ) as writer,
        progress_bar(total=volume.shape[0], unit='slice', desc='writing') as bar,
    ):
        for z, image in enumerate(_slices(volume)):
            writer.write(z, _moved(change(z, image), moves[z], box, fill)[None])
            bar.update()


def _moved(
    image: np.ndarray,
    move: np.ndarray,
    box: tuple[tuple[int, int], tuple[int, int]],
    fill: int,
) -> np.ndarray:
    """What lies in the box once the image is moved; `fill` where it shows nothing."""
    start, stop = np.array(box) - move
    low, high = np.maximum(start, 0), np.minimum(stop, image.shape)
    if np.all(low == start) and np.all(high == stop):
        return image[low[0] : high[0], low[1] : high[1]]
    moved = np.full(stop - start, fill, image.dtype)
    if np.all(low < high):
        y, x = (slice(a, b) for a, b in zip(low - start, high - start, strict=True))
        moved[y, x] = image[low[0] : high[0], low[1] : high[1]]
    return moved


def _write_moves(output: Path, prepared: Prepared) -> None:
    """A row a slice, as `output` with the suffix `.shifts.csv`."""
    z = np.arange(len(prepared.moves))
    columns = {
        'slice': z,
        'moved_y_px': prepared.moves[:, 0],
        'moved_x_px': prepared.moves[:, 1],
        'offset_y_px': prepared.offsets[:, 0],
        'offset_x_px': prepared.offsets[:, 1],
        'agreement': prepared.agreement,
    }
    write_table(output.with_name(f'{output.name}.shifts.csv'), columns)
