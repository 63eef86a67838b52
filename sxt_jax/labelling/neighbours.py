"""What a walker sees from a voxel, packed into two words of four bytes.

What a step costs is memory: with the six neighbours in two words, it reads two places and writes
one, instead of reading six.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from sxt_jax.core.box import Box
from sxt_jax.core.volume import ArrayLike

LEVEL_BITS = 9  # of a neighbour's gray level; three of them at the lower end of a word
FREE_BIT = 3 * LEVEL_BITS  # three bits: whether the neighbour is inside the volume
RIM_BIT = FREE_BIT + 3  # of the first word: the voxel is on the region's rim
_INSIDE, _RIM = 1 << LEVEL_BITS, 1 << (LEVEL_BITS + 1)  # beside a gray level, before packing


def mark_voxels(levels: ArrayLike, region: Box) -> np.ndarray:
    """A region of a volume and the voxels around it, as `pack_neighbours` takes them.

    Args:
      levels: [z, y, x] uint16 gray levels below 512.
      region: a box of it. Its rim is where it ends and the volume does not.

    Returns:
      [z + 2, y + 2, x + 2] uint16: gray levels with a bit for voxels inside the volume and one for
      those on the rim; 0 outside of the volume.
    """
    shape = tuple(levels.shape)
    around = region.grow(1)
    known = around.intersect(Box.of_shape(shape))
    marked = np.zeros(around.shape, np.uint16)
    within = known.shift([-a for a in around.start]).slices
    marked[within] = levels[known.slices]
    marked[within] |= np.uint16(_INSIDE)
    inner = marked[1:-1, 1:-1, 1:-1]
    for axis in range(3):
        for side, ends in ((0, region.start[axis] > 0), (-1, region.stop[axis] < shape[axis])):
            if ends:
                index: list[int | slice] = [slice(None)] * 3
                index[axis] = side
                inner[tuple(index)] |= np.uint16(_RIM)
    return marked


@jax.jit
def pack_neighbours(marked: jax.Array, strides: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The surroundings of each voxel.

    Args:
      marked: [n] uint16 flat `mark_voxels`, and whatever fills it up to n.
      strides: [3] int32 how far neighbours along z, y, x are apart.

    Returns:
      [n] uint32 twice: of the neighbours z + 1, z − 1, y + 1, then of y − 1, x + 1, x − 1. Those of
      voxels around the region are of no use.
    """
    here = jnp.arange(len(marked), dtype=jnp.int32)
    words = [jnp.zeros(len(marked), jnp.uint32) for _ in range(2)]
    for number in range(6):
        axis, back = divmod(number, 2)
        offset = -strides[axis] if back else strides[axis]
        seen = marked.at[here + offset].get(mode='clip').astype(jnp.uint32)
        level, inside = seen & (_INSIDE - 1), (seen // _INSIDE) & 1
        place = number % 3
        words[number // 3] |= (level << (LEVEL_BITS * place)) | (inside << (FREE_BIT + place))
    words[0] |= ((marked.astype(jnp.uint32) // _RIM) & 1) << RIM_BIT
    return words[0], words[1]
