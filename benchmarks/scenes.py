"""Simulated volumes of touching cells, with the flows of a noisy network, and their scores."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from skimage import measure

from benchmarks.harness import Case
from sxt_jax.instances import labels_to_flows
from sxt_jax.metrics import average_precision, contingency_table, matched_dice

SHAPE, SMOKE_SHAPE = (128, 256, 256), (32, 48, 48)
N_CELLS = 300  # in SHAPE; other shapes have as many per voxel
CELL_RADIUS = 12.0


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
    def n_cells(self) -> int:
        return int((np.bincount(self.labels.ravel())[1:] > 0).sum())

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


def make_scenes(labels: np.ndarray, noises: Sequence[float]) -> Iterator[Scene]:
    """A scene for each noise: flows of both kinds, the same noise in all voxels at every call."""
    clean = {kind: np.asarray(labels_to_flows(labels, kind=kind)) for kind in ('tanh', 'heat')}
    for noise in noises:
        flows = {}
        for seed, (kind, values) in enumerate(clean.items()):
            rng = np.random.default_rng(seed)
            flows[kind] = values + np.float32(noise) * rng.standard_normal(values.shape, np.float32)
        yield Scene(labels.astype(np.int32), flows, noise)


def scored_case(
    scene: Scene,
    name: str,
    kind: str,
    run: Callable[[], Any],
    *,
    least_ap: float,
    finish: Callable[[Any], Any] = np.asarray,
    compiles: bool = True,
    **facts: Any,
) -> Case:
    """A way to find the instances; the scores of its first answer become facts.

    Args:
      scene: the cells, and what the way sees of them.
      name: of the way.
      kind: of the flows that it gets.
      run: what is timed.
      least_ap: average precision at an IoU of 0.5 that the answer must have.
      finish: makes instances of what `run` gives, where it does not go all the way.
      compiles: see `Case`.
      facts: anything else worth keeping.
    """
    facts = {'flows': kind, 'noise': scene.noise, 'cells': scene.n_cells, **facts}

    def check(found: Any) -> None:
        table = contingency_table(np.asarray(finish(found)), scene.labels)
        ap = average_precision(table, thresholds=(0.5, 0.9)).ap
        facts.update(found=len(table.pred_ids), ap_50=float(ap[0]), ap_90=float(ap[1]))
        facts.update(matched_dice=matched_dice(table).mean)
        assert ap[0] >= least_ap, f'{name}: average precision {ap[0]:.3f}'

    title = f'{name}, {kind} flows, noise {scene.noise:g}'
    shape = scene.labels.shape
    return Case(title, run, check, scene.mvoxels, 'Mvoxel/s', shape, facts=facts, compiles=compiles)


def load_labels(path: str | Path) -> np.ndarray:
    """[z, y, x] int32 of a .npy file, or of the array 'labels' of a .npz file."""
    loaded = np.load(path)
    labels = loaded if isinstance(loaded, np.ndarray) else loaded['labels']
    return labels.astype(np.int32)


def n_cells_in(shape: Sequence[int]) -> int:
    """How many cells a volume of this shape gets."""
    return max(2, round(N_CELLS * math.prod(shape) / math.prod(SHAPE)))
