"""Repair of surfaces with duplicates, pinches and holes."""

import numpy as np
import pytest

from sxt_jax.measure import Surface, is_closed, repair, surface_mesh
from tests.measure.shapes import ellipsoid


@pytest.fixture(name='ball', scope='module')
def _ball() -> Surface:
    return surface_mesh(ellipsoid((9, 7, 6)), voxel_size_nm=(1000.0,) * 3)


def _tetrahedron(corners: np.ndarray) -> Surface:
    faces = np.array([[0, 1, 2], [0, 3, 1], [0, 2, 3], [1, 3, 2]])
    surface = Surface(np.asarray(corners, float), faces)
    return surface if surface.volume_um3 > 0 else Surface(surface.vertices_nm, faces[:, ::-1])


def _check_manifold(surface: Surface, *, n_sheets: int) -> None:
    """Closed, and of spheres: V − E + F = 2 each, which a vertex of two fans would lower."""
    assert is_closed(surface)
    euler = len(surface.vertices_nm) - len(surface.faces) / 2
    assert euler == 2 * n_sheets


def test_a_sound_surface_stays(ball: Surface) -> None:
    assert is_closed(ball)
    mended = repair(ball)
    _check_manifold(mended, n_sheets=1)
    assert len(mended.faces) == len(ball.faces)
    assert mended.area_um2 == pytest.approx(ball.area_um2, rel=1e-12)
    assert mended.volume_um3 == pytest.approx(ball.volume_um3, rel=1e-12)


def test_triangles_without_common_vertices_are_joined(ball: Surface) -> None:
    soup = Surface(
        ball.vertices_nm[ball.faces].reshape(-1, 3), np.arange(ball.faces.size).reshape(-1, 3)
    )
    assert not is_closed(soup)
    _check_manifold(repair(soup), n_sheets=1)


def test_repeated_and_degenerate_triangles_go(ball: Surface) -> None:
    f = ball.faces
    extra = [f[:40], f[40:60][:, [1, 2, 0]], np.repeat(f[:5, :1], 3, axis=1)]
    there_and_back = [f[:3, [0, 2, 1]], f[:3]]
    mended = repair(Surface(ball.vertices_nm, np.concatenate([f, *extra, *there_and_back])))
    _check_manifold(mended, n_sheets=1)
    assert mended.area_um2 == pytest.approx(ball.area_um2, rel=1e-9)


def test_holes_are_closed(ball: Surface) -> None:
    kept = np.random.default_rng(0).random(len(ball.faces)) > 0.04
    mended = repair(Surface(ball.vertices_nm, ball.faces[kept]))
    assert is_closed(mended)
    assert mended.volume_um3 == pytest.approx(ball.volume_um3, rel=0.01)


def test_a_square_hole_of_a_box_gets_its_lid() -> None:
    corners = np.array([[z, y, x] for z in (0, 1) for y in (0, 1) for x in (0, 1)]) * 1000.0
    quads = [(0, 1, 3, 2), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]  # without z = 1
    faces = np.array([t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))])
    box = repair(Surface(corners, faces))
    assert is_closed(box)
    assert abs(box.volume_um3) == pytest.approx(1)
    assert box.area_um2 == pytest.approx(6)
    assert len(box.faces) == len(faces) + 4  # a fan around the middle of the lid


@pytest.mark.parametrize('shared', [1, 2])
def test_sheets_that_touch_are_parted(shared: int) -> None:
    """Two tetrahedra with a corner, or an edge with its four triangles, in common."""
    common = np.array([[0.0, 0, 0], [0, 0, 3000]])[:shared]
    one = np.array([[0, 0, 3000.0], [1000, 500, 500], [1000, -500, 500]])[shared - 1 :]
    other = np.array([[0, 0, -3000.0], [-1000, 500, 400], [-1000, -500, 400]])[shared - 1 :]
    a, b = (_tetrahedron(np.concatenate([common, rest])) for rest in (one, other))
    both = Surface(
        np.concatenate([a.vertices_nm, b.vertices_nm]), np.concatenate([a.faces, b.faces + 4])
    )
    mended = repair(both)
    _check_manifold(mended, n_sheets=2)
    assert mended.volume_um3 == pytest.approx(a.volume_um3 + b.volume_um3)
    assert mended.area_um2 == pytest.approx(a.area_um2 + b.area_um2)
