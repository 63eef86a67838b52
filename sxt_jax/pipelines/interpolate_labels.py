"""Dense labels of tomograms of which a few slices are labelled by hand."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging

from sxt_jax.core.atomic import check_writable
from sxt_jax.core.errors import InputError
from sxt_jax.core.memory import free_host_bytes
from sxt_jax.core.progress import late_bar
from sxt_jax.core.volume import Volume, load
from sxt_jax.data.classes import count_labels
from sxt_jax.inference import tidy
from sxt_jax.io import SUFFIXES, WRITABLE_SUFFIXES, Pair, open_volume, pair, write_volume
from sxt_jax.labelling import (
    PERCENTILES,
    Interpolation,
    Suggestion,
    given_voxels,
    interpolate,
    labelled_slices,
    suggest_slices,
)
from sxt_jax.pipelines.segment_volume import (
    check_share,
    label_path,
    log_failure,
    refuse_folder_of,
)

UNCERTAINTY = 'uncertainty'
_MEMORY_SHARE = 0.5  # of the free memory that hits may take; the rest is for image and labels


@dataclasses.dataclass(frozen=True)
class Options:
    """What is wanted of an interpolation.

    Attributes:
      n_walks, n_steps, axes, smooth, published_smoothing, keep_slices, settled: see
        `labelling.interpolate`.
      ignore_value: label of voxels without a label; None: slices of nothing but 0 are unlabelled.
      full_range: the extremes of gray values other than uint8 become 0 and 255, as published, not
        percentiles.
      seed: of the walks.
      uncertainty: also write the uncertainty.
      clean: objects smaller than this share of their label's largest are removed; 0: none.
      fill: holes smaller than this share of the object around them are filled; 0: none.
      suggest_slices: how many slices to suggest that should be labelled next.
    """

    n_walks: int = 10
    n_steps: int = 400
    axes: str = 'z'
    smooth: int = 0
    published_smoothing: bool = False
    keep_slices: bool = False
    settled: float = 0.0
    full_range: bool = False
    ignore_value: int | None = None
    seed: int = 0
    uncertainty: bool = False
    clean: float = 0.0
    fill: float = 0.0
    suggest_slices: int = 0


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one pair: its dense labels, or why there are none.

    Attributes:
      source: the sparse labels.
      files: what was written, labels first.
      suggestions: slices to label next.
      error: what went wrong; '' if nothing did.
    """

    source: Path
    files: tuple[Path, ...] = ()
    suggestions: tuple[Suggestion, ...] = ()
    error: str = ''


def interpolate_files(
    images: str | Path,
    labels: str | Path | None,
    output: str | Path,
    *,
    options: Options | None = None,
    dataset: str | None = None,
    label_dataset: str | None = None,
) -> list[Outcome]:
    """Write the dense labels of one tomogram, or of every tomogram of a folder.

    Args:
      images: a file or a folder.
      labels: of sparse labels, likewise; None: they lie beside the images (`io.pair`).
      output: a file, for one tomogram; or a folder, in which labels have the names of the images.
      options: how.
      dataset, label_dataset: see `io.pair`.

    Returns:
      One outcome a pair; a failure does not stop the others.

    Raises:
      InputError: nothing to pair, options that make no sense, or results would replace sources.
    """
    options, output = options or Options(), Path(output)
    _check(options)
    pairs = pair(images, labels, dataset=dataset, label_dataset=label_dataset)
    targets = _targets(pairs, output)
    check_writable(targets[0].parent)
    outcomes = []
    for one, target in zip(pairs, targets, strict=True):
        try:
            outcomes.append(interpolate_file(one, target, options=options))
        except Exception as error:  # one bad file must not cost the others
            outcomes.append(Outcome(one.labels, error=log_failure(one.labels, error)))
    return outcomes


def interpolate_file(files: Pair, target: Path, *, options: Options) -> Outcome:
    """Write the dense labels of one tomogram, with its voxel size and the names of the labels.

    Raises:
      InputError: no volumes of one shape, NaN voxels, no labelled slice, labels that are not whole
        numbers; a result cannot be written.
    """
    image, given = open_volume(files.image), open_volume(files.labels)
    if image.n_channels > 1 or given.n_channels > 1:
        which = files.image if image.n_channels > 1 else files.labels
        raise InputError(which, 'several channels', 'one')
    if image.shape != given.shape:
        found = f'labels of shape {list(given.shape)}'
        raise InputError(files.labels, found, f'{list(image.shape)} as {files.image}')
    counts = count_labels(given.data, name=str(files.labels))
    sparse = load(given.data)
    if sparse.dtype.kind not in 'iu':  # some formats have floats only
        sparse = sparse.astype(np.int64)
    ids = {0, *(value for value in counts if value >= 0)} - {options.ignore_value}
    with _named(files):
        result = _interpolate(image, sparse, len(ids), target.parent, options)
    size = image.voxel_size_nm or given.voxel_size_nm
    names = {k: v for k, v in (given.class_names or {}).items() if k in result.ids}
    dense = _tidy(result.labels, sparse, options)
    write_volume(target, Volume(dense, size, class_names=names or None))
    written = [target]
    if options.uncertainty:
        written.append(uncertainty_path(target))
        check_writable(written[-1].parent)
        write_volume(written[-1], Volume(result.uncertainty, size))
    best: list[Suggestion] = []
    if options.suggest_slices:
        labelled = labelled_slices(sparse, axes=options.axes, unlabelled=options.ignore_value)
        best = suggest_slices(result.uncertainty, labelled, n=options.suggest_slices)
    return Outcome(files.labels, tuple(written), tuple(best))


