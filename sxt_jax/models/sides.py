"""Which images a network takes."""

from __future__ import annotations

from collections.abc import Sequence

import jax

from sxt_jax.core.errors import InputError

_AXES = {2: ('[b, y, x, c]', '(y, x)'), 3: ('[b, z, y, x, c]', '(z, y, x)')}


def check_image(where: str, x: jax.Array, multiple: Sequence[int]) -> None:
    """Refuse what is no batch of images with sides of these multiples.

    Args:
      where: the network, for the error.
      x: [b, (z,) y, x, c].
      multiple: of the sides ((z,) y, x).

    Raises:
      InputError: another rank, or other sides.
    """
    batch, axes = _AXES[len(multiple)]
    if x.ndim != len(multiple) + 2:
        raise InputError(where, f'an image of shape {x.shape}', batch)
    sides = x.shape[1:-1]
    if min(sides) < 1 or any(n % m for n, m in zip(sides, multiple, strict=True)):
        raise InputError(where, f'sides {sides}', f'multiples of {tuple(multiple)} {axes}')
