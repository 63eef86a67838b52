"""Marching cubes (Lorensen & Cline 1987) on a blurred mask, slab by slab along z.

Nothing as large as the mask is held in floating point: a slab of planes is blurred, searched for
cubes that the level crosses, and only their triangles are kept. Neighbouring slabs share a plane.
Both number the vertices on its edges in the same order, and these come last in the one and first
in the other, so the triangles of the one need no search to meet those of the other. Several
threads make slabs at once; NumPy leaves them alone, as scikit-image's marching cubes does not.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np

from sxt_jax.core.devices import usable_cores
from sxt_jax.measure.cube_cases import CENTRE, EDGES, SIDES, cube_cases

SLAB_VOXELS = 1 << 24  # of a slab; some 20 bytes each at a time, for each thread
_TILE = (24, 32, 512)  # blurred at once: what is smaller than the caches takes half the time
_KEPT = 1 << 24  # smaller blurred masks are not computed again
_NEAR = 1e-3  # vertices keep this distance, in edges, from voxel centres: none fall together
_MARCHED = 1 << 21  # voxels at a time, or one layer of cubes
_BINS = 4096

T = TypeVar('T')


@dataclasses.dataclass(frozen=True)
class BlurredMask:
    """A mask after a Gaussian, within a border of zeros, to be computed slab by slab.

    Attributes:
      mask: [z, y, x] bool.
      widths: standard deviations of the Gaussian (z, y, x) in voxels; it ends at four of them.
      slab_voxels: of a slab, about.
    """

    mask: np.ndarray
    widths: tuple[float, float, float]
    slab_voxels: int = SLAB_VOXELS

    @functools.cached_property
    def kernels(self) -> list[np.ndarray]:
        """Weights from the middle outwards, float32, for z, y and x."""
        halves = [np.exp(-0.5 * (np.arange(int(4 * w + 0.5) + 1) / w) ** 2) for w in self.widths]
        return [(h / (2 * h.sum() - h[0])).astype(np.float32) for h in halves]

    @property
    def pad(self) -> int:
        """Voxels of the border, beyond which the Gaussian does not reach."""
        return max(len(k) for k in self.kernels)

    @property
    def shape(self) -> tuple[int, ...]:
        """With the border."""
        return tuple(n + 2 * self.pad for n in self.mask.shape)

    def each_slab(self, function: Callable[[np.ndarray, int], T]) -> list[T]:
        """The function's results for the slabs in their order, by several threads.

        Args:
          function: of a blurred slab [planes, y, x], whose last plane is the first of the next
            (and of the last slab, zero), and of the number of its first plane. It is not to keep
            the slab, whose memory is used again.
        """
        n_z, n_y, n_x = self.shape
        step = min(max(1, self.slab_voxels // (n_y * n_x) - 1), n_z - 1)
        starts = range(0, n_z - 1, step)
        if len(starts) == 1 and n_z * n_y * n_x <= _KEPT:
            return [function(self._whole, 0)]
        n_workers = min(usable_cores(), len(starts))
        # Used again and again: a fresh page of memory costs as much as the arithmetic on it.
        buffers = [np.empty((step + 1, n_y, n_x), np.float32) for _ in range(n_workers)]

        def one(start: int) -> T:
            buffer = buffers.pop()
            planes = buffer[: min(start + step, n_z - 1) + 1 - start]
            self._blur(start, planes)
            result = function(planes, start)
            buffers.append(buffer)
            return result

        with ThreadPoolExecutor(n_workers) as pool:
            return list(pool.map(one, starts))

    @functools.cached_property
    def _whole(self) -> np.ndarray:
        planes = np.empty(self.shape, np.float32)
        self._blur(0, planes)
        return planes

    def _blur(self, start: int, planes: np.ndarray) -> None:
        """Blur some planes, tile by tile; where the mask is empty there is nothing to compute."""
        n_z, n_y, n_x = planes.shape
        for z, y, x in itertools.product(
            range(0, n_z, _TILE[0]), range(0, n_y, _TILE[1]), range(0, n_x, _TILE[2])
        ):
            tile = planes[z : z + _TILE[0], y : y + _TILE[1], x : x + _TILE[2]]
            block = self._block((start + z, y, x), tile.shape)
            tile[...] = 0 if block is None else _convolved(block, self.kernels)

    def _block(self, start: tuple[int, int, int], shape: tuple[int, ...]) -> np.ndarray | None:
        """A tile of the mask as float32, wider by the Gaussian's reach; None where it is empty."""
        inside, place, wide = [], [], []
        for first, n, size, kernel in zip(start, shape, self.mask.shape, self.kernels, strict=True):
            low = first - self.pad - len(kernel) + 1
            high = first - self.pad + n + len(kernel) - 1
            inside.append(slice(max(low, 0), max(min(high, size), 0)))
            place.append(slice(inside[-1].start - low, inside[-1].stop - low))
            wide.append(high - low)
        part = self.mask[tuple(inside)]
        if not part.any():
            return None
        block = np.zeros(wide, np.float32)
        block[tuple(place)] = part
        return block


