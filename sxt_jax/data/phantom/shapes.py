"""Bodies of the scene: signed distance anywhere, and volume and surface in closed form.

All lengths are in nm and all points (z, y, x). A distance is negative inside.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from typing import Protocol

import numpy as np

Points = tuple[np.ndarray, np.ndarray, np.ndarray]


class Shape(Protocol):
    """A closed body."""

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Corners (z, y, x) of a box that holds the body."""

    def distance(self, points: Points) -> np.ndarray:
        """Signed distance to the surface: exact near it, at least of the right sign elsewhere."""

    def centroid(self) -> np.ndarray: ...

    def volume(self) -> float: ...

    def surface(self) -> float: ...

    def axes(self) -> tuple[float, float, float]:
        """Full lengths of the major, middle and minor axis."""


@dataclasses.dataclass(frozen=True)
class StarBody:
    """An ellipsoid with waves on its radius: surface points are c + Rᵀ (a ∘ f(d) d), |d| = 1.

    Attributes:
      centre: [3] in nm.
      semi_axes: [3] in nm.
      rotation: [3, 3] from world to body axes.
      waves: [k, 3] wave vectors over the unit sphere; low ones bulge, high ones roughen.
      amplitudes, phases: [k] relative amplitude and phase of each.
    """

    centre: np.ndarray
    semi_axes: np.ndarray
    rotation: np.ndarray
    waves: np.ndarray
    amplitudes: np.ndarray
    phases: np.ndarray

    def radius(self, direction: np.ndarray) -> np.ndarray:
        """f(d) for unit vectors [..., 3] of the body's unit sphere."""
        angles = np.asarray(direction @ self.waves.T + self.phases)
        return 1 + np.cos(angles) @ self.amplitudes

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        largest = 1 + np.abs(self.amplitudes).sum()
        half = largest * np.sqrt(((self.rotation * self.semi_axes[:, None]) ** 2).sum(0))
        return self.centre - half, self.centre + half

    def distance(self, points: Points) -> np.ndarray:
        offsets = [p - c for p, c in zip(points, self.centre.astype(np.float32), strict=True)]
        unit = [
            sum(row[i] * offsets[i] for i in range(3)) / axis
            for row, axis in zip(
                self.rotation.astype(np.float32), self.semi_axes.astype(np.float32), strict=True
            )
        ]
        level = np.maximum(np.sqrt(unit[0] ** 2 + unit[1] ** 2 + unit[2] ** 2), 1e-6)
        slope = np.sqrt(sum((u / a) ** 2 for u, a in zip(unit, self.semi_axes, strict=True)))
        scale = level / np.maximum(slope.astype(np.float32), 1e-9)
        spread = np.abs(self.amplitudes).sum() + 0.15  # deeper in, the waves do not matter
        near = np.flatnonzero(np.abs(level - 1) < spread)
        radius = np.ones(level.size, np.float32)
        flat = [np.ravel(u)[near] / np.ravel(level)[near] for u in unit]
        wavy = np.ones(near.size, np.float32)
        for wave, amplitude, phase in zip(
            self.waves.astype(np.float32), self.amplitudes, self.phases, strict=True
        ):
            angle = wave[0] * flat[0] + wave[1] * flat[1] + wave[2] * flat[2]
            wavy += np.float32(amplitude) * np.cos(angle + np.float32(phase))
        radius[near] = wavy
        return (level - radius.reshape(level.shape)) * scale

    def centroid(self) -> np.ndarray:
        directions, weights = _sphere_quadrature()
        moment = (weights * self.radius(directions) ** 4 / 4) @ (directions * self.semi_axes)
        return self.centre + self.rotation.T @ moment * self.semi_axes.prod() / self.volume()

    def volume(self) -> float:
        directions, weights = _sphere_quadrature()
        solid = (weights * self.radius(directions) ** 3).sum() / 3
        return float(solid * self.semi_axes.prod())

    def surface(self) -> float:
        polar = np.linspace(0, np.pi, 161)[:, None]
        azimuth = np.linspace(0, 2 * np.pi, 321)[None]
        direction = np.stack(
            [
                np.cos(polar) + 0 * azimuth,
                np.sin(polar) * np.cos(azimuth),
                np.sin(polar) * np.sin(azimuth),
            ],
            axis=-1,
        )
        grid = self.semi_axes * self.radius(direction)[..., None] * direction
        diagonal = grid[1:, 1:] - grid[:-1, :-1]
        other = grid[1:, :-1] - grid[:-1, 1:]
        return float(np.linalg.norm(np.cross(diagonal, other), axis=-1).sum() / 2)

    def axes(self) -> tuple[float, float, float]:
        major, middle, minor = np.sort(2 * self.semi_axes)[::-1]
        return float(major), float(middle), float(minor)


