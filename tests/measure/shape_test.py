"""Shapes of single objects against closed forms and scikit-image."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from skimage import measure as skimage_measure

from sxt_jax.measure import objects, shape, surface_mesh
from tests.measure.shapes import ellipsoid

UNIT = (1.0, 1.0, 1.0)


def test_moments_of_a_box_are_exact() -> None:
    mask = np.zeros((12, 12, 12), bool)
    mask[2:8, 3:7, 1:11] = True
    size = (3.0, 5.0, 7.0)
    centroid, covariance = shape.centroid_and_covariance(mask, voxel_size_nm=size)
    edges = np.array([6 * 3.0, 4 * 5.0, 10 * 7.0])
    np.testing.assert_allclose(centroid, np.array([4.5, 4.5, 5.5]) * size)
    np.testing.assert_allclose(covariance, np.diag(edges**2 / 12), atol=1e-9)


def test_covariance_agrees_with_numpy_on_any_mask() -> None:
    mask = np.random.default_rng(0).random((7, 8, 9)) < 0.3
    size = np.array([2.0, 3.0, 4.0])
    centroid, covariance = shape.centroid_and_covariance(mask, voxel_size_nm=size)
    points = np.argwhere(mask) * size
    np.testing.assert_allclose(centroid, points.mean(0))
    expected = np.cov(points.T, bias=True) + np.diag(size**2 / 12)
    np.testing.assert_allclose(covariance, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('voxel_size', [(1, 1, 1), (3, 1, 1), (1, 2, 2)])
def test_axes_of_turned_ellipsoids(voxel_size: tuple) -> None:
    rotation = Rotation.random(random_state=3).as_matrix()
    mask = ellipsoid((20, 13, 8), voxel_size=voxel_size, rotation=rotation)
    _, covariance = shape.centroid_and_covariance(mask, voxel_size_nm=voxel_size)
    np.testing.assert_allclose(shape.ellipsoid_axes_nm(covariance), [40, 26, 16], rtol=0.025)


def test_axes_agree_with_scikit_image_on_large_objects() -> None:
    mask = ellipsoid((22, 15, 11), rotation=Rotation.random(random_state=4).as_matrix())
    _, covariance = shape.centroid_and_covariance(mask, voxel_size_nm=UNIT)
    region = skimage_measure.regionprops(mask.astype(np.uint8))[0]
    ours = shape.ellipsoid_axes_nm(covariance)
    assert ours[0] == pytest.approx(region.axis_major_length, rel=2e-3)
    assert ours[2] == pytest.approx(region.axis_minor_length, rel=5e-3)


def test_a_single_voxel_has_the_axes_of_a_brick() -> None:
    _, covariance = shape.centroid_and_covariance(np.ones((1, 1, 1), bool), voxel_size_nm=UNIT)
    np.testing.assert_allclose(shape.ellipsoid_axes_nm(covariance), 2 * np.sqrt(5 / 12))


def test_sphericity_formula() -> None:
    assert shape.sphericity(4 / 3 * np.pi * 8, 4 * np.pi * 4) == pytest.approx(1)
    assert shape.sphericity(1, 6) == pytest.approx((np.pi / 6) ** (1 / 3))  # cube


def test_solidity_of_convex_and_hollowed_bodies() -> None:
    ball = ellipsoid((12, 12, 12))
    whole = surface_mesh(ball, voxel_size_nm=UNIT)
    assert 0.99 < shape.solidity(whole) <= 1
    notched = ball.copy()
    middle = ball.shape[0] // 2
    notched[middle - 4 : middle + 5, middle - 4 : middle + 5, middle:] = False
    expected = notched.sum() / ball.sum()
    assert shape.solidity(surface_mesh(notched, voxel_size_nm=UNIT)) == pytest.approx(
        expected, abs=0.03
    )


def test_circular_variance_of_a_spheroid() -> None:
    ball = surface_mesh(ellipsoid((15, 15, 15)), voxel_size_nm=UNIT)
    centre = ball.vertices_nm.mean(0)
    assert shape.circular_variance(ball, centroid_nm=centre) < 1e-3

    axes = np.array([20.0, 10.0, 10.0])
    found = surface_mesh(ellipsoid(axes), voxel_size_nm=UNIT)
    variance = shape.circular_variance(found, centroid_nm=found.vertices_nm.mean(0))
    t = np.linspace(0, np.pi, 20001)  # polar angle; area element by the surface of revolution
    radius = np.hypot(20 * np.cos(t), 10 * np.sin(t))
    weight = 10 * np.sin(t) * np.hypot(20 * np.sin(t), 10 * np.cos(t))
    mean = np.average(radius, weights=weight)
    expected = np.average((radius - mean) ** 2, weights=weight) / mean**2
    assert variance == pytest.approx(expected, rel=0.03)


def _measured(mask: np.ndarray) -> dict[str, float]:
    table = objects(mask.astype(np.uint8), voxel_size_nm=UNIT)
    return {name: column[0] for name, column in table.items()}


def test_a_cube() -> None:
    found = _measured(np.pad(np.ones((48, 48, 48), bool), 1))
    assert found['sphericity'] == pytest.approx((np.pi / 6) ** (1 / 3), rel=0.06)  # rounded edges
    assert found['solidity'] == pytest.approx(1, abs=0.02)
    u, v = np.meshgrid(*[(np.arange(200) + 0.5) / 100 - 1] * 2)
    radius = np.sqrt(1 + u**2 + v**2)
    variance = radius.var() / radius.mean() ** 2
    assert found['circular_variance'] == pytest.approx(variance, rel=0.15)
    assert found['fenestrated_percent'] == 0


def test_a_shell() -> None:
    outer, inner = 16.0, 9.0
    ball = ellipsoid((outer,) * 3)
    hole = np.pad(ellipsoid((inner,) * 3), int(outer - inner))
    found = _measured(ball & ~hole)
    share = (inner / outer) ** 3
    volume, area = 4 / 3 * np.pi * outer**3 * (1 - share), 4 * np.pi * (outer**2 + inner**2)
    assert found['volume_um3'] == pytest.approx(volume * 1e-9, rel=0.01)
    assert found['sphericity'] == pytest.approx(shape.sphericity(volume, area), rel=0.02)
    assert found['fenestrated_percent'] == pytest.approx(100 * share, rel=0.02)
    assert found['fenestrated_in_slices_percent'] == pytest.approx(100 * share, rel=0.02)
    assert found['solidity'] == pytest.approx(1 - share, abs=0.01)
    assert found['solidity_filled'] == pytest.approx(1, abs=0.01)
    weights = np.square([outer, inner])
    mean = np.average([outer, inner], weights=weights)
    spread = np.average(np.square([outer - mean, inner - mean]), weights=weights)
    assert found['circular_variance'] == pytest.approx(spread / mean**2, rel=0.02)


def test_a_torus() -> None:
    ring, tube = 16.0, 6.0
    y, x = np.mgrid[-24:25, -24:25] + np.reshape([0.31, -0.17], (2, 1, 1))
    z = np.arange(-7, 8)[:, None, None] + 0.23
    found = _measured((np.hypot(y, x) - ring) ** 2 + z**2 <= tube**2)
    volume, area = 2 * np.pi**2 * ring * tube**2, 4 * np.pi**2 * ring * tube
    # The outer half of the tube (Pappus) and the disk that closes the hole.
    hull = np.pi**2 * tube**2 * ring + 4 / 3 * np.pi * tube**3 + 2 * np.pi * ring**2 * tube
    assert found['volume_um3'] == pytest.approx(volume * 1e-9, rel=0.01)
    assert found['sphericity'] == pytest.approx(shape.sphericity(volume, area), rel=0.01)
    assert found['solidity'] == pytest.approx(volume / hull, abs=0.01)
    assert found['fenestrated_percent'] == 0  # the hole is open
    assert found['fenestrated_in_slices_percent'] == pytest.approx(
        100 * (1 - volume / hull), rel=0.02
    )
    t = np.linspace(0, 2 * np.pi, 10001)[:-1]
    weight, radius = ring + tube * np.cos(t), np.hypot(ring + tube * np.cos(t), tube * np.sin(t))
    mean = np.average(radius, weights=weight)
    expected = np.average((radius - mean) ** 2, weights=weight) / mean**2
    assert found['circular_variance'] == pytest.approx(expected, rel=0.03)


def test_the_hull_of_many_vertices_takes_the_outermost(monkeypatch: pytest.MonkeyPatch) -> None:
    rotation = Rotation.random(random_state=5).as_matrix()
    mask = ellipsoid((14, 9, 11), rotation=rotation)
    mask[:, :, mask.shape[2] // 2 :] &= mask[:, ::-1, mask.shape[2] // 2 :]
    surface = surface_mesh(mask, voxel_size_nm=UNIT)
    whole = shape.solidity(surface)
    monkeypatch.setattr(shape, '_MOST_POINTS', 100)
    monkeypatch.setattr(shape, '_BINS', 16)
    assert shape.solidity(surface) == pytest.approx(whole, rel=0.01)