def uncertainty_path(target: Path) -> Path:
    """Where the uncertainty goes: not between the labels, which may be a folder to train on."""
    return target.parent / UNCERTAINTY / target.name


def _interpolate(
    image: Volume, sparse: np.ndarray, n_labels: int, folder: Path, options: Options
) -> Interpolation:
    """Walk with a progress bar; hits are in memory, or on disk where they do not fit."""
    needed, free = (4 * n_labels + 2) * sparse.size, free_host_bytes()
    scratch = folder if free is not None and needed > _MEMORY_SHARE * free else None
    if scratch is not None:
        folder.mkdir(parents=True, exist_ok=True)
        logging.info('hits take %.1f GB: they are kept in %s', needed / 1e9, folder)
    start = time.perf_counter()
    with contextlib.ExitStack() as stack:
        result = interpolate(
            image.data,
            sparse,
            key=jax.random.key(options.seed),
            n_walks=options.n_walks,
            n_steps=options.n_steps,
            axes=options.axes,
            smooth=options.smooth,
            published_smoothing=options.published_smoothing,
            keep_slices=options.keep_slices,
            settled=options.settled,
            percentiles=(0.0, 100.0) if options.full_range else PERCENTILES,
            unlabelled=options.ignore_value,
            keep_hits=False,
            scratch=scratch,
            on_walks=late_bar(stack, unit='walk', unit_scale=True, desc='walking'),
        )
    seconds = time.perf_counter() - start
    logging.info(
        '%d labels in %s voxels: %d walks from each voxel of labelled slices, %.1f s',
        len(result.ids), image.shape, result.n_walks, seconds,
    )  # fmt: skip
    return result


def _tidy(labels: np.ndarray, sparse: np.ndarray, options: Options) -> np.ndarray:
    """Without small objects and holes; slices that are to be kept stay as they are given."""
    labels = tidy(labels, clean_below=options.clean, fill_below=options.fill)
    if options.keep_slices:
        found = given_voxels(sparse, axes=options.axes, unlabelled=options.ignore_value)
        for index, given in found:
            labels[index][given] = sparse[index][given]
    return labels


@contextlib.contextmanager
def _named(files: Pair) -> Any:
    """Errors name the file they are about."""
    try:
        yield
    except InputError as error:
        known = {'image': files.image, 'sparse labels': files.labels}
        if error.where not in known:
            raise
        raise InputError(known[error.where], error.found, error.expected) from error


def _targets(pairs: Sequence[Pair], output: Path) -> list[Path]:
    """The label files, none of which may replace another or a source."""
    if len(pairs) == 1 and output.suffix.lower() in WRITABLE_SUFFIXES and not _is_folder(output):
        if output.resolve() in {path.resolve() for path in (pairs[0].image, pairs[0].labels)}:
            raise InputError(output, 'a file of the input', 'another file for the result')
        return [output]
    if output.suffix.lower() in SUFFIXES and not output.is_dir():
        several = len(pairs) > 1
        expected = 'a folder for the results' if several else f'one of {sorted(WRITABLE_SUFFIXES)}'
        raise InputError(output, f'a file for {len(pairs)} results', expected)
    refuse_folder_of([path for one in pairs for path in (one.image, one.labels)], output)
    targets = [label_path(one.image, output) for one in pairs]
    twice = {target for target in targets if targets.count(target) > 1}
    if twice:
        raise InputError(min(twice), 'the result of several images', 'other names')
    return targets


def _is_folder(path: Path) -> bool:
    """Whether there is a folder that is no volume."""
    return path.is_dir() and path.suffix.lower() not in SUFFIXES


def _check(options: Options) -> None:
    for name in ('clean', 'fill', 'settled'):
        check_share(name, getattr(options, name))
    if options.published_smoothing and not options.smooth:
        raise InputError('published_smoothing', 'without smooth', '--smooth=100, as published')
    if options.suggest_slices < 0:
        raise InputError('suggest_slices', f'{options.suggest_slices}', '0 or more')