@dataclasses.dataclass(frozen=True)
class Tube:
    """A round tube with round ends along a polyline.

    Attributes:
      line: [n, 3] points of the centre line in nm.
      tube_radius: in nm.
    """

    line: np.ndarray
    tube_radius: float

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        return self.line.min(0) - self.tube_radius, self.line.max(0) + self.tube_radius

    def distance(self, points: Points) -> np.ndarray:
        line = self.line.astype(np.float32)
        nearest = np.full(np.broadcast_shapes(*(p.shape for p in points)), np.inf, np.float32)
        for start, end in itertools.pairwise(line):
            step = end - start
            offsets = [p - s for p, s in zip(points, start, strict=True)]
            along = sum(o * s for o, s in zip(offsets, step, strict=True)) / (step @ step)
            along = np.clip(along, 0, 1)
            squared = sum((o - along * s) ** 2 for o, s in zip(offsets, step, strict=True))
            np.minimum(nearest, squared, out=nearest)
        return np.sqrt(nearest) - np.float32(self.tube_radius)

    def length(self) -> float:
        """Of the centre line."""
        return float(np.linalg.norm(np.diff(self.line, axis=0), axis=1).sum())

    def centroid(self) -> np.ndarray:
        lengths = np.linalg.norm(np.diff(self.line, axis=0), axis=1)
        middles = (self.line[1:] + self.line[:-1]) / 2
        cap = 4 / 3 * self.tube_radius  # the two half balls at the ends, as lengths of tube
        weighted = lengths @ middles + cap / 2 * (self.line[0] + self.line[-1])
        return weighted / (lengths.sum() + cap)

    def volume(self) -> float:
        # Where the line bends, the overlap inside and the wedge outside cancel to first order.
        r = self.tube_radius
        return float(np.pi * r**2 * self.length() + 4 / 3 * np.pi * r**3)

    def surface(self) -> float:
        r = self.tube_radius
        return float(2 * np.pi * r * self.length() + 4 * np.pi * r**2)

    def axes(self) -> tuple[float, float, float]:
        width = 2 * self.tube_radius
        return self.length() + width, width, width


def ball(centre: np.ndarray, radius: float) -> StarBody:
    """A sphere."""
    none = np.zeros(0)
    return StarBody(centre, np.full(3, radius), np.eye(3), np.zeros((0, 3)), none, none)


@functools.cache
def _sphere_quadrature() -> tuple[np.ndarray, np.ndarray]:
    """Directions [n, 3] and weights [n] that integrate over the unit sphere (Gauss × trapezoid)."""
    cosine, weight = np.polynomial.legendre.leggauss(96)
    azimuth = np.arange(192) * (2 * np.pi / 192)
    sine = np.sqrt(1 - cosine**2)[:, None]
    direction = np.stack(
        [cosine[:, None] + 0 * azimuth, sine * np.cos(azimuth), sine * np.sin(azimuth)], axis=-1
    )
    weights = np.repeat(weight * (2 * np.pi / 192), 192)
    return direction.reshape(-1, 3), weights


@dataclasses.dataclass(frozen=True)
class FlatBottomed:
    """A body cut off below a plane z = `floor` (nm); its volume has no closed form (nan)."""

    body: StarBody
    floor: float

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        low, high = self.body.bounds()
        return np.maximum(low, [self.floor, -np.inf, -np.inf]), high

    def distance(self, points: Points) -> np.ndarray:
        return np.maximum(self.body.distance(points), np.float32(self.floor) - points[0])

    def centroid(self) -> np.ndarray:
        return np.full(3, np.nan)

    def volume(self) -> float:
        return float('nan')

    def surface(self) -> float:
        return float('nan')

    def axes(self) -> tuple[float, float, float]:
        return self.body.axes()


def surface_points(body: StarBody) -> np.ndarray:
    """[n, 3] points all over the surface of a body, in nm."""
    directions, _ = _sphere_quadrature()
    directions = directions[::23]
    local = body.semi_axes * body.radius(directions)[:, None] * directions
    return body.centre + local @ body.rotation


def random_rotation(rng: np.random.Generator) -> np.ndarray:
    """[3, 3] rotation, uniform over all."""
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.sign(np.linalg.det(q))


def random_star_body(
    rng: np.random.Generator,
    centre: np.ndarray,
    semi_axes: np.ndarray,
    rotation: np.ndarray,
    *,
    deformation: float,
    roughness: float = 0.0,
) -> StarBody:
    """An ellipsoid with random long waves (`deformation`) and short ones (`roughness`).

    The two amplitudes are relative root-mean-square modulations of the radius.
    """
    n_long, n_short = 6, 16
    directions = rng.normal(size=(n_long + n_short, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    lengths = np.concatenate([rng.uniform(1.5, 4, n_long), rng.uniform(9, 22, n_short)])
    amplitudes = np.concatenate(
        [
            np.full(n_long, deformation * np.sqrt(2 / n_long)),
            np.full(n_short, roughness * np.sqrt(2 / n_short)),
        ]
    )
    kept = amplitudes > 0
    return StarBody(
        centre=centre,
        semi_axes=semi_axes,
        rotation=rotation,
        waves=(directions * lengths[:, None])[kept],
        amplitudes=amplitudes[kept],
        phases=rng.uniform(0, 2 * np.pi, n_long + n_short)[kept],
    )


def random_tube(
    rng: np.random.Generator,
    start: np.ndarray,
    direction: np.ndarray,
    *,
    length: float,
    radius: float,
    bending: float,
) -> Tube:
    """A tube that sets out along `direction` and bends by `bending` radians per µm (rms)."""
    n_steps = max(2, round(length / max(radius, length / 40)))
    step = length / n_steps
    heading = direction / np.linalg.norm(direction)
    turn = rng.normal(size=3)
    line = [np.asarray(start, float)]
    for _ in range(n_steps):
        turn = 0.8 * turn + 0.6 * rng.normal(size=3)
        heading = heading + bending * step / 1000 * turn
        heading = heading / np.linalg.norm(heading)
        line.append(line[-1] + step * heading)
    return Tube(np.stack(line), radius)
