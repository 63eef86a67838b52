"""Review of predicted labels: what a corrected stack says of them, slice by slice."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sxt_jax.core.atomic import check_writable
from sxt_jax.core.errors import InputError
from sxt_jax.core.progress import progress_bar
from sxt_jax.core.volume import Volume
from sxt_jax.data.classes import count_labels
from sxt_jax.io import open_volume, write_table
from sxt_jax.pipelines.evaluation import Case, find_cases, statistics, to_columns
from sxt_jax.pipelines.labelled_objects import (
    Choice,
    check_choice,
    find_value,
    open_labels,
    read_mask,
    tidy_mask,
    without_small,
)
from sxt_jax.plots import review_sheet, save_figure
from sxt_jax.plots.review import OUTCOMES, ReviewedSlice, draw_slice

Columns = dict[str, np.ndarray]
_FORMATS = ('.png', '.pdf', '.svg')
_MANY_SLICES = 12


@dataclasses.dataclass(frozen=True)
class Options:
    """What is reviewed.

    Attributes:
      n_slices: slices of each volume.
      seed: of their choice.
      artefact_value: label in the corrected stack of what is an artefact of the reconstruction.
      choice: class of both stacks, and how predictions are tidied first.
    """

    n_slices: int = 10
    seed: int = 0
    artefact_value: int | None = None
    choice: Choice = dataclasses.field(default_factory=Choice)


@dataclasses.dataclass(frozen=True)
class Review:
    """What was found: files by what they are, one row a slice, and one row an outcome."""

    files: dict[str, Path]
    slices: Columns
    summary: Columns


def review_files(
    prediction: str | Path,
    corrected: str | Path,
    image: str | Path,
    output: str | Path,
    *,
    options: Options | None = None,
) -> Review:
    """Write a sheet of slices with their predictions split by a corrected stack, and a table.

    As Dyhr et al. 2023 (Evaluating Segmentation Quality): of all labelled pixels of a slice the
    percentages that are true positive (in both stacks), false negative (in the corrected one
    alone), false positive (predicted alone) and, where the corrected stack marks them, predicted
    on an artefact. A slice is drawn at random from each of `n_slices` even parts of those that
    have a label in the corrected stack; others were not looked at.

    Args:
      prediction: file or folder of labels.
      corrected: file or folder of labels, paired by name.
      image: file or folder of tomograms, likewise.
      output: name of the sheet, ending in .png, .pdf or .svg; tables are written beside it.
      options: what is reviewed.

    Raises:
      InputError: files without a partner or of other shapes, nothing to compare, or an output
        that cannot be written.
    """
    options, output = options or Options(), Path(output)
    _check(options, output)
    cases = find_cases(corrected, prediction=prediction, image=image)
    rows: list[dict[str, Any]] = []
    drawn: list[ReviewedSlice] = []
    for case in progress_bar(cases, unit='volume', desc='reviewing', disable=len(cases) < 2):
        for row, picture in _review(case, options):
            rows.append(row)
            drawn.append(picture)
    table = to_columns(rows)
    names = [name for name in OUTCOMES if name != 'artefact' or options.artefact_value is not None]
    percent = {name: table[f'{name}_percent'] for name in names}
    summary = to_columns(
        [{'outcome': name, **statistics(values)} for name, values in percent.items()]
    )
    files = {
        'sheet': output,
        'slices': output.with_suffix('.csv'),
        'summary': output.with_suffix('.summary.csv'),
    }
    write_table(files['slices'], table)
    write_table(files['summary'], summary)
    sheet = review_sheet(drawn, percent, title=f'{len(drawn)} slices, mean ± SD')
    save_figure(output, sheet, dpi=200 if len(drawn) <= _MANY_SLICES else 120)
    return Review(files, table, summary)


def _check(options: Options, output: Path) -> None:
    check_choice(options.choice)
    if options.n_slices < 1:
        raise InputError('--n_slices', f'{options.n_slices}', 'at least 1')
    if options.artefact_value == 0:
        raise InputError('--artefact_value', '0', 'a value that is not the background')
    if output.suffix.lower() not in _FORMATS or output.is_dir():
        raise InputError(output, 'not the name of a sheet', f'a name ending in {_FORMATS}')
    check_writable(output.parent)


def _review(case: Case, options: Options) -> Iterator[tuple[dict[str, Any], ReviewedSlice]]:
    """A row and the pictures of each chosen slice of a case."""
    assert case.prediction is not None
    assert case.image is not None
    choice, value = options.choice, options.artefact_value
    truth, image = open_labels(case.truth), open_volume(case.image)
    volume = open_labels(case.prediction)
    for path, other in ((case.prediction, volume), (case.image, image)):
        if other.shape != truth.shape:
            raise InputError(path, f'shape {other.shape}', f'{truth.shape} as {case.truth}')
    if image.axes != 'zyx':
        raise InputError(case.image, f'{image.n_channels} channels', 'an image [z, y, x]')
    mask, _ = read_mask(case.prediction, volume, class_=choice.class_)
    mask = without_small(tidy_mask(mask, choice), choice.min_size)
    feature = _find_feature(case.truth, truth, choice.class_, value)
    inside = _inside(truth.shape, choice.crop_border)
    corrected = truth.load().data[inside]
    known = corrected == feature if value is None else np.isin(corrected, (feature, value))
    size = choice.voxel_size_nm or truth.voxel_size_nm or image.voxel_size_nm
    chosen = choose_slices(np.any(known, axis=(1, 2)), options.n_slices, seed=options.seed)
    if not len(chosen):
        raise InputError(case.truth, 'no slice with a label is left', 'a smaller --crop_border')
    for z in chosen:
        at = int(z) + inside[0].start
        there = mask[at][inside[1:]]
        outcomes = split_outcomes(
            there, corrected[z] == feature, None if value is None else corrected[z] == value
        )
        gray = np.asarray(image.data[(slice(at, at + 1), *inside[1:])])[0]
        title = f'{case.name}, slice {at}'
        pixel = None if size is None else (size[1], size[2])
        picture = draw_slice(gray, there, outcomes, pixel_nm=pixel, title=title)
        yield {'name': case.name, 'z': at, **count_outcomes(outcomes)}, picture


def _find_feature(path: Path, truth: Volume, class_: str | None, artefact_value: int | None) -> int:
    """The value of the class in a corrected stack."""
    counts = count_labels(truth.data, name=str(path))
    values = sorted(v for v in counts if v and v != artefact_value)
    if artefact_value is not None and artefact_value not in counts:
        found = f'no voxel has --artefact_value={artefact_value}'
        raise InputError(path, found, f'one of the labels {values}')
    if class_ is None and len(values) > 1:
        expected = 'the class as --class, artefacts as --artefact_value'
        raise InputError(path, f'labels {values}', expected)
    return find_value(path, values, truth.class_names or {}, class_)


def _inside(shape: tuple[int, int, int], width: int) -> tuple[slice, slice, slice]:
    """The volume without its border; of one slice, the slice."""
    z, y, x = (slice(width, n - width) if n > 1 else slice(0, n) for n in shape)
    return z, y, x


def choose_slices(usable: np.ndarray, n_slices: int, *, seed: int = 0) -> np.ndarray:
    """A random slice of each of `n_slices` even parts of the usable ones; all, if fewer.

    Args:
      usable: [z] bool.
      n_slices: at least 1.
      seed: of the choice.

    Returns:
      [n] slice numbers, ascending.
    """
    (places,) = np.nonzero(usable)
    if len(places) <= n_slices:
        return places
    rng = np.random.default_rng(seed)
    ends = np.linspace(0, len(places), n_slices + 1).round().astype(int)
    return places[rng.integers(ends[:-1], ends[1:])]


def split_outcomes(
    prediction: np.ndarray, truth: np.ndarray, artefact: np.ndarray | None
) -> dict[str, np.ndarray]:
    """Masks of the four outcomes; an artefact that was not predicted is none of them.

    Args:
      prediction: bool, of any shape.
      truth: likewise.
      artefact: likewise; None: none is marked.
    """
    marked = np.zeros_like(truth) if artefact is None else artefact
    return {
        'true_positive': prediction & truth,
        'false_negative': truth & ~prediction,
        'false_positive': prediction & ~truth & ~marked,
        'artefact': prediction & marked,
    }


def count_outcomes(outcomes: dict[str, np.ndarray]) -> dict[str, float]:
    """Pixels of each outcome, their sum, and their percentages of it; NaN of nothing."""
    counts = {name: int(np.count_nonzero(mask)) for name, mask in outcomes.items()}
    total = sum(counts.values())
    row: dict[str, float] = {f'{name}_pixels': n for name, n in counts.items()}
    row['labelled_pixels'] = total
    return row | {f'{k}_percent': 100 * n / total if total else np.nan for k, n in counts.items()}
