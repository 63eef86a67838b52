"""Dilation, erosion, opening and closing of masks with a ball {x : |x| ≤ radius}.

A ball is a bundle of chords along the last axis. On packed words (`ops.bits`) a dilation by every
length of chord costs one step from the one before, and the dilation by the ball is the union of
those, each moved to its place: exact, and 32 voxels to an operation.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from sxt_jax.core.errors import InputError
from sxt_jax.ops import bits

_FULL = np.uint32(0xFFFFFFFF)
_STATIC = ('radius', 'voxel_size', 'border')


@functools.partial(jax.jit, static_argnames=('radius', 'voxel_size'))
def dilate(
    mask: jax.Array, radius: float, *, voxel_size: tuple[float, ...] | None = None
) -> jax.Array:
    """Voxels within `radius` of the mask; what lies outside of the volume counts as unset.

    As scipy.ndimage.binary_dilation with a ball. Method: see the module.

    Args:
      mask: [z, y, x] or [y, x] bool.
      radius: of the ball, static, in voxels or in the unit of `voxel_size`.
      voxel_size: static sides of a voxel per axis; None: ones.

    Returns:
      bool of the same shape.

    Raises:
      InputError: another rank, dtype, radius or voxel size.
    """
    return _dilate('dilate', mask, radius, voxel_size, outside=False)


@functools.partial(jax.jit, static_argnames=_STATIC)
def erode(
    mask: jax.Array,
    radius: float,
    *,
    voxel_size: tuple[float, ...] | None = None,
    border: bool = True,
) -> jax.Array:
    """Voxels of the mask that are further than `radius` from all unset voxels.

    As scipy.ndimage.binary_erosion with a ball and `border_value=border`.

    Args:
      mask: [z, y, x] or [y, x] bool.
      radius: of the ball, static, in voxels or in the unit of `voxel_size`.
      voxel_size: static sides of a voxel per axis; None: ones.
      border: whether what lies outside of the volume counts as set.

    Returns:
      bool of the same shape.

    Raises:
      InputError: as `dilate`.
    """
    return ~_dilate('erode', ~mask, radius, voxel_size, outside=not border)


@functools.partial(jax.jit, static_argnames=_STATIC)
def close(
    mask: jax.Array,
    radius: float,
    *,
    voxel_size: tuple[float, ...] | None = None,
    border: bool = True,
) -> jax.Array:
    """Dilation, then erosion: gaps that no ball fits into are filled.

    With `border=True` as skimage.morphology.binary_closing, which Cellpose3D takes (Eschweiler,
    Smith & Stegmaier, PLOS ONE 17:e0266104, 2022); otherwise as scipy.ndimage.binary_closing.

    Args:
      mask: [z, y, x] or [y, x] bool.
      radius: of the ball, static, in voxels or in the unit of `voxel_size`.
      voxel_size: static sides of a voxel per axis; None: ones.
      border: whether the erosion takes what lies outside of the volume as set.

    Returns:
      bool of the same shape.

    Raises:
      InputError: as `dilate`.
    """
    dilated = dilate(mask, radius, voxel_size=voxel_size)
    return erode(dilated, radius, voxel_size=voxel_size, border=border)


@functools.partial(jax.jit, static_argnames=_STATIC)
def open_(
    mask: jax.Array,
    radius: float,
    *,
    voxel_size: tuple[float, ...] | None = None,
    border: bool = True,
) -> jax.Array:
    """Erosion, then dilation: parts that no ball fits into are taken away.

    With `border=True` as skimage.morphology.binary_opening, otherwise as
    scipy.ndimage.binary_opening.

    Args:
      mask: [z, y, x] or [y, x] bool.
      radius: of the ball, static, in voxels or in the unit of `voxel_size`.
      voxel_size: static sides of a voxel per axis; None: ones.
      border: whether the erosion takes what lies outside of the volume as set.

    Returns:
      bool of the same shape.

    Raises:
      InputError: as `dilate`.
    """
    eroded = erode(mask, radius, voxel_size=voxel_size, border=border)
    return dilate(eroded, radius, voxel_size=voxel_size)


def chords(radius: float, *, voxel_size: Sequence[float]) -> np.ndarray:
    """The ball as chords along the last axis.

    Args:
      radius: in the unit of `voxel_size`.
      voxel_size: sides of a voxel along three axes.

    Returns:
      int [n, 3]: steps |dz| and |dy| to the chord, and its half length, all in voxels.
    """
    # Decimal fractions such as 3 × 0.1 against 0.3 must not lose the outermost voxel.
    squared = radius**2 * (1 + 1e-9)
    reach = [math.floor(math.sqrt(squared) / side) for side in voxel_size]
    dz, dy = np.indices((reach[0] + 1, reach[1] + 1)).reshape(2, -1)
    left = squared - (dz * voxel_size[0]) ** 2 - (dy * voxel_size[1]) ** 2
    half = np.floor(np.sqrt(np.maximum(left, 0)) / voxel_size[2])
    return np.stack([dz, dy, half], 1)[left >= 0].astype(np.int32)


def _dilate(
    where: str,
    mask: jax.Array,
    radius: float,
    voxel_size: tuple[float, ...] | None,
    *,
    outside: bool,
) -> jax.Array:
    _check(where, mask, radius, voxel_size)
    if mask.size == 0:
        return mask
    volume = mask.reshape((1,) * (3 - mask.ndim) + mask.shape)
    sides = (1.0,) * mask.ndim if voxel_size is None else voxel_size
    # What lies outside along the axis put before a 2-D mask must stay out of reach.
    ball = chords(radius, voxel_size=(2 * radius + 1,) * (3 - mask.ndim) + tuple(sides))
    dilated = _union_of_chords(_filled_up(volume, outside), ball, outside)
    return bits.unpack(dilated, n_x=mask.shape[-1]).reshape(mask.shape)


def _check(
    where: str, mask: jax.Array, radius: float, voxel_size: tuple[float, ...] | None
) -> None:
    if mask.ndim not in (2, 3):
        raise InputError(where, f'array {list(mask.shape)}', '[z, y, x] or [y, x]')
    if mask.dtype != bool:
        raise InputError(where, f'dtype {mask.dtype}', 'a mask of bool')
    if not 0 <= radius < math.inf:
        raise InputError('radius', f'{radius}', 'a number from 0')
    if voxel_size is not None and len(voxel_size) != mask.ndim:
        raise InputError('voxel_size', f'{voxel_size}', f'{mask.ndim} numbers')
    if voxel_size is not None and not all(0 < side < math.inf for side in voxel_size):
        raise InputError('voxel_size', f'{voxel_size}', 'positive numbers')


def _filled_up(volume: jax.Array, outside: bool) -> jax.Array:
    """Packed mask whose spare bits at the end of each row are as the outside is."""
    words = bits.pack(volume)
    spare = -volume.shape[-1] % bits.WORD_BITS
    if not outside or not spare:
        return words
    return words.at[..., -1].set(words[..., -1] | (_FULL << np.uint32(bits.WORD_BITS - spare)))


def _union_of_chords(words: jax.Array, ball: np.ndarray, outside: bool) -> jax.Array:
    """Dilation of packed masks by a ball of `chords`."""
    reach_z, reach_y, reach_x = (int(n) for n in ball.max(0))
    n_z, n_y, n_words = words.shape
    fill = jnp.uint32(_FULL if outside else 0)
    by_length = _by_chord_length(words, reach_x, fill)
    pads = [(0, 0, 0), (reach_z, reach_z, 0), (reach_y, reach_y, 0), (0, 0, 0)]
    padded = lax.pad(by_length, fill, pads)

    def add(union: jax.Array, chord: jax.Array) -> tuple[jax.Array, None]:
        dz, dy, half = chord
        for z in (reach_z - dz, reach_z + dz):
            for y in (reach_y - dy, reach_y + dy):
                start = (half, z, y, jnp.int32(0))
                moved = lax.dynamic_slice(padded, start, (1, n_z, n_y, n_words))
                union |= moved[0]
        return union, None

    return lax.scan(add, jnp.zeros_like(words), jnp.asarray(ball))[0]


def _by_chord_length(words: jax.Array, longest: int, fill: jax.Array) -> jax.Array:
    """[half length, z, y, w] dilations along the last axis by 0, 1, … `longest` voxels."""

    def grow(words: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        before = lax.pad(words, fill, [(0, 0, 0), (0, 0, 0), (1, -1, 0)])
        after = lax.pad(words, fill, [(0, 0, 0), (0, 0, 0), (-1, 1, 0)])
        grown = words | (words << 1) | (words >> 1) | (before >> 31) | (after << 31)
        return grown, words

    return lax.scan(grow, words, None, length=longest + 1)[1]
