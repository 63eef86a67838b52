"""What is inside and around one cell: nucleus, organelles, filopodia."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable

import numpy as np

from sxt_jax.data.phantom import classes, texture
from sxt_jax.data.phantom.body import Surroundings, draw, varied
from sxt_jax.data.phantom.canvas import Canvas, ObjectRecord, Pattern
from sxt_jax.data.phantom.parameters import Range
from sxt_jax.data.phantom.shapes import (
    Shape,
    StarBody,
    Tube,
    ball,
    random_rotation,
    random_star_body,
    random_tube,
)

_GAP_NM = 30.0  # between organelles: two membranes and a thin film of cytosol


class Organelles:
    """Fills one painted cell; every organelle takes the next free label."""

    def __init__(
        self,
        rng: np.random.Generator,
        canvas: Canvas,
        body: StarBody,
        cell_record: ObjectRecord,
        next_label: int,
    ) -> None:
        self.rng, self.canvas, self.body = rng, canvas, body
        self.cell_record, self.cell, self.next_label = cell_record, cell_record.label, next_label
        self.parameters = canvas.parameters

    def fill(self, surroundings: Surroundings) -> int:
        """Paint everything inside and around the cell; the next free label."""
        p, lac = self.parameters, self.parameters.absorption
        nucleus = self._nucleus()
        if nucleus is not None:
            for _ in range(self._count(p.n_nucleoli)):
                self._nucleolus(nucleus)
        for _ in range(self._count(p.n_vacuoles)):
            self._round(classes.VACUOLE, p.vacuole_radius_nm, lac.vacuoles, 0.03)
        for _ in range(self._count(p.n_mitochondria)):
            self._mitochondrion()
        for _ in range(self._count(p.n_lipid_droplets)):
            self._round(classes.LIPID_DROPLET, p.lipid_droplet_radius_nm, lac.lipid_droplets, 0.02)
        for _ in range(self._count(p.n_filopodia)):
            self._filopodium(surroundings)
        return self.next_label

    def _count(self, interval: tuple[int, int]) -> int:
        return int(self.rng.integers(interval[0], interval[1] + 1))

    def _paint(
        self, shape: Shape, class_id: int, lac: float, over: tuple[int, ...], pattern: Pattern
    ) -> ObjectRecord:
        record = self.canvas.paint(
            self.rng,
            shape,
            class_id=class_id,
            lac=varied(self.rng, lac, self.parameters),
            over=over,
            cell=self.cell,
            organelle=self.next_label,
            pattern=pattern,
        )
        self.next_label += 1
        return record

    def _try(
        self, propose: Callable[[], Shape], over: tuple[int, ...], attempts: int
    ) -> Shape | None:
        """The first proposed shape that fits in the cell; None where there is no room."""
        box, _ = self.canvas.box(self.body)
        if not self.canvas.allowed(box, over, self.cell).any():
            return None  # what the volume has of the cell does not show these classes
        for _ in range(attempts):
            shape = propose()
            if self.canvas.fits(shape, over, cell=self.cell, gap=_GAP_NM):
                return shape
        return None

    def _point_in(self, class_id: int) -> np.ndarray:
        """A random point of the cell that shows a class (the cell's centre if none is found)."""
        low, high = self.body.bounds()
        # A copy draws all tries at once: 300 of them are needed where the class does not occur.
        points = copy.deepcopy(self.rng).uniform(low, high, (300, 3))
        hits = np.flatnonzero(self.canvas.shows(points, class_id, self.cell))
        self.rng.uniform(size=(hits[0] + 1 if hits.size else len(points), 3))
        return points[hits[0]] if hits.size else self.body.centre

    def _nucleus(self) -> ObjectRecord | None:
        p, rng, body = self.parameters, self.rng, self.body
        size = draw(rng, p.nucleus_fraction)
        tries = iter(range(200))

        def propose() -> Shape:
            shrink = 0.985 ** next(tries)
            offset = rng.normal(size=3)
            offset *= rng.uniform(0, 0.6 * (1 - size)) / np.linalg.norm(offset)
            centre = body.centre + body.rotation.T @ (offset * body.semi_axes)
            if p.adherent:
                # The cut cell reaches from the film to the top of its body: the nucleus lies
                # half-way up, flatter than the cell.
                centre[0] = body.centre[0] + 0.33 * body.semi_axes[0]
            axes = size * shrink * body.semi_axes * rng.uniform(0.9, 1.08, 3)
            if p.adherent:
                axes[0] = 0.48 * shrink * body.semi_axes[0]
            return random_star_body(rng, centre, axes, body.rotation, deformation=0.05)

        shape = self._try(propose, (classes.CYTOPLASM,), 60)
        if shape is None:
            return None

        def pattern(fine: np.ndarray, coarse: np.ndarray, distance: np.ndarray) -> np.ndarray:
            return texture.chromatin_pattern(fine, coarse, np.maximum(-distance, 0))

        lac = p.absorption.nucleus
        return self._paint(shape, classes.NUCLEUS, lac, (classes.CYTOPLASM,), pattern)

    def _nucleolus(self, nucleus: ObjectRecord) -> None:
        p, rng = self.parameters, self.rng

        def propose() -> Shape:
            axes = draw(rng, p.nucleolus_radius_nm) * rng.uniform(0.8, 1.2, 3)
            centre = self._point_in(classes.NUCLEUS)
            return random_star_body(rng, centre, axes, random_rotation(rng), deformation=0.06)

        shape = self._try(propose, (classes.NUCLEUS,), 60)
        if shape is not None:
            record = self._paint(
                shape, classes.NUCLEOLUS, p.absorption.nucleolus, (classes.NUCLEUS,), _plain(0.06)
            )
            nucleus.nested_volume += record.volume

    def _round(self, class_id: int, radius: Range, lac: float, granularity: float) -> None:
        rng = self.rng

        def propose() -> Shape:
            axes = draw(rng, radius) * rng.uniform(0.92, 1.08, 3)
            centre = self._point_in(classes.CYTOPLASM)
            return dataclasses.replace(
                ball(centre, 1.0), semi_axes=axes, rotation=random_rotation(rng)
            )

        shape = self._try(propose, (classes.CYTOPLASM,), 60)
        if shape is not None:
            self._paint(shape, class_id, lac, (classes.CYTOPLASM,), _plain(granularity))

    def _mitochondrion(self) -> None:
        p, rng = self.parameters, self.rng

        def propose() -> Shape:
            # Tubes follow the cell surface: set out at right angles to the way to the centre.
            start = self._point_in(classes.CYTOPLASM)
            outwards = start - self.body.centre
            anywhere = rng.normal(size=3)
            along = np.cross(outwards, anywhere) if outwards.any() else anywhere
            return random_tube(
                rng,
                start,
                along + 0.2 * np.linalg.norm(along) * rng.normal(size=3),
                length=draw(rng, p.mitochondrion_length_nm),
                radius=draw(rng, p.mitochondrion_radius_nm),
                bending=0.7,
            )

        shape = self._try(propose, (classes.CYTOPLASM,), 80)
        if shape is not None:
            lac = p.absorption.mitochondria
            self._paint(shape, classes.MITOCHONDRION, lac, (classes.CYTOPLASM,), _plain(0.08))

    def _filopodium(self, surroundings: Surroundings) -> None:
        p, canvas = self.parameters, self.canvas
        for _ in range(30):
            tube = self._propose_filopodium(surroundings.floor)
            box, _ = canvas.box(tube)
            if any(s.start == s.stop for s in box) or not surroundings.hold(tube.line):
                continue
            covered = tube.distance(canvas.points(box)) < 0
            instances, labels = canvas.instances[box][covered], canvas.labels[box][covered]
            free = (instances == 0) & (labels == classes.BACKGROUND)
            # Rooted in this cell, in nobody's way, and well outside.
            own = instances == self.cell
            if not (free | own).all() or not own.any() or free.sum() < 0.3 * covered.sum():
                continue
            record = canvas.paint(
                self.rng,
                tube,
                class_id=classes.FILOPODIUM,
                lac=varied(self.rng, p.absorption.filopodia, p),
                over=(classes.BACKGROUND,),
                cell=None,
                instance=self.cell,
                organelle=self.next_label,
                pattern=_plain(0.05),
            )
            record.cell = self.cell
            self.cell_record.nested_volume -= record.volume  # a cell counts its filopodia
            self.next_label += 1
            return

    def _propose_filopodium(self, floor: float | None) -> Tube:
        p, rng, body = self.parameters, self.rng, self.body
        radius, length = draw(rng, p.filopodium_radius_nm), draw(rng, p.filopodium_length_nm)
        if floor is None:
            direction = rng.normal(size=3)
            direction /= np.linalg.norm(direction)
            reach = body.semi_axes * body.radius(direction) * direction
            start = body.centre + body.rotation.T @ reach
            outwards = body.rotation.T @ (direction / body.semi_axes)
            outwards /= np.linalg.norm(outwards)
            outwards = outwards + 0.25 * rng.normal(size=3)
        else:
            start, outwards = _foot(rng, body, floor + radius + rng.uniform(60, 350))
        outwards = outwards / np.linalg.norm(outwards)
        root = start - (100 + self.canvas.voxel) * outwards
        length += 100 + self.canvas.voxel
        tube = random_tube(rng, root, outwards, length=length, radius=radius, bending=0.12)
        if floor is None:
            return tube
        # What would bend into the film runs along it.
        return Tube(np.maximum(tube.line, [floor + radius, -np.inf, -np.inf]), radius)


def _foot(rng: np.random.Generator, body: StarBody, height: float) -> tuple[np.ndarray, np.ndarray]:
    """Where a cell on a film ends at a height (nm) in a random direction, and the way outwards."""
    azimuth = rng.uniform(0, 2 * np.pi)
    outwards = np.array([0.0, np.sin(azimuth), np.cos(azimuth)])
    reach = np.linspace(0, 1.6 * body.semi_axes.max(), 200)
    line = np.array([height, *body.centre[1:]]) + reach[:, None] * outwards
    inside = np.flatnonzero(body.distance((line[:, 0], line[:, 1], line[:, 2])) < 0)
    start = line[inside[-1] if inside.size else 0]
    return start, outwards + np.array([0.06, 0.3, 0.3]) * rng.normal(size=3)


def _plain(strength: float) -> Pattern:
    return lambda fine, _coarse, _distance: texture.plain_pattern(fine, strength)
