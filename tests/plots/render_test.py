"""The depth buffer against a search pixel by pixel, and what a picture shows."""

import numpy as np
import pytest

from sxt_jax.core.errors import InputError
from sxt_jax.measure import Surface, surface_mesh
from sxt_jax.plots import surface_scene
from sxt_jax.plots.render import View, render_triangles
from sxt_jax.plots.scene import random_colours
from tests.measure.shapes import ellipsoid

RGB = np.eye(3)


def _tetrahedra(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Random tetrahedra, triangles counter-clockwise seen from outside with rows upwards."""
    rng = np.random.default_rng(5)
    points, faces = [], []
    for i in range(n):
        corners = rng.uniform(0, 40, (4, 3))
        sides = np.array([[0, 1, 2], [0, 3, 1], [0, 2, 3], [1, 3, 2]])
        a, b, c = (corners[k] - corners[0] for k in (1, 2, 3))
        # Triangle 0 1 2 looks away from corner 3; rows downwards mirror the sense of rotation.
        outward = np.cross(a * [1, -1, 1], b * [1, -1, 1]) @ (c * [1, -1, 1]) < 0
        points.append(corners)
        faces.append((sides if outward else sides[:, ::-1]) + 4 * i)
    return np.concatenate(points), np.concatenate(faces)


def _nearest_by_search(points: np.ndarray, faces: np.ndarray, shape: tuple) -> np.ndarray:
    """Which triangle is nearest over each pixel, −1: none."""
    best = np.full(shape, -1)
    height = np.full(shape, -np.inf)
    for i, face in enumerate(faces):
        system = np.vstack([points[face, :2].T, np.ones(3)])
        for row in range(shape[0]):
            for column in range(shape[1]):
                weights = np.linalg.solve(system, [column + 0.5, row + 0.5, 1])
                here = weights @ points[face, 2]
                if weights.min() >= 0 and here > height[row, column]:
                    height[row, column], best[row, column] = here, i
    return best


def test_shows_the_nearest_triangle_of_closed_bodies() -> None:
    points, faces = _tetrahedra(3)
    shape = (40, 40)
    picture, covered = render_triangles(points, faces, np.repeat(RGB, 4, axis=0), shape=shape)
    expected = _nearest_by_search(points, faces, shape)
    np.testing.assert_array_equal(covered, expected >= 0)
    assert covered.mean() > 0.1
    found = picture.argmax(-1)
    np.testing.assert_array_equal(found[covered], (expected // 4)[covered])
    assert len(np.unique(found[covered])) == 3


def test_triangles_seen_from_behind_and_outside_of_the_picture_are_not_drawn() -> None:
    points = np.array(
        [[1, 1, 0], [9, 1, 0], [1, 9, 0.0], [-50, -50, 1], [-40, -50, 1], [-50, -40, 1]]
    )
    front, back = np.array([[0, 2, 1], [3, 5, 4]]), np.array([[0, 1, 2]])
    _, covered = render_triangles(points, front, RGB[:2], shape=(10, 10))
    assert covered.sum() == 36  # pixels whose middle is in the half square of side 8
    _, covered = render_triangles(points, back, RGB[:1], shape=(10, 10))
    assert not covered.any()


def test_a_ball_is_a_disk_lit_from_the_upper_left() -> None:
    ball = surface_mesh(ellipsoid((20, 20, 20)), voxel_size_nm=(1.0,) * 3)
    points = ball.vertices_nm[:, ::-1] @ View(30, 40).axes().T
    points = (points - points.mean(0)) * [1, -1, 1] + [30, 30, 0]
    colours = np.full((len(ball.faces), 3), 0.5)
    picture, covered = render_triangles(points, ball.faces, colours, shape=(60, 60))
    assert covered.sum() == pytest.approx(np.pi * 400, rel=0.03)
    bright = picture.mean(-1)
    assert bright[18, 18] > bright[30, 30] > bright[42, 42] > 0


def test_views() -> None:
    np.testing.assert_allclose(View(0, 90).axes(), np.diag([1, -1, -1]), atol=1e-12)
    axes = View(40, 35).axes()
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(axes) == pytest.approx(1)
    np.testing.assert_allclose(View(0, 0).axes()[1:], [[0, 0, -1], [0, 1, 0]], atol=1e-12)


def test_colours_differ_and_depend_on_the_seed_only() -> None:
    colours = random_colours(12, seed=3)
    np.testing.assert_array_equal(colours, random_colours(12, seed=3))
    apart = np.linalg.norm(colours[:, None] - colours[None], axis=-1) + np.eye(12)
    assert apart.min() > 0.05
    assert (colours != random_colours(12, seed=4)).any()


def test_scene_has_the_size_of_its_surfaces() -> None:
    ball = surface_mesh(ellipsoid((6, 6, 6)), voxel_size_nm=(100.0,) * 3)
    figure = surface_scene([ball, ball], n_pixels=80)
    (image,) = figure.axes[0].get_images()
    assert max(image.get_array().shape[:2]) == 80
    assert image.get_extent()[1] == pytest.approx(1.2 * 1.08, rel=0.05)  # µm, with margins
    with pytest.raises(InputError, match='no surface'):
        surface_scene([Surface(np.zeros((0, 3)), np.zeros((0, 3), int))])
