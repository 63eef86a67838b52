"""What the 2-D networks of the FIB-SEM paper predict: classes, or the two maps of cells.

Machireddy et al. (2023) segment organelles with one network each, whose single map goes through a
sigmoid; that is a softmax over two labels, of which only the difference of the logits counts. To
split cells they predict two maps that do not exclude each other: the cells' interior and boundary.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from sxt_jax.core.errors import InputError

CELL_MAPS = ('mask', 'boundary')


def count_maps(where: str, heads: str, n_labels: int) -> int:
    """Channels of the last convolution.

    Args:
      where: the network, for the error.
      heads: 'classes' or 'cells'.
      n_labels: classes, background included; not used for 'cells'.

    Raises:
      InputError: no such heads, or less than one label.
    """
    if heads not in ('classes', 'cells'):
        raise InputError(f'{where}.heads', repr(heads), "'classes' or 'cells'")
    if n_labels < 1:
        raise InputError(f'{where}.n_labels', f'{n_labels}', 'at least 1')
    return n_labels if heads == 'classes' else len(CELL_MAPS)


def activations(heads: str) -> dict[str, str | None]:
    """What still has to be applied to each head.

    Args:
      heads: 'classes' or 'cells'.
    """
    return {'logits': 'softmax'} if heads == 'classes' else dict.fromkeys(CELL_MAPS)


def split_maps(maps: jax.Array, heads: str) -> dict[str, jax.Array]:
    """The maps of the last convolution by name, in float32.

    Args:
      maps: [b, y, x, k] floating point.
      heads: 'classes' or 'cells'.

    Returns:
      'logits' [b, y, x, k]; or 'mask' and 'boundary' [b, y, x, 1], after their sigmoid.
    """
    maps = maps.astype(jnp.float32)
    if heads == 'classes':
        return {'logits': maps}
    probs = jax.nn.sigmoid(maps)
    return {name: probs[..., i : i + 1] for i, name in enumerate(CELL_MAPS)}
