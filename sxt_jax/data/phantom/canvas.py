"""The voxel grids on which a scene is painted, object by object, and the record of each object."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection

import numpy as np

from sxt_jax.data.phantom.classes import CLASS_NAMES
from sxt_jax.data.phantom.parameters import SceneParameters
from sxt_jax.data.phantom.shapes import Points, Shape
from sxt_jax.data.phantom.texture import Texture

Box = tuple[slice, slice, slice]
Pattern = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""(fine field, coarse field, signed distance in nm) → LAC relative to the object's, less one."""


@dataclasses.dataclass
class ObjectRecord:
    """What is known of one painted object, lengths in nm."""

    label: int
    class_id: int
    cell: int
    shape: Shape
    lac_per_um: float
    inside: bool
    share: float
    sampled_volume: float
    nested_volume: float = 0.0

    @property
    def complete(self) -> bool:
        """Whether the whole body is in the volume and nothing else took a part of it."""
        return self.inside and self.share > 0.999

    @property
    def volume(self) -> float:
        """In nm³ within the volume, less what is nested inside under a label of its own."""
        closed = self.shape.volume() * self.share if self.inside else np.nan
        return (self.sampled_volume if np.isnan(closed) else closed) - self.nested_volume


class Canvas:
    """Grids of a scene while it is painted.

    Absorption is mixed by the share of the voxel that an object covers; a voxel is labelled with
    the object that covers more than half of it.
    """

    def __init__(self, parameters: SceneParameters, texture: Texture) -> None:
        self.parameters = parameters
        self.texture = texture
        self.voxel = parameters.voxel_size_nm
        self.shape = parameters.shape
        self.labels = np.zeros(self.shape, np.uint8)
        self.instances = np.zeros(self.shape, np.int32)
        self.organelles = np.zeros(self.shape, np.int32)
        self.absorption = np.full(self.shape, parameters.absorption.ice, np.float32)
        self.records: list[ObjectRecord] = []

    def box(self, shape: Shape, *, margin: float = 0.0) -> tuple[Box, bool]:
        """Voxels that a shape may touch, and whether the shape lies wholly in the volume."""
        low, high = shape.bounds()
        first = np.floor((low - margin) / self.voxel - 0.5).astype(int)
        last = np.ceil((high + margin) / self.voxel + 0.5).astype(int)
        inside = bool((low >= 0).all() and (high <= np.array(self.shape) * self.voxel).all())
        z, y, x = (
            slice(min(max(a, 0), n), min(max(b, 0), n))
            for a, b, n in zip(first, last, self.shape, strict=True)
        )
        return (z, y, x), inside

    def points(self, box: Box) -> Points:
        """Centres of the voxels of a box in nm, as three arrays that broadcast."""
        z, y, x = ((np.arange(s.start, s.stop) + 0.5) * self.voxel for s in box)
        z, y, x = z.astype(np.float32), y.astype(np.float32), x.astype(np.float32)
        return z[:, None, None], y[:, None], x

    def allowed(self, box: Box, classes: Collection[int], cell: int | None) -> np.ndarray:
        """Where a box shows one of the classes and, unless None, belongs to the cell."""
        table = np.zeros(256, bool)
        table[list(classes)] = True
        mask = table[self.labels[box]]
        return mask if cell is None else mask & (self.instances[box] == cell)

    def fits(self, shape: Shape, classes: Collection[int], *, cell: int | None, gap: float) -> bool:
        """Whether a shape with a gap (nm) around it covers nothing but the classes, in the cell."""
        box, _ = self.box(shape, margin=gap)
        if any(s.start == s.stop for s in box):
            return False
        covered = shape.distance(self.points(box)) < gap
        return bool(covered.any() and self.allowed(box, classes, cell)[covered].all())

    def shows(self, points: np.ndarray, class_id: int, cell: int) -> np.ndarray:
        """[n] bool, whether points [n, 3] in nm lie in the volume, in a class and a cell."""
        index = np.floor(points / self.voxel).astype(int)
        inside = np.flatnonzero(((index >= 0) & (index < self.shape)).all(1))
        z, y, x = index[inside].T
        shown = (self.labels[z, y, x] == class_id) & (self.instances[z, y, x] == cell)
        return np.isin(np.arange(len(points)), inside[shown])

    def paint(
        self,
        rng: np.random.Generator,
        shape: Shape,
        *,
        class_id: int,
        lac: float,
        over: Collection[int],
        cell: int | None = None,
        instance: int | None = None,
        organelle: int | None = None,
        pattern: Pattern | None = None,
    ) -> ObjectRecord:
        """Paint a shape over voxels of the classes `over` (of one cell, unless None).

        Works through the box plane by plane of about 2²² voxels: scratch memory stays small.
        """
        box, inside = self.box(shape)
        offset = rng.integers(0, self.texture.fine.shape[0], 3)
        sampled, whole = 0.0, 0.0
        area = (box[1].stop - box[1].start) * (box[2].stop - box[2].start)
        depth = max(1, (1 << 22) // max(area, 1))
        for start in range(box[0].start, box[0].stop, depth):
            part = (slice(start, min(start + depth, box[0].stop)), box[1], box[2])
            distance = shape.distance(self.points(part))
            covered = np.clip(0.5 - distance / self.voxel, 0, 1)
            whole += float(covered.sum(dtype=np.float64))
            covered *= self.allowed(part, over, cell)
            sampled += float(covered.sum(dtype=np.float64))
            value: np.ndarray = np.array(lac, np.float32)
            if pattern is not None and self.parameters.texture > 0:
                relative = pattern(*self.texture.at(part, offset), distance)
                value = value * (1 + np.float32(self.parameters.texture) * relative)
            self.absorption[part] += covered * (value - self.absorption[part])
            inner = covered > 0.5
            self.labels[part][inner] = class_id
            if instance is not None:
                self.instances[part][inner] = instance
            if organelle is not None:
                self.organelles[part][inner] = organelle
        record = ObjectRecord(
            label=(organelle or instance) or 0,
            class_id=class_id,
            cell=cell or 0,
            shape=shape,
            lac_per_um=float(lac),
            inside=inside,
            share=sampled / whole if whole else 0.0,
            sampled_volume=sampled * self.voxel**3,
        )
        if record.label:
            self.records.append(record)
        return record


def object_table(canvas: Canvas) -> dict[str, np.ndarray]:
    """Columns that describe every object of a canvas; see `simulate.SimulatedTomogram`."""
    records = sorted(canvas.records, key=lambda record: record.label)
    n = max((record.label for record in records), default=0) + 1
    count, lac, centre = _voxel_sums(canvas, n)
    labels = np.array([r.label for r in records], np.int32)
    seen = np.maximum(count[labels], 1)
    centroid = centre[labels] / seen[:, None] * canvas.voxel
    surface = np.full(len(records), np.nan)
    for row, record in enumerate(records):
        if record.complete:
            surface[row] = record.shape.surface() * 1e-6
            exact = record.shape.centroid()
            centroid[row] = np.where(np.isnan(exact), centroid[row], exact)
    axes = np.array([r.shape.axes() for r in records], float).reshape(-1, 3)
    return {
        'label': labels,
        'class_id': np.array([r.class_id for r in records], np.int32),
        'class_name': np.array(
            ['cells' if r.label == r.cell else CLASS_NAMES[r.class_id] for r in records]
        ),
        'cell': np.array([r.cell for r in records], np.int32),
        'complete': np.array([r.complete for r in records], bool),
        'n_voxels': count[labels].astype(np.int64),
        'volume_um3': np.array([r.volume for r in records], float) * 1e-9,
        'surface_um2': surface,
        'centroid_z_nm': centroid[:, 0],
        'centroid_y_nm': centroid[:, 1],
        'centroid_x_nm': centroid[:, 2],
        'major_axis_nm': axes[:, 0],
        'middle_axis_nm': axes[:, 1],
        'minor_axis_nm': axes[:, 2],
        'material_lac_per_um': np.array([r.lac_per_um for r in records], float),
        'mean_lac_per_um': np.where(count[labels] > 0, lac[labels] / seen, np.nan),
    }


def _voxel_sums(canvas: Canvas, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Voxels, LAC and coordinates (voxel units, centres at halves) summed over each label."""
    count, lac, centre = np.zeros(n), np.zeros(n), np.zeros((n, 3))
    for plane in range(canvas.shape[0]):
        for grid in (canvas.instances, canvas.organelles):
            y, x = np.nonzero(grid[plane])
            ids = grid[plane][y, x]
            here = np.bincount(ids, minlength=n)
            count += here
            lac += np.bincount(ids, canvas.absorption[plane][y, x], minlength=n)
            centre[:, 0] += here * (plane + 0.5)
            centre[:, 1] += np.bincount(ids, y + 0.5, minlength=n)
            centre[:, 2] += np.bincount(ids, x + 0.5, minlength=n)
    return count, lac, centre
