"""An evaluation as it is asked for: what to compare with what, and whether that makes sense."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sxt_jax.core.atomic import check_writable
from sxt_jax.core.errors import InputError
from sxt_jax.data.classes import parse_classes
from sxt_jax.data.label_task import parse_task
from sxt_jax.measure.surface import check_voxel_size
from sxt_jax.pipelines import evaluate_instances_report, evaluation_report
from sxt_jax.pipelines.evaluate_instances import evaluate_instances
from sxt_jax.pipelines.evaluate_volumes import Evaluation, Options, evaluate_volumes
from sxt_jax.pipelines.evaluation import Case, find_cases, predict_cases
from sxt_jax.pipelines.task_truth import TaskTruth, read_task_truth


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
      cell_radius: with `checkpoint` and `instances`, see `predict_cases`.
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
    task: str | None = None
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
        methods = {name: _find_instances(request, path) for name, path in predictions.items()}
        result = evaluate_instances(methods, **shared)
        return _finish(evaluate_instances_report, result, request, tell)
    return _finish(evaluation_report, _evaluate_classes(request, shared), request, tell)


def _evaluate_classes(request: Request, shared: Mapping[str, Any]) -> Evaluation:
    names, ignored = request.classes, request.ignore_label
    classes = parse_classes(names, ignore_value=ignored) if names else None
    cases = _find_cases(request, request.prediction)
    told = None if classes else _read_task(request, cases)
    cases = list(told.cases) if told else cases
    if request.checkpoint:
        cases, known = predict_cases(request.checkpoint, cases, str(request.output))
        if told:
            _check_same(request.checkpoint, known.names, told)
        classes = classes or known
    if told is None:
        options = Options(request.baselines, request.foreground, classes, **shared)
        return evaluate_volumes(cases, options=options)
    of_truth, classes = told.of_truth, classes or told.classes
    options = Options(request.baselines, request.foreground, classes, of_truth, **shared)
    result = evaluate_volumes(cases, options=options)
    return dataclasses.replace(result, notes=(*told.notes, *result.notes))


def _read_task(request: Request, cases: Sequence[Case]) -> TaskTruth | None:
    """What true labels mean in the task that is asked for, or that the checkpoint learnt."""
    members = _trained_for(request.checkpoint) if request.checkpoint else {}
    facts = next(iter(members.values()), {})
    trained = _data_fields(facts)
    text, field = request.task or trained.get('task'), '--task'
    if not request.task:
        _check_one_task(members)
    if not text:
        return None
    options: dict[str, Any] = {'ignore_value': request.ignore_label}
    if not request.task:
        field = f'task of {request.checkpoint} (--task or --classes in its place)'
        options['rest'] = trained['task_rest']
        if request.ignore_label is None:
            options['ignore_value'] = trained['ignore_value']
    told = read_task_truth(cases, text, truth=str(request.truth), field=field, **options)
    if request.checkpoint and facts.get('classes'):
        _check_same(request.checkpoint, facts['classes']['names'], told)
    return told


def _trained_for(checkpoint: str) -> dict[str, Mapping[str, Any]]:
    """The description of each checkpoint of 'A,B,C', by its path."""
    # Here, not above: scoring files that exist needs no network.
    from sxt_jax.pipelines.ensemble import list_checkpoints
    from sxt_jax.training.checkpoint import best_checkpoint
    from sxt_jax.training.loop import SCORE

    paths = list_checkpoints(checkpoint)
    return {str(path): best_checkpoint(path, metric=SCORE).description for path in paths}


def _data_fields(facts: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the config says of data; nothing where weights were imported."""
    fields: Mapping[str, Any] = facts.get('config', {}).get('data', {})
    return fields


def _check_one_task(members: Mapping[str, Mapping[str, Any]]) -> None:
    """Labels mean one thing to all networks whose mean is scored.

    Raises:
      InputError: naming two that learnt other tasks.
    """
    tasks = {path: _task_text(_data_fields(facts)) for path, facts in members.items()}
    for path, task in tasks.items():
        first, expected = next(iter(tasks.items()))
        if task != expected:
            told = f'{expected} as {first}, or --task or --classes to tell what is true'
            raise InputError(path, f'learnt {task}', told)


def _task_text(trained: Mapping[str, Any]) -> str:
    """A task as two are compared: one spelling of each material, in one order."""
    if not trained.get('task'):
        return 'no task'
    task = parse_task(trained['task'])
    groups = tuple(tuple(sorted(group)) for group in task.groups)
    rest = '' if task.rest is not None else f' (rest: {trained["task_rest"]})'
    return f"the task '{dataclasses.replace(task, groups=groups)}'{rest}"


def _check_same(checkpoint: str, names: Sequence[str], told: TaskTruth) -> None:
    if tuple(names) != told.classes.names:
        expected = f'{", ".join(told.classes.names)}, the classes of the task'
        raise InputError(checkpoint, f'finds {", ".join(names)}', expected)


def _check(request: Request) -> None:
    if not request.truth:
        raise InputError('command line', 'no --truth', 'true labels to compare with')
    if not (request.checkpoint or request.prediction or request.baselines):
        raise InputError('command line', 'nothing to score', '--prediction or --checkpoint')
    if request.checkpoint and (request.prediction or not request.output):
        raise InputError('command line', '--checkpoint', '--output with it, and no --prediction')
    if request.instances and (request.baselines or request.classes or request.task):
        found = '--instances with --baselines, --classes or --task'
        raise InputError('command line', found, 'ids of cells, or classes')
    if request.classes and request.task:
        raise InputError('command line', '--classes and --task', 'one of them')
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


def _find_cases(request: Request, prediction: str | None) -> list[Case]:
    datasets: dict[str, Any] = {'dataset': request.dataset, 'label_dataset': request.label_dataset}
    if not request.checkpoint:
        datasets['prediction'] = prediction
    return find_cases(str(request.truth), image=request.image, **datasets)


def _find_instances(request: Request, prediction: str | None) -> list[Case]:
    cases = _find_cases(request, prediction)
    if request.checkpoint:
        how: dict[str, Any] = {'instances': True, 'cell_radius': request.cell_radius}
        cases, _ = predict_cases(request.checkpoint, cases, str(request.output), **how)
    return cases


def _finish(reports: Any, result: Any, request: Request, tell: Callable[[str], Any]) -> list[Path]:
    tell(reports.report(result))
    files: list[Path] = reports.save_evaluation(result, request.output) if request.output else []
    return files
