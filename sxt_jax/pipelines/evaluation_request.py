"""An evaluation as it is asked for: what to compare with what, and whether that makes sense."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sxt_jax.core.atomic import check_writable
from sxt_jax.core.errors import InputError
from sxt_jax.data.classes import Classes, parse_classes
from sxt_jax.measure.surface import check_voxel_size
from sxt_jax.pipelines import evaluate_instances_report, evaluation_report
from sxt_jax.pipelines.evaluate_instances import evaluate_instances
from sxt_jax.pipelines.evaluate_volumes import Options, evaluate_volumes
from sxt_jax.pipelines.evaluation import Case, find_cases, predict_with_checkpoint


@dataclasses.dataclass(frozen=True)
class Request:
    """What `launch.evaluate` is asked for; its flags, of which each is a field.

    Attributes:
      truth: file or folder of true labels.
      prediction: of predicted labels; with `instances` several, separated by commas.
      checkpoint: workdir of a training run that makes the predictions.
      image: file or folder of tomograms.
      output: folder for tables, figure and predictions.
      instances: labels are ids of cells, not classes.
      cell_radius: with `checkpoint` and `instances`, see `predict_with_checkpoint`.
      classes: names of labels, 'cytoplasm=1,beads=2'.
      voxel_size_nm: three sizes (z, y, x), perhaps as text.
      baselines, foreground, ignore_label: see `evaluate_volumes.Options`.
      dataset, label_dataset: see `find_cases`.
    """

    truth: str | None = None
    prediction: str | None = None
    checkpoint: str | None = None
    image: str | None = None
    output: str | None = None
    instances: bool = False
    cell_radius: float | None = None
    baselines: Sequence[str] = ()
    foreground: str = 'auto'
    classes: str | None = None
    ignore_label: int | None = None
    voxel_size_nm: Sequence[str] | None = None
    dataset: str | None = None
    label_dataset: str | None = None


def evaluate(request: Request, *, tell: Callable[[str], Any]) -> list[Path]:
    """Do what is asked for.

    Args:
      request: what.
      tell: called with the report, before any file is written: that may fail.

    Returns:
      The files written.

    Raises:
      InputError: what is asked for makes no sense, or is not there.
    """
    _check(request)
    if request.output:
        check_writable(request.output)
    size = check_voxel_size(request.voxel_size_nm) if request.voxel_size_nm else None
    shared: dict[str, Any] = {'ignore_label': request.ignore_label, 'voxel_size_nm': size}
    if request.instances:
        predictions = _name_methods(request.prediction)
        methods = {name: _find(request, path)[0] for name, path in predictions.items()}
        result = evaluate_instances(methods, **shared)
        return _finish(evaluate_instances_report, result, request, tell)
    names, ignored = request.classes, request.ignore_label
    classes = parse_classes(names, ignore_value=ignored) if names else None
    cases, known = _find(request, request.prediction)
    options = Options(request.baselines, request.foreground, classes or known, **shared)
    return _finish(evaluation_report, evaluate_volumes(cases, options=options), request, tell)


def _check(request: Request) -> None:
    if not request.truth:
        raise InputError('command line', 'no --truth', 'true labels to compare with')
    if not (request.checkpoint or request.prediction or request.baselines):
        raise InputError('command line', 'nothing to score', '--prediction or --checkpoint')
    if request.checkpoint and (request.prediction or not request.output):
        raise InputError('command line', '--checkpoint', '--output with it, and no --prediction')
    if request.instances and (request.baselines or request.classes):
        found = '--instances with --baselines or --classes'
        raise InputError('command line', found, 'ids of cells, or classes')
    if request.cell_radius is not None and not (request.instances and request.checkpoint):
        raise InputError('command line', '--cell_radius', '--instances and --checkpoint with it')


def _name_methods(predictions: str | None) -> dict[str, str | None]:
    """Files or folders of predictions by name: their own, as far as these differ."""
    paths = [path for path in (predictions or '').split(',') if path]
    if len(paths) < 2:
        return {'prediction': paths[0] if paths else None}
    names = [Path(path).resolve().name for path in paths]
    names = names if len(set(names)) == len(names) else paths
    if len(set(names)) < len(names):
        raise InputError('--prediction', f'{predictions}', 'each file or folder once')
    return dict(zip(names, paths, strict=True))


def _find(request: Request, prediction: str | None) -> tuple[list[Case], Classes | None]:
    """Cases, and the classes of the checkpoint if there is one."""
    truth, image = str(request.truth), request.image
    datasets: dict[str, Any] = {'dataset': request.dataset, 'label_dataset': request.label_dataset}
    if not request.checkpoint:
        return find_cases(truth, prediction=prediction, image=image, **datasets), None
    how: dict[str, Any] = {'instances': request.instances, 'cell_radius': request.cell_radius}
    output = str(request.output)
    return predict_with_checkpoint(request.checkpoint, truth, image, output, **how, **datasets)


def _finish(reports: Any, result: Any, request: Request, tell: Callable[[str], Any]) -> list[Path]:
    tell(reports.report(result))
    files: list[Path] = reports.save_evaluation(result, request.output) if request.output else []
    return files
