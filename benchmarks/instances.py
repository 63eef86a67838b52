"""How fast and how well are instances reconstructed?

    python -m benchmarks.instances [--smoke] [--only=instances] [--noise=0.1] [--labels=FILE]

On a simulated volume of touching cells whose flows carry noise, the foreground being the truth:

- instances: foreground and flows to instances. The baseline is the published algorithm of
  Cellpose3D, step for step; then Cellpose's own, where that package is installed, and this library.
- instance_stages: the steps of this library by themselves; the ratio is to all of it.
- heat_maps: cells to the flows of Cellpose, by that package (the baseline) and by this library.

Each on the device that it finds. What is found of the cells stands in the facts of a record:
instances, average precision at an IoU of 0.5 and 0.9, and the mean Dice of the matched cells.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib.metadata
import importlib.util
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from skimage import measure

from benchmarks.harness import RESULTS, Case, Record, append_records, describe, run_cases
from sxt_jax.instances import labels_to_flows, reconstruct
from sxt_jax.instances.reconstruct import (
    Recipe,
    _close_ends,
    _fill_in,
    _follow,
    _label,
    _prepare,
    _select,
    _table_length,
)
from sxt_jax.metrics import average_precision, contingency_table, matched_dice
from sxt_jax.ops.components import connected_components

SHAPE, SMOKE_SHAPE = (128, 256, 256), (32, 48, 48)
N_CELLS = 300  # in SHAPE; other shapes have as many per voxel
CELL_RADIUS = 12.0

# At an IoU of 0.5; wrong answers have 0. Of the published algorithm nothing can be asked here: its
# background voxels move as well, and in volumes with much background and noise their ends join the
# cells. That it is the published one is tested on published results.
LEAST_AP, LEAST_AP_PUBLISHED = 0.8, 0.0

# Cellpose's networks give five times the flows, and `compute_masks` divides by that.
CELLPOSE_SCALE = 5.0


@dataclasses.dataclass(frozen=True)
class Scene:
    """Cells and what a network would say of them.

    Attributes:
      labels: [z, y, x] int32.
      flows: by kind, [z, y, x, 3] float32, to the centres, with noise.
      noise: standard deviation of it.
    """

    labels: np.ndarray
    flows: dict[str, np.ndarray]
    noise: float

    @property
    def mvoxels(self) -> float:
        return self.labels.size / 1e6


def make_cells(shape: Sequence[int], n_cells: int, *, seed: int = 0) -> np.ndarray:
    """[z, y, x] int32: ellipsoids, half axes of 10.5 to 17.5 voxels, cut where they meet.

    Centres are at least 20 voxels apart and 8 from the border. Every cell is connected.
    """
    rng = np.random.default_rng(seed)
    centres: list[np.ndarray] = []
    while len(centres) < n_cells:
        centre = rng.uniform(8, np.array(shape) - 9)
        if all(math.dist(centre, other) >= 20 for other in centres):
            centres.append(centre)
    labels, nearest = np.zeros(shape, np.int32), np.ones(shape)
    for number, centre in enumerate(centres, 1):
        half_axes = rng.uniform(10.5, 17.5, 3)
        to_axes = np.linalg.qr(rng.normal(size=(3, 3)))[0] / half_axes
        reach = half_axes.max()
        box = tuple(
            slice(max(0, math.floor(c - reach)), min(n, math.ceil(c + reach) + 1))
            for c, n in zip(centre, shape, strict=True)
        )
        place = np.moveaxis(np.mgrid[box], 0, -1) - centre
        distance = np.square(place @ to_axes).sum(-1)
        own = distance < nearest[box]
        nearest[box][own], labels[box][own] = distance[own], number
    return _largest_pieces(labels)


def _largest_pieces(labels: np.ndarray) -> np.ndarray:
    """Of each cell only the largest piece that hangs together by faces."""
    pieces = measure.label(labels, connectivity=1)
    sizes = np.bincount(pieces.ravel())
    id_of_piece = np.zeros(len(sizes), np.int32)
    id_of_piece[pieces.ravel()] = labels.ravel()
    keep = np.zeros(len(sizes), bool)
    for number in range(1, labels.max() + 1):
        own = np.flatnonzero(id_of_piece == number)
        keep[own[np.argmax(sizes[own])]] = True
    return np.where(keep[pieces], labels, 0)


def make_scene(labels: np.ndarray, *, noise: float) -> Scene:
    """Flows of both kinds, with the same noise in all voxels at every call."""
    flows = {}
    for seed, kind in enumerate(('tanh', 'heat')):
        clean = np.asarray(labels_to_flows(labels, kind=kind))
        rng = np.random.default_rng(seed)
        flows[kind] = clean + noise * rng.standard_normal(clean.shape, np.float32)
    return Scene(labels.astype(np.int32), flows, noise)


def scored_case(
    scene: Scene, name: str, kind: str, run: Callable[[], Any], *, least_ap: float, **facts: Any
) -> Case:
    """A way to find the instances; the scores of its first answer become facts."""
    facts = {'flows': kind, 'noise': scene.noise, 'cells': int(scene.labels.max()), **facts}

    def check(found: Any) -> None:
        table = contingency_table(np.asarray(found), scene.labels)
        ap = average_precision(table, thresholds=(0.5, 0.9)).ap
        facts.update(found=len(table.pred_ids), ap_50=float(ap[0]), ap_90=float(ap[1]))
        facts.update(matched_dice=matched_dice(table).mean)
        assert ap[0] >= least_ap, f'{name}: average precision {ap[0]:.3f}'

    title = f'{name}, {kind} flows, noise {scene.noise:g}'
    shape = scene.labels.shape
    return Case(title, run, check, scene.mvoxels, 'Mvoxel/s', shape, facts=facts)


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
    return scored_case(scene, name, 'tanh', run, least_ap=LEAST_AP_PUBLISHED, **facts)


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
    return scored_case(scene, 'Cellpose', 'heat', run, least_ap=LEAST_AP, **facts)


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


def stage_cases(scene: Scene, *, cell_radius: float = CELL_RADIUS) -> list[Case]:
    """All of `reconstruct`, and each of its steps on what the step before it gave.

    The steps are compiled here already, so their records show no time to compile.
    """
    foreground, flows = jnp.asarray(scene.labels > 0), jnp.asarray(scene.flows['tanh'])
    stages = make_stages(cell_radius)
    values: dict[str, Any] = {'foreground': foreground, 'flows': flows}
    cases = []
    for name, (stage, inputs) in stages.items():
        run = functools.partial(stage, *(values[key] for key in inputs))
        values[name] = run()
        cases.append(_stage_case(scene, name, run, values[name]))
    last = np.asarray(values['select'])

    def check(found: jax.Array) -> None:
        # Not voxel by voxel: compiled in one, roundings differ.
        assert average_precision(np.asarray(found), last, thresholds=(0.9,)).ap[0] > 0.98

    whole = functools.partial(reconstruct, foreground, flows, cell_radius=cell_radius)
    facts = {'noise': scene.noise, 'cell_radius': cell_radius}
    shape = scene.labels.shape
    return [Case('all', whole, check, scene.mvoxels, 'Mvoxel/s', shape, facts=facts), *cases]


def make_stages(cell_radius: float) -> dict[str, tuple[Callable[..., Any], tuple[str, ...]]]:
    """The steps of the default recipe: by name a function, and the names of its arguments."""
    recipe = _fill_in(Recipe(), cell_radius, None)

    @jax.jit
    def prepare(flows: jax.Array, mask: jax.Array) -> jax.Array:
        return _prepare(flows, mask, recipe)

    @jax.jit
    def follow(flows: jax.Array, mask: jax.Array) -> jax.Array:
        return _follow(flows, mask, recipe)

    @jax.jit
    def close_ends(ends: jax.Array, mask: jax.Array) -> jax.Array:
        return _close_ends(ends, mask, recipe, None)

    @jax.jit
    def label(closed: jax.Array, ends: jax.Array, mask: jax.Array) -> jax.Array:
        return _label(connected_components(closed), ends, mask)

    def select(instances: jax.Array, flows: jax.Array, mask: jax.Array) -> jax.Array:
        n_labels = _table_length(int(instances.max()))
        return _select(instances, flows, mask, recipe=recipe, voxel_size=None, n_labels=n_labels)

    return {
        'prepare': (prepare, ('flows', 'foreground')),
        'track': (follow, ('prepare', 'foreground')),
        'close': (close_ends, ('track', 'foreground')),
        'components': (label, ('close', 'track', 'foreground')),
        'select': (select, ('components', 'prepare', 'foreground')),
    }


def _stage_case(scene: Scene, name: str, run: Callable[[], Any], expected: jax.Array) -> Case:
    def check(found: jax.Array) -> None:
        assert jnp.array_equal(found, expected), name

    return Case(name, run, check, scene.mvoxels, 'Mvoxel/s', scene.labels.shape)


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

    def case(name: str, run: Callable[[], Any], facts: dict[str, Any]) -> Case:
        facts = {'cells': int(labels.max()), **facts}
        return Case(name, run, check, scene.mvoxels, 'Mvoxel/s', labels.shape, facts=facts)

    cases = [case('ours', ours, {})]
    if _installed('torch') and _installed('cellpose'):
        import torch
        from cellpose import dynamics

        facts = {**_torch_facts(), 'cellpose': importlib.metadata.version('cellpose')}
        device = torch.device(facts['torch_device'])

        def theirs() -> np.ndarray:
            return np.moveaxis(dynamics.masks_to_flows_gpu_3d(labels, device=device), 0, -1)

        cases.insert(0, case('Cellpose', theirs, facts))
    return cases


QUESTIONS: dict[str, Callable[[Scene], list[Case]]] = {
    'instances': instance_cases,
    'instance_stages': stage_cases,
    'heat_maps': heat_cases,
}


def load_labels(path: str | Path) -> np.ndarray:
    """[z, y, x] int32 of a .npy file, or of the array 'labels' of a .npz file."""
    loaded = np.load(path)
    labels = loaded if isinstance(loaded, np.ndarray) else loaded['labels']
    return labels.astype(np.int32)


def report(record: Record) -> str:
    """`describe`, with seconds and scores."""
    facts = record.get('facts', {})
    scores = ''
    if 'found' in facts:
        scores = (
            f', {facts["found"]} of {facts["cells"]} cells, AP@0.5 {facts["ap_50"]:.3f}, '
            f'AP@0.9 {facts["ap_90"]:.3f}, Dice {facts["matched_dice"]:.4f}'
        )
    return f'{describe(record)}, {record["run_s"]:.3g} s{scores}'


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog='python -m benchmarks.instances')
    parser.add_argument('--smoke', action='store_true', help='small sizes, nothing kept')
    parser.add_argument('--only', choices=QUESTIONS, default=None, help='one question')
    parser.add_argument('--repeats', type=int, default=3, help='timed runs per case')
    parser.add_argument('--results', type=Path, default=None, help='folder to append results to')
    parser.add_argument('--noise', type=float, default=0.1, help='standard deviation, in flows')
    parser.add_argument('--labels', type=Path, default=None, help='.npz or .npy with other cells')
    parser.add_argument('--shape', type=int, nargs=3, default=SHAPE, metavar=('Z', 'Y', 'X'))
    options = parser.parse_args()
    scene = make_scene(_labels(options), noise=options.noise)
    repeats = 1 if options.smoke else options.repeats
    folder = options.results or (None if options.smoke else RESULTS)
    for question in [options.only] if options.only else QUESTIONS:
        cases = QUESTIONS[question](scene)
        records = run_cases(question, cases, repeats=repeats, smoke=options.smoke)
        for record in records:
            print(report(record), flush=True)
        if folder is not None:
            append_records(records, folder)


def _labels(options: argparse.Namespace) -> np.ndarray:
    if options.labels is not None:
        return load_labels(options.labels)
    shape = SMOKE_SHAPE if options.smoke else options.shape
    return make_cells(shape, n_cells_in(shape))


def n_cells_in(shape: Sequence[int]) -> int:
    """How many cells a volume of this shape gets."""
    return max(2, round(N_CELLS * math.prod(shape) / math.prod(SHAPE)))


if __name__ == '__main__':
    main()
