"""The grid of tiles that covers a volume: geometry without arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from sxt_jax.core.box import Box
from sxt_jax.core.errors import InputError


@dataclasses.dataclass(frozen=True)
class TileGrid:
    """Overlapping tiles, all of one size, that cover a volume in even steps.

    Where the volume is smaller than a tile, or its size is no multiple of `align`, the last tile
    reaches beyond it: `padded_shape` is what the tiles cover exactly.

    Attributes:
      shape: the volume's shape.
      tile: shape of every tile.
      overlap: the least overlap of neighbouring tiles, voxels per axis.
      align: every tile starts at a multiple of this, per axis.
      starts: the first voxel of the tiles, per axis, ascending.
    """

    shape: tuple[int, ...]
    tile: tuple[int, ...]
    overlap: tuple[int, ...]
    align: tuple[int, ...]
    starts: tuple[tuple[int, ...], ...]

    @property
    def padded_shape(self) -> tuple[int, ...]:
        """The shape that the tiles cover, at least that of the volume."""
        return tuple(s[-1] + t for s, t in zip(self.starts, self.tile, strict=True))

    @property
    def padding(self) -> tuple[int, ...]:
        """Voxels to add behind the volume's end, per axis."""
        return tuple(p - n for p, n in zip(self.padded_shape, self.shape, strict=True))

    @property
    def largest_step(self) -> tuple[int, ...]:
        """No two neighbouring tiles start further apart than this, per axis."""
        return tuple(
            (t - o) // a * a for t, o, a in zip(self.tile, self.overlap, self.align, strict=True)
        )

    @property
    def n_tiles(self) -> int:
        count = 1
        for starts in self.starts:
            count *= len(starts)
        return count

    def tiles(self) -> Iterator[Box]:
        """All tiles, the last axis fastest: row after row of equal first coordinate."""
        for first in range(len(self.starts[0])):
            yield from self.row(first)

    def row(self, index: int) -> Iterator[Box]:
        """The tiles that share the `index`-th start on the first axis (a z-row)."""
        corners: list[tuple[int, ...]] = [(self.starts[0][index],)]
        for starts in self.starts[1:]:
            corners = [(*corner, s) for corner in corners for s in starts]
        for corner in corners:
            yield Box.of_shape(self.tile, corner)


def axis_starts(size: int, tile: int, *, overlap: int, align: int = 1) -> tuple[int, ...]:
    """Starts of the fewest evenly spread tiles that cover one axis.

    Args:
      size: length of the axis, voxels.
      tile: length of a tile; a multiple of `align`.
      overlap: least overlap of neighbours, voxels.
      align: starts are multiples of it; the covered length is `size` rounded up to it.
    Returns:
      Ascending starts, the first 0; the last tile ends at or behind the end of the axis.
    """
    span = max(0, -(-(size - tile) // align))  # from the first start to the last, in aligns
    largest_step = (tile - overlap) // align
    n_steps = -(-span // largest_step)
    return (0, *(align * (i * span // n_steps) for i in range(1, n_steps + 1)))


def make_grid(
    shape: Sequence[int],
    *,
    tile: Sequence[int],
    overlap: Sequence[int],
    align: Sequence[int] | None = None,
) -> TileGrid:
    """The grid of tiles for a volume.

    Args:
      shape: of the volume, any number of axes.
      tile: shape of a tile.
      overlap: least overlap of neighbouring tiles, per axis.
      align: tiles start at multiples of it (a strided network answers the same for a voxel in
        every tile only then); default 1.
    Raises:
      InputError: an empty volume, an overlap that leaves no step, a tile that is no multiple of
        `align`.
    """
    align = tuple(align) if align is not None else (1,) * len(tile)
    if not len(shape) == len(tile) == len(overlap) == len(align):
        raise InputError(
            'tile', f'{tile}, overlap {overlap}, align {align}', f'{len(shape)} numbers each'
        )
    for axis, (n, t, o, a) in enumerate(zip(shape, tile, overlap, align, strict=True)):
        if n < 1:
            raise InputError('volume', f'shape {tuple(shape)} is empty', 'at least one voxel')
        if t < 1 or t % a:
            raise InputError('tile', f'{t} voxels on axis {axis}', f'a multiple of {a}')
        if not 0 <= o <= t - a:
            raise InputError('overlap', f'{o} voxels on axis {axis}', f'0 to {t - a} for tile {t}')
    starts = tuple(
        axis_starts(n, t, overlap=o, align=a)
        for n, t, o, a in zip(shape, tile, overlap, align, strict=True)
    )
    return TileGrid(tuple(shape), tuple(tile), tuple(overlap), align, starts)
