"""Projection and reconstruction against chords of a sphere, scikit-image, and their own algebra."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from skimage import transform

from sxt_jax.ops import tomography


def _angles(n_views: int, *, last_deg: float = 180.0) -> np.ndarray:
    return np.deg2rad(np.arange(n_views) * last_deg / n_views)


def _ball(shape: tuple[int, int, int], radius: float) -> np.ndarray:
    z, y, x = (np.arange(n) - (n - 1) / 2 for n in shape)
    distance = np.sqrt(z[:, None, None] ** 2 + y[:, None] ** 2 + x**2)
    return np.clip(radius - distance + 0.5, 0, 1).astype(np.float32)


def _smooth_plane(n: int) -> np.ndarray:
    """Smooth and without symmetry, inside the inscribed circle."""
    rng = np.random.default_rng(5)
    axis = np.linspace(-1, 1, n)
    plane = np.zeros((n, n))
    for _ in range(6):
        centre, width = rng.uniform(-0.45, 0.45, 2), rng.uniform(0.08, 0.2)
        distance = (axis[:, None] - centre[0]) ** 2 + (axis - centre[1]) ** 2
        plane += rng.uniform(0.5, 1) * np.exp(-distance / (2 * width**2))
    plane *= (axis[:, None] ** 2 + axis**2) < 0.9
    return plane.astype(np.float32)


@pytest.mark.parametrize('shape', [(24, 5, 24), (13, 4, 30), (31, 3, 12)])
def test_backprojection_is_the_adjoint_of_projection(shape):
    rng = np.random.default_rng(0)
    angles = np.concatenate([_angles(17), [np.pi / 4, np.pi / 2, -np.pi / 4]]).astype(np.float32)
    n_detector = tomography.detector_width(shape, angles)
    volume = rng.normal(size=shape).astype(np.float32)
    views = rng.normal(size=(angles.size, shape[1], n_detector)).astype(np.float32)
    forward = np.asarray(tomography.project(volume, angles, n_detector=n_detector), np.float64)
    back = np.asarray(tomography.backproject(views, angles, plane=(shape[0], shape[2])), np.float64)
    scale = np.linalg.norm(forward) * np.linalg.norm(views)
    assert abs(np.vdot(forward, views) - np.vdot(volume, back)) < 1e-6 * scale
    assert np.vdot(forward, views) == pytest.approx(np.vdot(volume, back), rel=1e-3)


def test_projections_of_a_ball_are_its_chords():
    shape, radius = (40, 40, 40), 15.0
    angles = _angles(12).astype(np.float32)
    n_detector = tomography.detector_width(shape, angles)
    views = np.asarray(tomography.project(_ball(shape, radius), angles, n_detector=n_detector))
    y = np.arange(40) - 19.5
    u = np.arange(n_detector) - (n_detector - 1) / 2
    squared = y[:, None] ** 2 + u**2
    chord = 2 * np.sqrt(np.maximum(radius**2 - squared, 0))
    well_inside = squared < (radius - 3) ** 2
    error = np.abs(views - chord)[:, well_inside]
    assert error.max() < 0.4
    assert error.mean() < 0.08
    assert np.abs(views[:, squared > (radius + 2) ** 2]).max() < 1e-5


def test_a_voxel_lands_where_the_geometry_says():
    shape = (33, 3, 33)
    volume = np.zeros(shape, np.float32)
    volume[26, 1, 20] = 1.0  # 10 above and 4 right of the centre
    angles = np.deg2rad([0.0, 90.0, 30.0, -50.0]).astype(np.float32)
    views = np.asarray(tomography.project(volume, angles, n_detector=49))
    u = np.arange(49) - 24
    found = (views[:, 1] * u).sum(-1) / views[:, 1].sum(-1)
    np.testing.assert_allclose(found, 4 * np.cos(angles) + 10 * np.sin(angles), atol=0.35)
    np.testing.assert_allclose(views[:2, 1].sum(-1), 1, rtol=1e-4)
    assert not views[:, [0, 2]].any()


def test_projection_agrees_with_scikit_image():
    plane = _smooth_plane(65)
    degrees = np.arange(0, 180, 6.0)
    expected = transform.radon(plane, theta=degrees, circle=True)  # [u, view]
    # scikit-image turns the other way.
    views = tomography.project(
        plane[:, None, :], -np.deg2rad(degrees).astype(np.float32), n_detector=65
    )
    np.testing.assert_allclose(np.asarray(views)[:, 0].T, expected, atol=0.003 * expected.max())


@pytest.mark.parametrize('filter_name', ['ramp', 'cosine', 'hann'])
def test_filtered_backprojection_agrees_with_scikit_image(filter_name):
    plane = _smooth_plane(65)
    degrees = np.arange(0, 180, 2.0)
    angles = -np.deg2rad(degrees)  # scikit-image turns the other way
    sinogram = transform.radon(plane, theta=degrees, circle=True)
    expected = transform.iradon(sinogram, theta=degrees, filter_name=filter_name, circle=True)
    found = tomography.filtered_backprojection(
        jnp.asarray(sinogram.T[:, None, :], jnp.float32),
        angles.astype(np.float32),
        tomography.angular_weights(angles).astype(np.float32),
        plane=(65, 65),
        filter_name=filter_name,
    )
    axis = np.linspace(-1, 1, 65)
    inside = axis[:, None] ** 2 + axis**2 < 0.85
    difference = np.abs(np.asarray(found)[:, 0] - expected)[inside]
    assert difference.max() < 0.03 * plane.max()
    assert np.abs(np.asarray(found)[:, 0] - plane)[inside].mean() < 0.01 * plane.max()


def test_reconstruction_is_quantitative_on_a_volume_that_is_not_a_cube():
    shape = (32, 20, 44)
    ball = 0.37 * _ball(shape, 8.0)
    angles = _angles(120)
    views = tomography.project(
        ball, angles.astype(np.float32), n_detector=tomography.detector_width(shape, angles)
    )
    found = np.asarray(
        tomography.filtered_backprojection(
            views,
            angles.astype(np.float32),
            tomography.angular_weights(angles).astype(np.float32),
            plane=(32, 44),
        )
    )
    assert found.shape == shape
    assert found[_ball(shape, 5.0) == 1].mean() == pytest.approx(0.37, rel=0.005)
    assert abs(found[_ball(shape, 11.0) == 0].mean()) < 0.002


def test_slabs_share_the_whole_view_by_depth():
    rng = np.random.default_rng(1)
    rows = jnp.asarray(rng.uniform(size=(20, 20, 3)), jnp.float32)
    slabs = jnp.asarray(tomography.slab_centres((20, 3, 20), 5), jnp.float32)
    for angle in (0.0, 0.7, 2.0):
        whole = tomography.project_view(rows, jnp.float32(angle), n_detector=30)
        parts = tomography.project_view(rows, jnp.float32(angle), n_detector=30, slabs=slabs)
        assert parts.shape == (5, 30, 3)
        np.testing.assert_allclose(parts.sum(0), whole[0], rtol=1e-4, atol=1e-4)
    point = jnp.zeros((21, 21, 1)).at[18, 10, 0].set(1.0)  # 8 above the centre
    upright = tomography.project_view(point, jnp.float32(0), n_detector=30, slabs=slabs)
    share = upright.sum((1, 2))
    assert float((share * slabs).sum() / share.sum()) == pytest.approx(8, abs=0.05)


def test_sirt_residual_falls_and_converges():
    rng = np.random.default_rng(2)
    shape = (24, 4, 24)
    volume = (_ball(shape, 9.0) * rng.uniform(0.5, 1.5, shape)).astype(np.float32)
    angles = _angles(40).astype(np.float32)
    views = tomography.project(volume, angles, n_detector=34)
    found, residuals = tomography.sirt(views, angles, plane=(24, 24), n_iterations=40)
    residuals = np.asarray(residuals)
    assert (np.diff(residuals) < 0).all()
    assert residuals[-1] < 0.03 * residuals[0]
    assert np.abs(np.asarray(found) - volume).mean() < 0.12 * volume.mean() + 0.05
    noisy = views + jnp.asarray(rng.normal(0, 1, views.shape), jnp.float32)
    bounded, _ = tomography.sirt(noisy, angles, plane=(24, 24), n_iterations=10, minimum=0.0)
    free, _ = tomography.sirt(noisy, angles, plane=(24, 24), n_iterations=10)
    assert float(bounded.min()) == 0
    assert float(free.min()) < 0


def test_angular_weights():
    full = _angles(36)
    np.testing.assert_allclose(tomography.angular_weights(full), np.pi / 36, rtol=1e-9)
    wedge = np.deg2rad(np.arange(-65, 66, 5.0))
    np.testing.assert_allclose(tomography.angular_weights(wedge), np.deg2rad(5), rtol=1e-9)
    order = np.random.default_rng(3).permutation(36)
    uneven = full**1.1 / np.pi**0.1
    np.testing.assert_allclose(
        tomography.angular_weights(uneven[order]), tomography.angular_weights(uneven)[order]
    )


def test_the_detector_sees_every_voxel():
    for shape in [(10, 2, 30), (17, 2, 17)]:
        for last in (130.0, 180.0):
            angles = (_angles(24, last_deg=last) - np.deg2rad(last / 2)).astype(np.float32)
            narrow = tomography.detector_width(shape, angles)
            ones = np.ones(shape, np.float32)
            seen = tomography.project(ones, angles, n_detector=narrow)
            wide = tomography.project(ones, angles, n_detector=narrow + 20)
            assert float(seen.sum()) == pytest.approx(float(wide.sum()), rel=1e-5)


def test_wrong_ranks_are_refused():
    with pytest.raises(AssertionError, match='rank'):
        tomography.project(np.zeros((4, 4)), np.zeros(2), n_detector=4)
    with pytest.raises(AssertionError):
        tomography.backproject(np.zeros((3, 4, 4)), np.zeros(2), plane=(4, 4))
