"""Dense optical flow between two images by polynomial expansion, and images moved along it.

Farnebäck (SCIA 2003) with a pyramid, as OpenCV's `calcOpticalFlowFarneback` has it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.ndimage import map_coordinates
from jax.typing import ArrayLike

from sxt_jax.core.devices import is_accelerated
from sxt_jax.ops import flow_step, flow_step_cpu
from sxt_jax.ops.flow_step import Planes
from sxt_jax.ops.polynomial_expansion import correlate, expand

_LEAST_SIDE = 32  # of a level of the pyramid but the finest
_FINEST_BLUR = (0.25, 0.5, 0.25)


class _Options(NamedTuple):
    iterations: int
    poly_n: int
    poly_sigma: float
    window: int
    gaussian: bool


def farneback(
    prev: ArrayLike,
    next: ArrayLike,
    *,
    levels: int = 6,
    scale: float = 0.2,
    window: int = 30,
    iterations: int = 3,
    poly_n: int = 5,
    poly_sigma: float = 1.1,
    gaussian: bool = False,
) -> jax.Array:
    """Where in `next` every pixel of `prev` is: prev[y, x] ≈ next[y + flow[0], x + flow[1]].

    Equal to `cv2.calcOpticalFlowFarneback` but for the order of y and x (there x comes first). The
    defaults are those of Machireddy et al. 2023. Gray values are to be in the range of 8 bits:
    where contrast is far below 1, flows tend to 0. To bring labels of a slice to the one behind it:
    `warp(labels, farneback(behind, slice), order=0)`.

    May be called in `jit` and `vmap`. On a CPU it is faster outside of them: rows are then divided
    among the cores.

    Args:
      prev: [y, x] real and finite.
      next: [y, x].
      levels: of the pyramid beside the images themselves, at most; none has a side below 32.
      scale: between the sides of one level and of the next finer one, below 1.
      window: side, in pixels, of what is taken to move alike; an even one is a pixel wider.
      iterations: on each level.
      poly_n: polynomials are fitted to so many neighbours on each side.
      poly_sigma: standard deviation, in pixels, of the weights of that fit.
      gaussian: whether pixels in the middle of the window weigh more (OPTFLOW_FARNEBACK_GAUSSIAN).

    Returns:
      [y, x, 2] float32, in pixels along y and x; 0 where images are flat.

    Raises:
      ValueError: shapes are not one [y, x] of 2 pixels at least, or an option is out of range.
    """
    shape = jnp.shape(prev)
    if len(shape) != 2 or shape != jnp.shape(next) or min(shape) < 2:
        raise ValueError(f'images of shapes {shape} and {jnp.shape(next)}: expected two [y, x]')
    if not (levels >= 0 and 0 < scale < 1 and window >= 2 and iterations >= 1):
        found = f'levels {levels}, scale {scale}, window {window}, iterations {iterations}'
        raise ValueError(f'{found}: expected ≥ 0, between 0 and 1, ≥ 2 and ≥ 1')
    if not (poly_n >= 1 and poly_sigma > 0):
        raise ValueError(f'poly_n {poly_n}, poly_sigma {poly_sigma}: expected ≥ 1 and above 0')
    options = _Options(iterations, poly_n, float(poly_sigma), window, gaussian)
    traced = isinstance(prev, jax.core.Tracer) or isinstance(next, jax.core.Tracer)
    if traced or is_accelerated():
        return _flow_plain(prev, next, levels=levels, scale=scale, options=options)
    improve = functools.partial(flow_step_cpu.improve, **options._asdict())
    return _through_levels(prev, next, levels, scale, improve)


def warp(image: ArrayLike, flows: ArrayLike, *, order: int = 1) -> jax.Array:
    """What lies where flows point to: result[y, x] = image[y + flows[y, x, 0], x + flows[y, x, 1]].

    So flows are from the result to the image: with `farneback(prev, next)`, `next` (its labels,
    its boundaries) is brought to where it is in `prev`. Beyond the border the outermost pixel is
    repeated.

    Args:
      image: [y, x] or [y, x, c].
      flows: [y', x', 2] in pixels.
      order: 1 interpolates; 0 takes the nearest pixel, for labels and masks.

    Returns:
      [y', x'] or [y', x', c]; float32 of integers with order 1, else in the dtype of `image`.

    Raises:
      ValueError: shapes do not fit, or another order.
    """
    image, flows = jnp.asarray(image), jnp.asarray(flows)
    if image.ndim not in (2, 3) or flows.ndim != 3 or flows.shape[-1] != 2:
        found = f'image of shape {image.shape}, flows of shape {flows.shape}'
        raise ValueError(f'{found}: expected [y, x] or [y, x, c], and [y, x, 2]')
    if order not in (0, 1):
        raise ValueError(f'order {order}: expected 0 or 1')
    return _warp(image, flows, order=order)


@functools.partial(jax.jit, static_argnames='order')
def _warp(image: jax.Array, flows: jax.Array, *, order: int) -> jax.Array:
    grid = jnp.indices(flows.shape[:2], dtype=jnp.float32)
    places = [grid[i] + flows[..., i] for i in range(2)]
    if order == 0:  # by indices: as float32, ids above 2²⁴ would be rounded
        nearest = [
            jnp.clip(jnp.round(p), 0, n - 1).astype(jnp.int32)
            for p, n in zip(places, image.shape[:2], strict=True)
        ]
        return image[nearest[0], nearest[1]]
    if not jnp.issubdtype(image.dtype, jnp.floating):
        image = image.astype(jnp.float32)
    pull = functools.partial(map_coordinates, coordinates=places, order=1, mode='nearest')
    return pull(image) if image.ndim == 2 else jax.vmap(pull, in_axes=-1, out_axes=-1)(image)


@functools.partial(jax.jit, static_argnames=('levels', 'scale', 'options'))
def _flow_plain(
    prev: ArrayLike,
    next: ArrayLike,
    *,
    levels: int,
    scale: float,
    options: _Options,
) -> jax.Array:
    """All in one program, for whatever device."""

    def improve(images: tuple[jax.Array, jax.Array], flow: Planes) -> Planes:
        first, second = (expand(i, n=options.poly_n, sigma=options.poly_sigma) for i in images)
        step = functools.partial(
            flow_step.improve, window=options.window, gaussian=options.gaussian
        )
        return lax.fori_loop(0, options.iterations, lambda _, flow: step(first, second, flow), flow)

    return _through_levels(prev, next, levels, scale, improve)


def _through_levels(
    prev: ArrayLike,
    next: ArrayLike,
    levels: int,
    scale: float,
    improve: Callable[[tuple[jax.Array, jax.Array], Planes], Planes],
) -> jax.Array:
    """From the coarsest level to the finest, each starting with what the one before it found."""
    flow = None
    for factor, shape in _pyramid(jnp.shape(prev), levels, scale):
        images = _reduce(prev, next, factor=factor, shape=shape)
        flow = _start(flow, shape=shape, scale=scale)
        flow = improve(images, flow)
    assert flow is not None
    return _stack(flow)


def _pyramid(shape: tuple[int, ...], levels: int, scale: float) -> list[tuple[float, tuple]]:
    """Factor and shape of each level, the coarsest first."""
    found, factor = [(1.0, tuple(shape))], 1.0
    for _ in range(levels):
        factor *= scale
        if min(shape) * factor < _LEAST_SIDE:
            break
        found.append((factor, tuple(round(n * factor) for n in shape)))
    return found[::-1]


@functools.partial(jax.jit, static_argnames=('factor', 'shape'))
def _reduce(
    prev: ArrayLike,
    next: ArrayLike,
    *,
    factor: float,
    shape: tuple[int, int],
) -> tuple[jax.Array, jax.Array]:
    """The images of a level, float32: blurred, then read where the centres of its pixels are."""
    images = [jnp.asarray(image, jnp.float32) for image in (prev, next)]
    if factor == 1:
        for axis in (0, 1):
            images = [correlate(i, _FINEST_BLUR, axis=axis, mode='reflect') for i in images]
    else:
        y, x = (_blur_weights(n, m, factor) for n, m in zip(images[0].shape, shape, strict=True))
        down = [jnp.matmul(y, image, precision='highest') for image in images]
        images = [jnp.einsum('yx,ix->yi', i, x, precision='highest') for i in down]
    return images[0], images[1]


def _blur_weights(n: int, m: int, factor: float) -> jax.Array:
    """[m, n]: what each new pixel takes from the old ones; images are mirrored at the border.

    Made on the device: as constants of a program they would be tens of megabytes.
    """
    sigma = (1 / factor - 1) / 2
    radius = max(round(5 * sigma) | 1, 3) // 2
    total = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2).sum()
    low, share = (jnp.asarray(a)[:, None] for a in _neighbours(n, m))
    high = jnp.minimum(low + 1, n - 1)

    def weights(j: jax.Array) -> jax.Array:
        def blur(centre: jax.Array) -> jax.Array:
            d = (j - centre).astype(jnp.float32)
            return jnp.where(jnp.abs(d) <= radius, jnp.exp(-0.5 * (d / sigma) ** 2) / total, 0)

        return (1 - share) * blur(low) + share * blur(high)

    j = jnp.arange(n)
    before, behind = weights(-j), weights(2 * (n - 1) - j)
    return weights(j) + jnp.where(j > 0, before, 0) + jnp.where(j < n - 1, behind, 0)


def _neighbours(n: int, m: int) -> tuple[np.ndarray, np.ndarray]:
    """Of n pixels, the one before the centre of each of m on the same side, and how far it is."""
    at = np.clip((np.arange(m) + 0.5) * (n / m) - 0.5, 0, n - 1)
    low = np.floor(at).astype(np.int32)
    return low, (at - low).astype(np.float32)


@functools.partial(jax.jit, static_argnames=('shape', 'scale'))
def _start(coarse: Planes | None, *, shape: tuple[int, int], scale: float) -> Planes:
    """Displacements of the coarser level in pixels of this one, or none."""
    if coarse is None:
        return jnp.zeros(shape), jnp.zeros(shape)
    y, x = (_enlarge(plane, shape) / scale for plane in coarse)
    return y, x


def _enlarge(plane: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Bilinear. Gathers, since almost all of a large matrix would be zeros."""
    for axis in (1, 0):
        n = plane.shape[axis]
        low, share = _neighbours(n, shape[axis])
        share = share if axis else share[:, None]
        parts = [jnp.take(plane, i, axis) for i in (low, np.minimum(low + 1, n - 1))]
        plane = (1 - share) * parts[0] + share * parts[1]
    return plane


@jax.jit
def _stack(flow: Planes) -> jax.Array:
    return jnp.stack(flow, -1)
