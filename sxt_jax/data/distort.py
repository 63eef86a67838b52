"""Imperfect recordings: the augmentation with which Cellpose3D is trained, on the device.

Each kind of change happens to a patch with the same probability, independently. First the grid is
changed, for image, labels and flows alike (every second slice repeated, the first half stretched,
the whole shrunk and continued by its mirror image), then the gray values. The kinds, their order
and the default numbers are those of the published training (Eschweiler and Stegmaier 2021, its
file of augmentations); what differs is said at `Distortion`. As in `augment`, the result does not
depend on how the batch is split over devices.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sxt_jax.core.errors import InputError
from sxt_jax.data.augment import change_gray

_STREAM = 2**31 - 1  # sets these random numbers apart from those of `augment` and of dropout
_AT_LEAST_ONE = ('anisotropy', 'stretch', 'shrink', 'shuffle_side', 'inpaint_side')


@dataclasses.dataclass(frozen=True)
class Distortion:
    """What is done to training patches; by default nothing.

    Flows keep the length of their components when the grid is stretched or shrunk, as published:
    they still tell on which side the centre is. In mirrored parts the component across the mirror
    changes its sign, which the published training leaves undone.

    Attributes:
      probability: of each kind of change.
      anisotropy: of that many slices along a random axis the first is repeated in place of the
        others; 1: never.
      stretch: the beginning of the patch along a random axis is made that many times as long, by
        repeating slices; 1: never.
      shrink: every that-many-eth slice along a random axis is kept, and the rest of the patch
        filled with mirror images; 1: never.
      scale_low, scale_high: between which a factor of the gray values is drawn.
      noise: SD of Gaussian noise.
      shuffle_windows: in so many random boxes the slices (along z) are put in random order.
      shuffle_side: side of these boxes.
      inpaint_windows: so many random boxes are filled, each with one random gray value of the
        patch's range.
      inpaint_side: side of these boxes.
      decline: gray values fade to 0 towards the beginning of a random axis, over a random length.
        Gray values are kept within the patch's range when they are scaled and after noise.
    """

    probability: float = 0.0
    anisotropy: int = 2
    stretch: int = 2
    shrink: int = 2
    scale_low: float = 0.6
    scale_high: float = 1.2
    noise: float = 0.1
    shuffle_windows: int = 3
    shuffle_side: int = 25
    inpaint_windows: int = 3
    inpaint_side: int = 15
    decline: bool = True

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Distortion:
        """Raises `InputError` on an unknown field or a number out of range."""
        known = {f.name for f in dataclasses.fields(cls)}
        if unknown := set(config) - known:
            raise InputError('distortion', f'unknown {sorted(unknown)}', f'{sorted(known)}')
        made = cls(**config)
        if not 0 <= made.probability <= 1:
            raise InputError('config.distortion.probability', f'{made.probability}', '0 … 1')
        for name in _AT_LEAST_ONE:
            if getattr(made, name) < 1:
                raise InputError(f'config.distortion.{name}', f'{getattr(made, name)}', '1 or more')
        if not made.scale_low <= made.scale_high < np.inf:
            found = f'{made.scale_low} … {made.scale_high}'
            raise InputError('config.distortion.scale_low, scale_high', found, 'the lower first')
        for name in ('noise', 'shuffle_windows', 'inpaint_windows'):
            if not 0 <= getattr(made, name) < np.inf:
                raise InputError(f'config.distortion.{name}', f'{getattr(made, name)}', '0 or more')
        return made


def distort(
    key: jax.Array,
    batch: Mapping[str, jax.Array],
    *,
    distortion: Distortion,
    n_gray: int | None = None,
) -> dict[str, jax.Array]:
    """A batch of patches, distorted at random.

    Args:
      key: randomness of this step.
      batch: 'image' [b, z, y, x, c] float gray values and, where there are any, 'labels'
        [b, z, y, x] class indices and 'flows' [b, z, y, x, 3] vectors (z, y, x).
      distortion: what is done.
      n_gray: how many of the first channels are gray values, see `augment.augment_batch`.

    Returns:
      The same arrays, of the same shapes and dtypes.
    """
    if distortion.probability == 0:
        return dict(batch)
    key = jax.random.fold_in(key, _STREAM)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(len(batch['image'])))

    def one(key: jax.Array, patch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        grid, gray = jax.random.split(key)
        patch = _regrid(grid, patch, distortion)
        change = partial(_disturb, gray, distortion=distortion)
        return {**patch, 'image': change_gray(change, patch['image'], n_gray)}

    return jax.vmap(one)(keys, dict(batch))


def _regrid(
    key: jax.Array, patch: dict[str, jax.Array], distortion: Distortion
) -> dict[str, jax.Array]:
    """Every change of the grid acts along one axis, so all of them are one look-up an axis."""
    if distortion.anisotropy == distortion.stretch == distortion.shrink == 1:
        return patch
    drawn = jax.random.uniform(key, (2, 3))
    axes = jnp.where(drawn[0] < distortion.probability, _integer(drawn[1], 3), -1)
    repeat, stretch, shrink = axes
    for axis, n in enumerate(patch['image'].shape[:3]):
        place = jnp.arange(n)
        f = distortion.anisotropy
        index = jnp.where(repeat == axis, place // f * f, place)
        index = jnp.where(stretch == axis, index[place // distortion.stretch], index)
        shrunk, mirrored = _shrunk_axis(n, distortion.shrink)
        index = jnp.where(shrink == axis, index[shrunk], index)
        patch = {name: jnp.take(a, index, axis=axis) for name, a in patch.items()}
        if 'flows' in patch:
            turned = _along(axis, jnp.where((shrink == axis) & mirrored, -1, 1), ndim=4)
            signs = jnp.where(jnp.arange(3) == axis, turned, 1)
            patch['flows'] = patch['flows'] * signs.astype(patch['flows'].dtype)
    return patch


def _integer(drawn: jax.Array, n: Any) -> jax.Array:
    """Uniform 0 ≤ drawn < 1 made into integers 0 … n − 1."""
    return jnp.minimum((drawn * n).astype(jnp.int32), n - 1)


def _along(axis: int, values: jax.Array, *, ndim: int) -> jax.Array:
    """Values [n] of an axis as an array of that many axes."""
    return values.reshape([len(values) if a == axis else 1 for a in range(ndim)])


def _shrunk_axis(n: int, factor: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each slice of an axis of n comes from when it is shrunk; True where it is mirrored."""
    m = -(-n // factor)
    index = np.pad(np.arange(m), (0, n - m), mode='reflect')
    mirrored = np.arange(n) % max(1, 2 * (m - 1)) > m - 1
    return factor * index, mirrored


def _disturb(key: jax.Array, image: jax.Array, distortion: Distortion) -> jax.Array:
    """Changes of the gray values [z, y, x, c], one after the other."""
    numbers, noise, order = jax.random.split(key, 3)
    n_windows = distortion.shuffle_windows + distortion.inpaint_windows
    # Drawn at once: XLA:CPU takes a quarter of a second to compile each drawing (2026-11-21).
    drawn = jax.random.uniform(numbers, (8 + 4 * n_windows,), image.dtype)
    do, (factor, axis, extent) = drawn[:5] < distortion.probability, drawn[5:8]
    windows = drawn[8:].reshape(n_windows, 4)
    low, high = distortion.scale_low, distortion.scale_high
    if not low == high == 1:
        scaled = image * (low + factor * (high - low))
        image = jnp.where(do[0], jnp.clip(scaled, image.min(), image.max()), image)
    if distortion.noise > 0:
        # Drawn flat: XLA:CPU takes 2 s to compile random arrays of rank 5, 0.3 s of rank 1.
        grain = jax.random.normal(noise, (image.size,), image.dtype).reshape(image.shape)
        noisy = jnp.clip(image + distortion.noise * grain, image.min(), image.max())
        image = jnp.where(do[1], noisy, image)
    if distortion.shuffle_windows > 0:
        depth = min(distortion.shuffle_side, len(image))
        ranks = jax.random.uniform(order, (distortion.shuffle_windows, depth))
        for window, moved in zip(windows, jnp.argsort(ranks, axis=1), strict=False):
            shuffled = _shuffle(image, window, moved, distortion.shuffle_side)
            image = jnp.where(do[2], shuffled, image)
    for window in windows[distortion.shuffle_windows :]:
        image = jnp.where(do[3], _inpaint(image, window, distortion.inpaint_side), image)
    return jnp.where(do[4], _decline(image, axis, extent), image) if distortion.decline else image


def _box(image: jax.Array, window: jax.Array, side: int) -> tuple[Sequence[jax.Array], jax.Array]:
    """Start (z, y, x) of a box inside the image, and [z, y, x, 1] True inside it."""
    starts, inside = [], jnp.ones((), bool)
    for axis, n in enumerate(image.shape[:3]):
        start = _integer(window[axis], max(0, n - side) + 1)
        place = jnp.arange(n) - start
        inside &= _along(axis, (place >= 0) & (place < side), ndim=4)
        starts.append(start)
    return starts, inside


def _shuffle(image: jax.Array, window: jax.Array, moved: jax.Array, side: int) -> jax.Array:
    """The image with the slices of a box in the order `moved`."""
    (start, _, _), inside = _box(image, window, side)
    z = jnp.arange(len(image))
    place = z - start
    source = start + moved[jnp.clip(place, 0, len(moved) - 1)]
    source = jnp.where((place >= 0) & (place < len(moved)), source, z)
    return jnp.where(inside, image[source], image)


def _inpaint(image: jax.Array, window: jax.Array, side: int) -> jax.Array:
    """The image with a box of one gray value of its range."""
    _, inside = _box(image, window, side)
    low, high = image.min(), image.max()
    return jnp.where(inside, low + window[3] * (high - low), image)


def _decline(image: jax.Array, axis: jax.Array, extent: jax.Array) -> jax.Array:
    """The image fading to 0 towards the beginning of an axis, over a share of its length."""
    for a, n in enumerate(image.shape[:3]):
        place, length = jnp.arange(n), jnp.floor(extent * n)
        fades = (_integer(axis, 3) == a) & (place < length)
        weight = jnp.where(fades, place / jnp.maximum(length - 1, 1), 1)
        image = image * _along(a, weight, ndim=4).astype(image.dtype)
    return image
