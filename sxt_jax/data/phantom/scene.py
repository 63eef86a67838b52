"""A whole scene: container, cells, beads; with the exact truth about each."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from sxt_jax.data.phantom import classes
from sxt_jax.data.phantom.body import Surroundings, draw, paint_body, place_bodies, varied
from sxt_jax.data.phantom.canvas import Canvas, object_table
from sxt_jax.data.phantom.organelles import Organelles
from sxt_jax.data.phantom.parameters import Range, SceneParameters
from sxt_jax.data.phantom.shapes import StarBody, ball
from sxt_jax.data.phantom.texture import random_texture


@dataclasses.dataclass(frozen=True)
class Scene:
    """True LAC and truth about what is where.

    Attributes:
      absorption: [z, y, x] float32 LAC in µm⁻¹.
      labels: [z, y, x] uint8 of `CLASS_NAMES`.
      instances: [z, y, x] int32, cells (1, 2, …) and beads (following numbers), 0 elsewhere.
      organelles: [z, y, x] int32, everything in and around cells that has a number, 0 elsewhere.
      objects: columns, one row an object, see `SimulatedTomogram`.
    """

    absorption: np.ndarray
    labels: np.ndarray
    instances: np.ndarray
    organelles: np.ndarray
    objects: dict[str, np.ndarray]


def build_scene(
    rng: np.random.Generator,
    parameters: SceneParameters,
    *,
    bodies: Sequence[StarBody] | None = None,
) -> Scene:
    """Draw and paint a scene; the same generator state gives the same bits.

    Args:
      rng: where chance comes from.
      parameters: what is drawn.
      bodies: the cells' where they are placed already; what a body shares with one before it is
        the other's. None: `n_cells` of the parameters are placed.
    """
    texture = random_texture(rng, voxel_size_nm=parameters.voxel_size_nm)
    canvas = Canvas(parameters, texture)
    surroundings = _surroundings(rng, parameters)
    _paint_surroundings(canvas, surroundings)
    if bodies is None:
        n_cells = int(rng.integers(parameters.n_cells[0], parameters.n_cells[1] + 1))
        bodies = place_bodies(rng, parameters, surroundings, n_cells)
    cells = [
        paint_body(rng, canvas, body, label=label, floor=surroundings.floor)
        for label, body in enumerate(bodies, start=1)
    ]
    label = _paint_balls(
        rng,
        canvas,
        surroundings,
        class_id=classes.BEAD,
        count=parameters.n_beads,
        radius=parameters.bead_radius_nm,
        lac=parameters.absorption.beads,
        label=len(bodies) + 1,
    )
    for cell, body in zip(cells, bodies, strict=True):
        label = Organelles(rng, canvas, body, cell, label).fill(surroundings)
    _paint_balls(
        rng,
        canvas,
        surroundings,
        class_id=classes.FIDUCIAL,
        count=parameters.n_fiducials,
        radius=parameters.fiducial_radius_nm,
        lac=parameters.absorption.fiducials,
        label=None,
    )
    return Scene(
        absorption=canvas.absorption,
        labels=canvas.labels,
        instances=canvas.instances,
        organelles=canvas.organelles,
        objects=object_table(canvas),
    )


def _surroundings(rng: np.random.Generator, parameters: SceneParameters) -> Surroundings:
    z, _, x = parameters.extent_nm
    if parameters.container == 'capillary':
        shift = rng.uniform(-1, 1, 2) * parameters.capillary_shift_nm
        return Surroundings(
            tube_centre=(z / 2 + float(shift[0]), x / 2 + float(shift[1])),
            tube_radius=parameters.capillary_inner_radius_nm,
        )
    if parameters.adherent or parameters.container == 'grid':
        return Surroundings(floor=0.15 * z)
    return Surroundings()


def _paint_surroundings(canvas: Canvas, surroundings: Surroundings) -> None:
    parameters, voxel = canvas.parameters, canvas.voxel
    lac = parameters.absorption
    z, _, x = canvas.points(tuple(slice(0, n) for n in canvas.shape))  # type: ignore[arg-type]
    if surroundings.tube_radius is not None:
        centre_z, centre_x = surroundings.tube_centre
        inner = np.hypot(z - centre_z, x - centre_x) - surroundings.tube_radius  # [z, 1, x]
        wall = parameters.capillary_wall_nm
        ice = np.clip(0.5 - inner / voxel, 0, 1)
        tube = np.clip(0.5 - (inner - wall) / voxel, 0, 1) - ice
        canvas.absorption[:] = ice * lac.ice + tube * lac.capillary
        canvas.labels[:] = np.where(tube > 0.5, classes.CAPILLARY, classes.BACKGROUND)
    elif parameters.container == 'grid' and surroundings.floor is not None:
        top, bottom = surroundings.floor, surroundings.floor - parameters.support_film_nm
        edges = np.arange(canvas.shape[0] + 1) * voxel
        share = np.diff(np.clip(edges, bottom, top)) / voxel
        film = share.astype(np.float32)[:, None, None]
        canvas.absorption += film * (lac.support_film - lac.ice)
        canvas.labels[share > 0.5] = classes.SUPPORT_FILM


def _paint_balls(
    rng: np.random.Generator,
    canvas: Canvas,
    surroundings: Surroundings,
    *,
    class_id: int,
    count: tuple[int, int],
    radius: Range,
    lac: float,
    label: int | None,
) -> int:
    """Balls in the ice between the cells, numbered from `label`; the next free label."""
    extent = np.array(canvas.parameters.extent_nm)
    for _ in range(int(rng.integers(count[0], count[1] + 1))):
        for _ in range(100):
            size = draw(rng, radius)
            low = (
                np.zeros(3) if surroundings.floor is None else np.array([surroundings.floor, 0, 0])
            )
            centre = rng.uniform(low + size, np.maximum(extent - size, low + size + 1))
            reach = np.array(
                [[s, 0, 0] for s in (-size, size)] + [[0, 0, s] for s in (-size, size)]
            )
            body = ball(centre, size)
            if not surroundings.hold(centre + reach):
                continue
            if canvas.fits(body, (classes.BACKGROUND,), cell=None, gap=0.0):
                canvas.paint(
                    rng,
                    body,
                    class_id=class_id,
                    lac=varied(rng, lac, canvas.parameters),
                    over=(classes.BACKGROUND,),
                    instance=label,
                )
                label = None if label is None else label + 1
                break
    return label or 0
