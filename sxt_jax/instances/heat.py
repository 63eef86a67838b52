"""Heat that spreads from the centre of every cell and stays inside it, on any device."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from scipy import ndimage
from skimage import measure

from sxt_jax.instances.cells import Cells, centres

# What a source adds per iteration. Only ratios matter for unit vectors, and a power of two rounds
# nothing: with it, float32 reaches down to 1e-67 of the source. Below 1e-60 the published flows
# fade out, so nothing of them is lost to underflow.
SOURCE = 2.0**96

# Voxels of a pack. On a CPU one iteration should touch no more than the cache of one core holds;
# an accelerator wants few large steps.
CPU_PACK, DEVICE_PACK = 2**17, 2**22


def spread_heat(cells: Cells) -> np.ndarray:
    """Heat after the published number of iterations, in units of 1 / SOURCE.

    Cellpose, Stringer et al. 2021 (cellpose/dynamics.py of MouseLand/cellpose, 849ca11f): an
    iteration adds 1 at every centre, then replaces each voxel by the sum over itself and its
    neighbours of the same cell (2-D: 3×3, 3-D: 6 faces) divided by 9 (2-D) or 7 (3-D). The
    number of iterations is 2 (2-D) or 6 (3-D) times the largest sum of (extent + 1) of any cell.

    Cells exchange no heat, so each is taken out with its box, many boxes into one flat array (a
    pack), and all iterations of a pack run at once. Packs are filled and read on the host.

    Args:
      cells: of [z, y, x] or [y, x], at least one.

    Returns:
      the image's shape, float32; 0 in the background and in pieces of a cell that do not touch
      the piece with its centre.
    """
    heat = np.zeros(cells.labels.shape, np.float32)
    centre = centres(cells)
    rooms = _rooms(cells, centre)
    n_iter = {2: 2, 3: 6}[cells.rank] * int((cells.extent + 1).sum(1).max())
    on_cpu = jax.default_backend() == 'cpu'

    def run(pack: _Pack) -> None:
        weight = pack.fill(rooms, centre)
        pack.paste(np.asarray(_iterate(weight, pack.strides, n_iter)), weight, rooms, heat)

    # XLA runs a loop over arrays of this size on one core; a thread for each core uses them all.
    with ThreadPoolExecutor(os.cpu_count() if on_cpu else 1) as pool:
        list(pool.map(run, _packs(rooms.extent, CPU_PACK if on_cpu else DEVICE_PACK)))
    return heat


def _rooms(cells: Cells, centre: np.ndarray) -> Cells:
    """The cells with boxes that need not hold more than what heat can reach.

    A few stray voxels can blow up the box of a cell. Heat never gets to them, so where boxes are
    mostly empty, those of the pieces with the centres do as well.
    """
    if cells.extent.prod(1).sum() <= 8 * cells.count.sum():
        return cells
    # Pieces of cells are joined by what the iterations read: corners in 2-D, faces in 3-D.
    pieces = measure.label(cells.labels, background=0, connectivity={2: 2, 3: 1}[cells.rank])
    boxes = ndimage.find_objects(pieces)
    reached = [boxes[piece - 1] for piece in pieces[tuple(centre.T)].tolist()]
    bounds = np.array([[(s.start, s.stop) for s in box] for box in reached])
    return dataclasses.replace(cells, start=bounds[..., 0], stop=bounds[..., 1])


@dataclasses.dataclass(frozen=True)
class _Pack:
    """Boxes of cells in one flat array, behind each other along the first axis.

    After each row, slice and box follows at least one voxel of no cell. So a neighbour is always
    the same number of voxels away, and steps over an edge end in a voxel that stays 0.
    """

    length: int
    members: Sequence[int]  # indices of cells
    first: Sequence[int]  # where the boxes start along the first axis
    sides: tuple[int, ...]  # of the other axes

    @property
    def strides(self) -> np.ndarray:
        """Voxels from one to the next along each axis but the last."""
        return np.array([math.prod(self.sides[i:]) for i in range(len(self.sides))], np.int32)

    def fill(self, cells: Cells, centre: np.ndarray) -> np.ndarray:
        """[length] float32: 1 / divisor in cells, with a minus sign at their centres."""
        share = np.float32(1 / {2: 9, 3: 7}[cells.rank])
        weight = np.zeros(self.length, np.float32)
        rows = self._rows(weight)
        for cell, box, place in self._places(cells):
            np.multiply(cells.labels[box] == cell + 1, share, out=rows[place])
        first = np.array(self.first)
        at = (centre - cells.start)[self.members]
        rows[(at[:, 0] + first, *at[:, 1:].T)] = -share
        return weight

    def paste(self, spread: np.ndarray, weight: np.ndarray, cells: Cells, heat: np.ndarray) -> None:
        """Put the voxels of the cells, and no others, back into the image."""
        rows, own = self._rows(spread), self._rows(weight != 0)
        for _, box, place in self._places(cells):
            np.copyto(heat[box], rows[place], where=own[place])

    def _rows(self, flat: np.ndarray) -> np.ndarray:
        """The pack as an image, without what is left over at its end."""
        unit = math.prod(self.sides)
        return flat[: len(flat) // unit * unit].reshape(-1, *self.sides)

    def _places(self, cells: Cells) -> Iterator[tuple[int, tuple[slice, ...], tuple[slice, ...]]]:
        """Of each cell: its index, its box in the image, and the same box in the pack."""
        start, stop = cells.start[self.members], cells.stop[self.members]
        low = np.zeros_like(start)
        low[:, 0] = self.first
        corners = np.stack([start, stop, low, low + stop - start], axis=-1).tolist()
        for cell, corner in zip(self.members, corners, strict=True):
            box = tuple([slice(a, b) for a, b, _, _ in corner])
            yield cell, box, tuple([slice(a, b) for _, _, a, b in corner])


def _packs(extent: np.ndarray, length: int) -> Iterator[_Pack]:
    """Boxes of similar sides together, as many as `length` voxels hold; a larger one alone."""
    sides = extent + 1
    limit = min(length, _rounded_up(int(sides.prod(1).sum())))
    # Sorted by the last sides but one, and by the last ones forwards and backwards in turn.
    turn = np.where(sides[:, -2] % 2, -1, 1) if extent.shape[1] == 3 else 1
    keys = (turn * sides[:, -1], *sides[:, 1:-1].T)
    members: list[int] = []
    first: list[int] = []
    depth, widest = 0, (0,) * (extent.shape[1] - 1)
    order = np.lexsort(keys)
    for cell, (deep, *wide) in zip(order.tolist(), sides[order].tolist(), strict=True):
        wider = tuple(map(max, widest, wide))
        if members and (depth + deep) * math.prod(wider) > limit:
            yield _pack(members, first, depth, widest, limit)
            members, first, depth, wider = [], [], 0, tuple(wide)
        members.append(cell)
        first.append(depth)
        depth, widest = depth + deep, wider
    yield _pack(members, first, depth, widest, limit)


def _pack(
    members: list[int], first: list[int], depth: int, sides: tuple[int, ...], limit: int
) -> _Pack:
    return _Pack(max(limit, _rounded_up(depth * math.prod(sides))), members, first, sides)


def _rounded_up(n: int) -> int:
    """The next of four lengths an octave: each is compiled once."""
    step = 2 ** max(10, (n - 1).bit_length() - 3)
    return -(-n // step) * step


@jax.jit
def _iterate(weight: Array, strides: Array, n_iter: Array) -> Array:
    """[length] heat of a pack after an even number of iterations ≥ 2."""
    length = weight.shape[0]
    share, source = jnp.abs(weight), jnp.where(weight < 0, SOURCE, 0)

    # Two buffers in turn: XLA:CPU writes the new values straight into the other one. Written
    # into their own buffer they cost 70 times as much (2026-11, 2 cores, 0.26 ns a voxel).
    def step(old: Array, new: Array) -> Array:
        values = share * _neighbour_sum(old, strides, length) + source
        return lax.dynamic_update_slice(new, values, (length,))

    def pair(_: Array, buffers: tuple[Array, Array]) -> tuple[Array, Array]:
        even, odd = buffers
        odd = step(even, odd)
        return step(odd, even), odd

    # What is kept includes the next iteration's source, but for the last iteration.
    start = jnp.zeros(3 * length).at[length : 2 * length].set(source)
    even, odd = lax.fori_loop(0, n_iter // 2 - 1, pair, (start, start))
    return share * _neighbour_sum(step(even, odd), strides, length)


def _neighbour_sum(padded: Array, strides: Array, length: int) -> Array:
    """Sum over each voxel and its neighbours: 3×3 in 2-D, with the 6 faces in 3-D.

    Opposite neighbours are added first: mirrored cells get mirrored heat, and in the middle of
    symmetric ones differences cancel without a rest that would be stretched to unit length.
    """

    def at(offset: Array | int) -> Array:
        return lax.dynamic_slice(padded, (length + offset,), (length,))

    def both(offset: Array | int) -> Array:
        return at(-offset) + at(offset)

    if strides.shape[0] == 2:
        return (both(strides[0]) + both(strides[1])) + (both(1) + at(0))
    row = strides[0]
    corners = (at(-row - 1) + at(row + 1)) + (at(-row + 1) + at(row - 1))
    return corners + ((both(row) + both(1)) + at(0))
