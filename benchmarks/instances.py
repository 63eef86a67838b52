"""How fast and how well are instances reconstructed?

    python -m benchmarks.instances [--smoke] [--only=instances] [--noise 0.1 0.5] [--labels=FILE]

On a simulated volume of touching cells whose flows carry noise, the foreground being the truth:

- instances: foreground and flows to instances. The baseline is the published algorithm of
  Cellpose3D, step for step; then Cellpose's own, where that package is installed, and this library.
- instance_stages: the steps of this library by themselves; the ratio is to all of it.
- heat_maps: cells to the flows of Cellpose, by that package (the baseline) and by this library.
- tracking_accuracy: ways to follow the flows, timed by themselves and scored by the instances that
  come of them (see `benchmarks.tracking_accuracy`); with --repeats=0 they are scored only.

Each on the device that it finds. What is found of the cells stands in the facts of a record:
instances, average precision at an IoU of 0.5 and 0.9, and the mean Dice of the matched cells. Peak
memory is that of the process; what a run adds to what was there before is told beside it.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib.metadata
import importlib.util
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from benchmarks.harness import Case, Record, add_result_options, describe, keep_records, run_cases
from benchmarks.scenes import (
    CELL_RADIUS,
    SHAPE,
    SMOKE_SHAPE,
    Scene,
    load_labels,
    make_cells,
    make_scenes,
    n_cells_in,
    scored_case,
)
from benchmarks.stages import stage_cases
from benchmarks.tracking_accuracy import accuracy_cases, ways
from sxt_jax.instances import labels_to_flows, reconstruct

NOISES = (0.1, 0.5, 0.0)

# At an IoU of 0.5; wrong answers have 0. Of the published algorithm nothing can be asked here: its
# background voxels move as well, and in volumes with much background and noise their ends join the
# cells. That it is the published one is tested on published results.
LEAST_AP, LEAST_AP_PUBLISHED = 0.8, 0.0

# Cellpose's networks give five times the flows, and `compute_masks` divides by that.
CELLPOSE_SCALE = 5.0


# Cells, noises, and whether it is a smoke run, to groups of cases, each with its own baseline.
Question = Callable[[np.ndarray, Sequence[float], bool], Iterable[Sequence[Case]]]


def instance_cases(scene: Scene, *, cell_radius: float = CELL_RADIUS) -> list[Case]:
    """Cellpose3D's algorithm, Cellpose's, and ours with the flows of either."""
    cases = []
    if _installed('torch'):
        cases.append(_published_case(scene))
        if _installed('cellpose'):
            cases.append(_cellpose_case(scene))
    foreground = jnp.asarray(scene.labels > 0)
    for kind, flows in scene.flows.items():
        run = functools.partial(
            reconstruct, foreground, jnp.asarray(flows), cell_radius=cell_radius
        )
        cases.append(
            scored_case(scene, 'ours', kind, run, least_ap=LEAST_AP, cell_radius=cell_radius)
        )
    return cases


def _published_case(scene: Scene) -> Case:
    from benchmarks import published_instances

    parameters = published_instances.Parameters(max_flow_error=0.8)
    foreground = (scene.labels > 0).astype(np.float32)
    away = np.ascontiguousarray(-np.moveaxis(scene.flows['tanh'], -1, 0))
    facts = _torch_facts()
    run = functools.partial(
        published_instances.reconstruct, foreground, away, parameters, device=facts['torch_device']
    )
    facts |= {'parameters': dataclasses.asdict(parameters)}
    name = 'Cellpose3D, as published'
    least = LEAST_AP_PUBLISHED
    return scored_case(scene, name, 'tanh', run, least_ap=least, compiles=False, **facts)


def _cellpose_case(scene: Scene) -> Case:
    import torch
    from cellpose import dynamics

    flows = CELLPOSE_SCALE * np.ascontiguousarray(np.moveaxis(scene.flows['heat'], -1, 0))
    logits = np.where(scene.labels > 0, 6, -6).astype(np.float32)
    facts = {**_torch_facts(), 'cellpose': importlib.metadata.version('cellpose')}
    device = torch.device(facts['torch_device'])
    run = functools.partial(
        dynamics.compute_masks, flows, logits, niter=200, do_3D=True, min_size=15, device=device
    )
    return scored_case(scene, 'Cellpose', 'heat', run, least_ap=LEAST_AP, compiles=False, **facts)


def _torch_facts() -> dict[str, Any]:
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    return {
        'threads': torch.get_num_threads(),
        'torch': torch.__version__,
        'torch_device': 'cuda' if torch.cuda.is_available() else 'cpu',
    }


def _installed(name: str) -> bool:
    found = importlib.util.find_spec(name) is not None
    if not found:
        print(f'{name} is not installed: its cases are left out', flush=True)
    return found


def heat_cases(scene: Scene) -> list[Case]:
    """Flows of the cells by Cellpose and by this library."""
    labels = scene.labels
    ours = functools.partial(labels_to_flows, labels, kind='heat')
    expected = np.asarray(ours())

    def check(found: Any) -> None:
        found = np.asarray(found)
        length = np.linalg.norm(found, axis=-1)
        assert not length[labels == 0].any()
        # Theirs is in double precision; a few differences cancel in one of the two only.
        assert (np.abs(length[labels > 0] - 1) < 1e-3).mean() > 0.999
        assert (np.abs(found - expected).max(-1) < 1e-3).mean() > 0.999

    def case(name: str, run: Callable[[], Any], **options: Any) -> Case:
        return Case(name, run, check, scene.mvoxels, 'Mvoxel/s', labels.shape, **options)

    cases = [case('ours', ours, facts={'cells': scene.n_cells})]
    if _installed('torch') and _installed('cellpose'):
        import torch
        from cellpose import dynamics

        facts = {'cells': scene.n_cells, **_torch_facts()}
        facts['cellpose'] = importlib.metadata.version('cellpose')
        device = torch.device(facts['torch_device'])

        def theirs() -> np.ndarray:
            return np.moveaxis(dynamics.masks_to_flows_gpu_3d(labels, device=device), 0, -1)

        cases.insert(0, case('Cellpose', theirs, facts=facts, compiles=False))
    return cases


def _of_each(make: Callable[[Scene], list[Case]]) -> Question:
    return lambda labels, noises, _: map(make, make_scenes(labels, noises))


def _of_first(make: Callable[[Scene], list[Case]]) -> Question:
    return lambda labels, noises, _: map(make, make_scenes(labels, noises[:1]))


def _accuracy(labels: np.ndarray, noises: Sequence[float], smoke: bool) -> Iterator[list[Case]]:
    return accuracy_cases(labels, noises, compared=ways()[::7] if smoke else ways())


QUESTIONS: dict[str, Question] = {
    'instances': _of_each(instance_cases),
    'instance_stages': _of_first(stage_cases),
    'heat_maps': _of_first(heat_cases),
    'tracking_accuracy': _accuracy,
}


def report(record: Record) -> str:
    """`describe`, with seconds and scores."""
    facts = record.get('facts', {})
    scores = ''
    if 'found' in facts:
        scores = (
            f', {facts["found"]} of {facts["cells"]} cells, AP@0.5 {facts["ap_50"]:.3f}, '
            f'AP@0.9 {facts["ap_90"]:.3f}, Dice {facts["matched_dice"]:.4f}'
        )
    seconds = f', {record["run_s"]:.3g} s' if record['repeats'] else ''
    return f'{describe(record)}{seconds}{scores}'


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog='python -m benchmarks.instances')
    add_result_options(parser)
    parser.add_argument('--only', choices=QUESTIONS, default=None, help='one question')
    parser.add_argument('--repeats', type=int, default=3, help='timed runs per case; 0: none')
    parser.add_argument(
        '--noise', type=float, nargs='+', default=NOISES, help='standard deviations, in flows'
    )
    parser.add_argument('--labels', type=Path, default=None, help='.npz or .npy with other cells')
    parser.add_argument('--shape', type=int, nargs=3, default=SHAPE, metavar=('Z', 'Y', 'X'))
    options = parser.parse_args()
    labels = _labels(options)
    repeats = min(1, options.repeats) if options.smoke else options.repeats
    for question in [options.only] if options.only else QUESTIONS:
        for cases in QUESTIONS[question](labels, options.noise, options.smoke):
            records = run_cases(question, cases, repeats=repeats, smoke=options.smoke)
            for record in records:
                print(report(record), flush=True)
            keep_records(records, options.results, smoke=options.smoke)


def _labels(options: argparse.Namespace) -> np.ndarray:
    if options.labels is not None:
        return load_labels(options.labels)
    shape = SMOKE_SHAPE if options.smoke else options.shape
    return make_cells(shape, n_cells_in(shape))


if __name__ == '__main__':
    main()
