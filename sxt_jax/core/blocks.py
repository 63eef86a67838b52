"""Blocks that part a volume, and the regions around them that it takes to work on them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from itertools import product

from sxt_jax.core.box import Box

SMALLEST_BUCKET = 16


@dataclasses.dataclass(frozen=True)
class Block:
    """A block of a volume.

    Attributes:
      core: the voxels that are this block's own; those at the end of an axis may be fewer.
      region: core and halo, inside the volume; of one shape for all blocks of a volume, so that one
        compiled program serves them all.
    """

    core: Box
    region: Box

    @property
    def core_in_region(self) -> Box:
        """The core in coordinates of the region."""
        return self.core.shift([-start for start in self.region.start])


def make_blocks(
    shape: Sequence[int], *, block: Sequence[int], halo: Sequence[int] | None = None
) -> Iterator[Block]:
    """The blocks of a volume, in raster order.

    Args:
      shape: of the volume, at least one voxel.
      block: sides of a block.
      halo: voxels that a region has on both sides of its block, where the volume has as many;
        None: none.
    """
    halo = (0,) * len(shape) if halo is None else halo
    starts = (range(0, n, b) for n, b in zip(shape, block, strict=True))
    region = [min(n, b + 2 * h) for n, b, h in zip(shape, block, halo, strict=True)]
    for corner in product(*starts):
        core = Box.of_shape(block, corner).intersect(Box.of_shape(shape))
        first = (max(0, c - h) for c, h in zip(corner, halo, strict=True))
        # At the end of an axis the region begins earlier, so that it is full.
        start = [min(f, n - r) for f, n, r in zip(first, shape, region, strict=True)]
        yield Block(core, Box.of_shape(region, start))


def bucket(size: int) -> int:
    """`size` rounded up to one of eight sizes per octave, at most 1/8 more.

    Kernels compiled for a bucket serve all volumes in it.
    """
    step = max(SMALLEST_BUCKET, 1 << max(0, size.bit_length() - 4))
    return -(-size // step) * step
