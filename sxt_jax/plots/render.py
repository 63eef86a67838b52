"""Pictures of triangle surfaces without a display: a depth buffer in NumPy.

Triangles are drawn by size, those whose box of pixels has the same sides at once, so that the time
goes with the pixels that are tried and not with the triangles. Of all triangles over a pixel the
nearest is kept; only then is the light computed, once a pixel.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from scipy import ndimage

_CHUNK_FACES = 1 << 20
_CHUNK_TRIALS = 1 << 18  # larger ones leave the caches
_CHUNK_PIXELS = 1 << 17
_EMPTY = np.uint64(0)
_DEPTH_STEPS = 2**32 - 2

# Directions to the lights (right, up, to the viewer), and their shares of the brightness.
_KEY, _KEY_SHARE = np.array([-0.45, 0.6, 0.66]), 0.62
_FILL, _FILL_SHARE = np.array([0.6, -0.1, 0.8]), 0.18
_AMBIENT, _GLOSS, _SHININESS = 0.24, 0.22, 24
_CREASES = ((0.006, 0.55), (0.025, 0.45))  # radius as a share of the width, darkening
_COARSE = 4  # pixels to one where surroundings are averaged


@dataclasses.dataclass(frozen=True)
class View:
    """From where a scene is seen, in parallel projection.

    At elevation 90 it is seen as a slice is: x to the right, y down, z away from the viewer. Lower,
    the side of large y comes to the front. `azimuth` turns the scene about z before.

    Attributes:
      azimuth, elevation: in degrees.
    """

    azimuth: float = 25.0
    elevation: float = 50.0

    def axes(self) -> np.ndarray:
        """[3, 3] right, up and to the viewer (rows) in x, y, z."""
        a, e = np.radians((self.azimuth, self.elevation))
        level = np.array([[1, 0, 0], [0, -np.sin(e), -np.cos(e)], [0, np.cos(e), -np.sin(e)]])
        turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
        return level @ turn


def render_triangles(
    points: np.ndarray, faces: np.ndarray, colours: np.ndarray, *, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Draw closed surfaces, lit from the upper left and darker in creases.

    Args:
      points: [n, 3] vertices: column and row in pixels, and the height towards the viewer in the
        same unit; the middle of the first pixel is (0.5, 0.5).
      faces: [m, 3] vertex numbers, counter-clockwise seen from outside with the rows upwards, that
        is clockwise on the picture; others are not drawn.
      colours: [m, 3] of each triangle, RGB in [0, 1].
      shape: rows and columns of the picture.

    Returns:
      [rows, columns, 3] float32 in [0, 1], and the [rows, columns] mask of what is covered.
    """
    points = np.asarray(points, np.float32)
    low, high = float(points[:, 2].min()), float(points[:, 2].max())
    step = np.float64(_DEPTH_STEPS / max(high - low, 1e-6))
    nearest = np.full(shape[0] * shape[1], _EMPTY)
    for start in range(0, len(faces), _CHUNK_FACES):
        corners = points[faces[start : start + _CHUNK_FACES]]
        for face, pixel, height in _pixels(corners, shape):
            level = np.clip((height.astype(np.float64) - low) * step, 0, _DEPTH_STEPS) + 1
            entry = (level.astype(np.uint64) << np.uint64(32)) | (face + start).astype(np.uint64)
            np.maximum.at(nearest, pixel, entry)
    covered = nearest != _EMPTY
    depth = (nearest >> np.uint64(32)).astype(np.float32) * np.float32(1 / step) + np.float32(low)
    crease = _creases(depth.reshape(shape), covered.reshape(shape)).reshape(-1)
    picture = np.zeros((len(nearest), 3), np.float32)
    normals = _vertex_normals(points, faces)
    colours = np.asarray(colours, np.float32)

    def shade(pixels: np.ndarray) -> None:
        seen = (nearest[pixels] & np.uint64(0xFFFFFFFF)).astype(np.int64)
        light, gloss = _light(_normals_at(points, faces[seen], normals, pixels, shape[1]))
        lit = colours[seen] * (light * crease[pixels])[:, None] + gloss[:, None]
        picture[pixels] = np.minimum(lit, 1)

    pixels = np.flatnonzero(covered)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        parts = np.split(pixels, range(_CHUNK_PIXELS, len(pixels), _CHUNK_PIXELS))
        list(pool.map(shade, parts))
    return picture.reshape(*shape, 3), covered.reshape(shape)


