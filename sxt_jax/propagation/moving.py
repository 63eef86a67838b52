"""Labels of a slice moved to the slices beside it, along the optical flow between them.

Between two slices cells move by fractions of a pixel. Labels that are moved pixel by pixel, from
each slice to the next, would lose these; so displacements are added up, and labels are read once,
where they were last known.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sxt_jax.core.errors import InputError
from sxt_jax.ops import warp

_PERCENTILES = (1.0, 99.0)
_SAMPLES = 1 << 20  # pixels that percentiles are taken of
_WHITE = 255.0


class Moved(NamedTuple):
    """Labels on their way from slice to slice.

    Attributes:
      labels: [y, x] int32 in the slice where they were last known.
      displacement: [y, x, 2] float32 pixels along y and x, from each pixel of the slice that was
        reached to where it was there.
    """

    labels: jax.Array
    displacement: jax.Array


def gray_for_flow(image: np.ndarray) -> np.ndarray:
    """A slice in the gray values that the optical flow expects; slices of any brightness are alike.

    Percentiles 1 and 99 of the slice become 0 and 255, what is beyond is cut off.

    Args:
      image: [y, x] real and finite.

    Returns:
      [y, x] float32; 0 where all of the slice has one value.
    """
    step = max(1, int(np.sqrt(image.size / _SAMPLES)))
    low, high = np.percentile(image[::step, ::step], _PERCENTILES)
    scale = _WHITE / (high - low) if high > low else 0.0
    return np.clip((image.astype(np.float32) - np.float32(low)) * np.float32(scale), 0, _WHITE)


def start(labels: Any) -> Moved:
    """Labels that have not moved yet.

    Args:
      labels: [y, x] whole numbers below 2³¹, 0 is background.

    Raises:
      InputError: another rank or type.
    """
    if np.ndim(labels) != 2 or np.dtype(labels.dtype).kind not in 'iu':
        found = f'{labels.dtype} of shape {np.shape(labels)}'
        raise InputError('labels', found, 'whole numbers [y, x]')
    return Moved(jnp.asarray(labels, jnp.int32), jnp.zeros((*labels.shape, 2)))


def move(moved: Moved, flows: jax.Array) -> Moved:
    """The labels one slice further.

    Args:
      moved: labels as they are in a slice.
      flows: [y, x, 2] pixels from the next slice to that one, `farneback(next, that)`.
    """
    return moved._replace(displacement=_add(moved.displacement, flows))


@jax.jit
def _add(displacement: jax.Array, flows: jax.Array) -> jax.Array:
    return flows + warp(displacement, flows)


def labels_of(moved: Moved) -> np.ndarray:
    """[y, x] int32 labels in the slice that was reached, on the host."""
    return np.asarray(warp(moved.labels, moved.displacement, order=0))


def go_on_with(found: np.ndarray, moved: Moved) -> Moved:
    """From now on labels found in the slice that was reached are moved.

    Fractions of pixels by which they should have moved are not lost where nothing was changed: of
    the displacement, what rounding took away stays.

    Args:
      found: [y, x] int32 labels of the slice.
      moved: what was moved to it before.
    """
    labels = jnp.asarray(found, jnp.int32)
    return Moved(labels, _fractions(labels, moved))


@jax.jit
def _fractions(found: jax.Array, moved: Moved) -> jax.Array:
    same = found == warp(moved.labels, moved.displacement, order=0)
    rest = moved.displacement - jnp.round(moved.displacement)
    return jnp.where(same[..., None], rest, 0)
