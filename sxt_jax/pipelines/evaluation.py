"""What evaluations of classes and of instances share: cases, voxel sizes, tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sxt_jax.core.errors import InputError
from sxt_jax.core.progress import progress_bar
from sxt_jax.core.volume import Volume, VoxelSize
from sxt_jax.data.classes import Classes
from sxt_jax.io import Pair, find_pairs, holds_pairs, is_volume, open_volume, pair

PROBABILITIES_MARK = '.probabilities'
_SAME_VOXEL = 1e-3

Columns = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Case:
    """One volume to be scored: files of its truth, its prediction and its image."""

    name: str
    truth: Path
    prediction: Path | None = None
    image: Path | None = None


def find_cases(
    truth: str | Path,
    *,
    prediction: str | Path | None = None,
    image: str | Path | None = None,
    dataset: str | None = None,
    label_dataset: str | None = None,
) -> list[Case]:
    """Cases of single files, or of folders whose files are paired by name (`io.pair`).

    Without predictions, images are needed: in a folder of their own or beside the truth, which
    may be there with predictions too. Files of probabilities beside predictions are passed over.

    Args:
      truth: file or folder of true labels.
      prediction: file or folder of predicted labels.
      image: file or folder of tomograms.
      dataset: of the images, in HDF5 files and OME-Zarr.
      label_dataset: of the truth, likewise.

    Raises:
      InputError: a file or a partner is missing.
    """
    datasets = {'dataset': dataset, 'label_dataset': label_dataset}
    if prediction is None:
        found = pair(image, truth, **datasets) if image else _pairs_within(truth, datasets)
        return [Case(p.name, p.labels, image=p.image) for p in found]
    if image is None and Path(prediction).is_dir() and holds_pairs(truth, **datasets):
        return _cases_of_pairs(pair(truth, **datasets), Path(prediction))
    images = {p.labels: p.image for p in pair(image, truth, **datasets)} if image else {}
    pairs, unpaired = find_pairs(prediction, truth, label_dataset=label_dataset)
    for lone in unpaired:
        if PROBABILITIES_MARK not in lone.file.name:
            wanted = lone.looked_for.replace('an image', 'a prediction')
            raise InputError(lone.file, 'has no partner', wanted)
    return [Case(p.name, p.labels, p.image, images.get(p.labels)) for p in pairs]


def _cases_of_pairs(pairs: Sequence[Pair], folder: Path) -> list[Case]:
    """Images with their labels, and predictions named as the images are."""
    files = [path for path in folder.iterdir() if is_volume(path)]
    found = {path.stem.removesuffix('.ome'): path for path in files}
    for p in pairs:
        if p.name not in found:
            raise InputError(p.labels, 'has no partner', f'a prediction {p.name}.* in {folder}')
    return [Case(p.name, p.labels, found[p.name], p.image) for p in pairs]


def _pairs_within(truth: str | Path, datasets: dict[str, str | None]) -> list[Pair]:
    try:
        return pair(truth, **datasets)
    except InputError as error:
        found = 'does not hold images with their labels, and no images are named'
        raise InputError(truth, f'{found} ({error})', '--image as well') from error


def predict_with_checkpoint(
    checkpoint: str | Path,
    truth: str | Path,
    image: str | Path | None,
    output: str | Path,
    *,
    dataset: str | None = None,
    label_dataset: str | None = None,
    instances: bool = False,
    cell_radius: float | None = None,
) -> tuple[list[Case], Classes]:
    """Segment the images that have a truth: the cases with these predictions, and the classes.

    Args:
      checkpoint: workdir of a training run, or a folder of one checkpoint; several as 'A,B,C'.
      truth: file or folder of true labels; if `image` is None, a folder of images with labels.
      image: file or folder of tomograms, paired with the truth by name.
      output: folder for the predictions, none of the inputs'.
      dataset: of the images, in HDF5 files and OME-Zarr.
      label_dataset: of the truth, likewise.
      instances: cells one by one instead of classes, of a network that gives flows.
      cell_radius: typical radius of a cell, in voxels along x; with `instances` only.

    Raises:
      InputError: no usable checkpoint, no pairs, a tomogram that cannot be segmented, or a
        prediction would replace an image or a truth.
    """
    cases = find_cases(truth, image=image, dataset=dataset, label_dataset=label_dataset)
    return predict_cases(checkpoint, cases, output, instances=instances, cell_radius=cell_radius)


def predict_cases(
    checkpoint: str | Path,
    cases: Sequence[Case],
    output: str | Path,
    *,
    instances: bool = False,
    cell_radius: float | None = None,
) -> tuple[list[Case], Classes]:
    """Segment the images of cases: the cases with these predictions, and the classes.

    Args:
      checkpoint, output, instances, cell_radius: see `predict_with_checkpoint`.
      cases: each with an image.

    Raises:
      InputError: see `predict_with_checkpoint`.
    """
    # Here, not above: scoring files that exist needs no network.
    from sxt_jax.pipelines import segment_volume as segmentation

    options = segmentation.Options(instances=instances, cell_radius=cell_radius)
    segmentation.check_options(options)
    inputs = [path for case in cases for path in (case.image, case.truth) if path]
    segmentation.refuse_folder_of(inputs, output)
    segmenter = segmentation.load_checkpoints(checkpoint, options=options)
    predicted = []
    for case in progress_bar(cases, unit='volume', desc='segmenting', disable=len(cases) < 2):
        assert case.image is not None
        target = segmentation.label_path(case.image, Path(output))
        segmentation.segment_file(segmenter, case.image, target, options=options)
        predicted.append(dataclasses.replace(case, prediction=target))
    return predicted, segmenter.classes


def open_labels(path: Path) -> Volume:
    """Labels of a file, not yet read.

    Raises:
      InputError: the file is no volume, or has channels.
    """
    volume = open_volume(path)
    if volume.axes != 'zyx':
        raise InputError(path, f'{volume.n_channels} channels', 'labels [z, y, x]')
    return volume


def open_truth(case: Case, voxel_size_nm: VoxelSize | None) -> tuple[Volume, VoxelSize | None]:
    """True labels, not yet read, and the voxel size if it is given or any file of the case tells.

    Raises:
      InputError: shapes or voxel sizes of the files differ.
    """
    volume = open_labels(case.truth)
    size = voxel_size_nm or volume.voxel_size_nm
    for path in (case.prediction, case.image):
        other = open_volume(path) if path else None
        if other is None:
            continue
        if other.shape != volume.shape:
            raise InputError(path, f'shape {other.shape}', f'{volume.shape} as {case.truth}')
        if voxel_size_nm is None:
            size = _agree(size, other.voxel_size_nm, path)
    return volume, size


def _agree(known: VoxelSize | None, other: VoxelSize | None, path: Path | None) -> VoxelSize | None:
    if known is None or other is None:
        return known or other
    if not np.allclose(known, other, rtol=_SAME_VOXEL, atol=0):
        raise InputError(path, f'voxels of {other} nm', f'{known} nm as the truth')
    return known


def groups(table: Columns, keys: Sequence[str]) -> Iterator[tuple[dict[str, str], np.ndarray]]:
    """Each combination of keys, in order of appearance, and the rows that have it."""
    for values in dict.fromkeys(zip(*(table[key].tolist() for key in keys), strict=True)):
        which = dict(zip(keys, values, strict=True))
        yield which, np.all([table[key] == value for key, value in which.items()], axis=0)


def summarise(
    table: Columns, *, keys: Sequence[str], leaving_out: Sequence[str] = ('name',)
) -> list[dict[str, Any]]:
    """n, mean and SD of every measure over the rows that share their keys; NaN left out."""
    rows = []
    for which, chosen in groups(table, keys):
        for measure in table:
            if measure not in (*keys, *leaving_out):
                rows.append({**which, 'measure': measure, **statistics(table[measure][chosen])})
    return rows


def statistics(values: np.ndarray) -> dict[str, Any]:
    """How many values are finite, their mean and sample SD; NaN where there are too few."""
    values = values[np.isfinite(values)]
    mean = values.mean() if len(values) else np.nan
    return {'n': len(values), 'mean': mean, 'sd': values.std(ddof=1) if len(values) > 1 else np.nan}


def to_columns(rows: Sequence[Mapping[str, Any]]) -> Columns:
    """Rows with the same names as arrays by name."""
    return {name: np.array([row[name] for row in rows]) for name in (rows[0] if rows else ())}
