"""Surfaces by slabs against scikit-image on the whole, and what the table of cubes promises."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from scipy import ndimage
from skimage import measure

from sxt_jax.measure import Surface, is_closed, surface_mesh
from sxt_jax.measure import level_surface as slabs
from sxt_jax.measure.cube_cases import CENTRE, EDGES, SIDES, cube_cases
from sxt_jax.measure.level_surface import BlurredMask, LevelSurface, histogram, level_surface
from tests.measure.shapes import ellipsoid

UNIT = {'scale': np.ones(3), 'shift': np.zeros(3)}


def _membrane(specks: float = 0.01) -> np.ndarray:
    """A sheet that bends, with holes and specks, cut off by the border."""
    rng = np.random.default_rng(0)
    shape = (23, 41, 37)
    field, holes = (ndimage.gaussian_filter(rng.standard_normal(shape), s) for s in (5, 3))
    sheet = (abs(field) < 0.3 * field.std()) & (holes > -holes.std())
    return sheet | (rng.random(shape) < specks)


def _surface(found: LevelSurface) -> Surface:
    return Surface(found.vertices, found.faces)


def _sorted(rows: np.ndarray) -> np.ndarray:
    return rows[np.lexsort(rows.reshape(len(rows), -1).T)]


def _triangles(found: LevelSurface) -> np.ndarray:
    """Sorted corners of sorted triangles, whose sense of rotation is kept."""
    corners = found.vertices[found.faces]
    first = np.lexsort(corners.transpose(2, 0, 1), axis=-1)[:, :1]
    return _sorted(np.take_along_axis(corners, ((first + np.arange(3)) % 3)[..., None], axis=1))


@pytest.mark.parametrize('width', [0.7, 1.0])
def test_is_that_of_scikit_image(width: float) -> None:
    mask, level = _membrane(specks=0), 0.437
    blurred = BlurredMask(mask, (width, width, width))
    pad = blurred.pad
    smooth = ndimage.gaussian_filter(np.pad(mask, pad).astype(np.float32), width)
    vertices, faces, _, _ = measure.marching_cubes(smooth, level)
    theirs = Surface(vertices - pad, faces)
    found = level_surface(blurred, level, **UNIT)
    ours = _surface(found)
    # Some loops of edges are filled by other triangles, and rarely a tube goes through a cube.
    assert len(ours.vertices_nm) == pytest.approx(len(vertices), rel=1e-3)
    assert len(ours.faces) == pytest.approx(len(faces), rel=2e-3)
    assert ours.area_um2 == pytest.approx(theirs.area_um2, rel=2e-3)
    assert ours.volume_um3 == pytest.approx(theirs.volume_um3, rel=2e-3)
    assert found.volume == pytest.approx(ours.volume_um3 * 1e9, rel=1e-5)
    on_edge = (np.abs(theirs.vertices_nm - np.round(theirs.vertices_nm)) > 1e-5).sum(1) == 1
    known = {tuple(v) for v in np.round(ours.vertices_nm, 2).tolist()}
    near = [tuple(v) in known for v in np.round(theirs.vertices_nm[on_edge], 2).tolist()]
    assert np.mean(near) > 0.999  # but for those rounded to the other side


@pytest.mark.parametrize('planes', [1, 2, 5])
def test_does_not_depend_on_the_slabs(planes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    mask = _membrane()
    whole = BlurredMask(mask, (0.7, 0.7, 0.7))
    plane = whole.shape[1] * whole.shape[2]
    cut = BlurredMask(mask, whole.widths, slab_voxels=(planes + 1) * plane)
    one = level_surface(whole, 0.45, **UNIT)
    monkeypatch.setattr(slabs, '_MARCHED', 2 * plane)
    other = level_surface(cut, 0.45, **UNIT)
    assert is_closed(_surface(one))
    assert is_closed(_surface(other))
    np.testing.assert_array_equal(_sorted(one.vertices), _sorted(other.vertices))
    np.testing.assert_array_equal(_triangles(one), _triangles(other))
    assert other.volume == pytest.approx(one.volume, rel=1e-12)
    np.testing.assert_array_equal(histogram(whole), histogram(cut))


def test_noise_is_closed() -> None:
    """Half of its cubes have sides that can be joined in two ways, some a vertex of their own."""
    mask = np.random.default_rng(1).random((24, 25, 26)) < 0.5
    for level in (0.4, 0.5, 0.6):
        found = level_surface(BlurredMask(mask, (0.7, 0.7, 0.7)), level, **UNIT)
        assert is_closed(_surface(found))
        assert len(np.unique(found.vertices, axis=0)) == len(found.vertices)
        assert (_surface(found).triangle_areas_nm2() > 0).all()


def test_blurred_values_are_those_of_a_gaussian_filter() -> None:
    mask, widths = _membrane(), (0.7, 1.0, 1.7)
    blurred = BlurredMask(mask, widths, slab_voxels=1)
    pad = blurred.pad
    expected = ndimage.gaussian_filter(np.pad(mask, pad).astype(np.float32), widths)
    layers = blurred.each_slab(lambda planes, start: (start, planes.copy()))
    assert [start for start, _ in layers] == list(range(len(expected) - 1))
    for start, planes in layers:
        np.testing.assert_allclose(planes, expected[start : start + 2], atol=1e-6)


def test_change_of_the_volume_with_the_level() -> None:
    blurred = BlurredMask(ellipsoid((9, 7, 6)), (1.0, 1.0, 1.0))
    below, at, above = (level_surface(blurred, 0.45 + d, **UNIT) for d in (-1e-3, 0, 1e-3))
    assert at.change == pytest.approx((above.volume - below.volume) / 2e-3, rel=2e-3)


def test_a_mesh_is_the_same_by_thin_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    mask, size = ellipsoid((12, 9, 15)), (20.0, 10.0, 10.0)
    whole = surface_mesh(mask, voxel_size_nm=size, origin=(3, 0, 7))
    monkeypatch.setattr(slabs, '_KEPT', 0)
    again = surface_mesh(mask, voxel_size_nm=size, origin=(3, 0, 7))
    np.testing.assert_array_equal(whole.vertices_nm, again.vertices_nm)
    np.testing.assert_array_equal(whole.faces, again.faces)
    assert whole.vertices_nm.dtype == np.float32
    assert whole.faces.dtype == np.int32


def test_every_case_fills_the_cube_up_to_segments_that_neighbours_share() -> None:
    """Inner edges of its triangles pair up; the rest are segments in the sides, fixed by them."""
    cases = cube_cases()
    seen: dict[tuple, set] = {}
    n_cases = 0
    for corners in range(256):
        open_ = [s for s in range(6) if cases.open_sides[corners] >> s & 1]
        for bits in itertools.product((0, 1), repeat=len(open_)):
            key = corners | sum(bit << 8 + s for bit, s in zip(bits, open_, strict=True))
            first, n = cases.first[key], cases.n_triangles[key]
            triangles = cases.edges[first : first + n].tolist()
            assert cases.has_centre[key] == any(CENTRE in t for t in triangles)
            edges = Counter(p for a, b, c in triangles for p in ((a, b), (b, c), (c, a)))
            assert max(edges.values(), default=1) == 1
            rim = {(a, b) for a, b in edges if (b, a) not in edges}
            inner = [p for p in edges if p not in rim]
            assert not any(_common_sides(a, b) for a, b in inner)
            assert all(len(_common_sides(a, b)) == 1 for a, b in rim)
            for s, ring in enumerate(SIDES):
                state = s, tuple(corners >> c & 1 for c in ring), key >> 8 + s & 1
                segments = {p for p in rim if s in _common_sides(*p)}
                assert seen.setdefault(state, segments) == segments
            n_cases += 1
    assert n_cases == 656
    for (side, above, bit), segments in seen.items():
        # The neighbour sees the side mirrored and goes along its segments in the other direction.
        axis, twin = side // 2, side ^ 1
        turned = tuple(above[SIDES[side].index(c ^ (4 >> axis))] for c in SIDES[twin])
        there = {(_moved(b, axis), _moved(a, axis)) for a, b in segments}
        assert seen[twin, turned, bit] == there


def _common_sides(a: int, b: int) -> set[int]:
    if CENTRE in (a, b):
        return set()
    ends = [{c, c | 4 >> axis} for axis, c in (EDGES[a], EDGES[b])]
    return {s for s, ring in enumerate(SIDES) if ends[0] | ends[1] <= set(ring)}


def _moved(edge: int, axis: int) -> int:
    """An edge in a side across an axis, as an edge of the opposite side."""
    along, corner = EDGES[edge]
    return EDGES.index((along, corner ^ (4 >> axis)))
