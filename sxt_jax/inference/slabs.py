"""Reading a volume slab by slab, mirrored where tiles reach beyond it, ahead of the device."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from sxt_jax.core.blocks import bucket
from sxt_jax.core.tiles import TileGrid

T = TypeVar('T')
Held = tuple[int, np.ndarray]  # number of the first slice, and slices


@dataclasses.dataclass(frozen=True)
class SlabPlan:
    """Which rows of tiles are worked on together, and the shape of the array that holds them.

    Attributes:
      grid: the tiles.
      rows: rows of tiles per slab; more than one where a row alone would not fill a batch.
    """

    grid: TileGrid
    rows: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (z, y, x) of every slab: deep enough for all its rows, wide as a bucket."""
        _, y, x = self.grid.padded_shape
        return self.grid.tile[0] + (self.rows - 1) * self.grid.largest_step[0], bucket(y), bucket(x)

    @property
    def chunk(self) -> int:
        """No slab completes more slices than this, but for the last."""
        return self.rows * self.grid.largest_step[0]

    def n_bytes(self, n_channels: int) -> int:
        """Of a slab of float32."""
        z, y, x = self.shape
        return 4 * z * y * x * n_channels

    @property
    def n_slabs(self) -> int:
        return -(-len(self.grid.starts[0]) // self.rows)

    def slab_rows(self, index: int) -> range:
        """The rows of tiles in a slab."""
        start = index * self.rows
        return range(start, min(start + self.rows, len(self.grid.starts[0])))

    def z_range(self, index: int) -> tuple[int, int]:
        """The slices (of the padded volume) that the slab's tiles need."""
        rows = self.slab_rows(index)
        return self.grid.starts[0][rows[0]], self.grid.starts[0][rows[-1]] + self.grid.tile[0]

    def completed(self, index: int) -> tuple[int, int]:
        """The slices (of the padded volume) that no later slab touches, after earlier ones."""
        z_start, z_stop = self.z_range(index)
        return z_start, self.z_range(index + 1)[0] if index + 1 < self.n_slabs else z_stop

    def needed_for(self, start: int, stop: int) -> range:
        """The slabs whose tiles touch slices `start` to `stop`, the first of which may be 0."""
        touching = [
            i
            for i in range(self.n_slabs)
            if self.z_range(i)[1] > start and self.z_range(i)[0] < stop
        ]
        return range(touching[0], touching[-1] + 1)


def make_plan(grid: TileGrid, batch_size: int) -> SlabPlan:
    """The plan whose slabs hold the fewest rows that fill a batch."""
    n_rows, tiles_per_row = len(grid.starts[0]), grid.n_tiles // len(grid.starts[0])
    return SlabPlan(grid, min(-(-batch_size // tiles_per_row), n_rows))


def mirror_indices(size: int, padding: int) -> np.ndarray:
    """Where each voxel of an axis comes from when `padding` voxels are mirrored behind its end."""
    return np.pad(np.arange(size), (0, padding), mode='reflect')


def _to_device_type(array: np.ndarray) -> np.ndarray:
    """A type that JAX takes: native byte order, at most 32 bits."""
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind == 'b':
        return array.astype(np.uint8)
    if size > 4 or (kind in 'iu' and size == 4):
        return array.astype(np.float32)
    return array.astype(array.dtype.newbyteorder('='), copy=False)


def _read_rows(image: Any, start: int, stop: int, held: Held | None) -> np.ndarray:
    """Slices start … stop of the image, those already held not read again."""
    full = (slice(None),) * (len(image.shape) - 1)
    if held is None or not held[0] <= start < held[0] + len(held[1]):
        return _to_device_type(np.asarray(image[(slice(start, stop), *full)]))
    kept = held[1][start - held[0] : stop - held[0]]
    if start + len(kept) == stop:
        return kept
    new = _to_device_type(np.asarray(image[(slice(start + len(kept), stop), *full)]))
    return np.concatenate([kept, new])


def read_slabs(image: Any, plan: SlabPlan, slabs: range | None = None) -> Iterator[np.ndarray]:
    """The slabs of an image in order, each slice read once.

    Args:
      image: [z, y, x] or [z, y, x, c], numpy or any `core.volume.ArrayLike`.
      plan: how it is cut into slabs.
      slabs: which of them; None: all.
    Yields:
      [*plan.shape, c] in the image's type (at most 32 bits); zero outside the padded volume.
    """
    indices = [
        mirror_indices(n, p) for n, p in zip(plan.grid.shape, plan.grid.padding, strict=True)
    ]
    held: Held | None = None
    for i in slabs or range(plan.n_slabs):
        z = indices[0][slice(*plan.z_range(i))]
        start = int(z.min())
        rows = _read_rows(image, start, int(z.max()) + 1, held)
        held = start, rows
        yield _fill_slab(rows, (z - start, indices[1], indices[2]), plan.shape)


def _fill_slab(
    rows: np.ndarray, indices: Sequence[np.ndarray], shape: tuple[int, int, int]
) -> np.ndarray:
    rows = rows if rows.ndim == 4 else rows[..., None]
    for axis, index in enumerate(indices):
        if not np.array_equal(index, np.arange(rows.shape[axis])):
            rows = rows.take(index, axis=axis)
    if rows.shape[:3] == shape:
        return rows
    slab = np.zeros((*shape, rows.shape[3]), rows.dtype)
    slab[tuple(slice(n) for n in rows.shape[:3])] = rows
    return slab


def work_ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, the next one made in a thread while the caller uses the current one."""
    done = object()
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, done)
        while (item := coming.result()) is not done:
            coming = pool.submit(next, items, done)
            yield item  # type: ignore[misc]
