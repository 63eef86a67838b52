"""What a walker sees from a voxel, packed into two words of four bytes.

What a step costs is memory: with the six neighbours in two words, it reads two places and writes
one, instead of reading six.
"""

from __future__ import annotations

import numpy as np

from sxt_jax.core.box import Box
from sxt_jax.core.volume import ArrayLike

LEVEL_BITS = 9  # of a neighbour's gray level; three of them at the lower end of a word
FREE_BIT = 3 * LEVEL_BITS  # three bits: whether the neighbour is inside the volume
RIM_BIT = FREE_BIT + 3  # of the first word: the voxel is on the region's rim

Words = tuple[np.ndarray, np.ndarray]


def pack_neighbours(levels: ArrayLike, region: Box) -> Words:
    """The surroundings of each voxel of a region of a volume.

    Args:
      levels: [z, y, x] uint16 gray levels below 512; outside of the volume they are 0.
      region: a box of it. Its rim is where it ends and the volume does not.

    Returns:
      [voxels] uint32 twice: of the neighbours z + 1, z − 1, y + 1, then of y − 1, x + 1, x − 1.
    """
    shape = tuple(levels.shape)
    around = Box(tuple(a - 1 for a in region.start), tuple(b + 1 for b in region.stop))
    known = around.intersect(Box.of_shape(shape))
    within = known.shift([-a for a in around.start]).slices
    gray, inside = np.zeros(around.shape, np.uint32), np.zeros(around.shape, np.uint32)
    gray[within] = levels[known.slices]
    inside[within] = 1 << FREE_BIT
    gray |= inside  # one shift moves both to their place: the level is the lower of them
    words = [np.zeros(region.shape, np.uint32) for _ in range(2)]
    core = [slice(1, -1)] * 3
    for number in range(6):
        axis, back = divmod(number, 2)
        moved = list(core)
        moved[axis] = slice(0, -2) if back else slice(2, None)
        place = number % 3
        seen = gray[tuple(moved)]
        level = seen & np.uint32(2**LEVEL_BITS - 1)
        words[number // 3] |= level << np.uint32(LEVEL_BITS * place)
        words[number // 3] |= (seen & np.uint32(1 << FREE_BIT)) << np.uint32(place)
    _mark_rim(words[0], region, shape)
    return words[0].reshape(-1), words[1].reshape(-1)


def _mark_rim(word: np.ndarray, region: Box, shape: tuple[int, ...]) -> None:
    for axis in range(3):
        for side, ends in ((0, region.start[axis] > 0), (-1, region.stop[axis] < shape[axis])):
            if ends:
                index: list[int | slice] = [slice(None)] * 3
                index[axis] = side
                word[tuple(index)] |= np.uint32(1 << RIM_BIT)
