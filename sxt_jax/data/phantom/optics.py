"""The microscope: what zone plate and photon counting make of a scene's tilt series."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from sxt_jax.data.phantom.parameters import ImagingParameters
from sxt_jax.ops import tomography

_PLANCK_EV_NM = 1239.842
_VIEW_BATCH = 4


def tilt_angles(imaging: ImagingParameters) -> np.ndarray:
    """[view] tilts in radians: 0 … 180° without the end, or ± half of a smaller range."""
    full = imaging.tilt_range_deg >= 180
    half = imaging.tilt_range_deg / 2
    first, last = (0.0, 180.0) if full else (-half, half)
    return np.deg2rad(np.linspace(first, last, imaging.n_views, endpoint=not full))


def blur_sigma_nm(imaging: ImagingParameters, depth_nm: np.ndarray) -> np.ndarray:
    """Standard deviation (nm) of the point spread at depths (nm) from the tilt axis.

    In focus a Gaussian as wide at half height as the Airy disc (0.51 λ/NA, about the outermost
    zone width); out of focus the geometric cone of half-angle NA, whose disc of radius NA·Δ has a
    standard deviation of half of that per axis. Both add in squares.
    """
    if imaging.zone_plate_nm is None:
        return np.zeros_like(depth_nm, dtype=np.float64)
    wavelength = _PLANCK_EV_NM / imaging.energy_ev
    aperture = wavelength / (2 * imaging.zone_plate_nm)
    in_focus = 0.51 * wavelength / aperture / 2.3548
    return np.hypot(in_focus, aperture * (depth_nm - imaging.focus_offset_nm) / 2)


def _blur_matrix(n: int, sigma: jax.Array, shift: jax.Array) -> jax.Array:
    """[n, n] Gaussian blur after a shift in pixels: linear interpolation convolved with a Gaussian.

    The weight of a pixel at distance d is the second difference of the twice-integrated Gaussian.
    It is split into that of max(d, 0), which is the hat function, and a remainder that fades away
    from 0, so that nothing cancels in float32.
    """
    sigma = jnp.maximum(sigma, 1e-6)
    index = jnp.arange(n, dtype=jnp.float32)
    distance = index[:, None] - index - shift

    def remainder(d: jax.Array) -> jax.Array:
        scaled = jnp.abs(d) / sigma
        return sigma * jax.scipy.stats.norm.pdf(scaled) - jnp.abs(d) * jax.scipy.stats.norm.cdf(
            -scaled
        )

    hat = jnp.maximum(0, 1 - jnp.abs(distance))
    return hat + remainder(distance + 1) - 2 * remainder(distance) + remainder(distance - 1)


@functools.partial(jax.jit, static_argnames=('n_detector',))
def optical_depths(
    depth_per_voxel: jax.Array,
    angles_rad: jax.Array,
    shifts_px: jax.Array,
    slabs: jax.Array,
    sigmas_px: jax.Array,
    *,
    n_detector: int,
) -> jax.Array:
    """Optical depth of each view through the microscope: depth-dependent blur and misalignment.

    The blur acts on the optical depth of each slab, the incoherent linear model of Ekman et al.
    (J. Struct. Biol. 204:9, 2018) with Gaussian point spreads.

    Args:
      depth_per_voxel: [z, y, x] LAC times voxel size, less that of an even surrounding.
      angles_rad: [view] tilts in radians.
      shifts_px: [view, 2] misalignment along (y, u) in pixels.
      slabs: [slab] depths in voxels, see `tomography.project_view`.
      sigmas_px: [slab] standard deviations of the blur in pixels.
      n_detector: pixels along u.

    Returns:
      [view, y, u] optical depths, -ln of the transmission.
    """
    rows = jnp.transpose(depth_per_voxel, (0, 2, 1))
    ny = rows.shape[2]
    matrix = jax.vmap(_blur_matrix, in_axes=(None, 0, None))
    exact = functools.partial(jnp.einsum, precision=lax.Precision.HIGHEST)

    def view(item: tuple[jax.Array, jax.Array]) -> jax.Array:
        angle, shift = item
        parts = tomography.project_view(rows, angle, n_detector=n_detector, slabs=slabs)
        blur_u, blur_y = matrix(n_detector, sigmas_px, shift[1]), matrix(ny, sigmas_px, shift[0])
        # The sample goes on above and below the volume: what is cut off there is made up.
        blur_y = blur_y / jnp.maximum(blur_y.sum(-1, keepdims=True), 1e-6)
        return exact('suv,svy,szy->zu', blur_u, parts, blur_y)

    return tomography.map_views(view, (angles_rad, shifts_px), batch_size=_VIEW_BATCH)


def photon_noise(
    rng: np.random.Generator, depths: np.ndarray, *, photons: float, surrounding_depth: np.ndarray
) -> np.ndarray:
    """Optical depths as counted: Beer–Lambert, Poisson counts, logarithm.

    On the host: numpy draws Poisson numbers 3 times as fast as XLA does on 2 CPU cores, and its
    sampler adds no 4 s of compilation (2026-11).

    Args:
      rng: source of the noise.
      depths: [view, y, u] optical depths above that of the surrounding.
      photons: per pixel and view without anything in the beam.
      surrounding_depth: [view] optical depth of the even surrounding; it costs photons only.

    Returns:
      [view, y, u] float32 -ln(counts / counts expected of the surrounding alone); pixels without
      a photon count as one.
    """
    noisy = np.empty(depths.shape, np.float32)
    for view, around in enumerate(surrounding_depth):
        expected = photons * np.exp(-around)
        counts = rng.poisson(expected * np.exp(-np.asarray(depths[view], np.float64)))
        noisy[view] = -np.log(np.maximum(counts, 1) / expected)
    return noisy
