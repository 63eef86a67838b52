"""Cell bodies: where they lie, and their cytoplasm and plasma membrane."""

from __future__ import annotations

import dataclasses

import numpy as np

from sxt_jax.core.errors import InputError
from sxt_jax.data.phantom import classes, texture
from sxt_jax.data.phantom.canvas import Canvas, ObjectRecord
from sxt_jax.data.phantom.parameters import Range, SceneParameters
from sxt_jax.data.phantom.shapes import (
    FlatBottomed,
    Shape,
    StarBody,
    random_rotation,
    random_star_body,
    surface_points,
)


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """What bounds the space that cells may take, in nm.

    Attributes:
      tube_centre: (z, x) of the axis of a capillary along y.
      tube_radius: its inner radius, None without a capillary.
      floor: top of the support film, None without one.
    """

    tube_centre: tuple[float, float] = (0.0, 0.0)
    tube_radius: float | None = None
    floor: float | None = None

    def hold(self, points: np.ndarray) -> bool:
        """Whether all points [n, 3] lie inside the capillary, if there is one."""
        if self.tube_radius is None:
            return True
        radial = np.hypot(points[:, 0] - self.tube_centre[0], points[:, 2] - self.tube_centre[1])
        return bool(radial.max() <= self.tube_radius)


def draw(rng: np.random.Generator, interval: Range) -> float:
    """A number from a range."""
    return float(rng.uniform(*interval))


def varied(rng: np.random.Generator, mean: float, parameters: SceneParameters) -> float:
    """The LAC of one object, within two standard deviations of the mean."""
    return mean * (1 + parameters.absorption_variation * float(np.clip(rng.normal(), -2, 2)))


def place_bodies(
    rng: np.random.Generator, parameters: SceneParameters, surroundings: Surroundings, n_cells: int
) -> list[StarBody]:
    """Bodies of `n_cells` cells, each as close to the others as the space allows.

    Bodies may overlap by a few percent of their size: the later one is then flattened there, as
    cells that touch are. Where they do not all fit, all are drawn smaller.

    Raises:
      InputError: they do not fit at a tenth of their size.
    """
    scale = 1.0
    while scale > 0.1:
        for _ in range(3):
            bodies: list[StarBody] = []
            for _ in range(n_cells):
                body = _random_body(rng, parameters, scale)
                # A lone cell lies wholly in the volume, one of several may leave it a little.
                centre = _place(
                    rng, body, parameters, surroundings, bodies, seen=1.0 if n_cells == 1 else 0.85
                )
                if centre is None:
                    break
                bodies.append(dataclasses.replace(body, centre=centre))
            if len(bodies) == n_cells:
                return bodies
        scale *= 0.93
    raise InputError(
        'n_cells', f'no room for {n_cells} in {parameters.extent_nm} nm', 'fewer cells or more room'
    )


def _random_body(rng: np.random.Generator, parameters: SceneParameters, scale: float) -> StarBody:
    rotation = random_rotation(rng)
    if parameters.adherent:
        angle = rng.uniform(0, 2 * np.pi)
        rotation = np.eye(3)
        rotation[1:, 1:] = [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
    return random_star_body(
        rng,
        np.zeros(3),
        scale * np.array([draw(rng, interval) for interval in parameters.cell_semi_axes_nm]),
        rotation,
        deformation=parameters.cell_deformation,
        roughness=parameters.cell_roughness,
    )


def _place(
    rng: np.random.Generator,
    body: StarBody,
    parameters: SceneParameters,
    surroundings: Surroundings,
    others: list[StarBody],
    *,
    seen: float,
) -> np.ndarray | None:
    """A centre for a body, next to the others, with the share `seen` of its surface in view."""
    extent = np.array(parameters.extent_nm)
    surface = surface_points(body)
    overlap = 0.08 * float(body.semi_axes.mean())

    def gap_at(centre: np.ndarray) -> float:
        """Gap to the nearest other body, inf where the body may not lie."""
        moved = surface + centre
        inside = ((moved >= 0) & (moved <= extent)).all(1)
        if surroundings.floor is not None:
            inside |= moved[:, 0] < surroundings.floor
        if inside.mean() < seen or not surroundings.hold(moved):
            return np.inf
        points = (moved[:, 0], moved[:, 1], moved[:, 2])
        gap = min((float(other.distance(points).min()) for other in others), default=0.0)
        return gap if gap >= -overlap else np.inf

    best, best_gap = None, np.inf
    for _ in range(150):
        centre = rng.uniform(0.1, 0.9, 3) * extent
        if surroundings.floor is not None:
            centre[0] = surroundings.floor + 0.3 * body.semi_axes[0]
        gap = gap_at(centre)
        if gap < best_gap:
            best, best_gap = centre, gap
    if best is None or not others or best_gap <= 0:
        return best
    # Push it against its nearest neighbour as far as the rest of the space allows.
    nearest = min(others, key=lambda other: float(np.linalg.norm(other.centre - best)))
    way = nearest.centre - best
    for share in (1.2, 1.0, 0.8, 0.5):
        pushed = best + share * best_gap * way / np.linalg.norm(way)
        if gap_at(pushed) < best_gap:
            return pushed
    return best


def paint_body(
    rng: np.random.Generator,
    canvas: Canvas,
    body: StarBody,
    *,
    label: int,
    floor: float | None,
) -> ObjectRecord:
    """Paint a cell's cytoplasm and plasma membrane."""
    parameters = canvas.parameters
    lac = varied(rng, parameters.absorption.cytoplasm, parameters)
    membrane = parameters.absorption.membrane / parameters.absorption.cytoplasm - 1
    thickness = max(parameters.membrane_nm, canvas.voxel)

    def pattern(fine: np.ndarray, coarse: np.ndarray, distance: np.ndarray) -> np.ndarray:
        shell = np.clip(0.5 + (distance + thickness) / canvas.voxel, 0, 1)
        inside = texture.cytoplasm_pattern(fine, coarse)
        return inside + shell * (membrane + 0.05 * fine - inside)

    shape: Shape = body if floor is None else FlatBottomed(body, floor)
    record = canvas.paint(
        rng,
        shape,
        class_id=classes.CYTOPLASM,
        lac=lac,
        over=(classes.BACKGROUND,),
        instance=label,
        pattern=pattern,
    )
    record.cell = label
    _label_membrane(canvas, shape, label, thickness)
    return record


def _label_membrane(canvas: Canvas, shape: Shape, label: int, thickness: float) -> None:
    box, _ = canvas.box(shape)
    for plane in range(box[0].start, box[0].stop):
        part = (slice(plane, plane + 1), box[1], box[2])
        shell = shape.distance(canvas.points(part)) > -thickness
        shell &= canvas.instances[part] == label
        canvas.labels[part][shell] = classes.MEMBRANE