def _convolved(block: np.ndarray, kernels: list[np.ndarray]) -> np.ndarray:
    """A block convolved with symmetric kernels along its axes, smaller by their reach."""
    for axis, kernel in enumerate(kernels):
        reach = len(kernel) - 1
        n = block.shape[axis] - 2 * reach
        at = [(slice(None),) * axis + (slice(k, k + n),) for k in range(2 * reach + 1)]
        result = block[at[reach]] * kernel[0]
        both = np.empty_like(result)
        for k in range(1, reach + 1):
            np.add(block[at[reach - k]], block[at[reach + k]], out=both)
            both *= kernel[k]
            result += both
        block = result
    return block


def histogram(blurred: BlurredMask) -> np.ndarray:
    """Number of voxels by value: [n] int64 of values from 0 to 1 in equal bins, without zeros."""

    def count(planes: np.ndarray, _: int) -> np.ndarray:
        own = planes[:-1]
        bins = (own[own > 0] * np.float32(_BINS)).astype(np.int32)
        return np.bincount(np.minimum(bins, _BINS - 1), minlength=_BINS)

    return np.sum(blurred.each_slab(count), axis=0)


class LevelSurface(NamedTuple):
    """A closed surface where a blurred mask has a value.

    Attributes:
      vertices: [n, 3] float32 (z, y, x).
      faces: [m, 3] int32 counter-clockwise seen from outside in right-handed (x, y, z) axes.
      volume: what is enclosed, in voxels.
      change: of the volume with the level, its derivative.
    """

    vertices: np.ndarray
    faces: np.ndarray
    volume: float
    change: float


