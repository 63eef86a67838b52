"""Augmentation on the device, inside the jitted training step.

Every patch is changed by its own randomness, derived from the step's key and the patch's place in
the batch, so the result does not depend on how the batch is split over devices.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.ndimage import map_coordinates

from sxt_jax.core.errors import InputError
from sxt_jax.data.classes import IGNORE_INDEX


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What is done to training patches; every default leaves them as they are.

    Attributes:
      flip_axes: axes along which a patch is mirrored with probability 1/2, of 'zyx'.
      rotate_90: rotations by multiples of 90° in the yx plane (needs square patches).
      swap_axes: random order of those of the axes z, y, x that are equally long.
      scale: gray values are multiplied by a factor from 1 − scale … 1 + scale.
      shift: and moved by −shift … shift (in normalised gray values).
      noise: and get Gaussian noise of SD 0 … noise.
      rotate_degrees: rotation about the z axis by −rotate_degrees … rotate_degrees.
      elastic_voxels: SD in voxels of a smooth random displacement.
      elastic_points: number of control points an axis of that displacement.
    """

    flip_axes: str = ''
    rotate_90: bool = False
    swap_axes: bool = False
    scale: float = 0.0
    shift: float = 0.0
    noise: float = 0.0
    rotate_degrees: float = 0.0
    elastic_voxels: float = 0.0
    elastic_points: int = 4

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Augmentation:
        """Raises `InputError` on an unknown field or axis."""
        known = {f.name for f in dataclasses.fields(cls)}
        if unknown := set(config) - known:
            raise InputError('augmentation', f'unknown {sorted(unknown)}', f'{sorted(known)}')
        made = cls(**config)
        if set(made.flip_axes) - set('zyx'):
            raise InputError('augmentation.flip_axes', repr(made.flip_axes), "axes of 'zyx'")
        return made


def augment(
    key: jax.Array, image: jax.Array, labels: jax.Array, *, augmentation: Augmentation
) -> tuple[jax.Array, jax.Array]:
    """A batch of patches changed at random, labels as their images.

    Args:
      key: randomness of this step.
      image: [b, z, y, x, c] float gray values.
      labels: [b, z, y, x] class indices.
      augmentation: what is done.

    Returns:
      Image and labels of the same shapes and dtypes.
    """
    if augmentation == Augmentation():
        return image, labels
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(len(image)))

    def one(key: jax.Array, image: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
        symmetry, deformation, intensity = jax.random.split(key, 3)
        image, labels = _symmetry(symmetry, image, labels, augmentation)
        if augmentation.rotate_degrees > 0 or augmentation.elastic_voxels > 0:
            image, labels = _deform(deformation, image, labels, augmentation)
        return _intensity(intensity, image, augmentation), labels

    return jax.vmap(one)(keys, image, labels)


def _symmetry(
    key: jax.Array, image: jax.Array, labels: jax.Array, augmentation: Augmentation
) -> tuple[jax.Array, jax.Array]:
    """Mirror images and exchanged axes: no voxel value changes."""
    shape = labels.shape
    if augmentation.rotate_90 and shape[1] != shape[2]:
        raise InputError('augmentation.rotate_90', f'patches {shape}', 'equally long y and x')
    flips = jax.random.bernoulli(key, 0.5, (3,))
    flip_axes = set(augmentation.flip_axes)
    if augmentation.rotate_90:
        # A quarter turn is a transposition and one mirror image; with both mirror images free,
        # independent choices of the three would also give reflections, so one is tied.
        turn = jax.random.randint(jax.random.fold_in(key, 2), (), 0, 4)
        image, labels = _where(turn % 2 == 1, _swap(1, 2), image, labels)
        image, labels = _where((turn == 1) | (turn == 2), _flip(1), image, labels)
        image, labels = _where((turn == 3) | (turn == 2), _flip(2), image, labels)
    if augmentation.swap_axes:
        orders = [
            order
            for order in itertools.permutations(range(3))
            if all(shape[a] == n for a, n in zip(order, shape, strict=True))
        ]
        chosen = jax.random.randint(jax.random.fold_in(key, 1), (), 0, len(orders))
        image = lax.switch(chosen, [partial(jnp.transpose, axes=(*o, 3)) for o in orders], image)
        labels = lax.switch(chosen, [partial(jnp.transpose, axes=o) for o in orders], labels)
    for axis, name in enumerate('zyx'):
        if name in flip_axes:
            image, labels = _where(flips[axis], _flip(axis), image, labels)
    return image, labels


def _flip(axis: int) -> Any:
    return lambda array: jnp.flip(array, axis)


def _swap(a: int, b: int) -> Any:
    return lambda array: jnp.swapaxes(array, a, b)


def _where(
    do: jax.Array, change: Any, image: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
    return jnp.where(do, change(image), image), jnp.where(do, change(labels), labels)


def _intensity(key: jax.Array, image: jax.Array, augmentation: Augmentation) -> jax.Array:
    scale, shift, level, noise = jax.random.split(key, 4)
    if augmentation.scale > 0:
        change = jax.random.uniform(scale, minval=-1.0, maxval=1.0).astype(image.dtype)
        image = image * (1 + augmentation.scale * change)
    if augmentation.shift > 0:
        change = jax.random.uniform(shift, minval=-1.0, maxval=1.0).astype(image.dtype)
        image = image + augmentation.shift * change
    if augmentation.noise > 0:
        sd = jax.random.uniform(level, dtype=image.dtype, maxval=augmentation.noise)
        # Drawn flat: XLA:CPU takes 2 s to compile random arrays of rank 5, 0.3 s of rank 1.
        drawn = jax.random.normal(noise, (image.size,), image.dtype).reshape(image.shape)
        image = image + sd * drawn
    return image


def _deform(
    key: jax.Array, image: jax.Array, labels: jax.Array, augmentation: Augmentation
) -> tuple[jax.Array, jax.Array]:
    """Rotation about z and elastic displacement in one resampling.

    Beyond the patch the image is continued by mirror images and labels are ignored.
    """
    shape = labels.shape
    turn, bend = jax.random.split(key)
    grid = jnp.indices(shape, jnp.float32)
    limit = jnp.deg2rad(augmentation.rotate_degrees)
    angle = jax.random.uniform(turn, minval=-limit, maxval=limit)
    centre = (jnp.array(shape, jnp.float32) - 1)[:, None, None, None] / 2
    z, y, x = grid - centre
    sine, cosine = jnp.sin(angle), jnp.cos(angle)
    position = jnp.stack((z, y * cosine - x * sine, y * sine + x * cosine)) + centre
    if augmentation.elastic_voxels > 0:
        points = (3, *(min(augmentation.elastic_points, n) for n in shape))
        coarse = augmentation.elastic_voxels * jax.random.normal(bend, points)
        position += jax.image.resize(coarse, (3, *shape), 'cubic')
    coordinates = list(position)
    image = jnp.moveaxis(
        jax.vmap(lambda c: map_coordinates(c, coordinates, 1, 'mirror'))(
            jnp.moveaxis(image, -1, 0).astype(jnp.float32)
        ),
        0,
        -1,
    ).astype(image.dtype)
    return image, map_coordinates(labels, coordinates, 0, 'constant', IGNORE_INDEX)
