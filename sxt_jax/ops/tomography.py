"""Parallel-beam tomography around y: projection, its adjoint, filtered back-projection, SIRT.

Geometry. The tilt axis is y, as IMOD has it: every (z, x) plane is a 2-D problem of its own. At
tilt `angle` a voxel at (z, x) from the centre lies at detector position
u = x cos(angle) + z sin(angle) and at depth t = z cos(angle) - x sin(angle), so the beam of the
untilted view runs along z.
Lengths are in voxels; positions count from the centres of the volume and of the detector.

The kernels work on `rows` [z, x, y]: with y last every gather fetches one contiguous row, which XLA
vectorises (90 views of 96³ in 10 ms to project, 7 ms to back-project on 2 CPU cores, 2026-11).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_VIEW_BATCH = 8


def detector_width(shape: tuple[int, int, int], angles_rad: np.ndarray) -> int:
    """Detector pixels along u that see every voxel of a volume at all angles.

    Args:
      shape: (z, y, x) of the volume.
      angles_rad: [view] tilt angles in radians.
    """
    angles = np.asarray(angles_rad, np.float64)
    width = shape[2] * np.abs(np.cos(angles)) + shape[0] * np.abs(np.sin(angles))
    return math.ceil(float(width.max()) / 2 + 0.5) * 2


def angular_weights(angles_rad: np.ndarray) -> np.ndarray:
    """Share of the half circle that each view stands for: half-way to its neighbours, in radians.

    A gap wider than 1.5 of the median one is a missing wedge: nobody stands for it.

    Args:
      angles_rad: [view] distinct tilt angles in radians, within a half circle, in any order.
    """
    angles = np.mod(np.asarray(angles_rad, np.float64), np.pi)
    order = np.argsort(angles)
    gaps = np.diff(angles[order], append=angles[order][0] + np.pi)
    usual = float(np.median(gaps))
    gaps = np.where(gaps > 1.5 * usual + 1e-9, usual, gaps)
    weights = np.empty_like(angles)
    weights[order] = (gaps + np.roll(gaps, 1)) / 2
    return weights


def slab_centres(shape: tuple[int, int, int], n_slabs: int) -> np.ndarray:
    """Depths (voxels from the centre) of `n_slabs` depth slabs that span a volume at every tilt."""
    thickness = math.hypot(shape[0], shape[2])
    return ((np.arange(n_slabs) + 0.5) / n_slabs - 0.5) * thickness


def _ray_rows(
    angle: jax.Array, step: jax.Array, *, plane: tuple[int, int], n_detector: int
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]:
    """Rows that all rays of a view meet at one step, with weights, and the depth there (Joseph).

    Rays step along z or x, whichever they run more along, and interpolate along the other.
    """
    nz, nx = plane
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    along_z = jnp.abs(cos) >= jnp.abs(sin)
    slope = jnp.where(along_z, cos, sin)
    centre_z, centre_x = (nz - 1) / 2, (nx - 1) / 2
    u = jnp.arange(n_detector) - (n_detector - 1) / 2
    from_centre = step - jnp.where(along_z, centre_z, centre_x)
    across = (u - from_centre * jnp.where(along_z, sin, cos)) / slope
    position = across + jnp.where(along_z, centre_x, centre_z)
    n_across, n_along = jnp.where(along_z, nx, nz), jnp.where(along_z, nz, nx)
    low = jnp.floor(position).astype(jnp.int32)
    fraction = position - low
    length = (step < n_along) / jnp.abs(slope)
    weight_low = jnp.where((low >= 0) & (low < n_across), 1 - fraction, 0) * length
    weight_high = jnp.where((low >= -1) & (low < n_across - 1), fraction, 0) * length
    along = jnp.minimum(step, n_along - 1)

    def row(across: jax.Array) -> jax.Array:
        inside = jnp.clip(across, 0, n_across - 1)
        return jnp.where(along_z, along * nx + inside, inside * nx + along)

    depth = jnp.where(along_z, from_centre * cos - across * sin, across * cos - from_centre * sin)
    return row(low), row(low + 1), weight_low, weight_high, depth


def project_view(
    rows: jax.Array, angle: jax.Array, *, n_detector: int, slabs: jax.Array | None = None
) -> jax.Array:
    """Line integrals of one view, whole or shared between depth slabs.

    Joseph's method (IEEE TMI 1:192, 1982).

    Args:
      rows: [z, x, y] volume with y last.
      angle: [] tilt in radians.
      n_detector: pixels along u.
      slabs: [slab] evenly spaced depths in voxels; a sample between two slabs counts linearly for
        both, one beyond the ends for the last. None: one slab.

    Returns:
      [slab, u, y] sums along the beam, in units of `rows` times voxels.
    """
    nz, nx, ny = rows.shape
    flat = rows.reshape(nz * nx, ny)
    depths = jnp.zeros(1) if slabs is None else slabs
    n_slabs = depths.shape[0]
    spacing = depths[1] - depths[0] if n_slabs > 1 else 1.0

    def one_step(sums: jax.Array, step: jax.Array) -> tuple[jax.Array, None]:
        low, high, weight_low, weight_high, depth = _ray_rows(
            angle, step, plane=(nz, nx), n_detector=n_detector
        )
        sample = flat[low] * weight_low[:, None] + flat[high] * weight_high[:, None]
        place = jnp.clip((depth - depths[0]) / spacing, 0, n_slabs - 1)
        share = jnp.maximum(0, 1 - jnp.abs(place - jnp.arange(n_slabs)[:, None]))
        return sums + share[..., None] * sample, None

    start = jnp.zeros((n_slabs, n_detector, ny), rows.dtype)
    return lax.scan(one_step, start, jnp.arange(max(nz, nx)))[0]


def backproject_rows(
    views: jax.Array, angles_rad: jax.Array, *, plane: tuple[int, int], matched: bool
) -> jax.Array:
    """Sum of views smeared back along their beams.

    Written as a gather: a pixel meets at most two rays of a view, with the weights that Joseph's
    method gave it, so `matched=True` is the exact adjoint without a scatter.

    Args:
      views: [view, u, y].
      angles_rad: [view] tilts in radians.
      plane: (z, x) of the volume.
      matched: exact adjoint of `project_view`; otherwise plain linear interpolation of the views,
        which is smoother and what filtered back-projection wants.

    Returns:
      [z, x, y] rows.
    """
    nz, nx = plane
    _, n_detector, ny = views.shape
    z = jnp.arange(nz)[:, None] - (nz - 1) / 2
    x = jnp.arange(nx) - (nx - 1) / 2

    def add_view(sums: jax.Array, item: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        angle, view = item
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        width = jnp.maximum(jnp.abs(cos), jnp.abs(sin)) if matched else 1.0
        position = x * cos + z * sin + (n_detector - 1) / 2
        low = jnp.floor(position).astype(jnp.int32)
        for pixel in (low, low + 1):
            weight = jnp.maximum(0, 1 - jnp.abs(position - pixel) / width) / width
            weight = jnp.where((pixel >= 0) & (pixel < n_detector), weight, 0)
            sums = sums + view[jnp.clip(pixel, 0, n_detector - 1)] * weight[..., None]
        return sums, None

    return lax.scan(add_view, jnp.zeros((nz, nx, ny), views.dtype), (angles_rad, views))[0]


def map_views(function: Callable[[Any], jax.Array], items: Any, *, batch_size: int) -> jax.Array:
    """`lax.map` over views in batches, the last one filled up with repeats.

    `lax.map` itself compiles the function a second time for an incomplete last batch.

    Args:
      function: of one view's items.
      items: tree of [view, …] arrays.
      batch_size: views at once.

    Returns:
      [view, …] results.
    """
    n_views = jax.tree.leaves(items)[0].shape[0]
    padding = -n_views % batch_size

    def padded(array: jax.Array) -> jax.Array:
        return jnp.pad(array, [(0, padding)] + [(0, 0)] * (array.ndim - 1), mode='edge')

    return lax.map(function, jax.tree.map(padded, items), batch_size=batch_size)[:n_views]


def _project_rows(rows: jax.Array, angles_rad: jax.Array, *, n_detector: int) -> jax.Array:
    view = functools.partial(project_view, rows, n_detector=n_detector)
    return map_views(lambda angle: view(angle)[0], angles_rad, batch_size=_VIEW_BATCH)


@functools.partial(jax.jit, static_argnames=('n_detector',))
def project(volume: jax.Array, angles_rad: jax.Array, *, n_detector: int) -> jax.Array:
    """Line integrals of a volume through a tilt series around y (module docstring for geometry).

    Args:
      volume: [z, y, x] float, taken as zero outside.
      angles_rad: [view] tilts in radians.
      n_detector: pixels along u; `detector_width` gives enough to see every voxel.

    Returns:
      [view, y, u] sums along the beam, in units of `volume` times voxels.
    """
    chex.assert_rank([volume, angles_rad], [3, 1])
    rows = jnp.transpose(volume, (0, 2, 1))
    views = _project_rows(rows, jnp.asarray(angles_rad), n_detector=n_detector)
    return jnp.transpose(views, (0, 2, 1))


@functools.partial(jax.jit, static_argnames=('plane',))
def backproject(views: jax.Array, angles_rad: jax.Array, *, plane: tuple[int, int]) -> jax.Array:
    """Exact adjoint of `project`.

    Args:
      views: [view, y, u] float.
      angles_rad: [view] tilts in radians.
      plane: (z, x) size of the volume.

    Returns:
      [z, y, x] volume.
    """
    chex.assert_rank([views, angles_rad], [3, 1])
    chex.assert_equal(views.shape[0], angles_rad.shape[0])
    rows = jnp.transpose(views, (0, 2, 1))
    summed = backproject_rows(rows, jnp.asarray(angles_rad), plane=plane, matched=True)
    return jnp.transpose(summed, (0, 2, 1))


FilterName = Literal['ramp', 'cosine', 'hann']


def _ramp_response(n_detector: int, name: FilterName) -> np.ndarray:
    """Frequency response of the ramp filter, zero-padded against wrap-around.

    The ramp is sampled in space, not in frequency: otherwise the mean is lost (Kak & Slaney,
    Principles of Computerized Tomographic Imaging, 1988, eq. 3-61).
    """
    size = 1 << (2 * n_detector - 1).bit_length()
    lag = np.minimum(np.arange(size), size - np.arange(size))
    kernel = np.where(lag % 2 == 1, -1 / (np.pi * np.maximum(lag, 1)) ** 2, 0.0)
    kernel[0] = 0.25
    response = np.fft.rfft(kernel).real
    phase = np.pi * np.arange(response.size) / (response.size - 1)
    windows: dict[str, np.ndarray | float] = {
        'ramp': 1.0,
        'cosine': np.cos(phase / 2),
        'hann': 0.5 + 0.5 * np.cos(phase),
    }
    return response * windows[name]


@functools.partial(jax.jit, static_argnames=('plane', 'filter_name'))
def filtered_backprojection(
    views: jax.Array,
    angles_rad: jax.Array,
    weights_rad: jax.Array,
    *,
    plane: tuple[int, int],
    filter_name: FilterName = 'hann',
) -> jax.Array:
    """Volume from its line integrals by filtered back-projection.

    Kak & Slaney 1988, section 3.3. Quantitative for a full half circle: the values are those of the
    volume that was projected, per voxel length.

    Args:
      views: [view, y, u] line integrals (for X-rays -ln of the transmission).
      angles_rad: [view] tilts in radians.
      weights_rad: [view] of `angular_weights`.
      plane: (z, x) size of the volume.
      filter_name: 'ramp', or the ramp times half a 'cosine' or a 'hann' window: smoother in turn.

    Returns:
      [z, y, x] volume, in units of `views` per voxel.
    """
    chex.assert_rank([views, angles_rad, weights_rad], [3, 1, 1])
    chex.assert_equal(views.shape[0], angles_rad.shape[0])
    n_detector = views.shape[2]
    response = jnp.asarray(_ramp_response(n_detector, filter_name), views.dtype)
    size = 2 * (response.shape[0] - 1)

    def filtered(item: tuple[jax.Array, jax.Array]) -> jax.Array:
        view, weight = item
        spectrum = jnp.fft.rfft(view, n=size, axis=1) * response * weight
        return jnp.fft.irfft(spectrum, n=size, axis=1)[:, :n_detector].T.astype(views.dtype)

    rows = map_views(filtered, (views, weights_rad), batch_size=_VIEW_BATCH)
    volume = backproject_rows(rows, jnp.asarray(angles_rad), plane=plane, matched=False)
    return jnp.transpose(volume, (0, 2, 1))


@functools.partial(jax.jit, static_argnames=('plane', 'n_iterations'))
def sirt(
    views: jax.Array,
    angles_rad: jax.Array,
    *,
    plane: tuple[int, int],
    n_iterations: int = 30,
    minimum: float | jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Volume from its line integrals by simultaneous iterative reconstruction.

    x ← max(x + C Aᵀ R (b - A x), minimum), R and C the inverse sums of rows and columns of A
    (Gregor & Benson, IEEE TMI 27:918, 2008); without `minimum` the residual never grows.

    Args:
      views: [view, y, u] line integrals.
      angles_rad: [view] tilts in radians.
      plane: (z, x) size of the volume.
      n_iterations: sweeps; more are sharper and noisier.
      minimum: lowest value allowed, 0 where the volume cannot be negative; None for no bound.

    Returns:
      [z, y, x] volume in units of `views` per voxel, and [n_iterations] residuals
      ‖b - A x‖ in the norm of R before each sweep.
    """
    chex.assert_rank([views, angles_rad], [3, 1])
    chex.assert_equal(views.shape[0], angles_rad.shape[0])
    angles = jnp.asarray(angles_rad)
    target = jnp.transpose(views, (0, 2, 1))
    n_detector, ny = target.shape[1:]
    forward = functools.partial(_project_rows, angles_rad=angles, n_detector=n_detector)
    back = functools.partial(backproject_rows, angles_rad=angles, plane=plane, matched=True)
    row_sums = forward(jnp.ones((*plane, 1), views.dtype))
    column_sums = back(jnp.ones((*target.shape[:2], 1), views.dtype))
    # A ray that misses the volume or a voxel that no ray meets has nothing to say: weight 0.
    row_weights = jnp.where(row_sums > 1e-3, 1 / jnp.maximum(row_sums, 1e-3), 0)
    column_weights = jnp.where(column_sums > 1e-3, 1 / jnp.maximum(column_sums, 1e-3), 0)

    def sweep(rows: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        residual = target - forward(rows)
        size = jnp.sqrt(jnp.sum(row_weights * residual**2))
        rows = rows + column_weights * back(row_weights * residual)
        return (rows if minimum is None else jnp.maximum(rows, minimum)), size

    start = jnp.zeros((*plane, ny), views.dtype)
    rows, residuals = lax.scan(sweep, start, None, length=n_iterations)
    return jnp.transpose(rows, (0, 2, 1)), residuals
