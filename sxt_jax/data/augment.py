"""Augmentation on the device, inside the jitted training step.

Every patch is changed by its own randomness, derived from the step's key and the patch's place in
the batch, so the result does not depend on how the batch is split over devices.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.ndimage import map_coordinates

from sxt_jax.core.errors import InputError
from sxt_jax.data.classes import IGNORE_INDEX

Patch = dict[str, jax.Array]


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
    batch = augment_batch(key, {'image': image, 'labels': labels}, augmentation=augmentation)
    return batch['image'], batch['labels']


def augment_batch(
    key: jax.Array,
    batch: Mapping[str, jax.Array],
    *,
    augmentation: Augmentation,
    n_gray: int | None = None,
) -> dict[str, jax.Array]:
    """A batch of patches changed at random, all that belongs to a patch alike.

    Args:
      key: randomness of this step.
      batch: 'image' [b, z, y, x, c] float gray values and, where there are any, 'labels'
        [b, z, y, x] class indices and 'flows' [b, z, y, x, 3] vectors (z, y, x). Vectors turn with
        their patch: a mirror image changes the sign of a component, exchanged axes exchange two.
      augmentation: what is done.
      n_gray: how many of the first channels are gray values; others, such as probabilities, keep
        their values and move with them. None: all.

    Returns:
      The same arrays, of the same shapes and dtypes.

    Raises:
      InputError: quarter turns of oblong patches, or flows that would have to be bent.
    """
    if augmentation == Augmentation():
        return dict(batch)
    deforms = augmentation.rotate_degrees > 0 or augmentation.elastic_voxels > 0
    if deforms and 'flows' in batch:
        found = 'rotate_degrees or elastic_voxels with flows'
        raise InputError('augmentation', found, 'mirror images and exchanged axes')
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(len(batch['image'])))

    def one(key: jax.Array, patch: Patch) -> Patch:
        symmetry, deformation, intensity = jax.random.split(key, 3)
        patch = _symmetry(symmetry, patch, augmentation)
        if deforms:
            patch = _deform(deformation, patch, augmentation)
        change = partial(_intensity, intensity, augmentation=augmentation)
        return {**patch, 'image': change_gray(change, patch['image'], n_gray)}

    return jax.vmap(one)(keys, dict(batch))


def change_gray(
    change: Callable[[jax.Array], jax.Array], image: jax.Array, n_gray: int | None
) -> jax.Array:
    """[z, y, x, c] with the first `n_gray` channels (None: all) changed."""
    if n_gray is None or n_gray == image.shape[-1]:
        return change(image)
    return jnp.concatenate([change(image[..., :n_gray]), image[..., n_gray:]], axis=-1)


def _symmetry(key: jax.Array, patch: Patch, augmentation: Augmentation) -> Patch:
    """Mirror images and exchanged axes: no voxel value changes."""
    shape = patch['image'].shape[:3]
    if augmentation.rotate_90 and shape[1] != shape[2]:
        raise InputError('augmentation.rotate_90', f'patches {shape}', 'equally long y and x')
    flips = jax.random.bernoulli(key, 0.5, (3,))
    flip_axes = set(augmentation.flip_axes)
    if augmentation.rotate_90:
        # A quarter turn is a transposition and one mirror image; with both mirror images free,
        # independent choices of the three would also give reflections, so one is tied.
        turn = jax.random.randint(jax.random.fold_in(key, 2), (), 0, 4)
        patch = _where(turn % 2 == 1, partial(exchange_axes, order=(0, 2, 1)), patch)
        patch = _where((turn == 1) | (turn == 2), partial(_flip, axis=1), patch)
        patch = _where((turn == 3) | (turn == 2), partial(_flip, axis=2), patch)
    if augmentation.swap_axes:
        orders = [
            order
            for order in itertools.permutations(range(3))
            if all(shape[a] == n for a, n in zip(order, shape, strict=True))
        ]
        chosen = jax.random.randint(jax.random.fold_in(key, 1), (), 0, len(orders))
        patch = {
            name: lax.switch(chosen, [partial(exchange_axes, name, order=o) for o in orders], array)
            for name, array in patch.items()
        }
    for axis, name in enumerate('zyx'):
        if name in flip_axes:
            patch = _where(flips[axis], partial(_flip, axis=axis), patch)
    return patch


def exchange_axes(name: str, array: Any, *, order: Sequence[int]) -> Any:
    """An array of a patch with its spatial axes in another order, vectors turned with them.

    Args:
      name: of the array in a batch; 'flows' are vectors.
      array: [z, y, x] or [z, y, x, c], of numpy or JAX.
      order: which of the old axes z, y, x becomes each of the new ones.
    """
    moved = array.transpose(*order, *range(3, array.ndim))
    return moved[..., list(order)] if name == 'flows' else moved


def _flip(name: str, array: jax.Array, *, axis: int) -> jax.Array:
    flipped = jnp.flip(array, axis)
    if name != 'flows':
        return flipped
    return flipped * jnp.ones(3, array.dtype).at[axis].set(-1)


def _where(do: jax.Array, change: Callable[[str, jax.Array], jax.Array], patch: Patch) -> Patch:
    return {name: jnp.where(do, change(name, array), array) for name, array in patch.items()}


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


def _deform(key: jax.Array, patch: Patch, augmentation: Augmentation) -> Patch:
    """Rotation about z and elastic displacement in one resampling.

    Beyond the patch the image is continued by mirror images and labels are ignored.
    """
    image = patch['image']
    shape = image.shape[:3]
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
    if 'labels' not in patch:
        return {'image': image}
    labels = map_coordinates(patch['labels'], coordinates, 0, 'constant', IGNORE_INDEX)
    return {'image': image, 'labels': labels}
