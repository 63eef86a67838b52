"""What the 2-D networks of the FIB-SEM paper predict: classes, or the two maps of cells.

Machireddy et al. (2023) segment organelles with one network each, whose single map goes through a
sigmoid; that is a softmax over two labels, of which only the difference of the logits counts. To
split cells they predict two maps that do not exclude each other: the cells' interior and boundary.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from sxt_jax.core.errors import InputError

CELL_MAPS = ('mask', 'boundary')


class MapNetwork(nn.Module):
    """A 2-D network of sides divided by 16 that gives classes or the maps of cells.

    Attributes:
      n_labels: classes, background included; not used for 'cells'.
      heads: 'classes': 'logits' of the labels; 'cells': the two maps 'mask' and 'boundary'.
    """

    n_labels: int = 2
    heads: str = 'classes'

    @property
    def n_dims(self) -> int:
        """Spatial axes of an input."""
        return 2

    @property
    def head_activations(self) -> dict[str, str | None]:
        """What turns each head into its meaning; None where that is done."""
        return {'logits': 'softmax'} if self.heads == 'classes' else dict.fromkeys(CELL_MAPS)

    @property
    def side_multiple(self) -> tuple[int, int]:
        """What the (y, x) sides of an input must be multiples of."""
        return 16, 16

    @property
    def halo(self) -> tuple[int, int] | None:
        """How many pixels away along (y, x) an input pixel can still change an output pixel.

        None where all change all, as with attention: no overlap then makes tiles equal to the
        whole image; tiles of the training size, blended, are the published way.
        """
        return None

    @property
    def n_maps(self) -> int:
        """Channels of the last convolution.

        Raises:
          InputError: no such heads, or less than one label.
        """
        name = type(self).__name__.lower()
        if self.heads not in ('classes', 'cells'):
            raise InputError(f'{name}.heads', repr(self.heads), "'classes' or 'cells'")
        if self.n_labels < 1:
            raise InputError(f'{name}.n_labels', f'{self.n_labels}', 'at least 1')
        return self.n_labels if self.heads == 'classes' else len(CELL_MAPS)

    def split(self, maps: jax.Array) -> dict[str, jax.Array]:
        """The maps of the last convolution by name, in float32.

        Args:
          maps: [b, y, x, n_maps] floating point.

        Returns:
          'logits' [b, y, x, n_labels]; or 'mask' and 'boundary' [b, y, x, 1], after their sigmoid.
        """
        maps = maps.astype(jnp.float32)
        if self.heads == 'classes':
            return {'logits': maps}
        probs = jax.nn.sigmoid(maps)
        return {name: probs[..., i : i + 1] for i, name in enumerate(CELL_MAPS)}