def level_surface(
    blurred: BlurredMask, level: float, *, scale: np.ndarray, shift: np.ndarray
) -> LevelSurface:
    """Marching cubes, see the module.

    Args:
      blurred: the mask.
      level: above 0.
      scale, shift: [3]; vertices are (voxel of the mask + shift) · scale.
    """
    numbers: list[np.ndarray] = []  # of vertices, one for each thread, used again and again

    def one(planes: np.ndarray, start: int) -> list[LevelSurface]:
        step = max(1, _MARCHED // planes[0].size)
        n_edges = (min(step, len(planes) - 1) + 1) * 3 * planes[0].size
        number = numbers.pop() if numbers else np.empty(0, np.int32)
        number = number if len(number) >= n_edges else np.empty(n_edges, np.int32)
        parts = []
        for at in range(0, len(planes) - 1, step):
            part = _march(planes[at : at + step + 1], at + start, level, number)
            vertices = (part.vertices + (shift - blurred.pad)) * scale
            parts.append(part._replace(vertices=vertices.astype(np.float32)))
        numbers.append(number)
        return parts

    return _joined_parts(list(itertools.chain(*blurred.each_slab(one))))


def _joined_parts(parts: list[LevelSurface]) -> LevelSurface:
    """Parts as `_march` makes them; the list is empty then, and so is the memory."""
    volume, change = sum(p.volume for p in parts), sum(p.change for p in parts)
    n_vertices, n_faces = sum(len(p.vertices) for p in parts), sum(len(p.faces) for p in parts)
    vertices, faces = np.empty((n_vertices, 3), np.float32), np.empty((n_faces, 3), np.int32)
    while parts:
        part = parts.pop()
        n_vertices, n_faces = n_vertices - len(part.vertices), n_faces - len(part.faces)
        vertices[n_vertices : n_vertices + len(part.vertices)] = part.vertices
        np.add(part.faces, n_vertices, out=faces[n_faces : n_faces + len(part.faces)])
    return LevelSurface(vertices, faces, volume, change)


def _march(planes: np.ndarray, start: int, level: float, number: np.ndarray) -> LevelSurface:
    """A part of the surface: vertices in voxels (float64), without those of the last plane.

    Faces count from the part's first vertex; those beyond its own are the next part's first.
    The volume is the one between the triangles and the plane z = 0.

    Args:
      planes: blurred.
      start: number of the first.
      level: of the surface.
      number: int32 memory for a number for each edge.
    """
    above = planes > np.float32(level)
    crossed = _crossed_edges(above)
    n_own = int(np.searchsorted(crossed, (len(planes) - 1) * 3 * planes[0].size))
    cubes, keys = _crossed_cubes(above, planes, level)
    faces, n_centres = _faces(planes.shape, crossed, n_own, cubes, keys, number)
    points, speeds = _points(planes, crossed, level)
    points[0] += start
    if n_centres:
        points, speeds = (
            [_with_centres(v, n_own, n_centres, faces) for v in values]
            for values in (points, speeds)
        )
    vertices = np.stack([p[: n_own + n_centres] for p in points], axis=1)
    return LevelSurface(vertices, faces, *_volume(points, speeds, faces))


def _crossed_edges(above: np.ndarray) -> np.ndarray:
    """Edges between a voxel above the level and one not, sorted by plane, direction and place.

    Edge 3 p + k of a flat [planes, 3, y, x] array begins at that voxel and runs along x (k = 0), y
    or z: those within a plane come first, as the next slab has them, too.
    """
    n_z, n_y, n_x = above.shape
    crossed = np.zeros((n_z, 3, n_y, n_x), bool)
    np.not_equal(above[:, :, 1:], above[:, :, :-1], out=crossed[:, 0, :, :-1])
    np.not_equal(above[:, 1:], above[:, :-1], out=crossed[:, 1, :-1])
    np.not_equal(above[1:], above[:-1], out=crossed[:-1, 2])
    return np.flatnonzero(crossed)


def _crossed_cubes(
    above: np.ndarray, planes: np.ndarray, level: float
) -> tuple[np.ndarray, np.ndarray]:
    """First voxels of the cubes that the level crosses, and their keys in `CubeCases`."""
    one = above.view(np.uint8)
    two = one[..., :-1] | one[..., 1:] << np.uint8(1)
    four = two[:, :-1] | two[:, 1:] << np.uint8(2)
    corners = np.zeros(above.shape, np.uint8)
    np.bitwise_or(four[:-1], four[1:] << np.uint8(4), out=corners[:-1, :-1, :-1])
    cubes = np.flatnonzero(corners + np.uint8(1) > 1)  # neither 0 nor 255
    keys = corners.reshape(-1)[cubes].astype(np.int16)
    open_sides = cube_cases().open_sides[keys]
    some = np.flatnonzero(open_sides)
    keys[some] |= _joined(planes, cubes[some], level, open_sides[some]).astype(np.int16) << 8
    return cubes, keys


def _joined(
    planes: np.ndarray, cubes: np.ndarray, level: float, open_sides: np.ndarray
) -> np.ndarray:
    """Bit s: on side s the corners above the level are joined: the saddle between is above it."""
    steps = _corner_steps(planes.shape)
    values = planes.reshape(-1)[cubes[:, None] + steps] - np.float32(level)
    joined = np.zeros(len(cubes), np.uint8)
    for s, (a, b, c, d) in enumerate(SIDES):
        one, other = values[:, a] * values[:, c], values[:, b] * values[:, d]
        is_joined = np.where(values[:, a] > 0, one > other, other > one)
        joined |= is_joined.astype(np.uint8) << s
    return joined & open_sides


def _corner_steps(shape: tuple[int, ...]) -> np.ndarray:
    """[8] from a cube's first voxel to its corners, in the flat array."""
    _, n_y, n_x = shape
    corner = np.arange(8)
    return ((corner >> 2) * n_y + (corner >> 1 & 1)) * n_x + (corner & 1)


def _faces(
    shape: tuple[int, ...],
    crossed: np.ndarray,
    n_own: int,
    cubes: np.ndarray,
    keys: np.ndarray,
    number: np.ndarray,
) -> tuple[np.ndarray, int]:
    """[m, 3] int32 triangles of the cubes, and how many vertices in the middle of loops there are.

    Vertices are numbered: the slab's own edges, middles, edges of the last plane.
    """
    cases, plane = cube_cases(), shape[1] * shape[2]
    has_centre = cases.has_centre[keys]
    n_centres = int(np.count_nonzero(has_centre))
    # Only the places of crossed edges are ever touched, and looked up.
    number[crossed[:n_own]] = np.arange(n_own, dtype=np.int32)
    number[crossed[n_own:]] = np.arange(n_own, len(crossed), dtype=np.int32) + n_centres
    count = cases.n_triangles[keys]
    owner = np.repeat(np.arange(len(cubes)), count)
    row = np.repeat(cases.first[keys] - (np.cumsum(count) - count), count)
    row += np.arange(len(row), dtype=row.dtype)
    edges = cases.edges[row]
    first = cubes + 2 * plane * (cubes // plane)
    faces = number[first[owner][:, None] + _edge_steps(shape)[edges]]
    if n_centres:
        fan = np.flatnonzero(edges[:, 2] == CENTRE)
        faces[fan, 2] = n_own + np.cumsum(has_centre)[owner[fan]] - 1
    return faces, n_centres


def _edge_steps(shape: tuple[int, ...]) -> np.ndarray:
    """[13] from a cube's first edge along x to its edges, in [planes, 3, y, x]; 0 for `CENTRE`."""
    _, n_y, n_x = shape
    steps = [
        (3 * (corner >> 2) + 2 - axis) * n_y * n_x + (corner >> 1 & 1) * n_x + (corner & 1)
        for axis, corner in EDGES
    ]
    return np.array([*steps, 0])


def _points(
    planes: np.ndarray, crossed: np.ndarray, level: float
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """z, y and x of the vertices on edges by linear interpolation, and their change with the level.

    Float64 in voxels from the first plane.
    """
    n_z, n_y, n_x = planes.shape
    z, kind, y, x = np.unravel_index(crossed, (n_z, 3, n_y, n_x))
    voxel = (z * n_y + y) * n_x + x
    flat = planes.reshape(-1)
    here, there = flat[voxel], flat[voxel + np.array([1, n_x, n_y * n_x])[kind]]
    speed = 1 / (there - here).astype(np.float64)
    share = np.clip((np.float32(level) - here) * speed, _NEAR, 1 - _NEAR)
    along = [kind == k for k in (2, 1, 0)]
    points = [p + share * a for p, a in zip((z, y, x), along, strict=True)]
    return points, [speed * a for a in along]


def _with_centres(place: np.ndarray, n_own: int, n_centres: int, faces: np.ndarray) -> np.ndarray:
    """One coordinate of all vertices, with the mean of its loop for each middle."""
    place = np.concatenate([place[:n_own], np.zeros(n_centres), place[n_own:]])
    fan = faces[(faces[:, 2] >= n_own) & (faces[:, 2] < n_own + n_centres)]
    middle = fan[:, 2] - n_own
    total = np.bincount(middle, place[fan[:, 0]], n_centres)
    place[n_own : n_own + n_centres] = total / np.bincount(middle, minlength=n_centres)
    return place


def _volume(
    points: list[np.ndarray], speeds: list[np.ndarray], faces: np.ndarray
) -> tuple[float, float]:
    """Between triangles and the plane z = 0, and its change as the vertices move."""
    corners = faces.T
    (z0, z1, z2), (y0, y1, y2), (x0, x1, x2) = ([p[f] for f in corners] for p in points)
    # Twice the triangles' shadows on the planes across z, y and x.
    shadow = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
    volume = _inner(shadow, z0 + z1 + z2)
    change = sum(_inner(shadow, speeds[0][f]) for f in corners)
    shadow = (z1 - z0) * (x2 - x0) - (z2 - z0) * (x1 - x0)
    change += sum(_inner(shadow, speeds[1][f]) for f in corners)
    shadow = (y1 - y0) * (z2 - z0) - (y2 - y0) * (z1 - z0)
    change += sum(_inner(shadow, speeds[2][f]) for f in corners)
    return volume / 6, change / 6


def _inner(a: np.ndarray, b: np.ndarray) -> float:
    # Not np.dot: the threads of its library would fight with those of the slabs.
    return float(np.einsum('i,i->', a, b))
