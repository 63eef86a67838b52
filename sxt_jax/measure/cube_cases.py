"""How a level surface crosses a cube of eight voxels: the cases of marching cubes.

The table is derived, not copied: on each side of the cube the edges that the surface crosses are
joined to segments, the segments to closed loops, the loops are filled with triangles. A side with
two corners above the level at opposite ends can be joined in two ways; which of them is told by
the values (asymptotic decider, Nielson & Hamann 1991), so each such side adds a bit to the case.
As two cubes agree on the side they share, and no triangle has a side in there but the segments,
the surface of a whole volume is closed and every edge has two triangles. Where a loop cannot be
filled like that its middle becomes a vertex of its own (Chernyaev 1995; Lewiner et al. 2003).
"""

from __future__ import annotations

import functools
import itertools
from typing import NamedTuple

import numpy as np

CENTRE = 12  # the number, after those of the edges, of a vertex in the middle of a loop

# Corner 4 dz + 2 dy + dx; an edge is its axis (0: z) and the corner where it begins.
EDGES = tuple((axis, c) for axis in range(3) for c in range(8) if not c & (4 >> axis))
_NUMBER = {frozenset((c, c | (4 >> axis))): i for i, (axis, c) in enumerate(EDGES)}


def _sides() -> tuple[tuple[int, ...], ...]:
    """The corners of each side, counter-clockwise seen from outside in (x, y, z) axes."""
    sides = []
    for axis, upper in itertools.product(range(3), (False, True)):
        one, other = (4 >> a for a in range(3) if a != axis)
        base = (4 >> axis) * upper
        ring = (base, base | one, base | one | other, base | other)
        # z, y, x are left-handed, and y has its two neighbours the other way round.
        sides.append(ring if upper == (axis == 1) else ring[::-1])
    return tuple(sides)


SIDES = _sides()
_SIDES_OF = [
    {s for s, ring in enumerate(SIDES) if c in ring and c | (4 >> axis) in ring}
    for axis, c in EDGES
]


class CubeCases(NamedTuple):
    """Triangles by key: bit c: corner c is above the level; bit 8 + s: side s, where that is open.

    Attributes:
      open_sides: [256] uint8, bit s: side s has two segments that can be joined in two ways. Its
        bit in the key is set where the corners above the level are joined.
      first, n_triangles: [2¹⁴] int32 triangles of a key: where they begin in `edges`, and how many.
      edges: [n, 3] uint8 edges (or `CENTRE`) on which the corners of a triangle lie,
        counter-clockwise seen from below the level.
      has_centre: [2¹⁴] bool, whether `CENTRE` is among them.
    """

    open_sides: np.ndarray
    first: np.ndarray
    n_triangles: np.ndarray
    edges: np.ndarray
    has_centre: np.ndarray


@functools.cache
def cube_cases() -> CubeCases:
    """The table of all cases, see the module."""
    open_sides = np.zeros(256, np.uint8)
    first, n_triangles = np.zeros((2, 1 << 14), np.int32)
    has_centre = np.zeros(1 << 14, bool)
    edges: list[tuple[int, int, int]] = []
    for corners in range(256):
        open_ = [s for s in range(6) if len(_runs(corners, SIDES[s])) == 2]
        open_sides[corners] = sum(1 << s for s in open_)
        for joined in itertools.product((0, 1), repeat=len(open_)):
            sides = sum(bit << s for bit, s in zip(joined, open_, strict=True))
            triangles = [t for loop in _loops(corners, sides) for t in _fill(tuple(loop))]
            key = corners | sides << 8
            first[key], n_triangles[key] = len(edges), len(triangles)
            has_centre[key] = any(CENTRE in t for t in triangles)
            edges += triangles
    return CubeCases(open_sides, first, n_triangles, np.array(edges, np.uint8), has_centre)


def _runs(corners: int, ring: tuple[int, ...]) -> list[tuple[int, int]]:
    """Runs of corners above the level on a side: the places in the ring before and at their end."""
    above = [corners >> c & 1 for c in ring] * 3
    runs = []
    for i in range(4):
        if above[i + 1] and not above[i]:
            n = above[i + 1 :].index(0)
            runs.append((i, (i + n) % 4))
    return runs


def _loops(corners: int, joined: int) -> list[list[int]]:
    """Closed loops of edges, along which the corners above the level are on the left."""
    following: dict[int, int] = {}
    for s, ring in enumerate(SIDES):
        edge = [_NUMBER[frozenset((ring[i], ring[(i + 1) % 4]))] for i in range(4)]
        runs = _runs(corners, ring)
        # Not joined, a segment parts a run from the rest; joined, the rest from two runs.
        ends = [end for _, end in runs]
        if joined >> s & 1:
            ends.reverse()
        following.update((edge[i], edge[j]) for (i, _), j in zip(runs, ends, strict=True))
    loops = []
    while following:
        loop = [min(following)]
        while loop[-1] in following:
            loop.append(following.pop(loop[-1]))
        loops.append(loop[:-1])
    return loops


def _fill(loop: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """Triangles that fill a loop, with no inner edge in a side of the cube."""
    n = len(loop)

    @functools.cache
    def fill(i: int, j: int) -> tuple[tuple[int, int, int], ...] | None:
        """Triangles between the chord from i to j and the loop; None: there are none."""
        if j - i < 2:
            return ()
        if j - i < n - 1 and _SIDES_OF[loop[i]] & _SIDES_OF[loop[j]]:
            return None
        for k in range(i + 1, j):
            one, other = fill(i, k), fill(k, j)
            if one is not None and other is not None:
                return (*one, *other, (loop[i], loop[k], loop[j]))
        return None

    found = fill(0, n - 1)
    if found is None:
        return [(a, b, CENTRE) for a, b in zip(loop, (*loop[1:], loop[0]), strict=True)]
    return list(found)
