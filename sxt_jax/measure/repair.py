"""Repair of triangle surfaces: closed, without pinches, without triangles that say nothing."""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from sxt_jax.measure.surface import Surface

# Odd numbers without a pattern: the fractions of the golden ratio, √2 and √3 in 64 bits.
_HASH = np.array([0x9E3779B97F4A7C15, 0x6A09E667F3BCC909, 0xBB67AE8584CAA73B], np.uint64)


def repair(surface: Surface) -> Surface:
    """The surface as a closed manifold: every edge has two triangles, every vertex one fan.

    Equal vertices become one, triangles without three different corners go, as do pairs of equal
    triangles of opposite sense, and repeated ones. Where sheets touch in an edge or a vertex they
    are parted, which leaves every triangle in place. Each hole is closed by triangles to the mean
    of its rim. Marching cubes leaves touching sheets where two triangles fall into one.

    Args:
      surface: triangles with one sense of rotation.
    """
    vertices = surface.vertices_nm.astype(np.float64)
    at, names = _equal_rows(vertices)
    vertices, faces = vertices[at], _distinct(names[surface.faces])
    here, there = _neighbours(faces, len(vertices))
    corner_of, n_corners = _fans(faces, here, there)
    placed = np.zeros((n_corners, 3))
    placed[corner_of] = vertices[faces.reshape(-1)]
    faces = corner_of.reshape(-1, 3)
    open_edges = np.setdiff1d(np.arange(faces.size), here, assume_unique=True)
    placed, faces = _close_holes(placed, faces, open_edges)
    return Surface(placed.astype(surface.vertices_nm.dtype), faces.astype(np.int32))


def is_closed(surface: Surface) -> bool:
    """Whether every edge belongs to exactly two triangles, once in each direction."""
    n, faces = len(surface.vertices_nm), surface.faces
    # One number an edge: its ends, the smaller first, and its direction; 8 bytes each, in place.
    numbers = np.empty((3, len(faces)), np.int64)
    for k in range(3):
        start, end = faces[:, k], faces[:, (k + 1) % 3]
        np.multiply(np.minimum(start, end), n, out=numbers[k], dtype=np.int64)
        numbers[k] += np.maximum(start, end)
        numbers[k] *= 2
        numbers[k] += start > end
    edges = numbers.reshape(-1)
    edges.sort()
    there, back = edges[0::2], edges[1::2]
    return (
        len(there) == len(back)
        and bool((there & 1 == 0).all())
        and bool((back == there + 1).all())
        and bool((there[1:] > there[:-1]).all())
    )


def _equal_rows(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which rows stand for all that are equal, and which of these each row is."""
    # Sorted by a hash, ten times as fast as np.unique with an axis; zeros lose their sign.
    bits = (rows + 0).view(np.uint64)
    bits ^= bits >> np.uint64(29)
    order = np.argsort(bits @ _HASH)
    ranked = rows[order]
    is_new = np.ones(len(rows), bool)
    is_new[1:] = np.logical_or.reduce([c[1:] != c[:-1] for c in ranked.T])
    group = np.empty(len(rows), np.int64)
    group[order] = np.cumsum(is_new) - 1
    return order[is_new], group


def _edges(faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[3 m] start and end of the directed edges; edge 3 f + k begins at corner k of face f."""
    return faces.reshape(-1), np.roll(faces, -1, axis=1).reshape(-1)


def _distinct(faces: np.ndarray) -> np.ndarray:
    """Faces with three different corners, each once; opposite pairs cancel."""
    a, b, c = faces.T
    faces = faces[(a != b) & (b != c) & (c != a)]
    # The smallest corner first, which keeps the sense of rotation.
    first = np.argmin(faces, axis=1)[:, None]
    turned = np.take_along_axis(faces, (first + np.arange(3)) % 3, axis=1)
    at, group = _equal_rows(np.sort(turned, axis=1))
    if len(at) == len(faces):
        return faces
    sense = np.where(turned[:, 1] < turned[:, 2], 1, -1)
    balance = np.bincount(group, sense, len(at))
    kept = turned[at]
    wrong = np.sign(balance) != sense[at]
    kept[wrong] = kept[wrong][:, [0, 2, 1]]
    return kept[balance != 0]


def _neighbours(faces: np.ndarray, n_vertices: int) -> tuple[np.ndarray, np.ndarray]:
    """Directed edges that have a partner in the other direction, and which that is.

    Of several partners each takes another one, so that sheets touching in an edge are told apart.
    """
    start, end = _edges(faces)
    forward = np.argsort(start * n_vertices + end, kind='stable')
    backward = np.argsort(end * n_vertices + start, kind='stable')
    one, other = (start * n_vertices + end)[forward], (end * n_vertices + start)[backward]
    if np.array_equal(one, other):
        return forward, backward
    # The k-th edge of a kind meets the k-th of its opposites.
    first = np.searchsorted(one, one)
    rank = np.arange(len(one)) - first
    place = np.searchsorted(other, one) + rank
    found = place < len(other)
    found[found] = other[place[found]] == one[found]
    return forward[found], backward[place[found]]


def _fans(faces: np.ndarray, here: np.ndarray, there: np.ndarray) -> tuple[np.ndarray, int]:
    """[3 m] fan of triangles around a vertex that each corner belongs to, and how many there are.

    An edge from corner k of a face meets the neighbour's edge that begins at its own end.
    """
    following = here - here % 3 + (here + 1) % 3
    beyond = there - there % 3 + (there + 1) % 3
    rows, columns = np.concatenate([here, following]), np.concatenate([beyond, there])
    graph = sparse.coo_matrix((np.ones(len(rows), bool), (rows, columns)), (faces.size,) * 2)
    n, fan = csgraph.connected_components(graph, directed=False)
    return fan.astype(np.int64), n


def _close_holes(
    vertices: np.ndarray, faces: np.ndarray, open_edges: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Each rim of edges without a neighbour gets a fan of triangles around its mean."""
    if not len(open_edges):
        return vertices, faces
    start, end = (ends[open_edges] for ends in _edges(faces))
    rim_vertices, place = np.unique(np.concatenate([start, end]), return_inverse=True)
    one, other = np.split(place.reshape(-1), 2)
    graph = sparse.coo_matrix((np.ones(len(one), bool), (one, other)), (len(rim_vertices),) * 2)
    n, rim = csgraph.connected_components(graph, directed=False)
    count = np.bincount(rim, minlength=n)[:, None]
    middle = np.stack([np.bincount(rim, v, n) for v in vertices[rim_vertices].T], 1) / count
    fan = np.stack([end, start, len(vertices) + rim[one]], axis=1)
    return np.concatenate([vertices, middle]), np.concatenate([faces, fan])