def _pixels(
    corners: np.ndarray, shape: tuple[int, int]
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Face, pixel and height of all pixel middles that triangles [m, 3, 3] to the viewer cover."""
    x, y = corners[..., 0], corners[..., 1]
    area = (x[:, 1] - x[:, 0]) * (y[:, 2] - y[:, 0]) - (x[:, 2] - x[:, 0]) * (y[:, 1] - y[:, 0])
    left, top = (np.maximum(np.ceil(v.min(1) - 0.5), 0).astype(np.int64) for v in (x, y))
    right = np.minimum(np.floor(x.max(1) - 0.5), shape[1] - 1).astype(np.int64)
    bottom = np.minimum(np.floor(y.max(1) - 0.5), shape[0] - 1).astype(np.int64)
    n_x, n_y = right - left + 1, bottom - top + 1
    drawn = np.flatnonzero((area < 0) & (n_x > 0) & (n_y > 0))
    boxes = n_y[drawn] * (shape[1] + 1) + n_x[drawn]
    order = np.argsort(boxes, kind='stable')
    drawn, boxes = drawn[order], boxes[order]
    cuts = np.flatnonzero(np.diff(boxes)) + 1
    for group in np.split(drawn, cuts) if len(drawn) else []:
        rows, columns = np.divmod(np.arange(n_y[group[0]] * n_x[group[0]]), n_x[group[0]])
        batch = max(1, _CHUNK_TRIALS // len(rows))
        for i in range(0, len(group), batch):
            part = group[i : i + batch]
            column, row = left[part, None] + columns, top[part, None] + rows
            middle = [(v + 0.5).astype(np.float32) for v in (column, row)]
            weights = _weights(corners[part], area[part], *middle)
            inside = (weights[0] >= 0) & (weights[1] >= 0) & (weights[2] >= 0)
            height = sum(w * corners[part, k, 2, None] for k, w in enumerate(weights))
            face = np.broadcast_to(part[:, None], inside.shape)
            yield face[inside], (row * shape[1] + column)[inside], height[inside]


def _weights(
    corners: np.ndarray, area: np.ndarray, column: np.ndarray, row: np.ndarray
) -> list[np.ndarray]:
    """Barycentric coordinates, one array a corner, of points [m, k] in triangles [m, 3, …]."""
    x, y = (corners[:, :, axis, None] for axis in (0, 1))
    result = []
    for k in range(3):
        i, j = (k + 1) % 3, (k + 2) % 3
        # Relative to a corner: far from the origin the products would cancel badly.
        across, along = (x[:, j] - x[:, i]) * (row - y[:, i]), (y[:, j] - y[:, i])
        result.append((across - (column - x[:, i]) * along) / area[:, None])
    return result


def _normals_at(
    points: np.ndarray,
    faces: np.ndarray,
    normals: np.ndarray,
    pixels: np.ndarray,
    n_columns: int,
) -> np.ndarray:
    """[n, 3] unit normals (right, up, to the viewer) at pixels [n] of faces [n, 3], smoothed."""
    corners = points[faces]
    row, column = np.divmod(pixels, n_columns)
    a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    area = a[:, 0] * b[:, 1] - b[:, 0] * a[:, 1]
    middle = [(v[:, None] + 0.5).astype(np.float32) for v in (column, row)]
    weights = _weights(corners, area, *middle)
    mixed = sum(w * normals[faces[:, k]] for k, w in enumerate(weights))
    return mixed / np.maximum(np.linalg.norm(mixed, axis=1, keepdims=True), 1e-12)


def _vertex_normals(points: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """[n, 3] sums of the normals of all triangles around each vertex, times their areas."""
    total, upwards = np.zeros((len(points), 3)), np.array([1, -1, 1], np.float32)
    for start in range(0, len(faces), _CHUNK_FACES):
        part = faces[start : start + _CHUNK_FACES]
        p, q, r = (points[part[:, k]] * upwards for k in range(3))
        normal = np.cross(q - p, r - p)
        for k in range(3):
            for axis in range(3):
                total[:, axis] += np.bincount(part[:, k], normal[:, axis], len(points))
    length = np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)
    return (total / length).astype(np.float32)


def _light(normals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Brightness by Lambert's law under two lights, and the gloss of the first (Blinn)."""
    key, fill = ((v / np.linalg.norm(v)).astype(np.float32) for v in (_KEY, _FILL))
    lit = _AMBIENT + _KEY_SHARE * np.maximum(normals @ key, 0)
    lit += _FILL_SHARE * np.maximum(normals @ fill, 0)
    half = key + np.array([0, 0, 1], np.float32)
    half /= np.linalg.norm(half)
    return lit, _GLOSS * np.maximum(normals @ half, 0) ** _SHININESS


def _creases(depth: np.ndarray, covered: np.ndarray) -> np.ndarray:
    """Factors that darken what lies behind its surroundings (Luft, Colditz & Deussen 2006)."""
    scale = max(covered.shape) / _COARSE
    there = covered[::_COARSE, ::_COARSE].astype(np.float32)
    coarse = np.where(there > 0, depth[::_COARSE, ::_COARSE], 0)
    result = np.ones(depth.shape, np.float32)
    for radius, share in _CREASES:
        sigma = radius * scale
        weight = ndimage.gaussian_filter(there, sigma, truncate=2)
        around = ndimage.gaussian_filter(coarse, sigma, truncate=2) / np.maximum(weight, 1e-6)
        behind = _enlarged(around, depth.shape) - depth
        result *= 1 - share * np.clip(behind / (3 * sigma * _COARSE), 0, 1)
    return result


def _enlarged(coarse: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Every `_COARSE`-th pixel of a smooth picture, interpolated to all of them."""
    for axis, n in enumerate(shape):
        place = np.minimum(np.arange(n) / _COARSE, coarse.shape[axis] - 1)
        low = place.astype(np.int64)
        high = np.minimum(low + 1, coarse.shape[axis] - 1)
        share = (place - low).astype(np.float32).reshape((-1, 1) if axis == 0 else (1, -1))
        coarse = coarse.take(low, axis) * (1 - share) + coarse.take(high, axis) * share
    return coarse
