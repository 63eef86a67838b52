"""Filopodia: rods, ellipsoids and spheres of known size in any direction, at 9.8 nm voxels."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special
from scipy.spatial.transform import Rotation

from sxt_jax.core.errors import InputError
from sxt_jax.measure import filopodia
from sxt_jax.measure.filopodia import fill_tube
from tests.measure.shapes import ellipsoid, ellipsoid_area

NM = 9.8
SIZE = (NM, NM, NM)
SOLIDS = ('major_axis_nm', 'middle_axis_nm', 'minor_axis_nm', 'volume_um3')
SECTIONS = ('section_first_axis_nm', 'section_second_axis_nm', 'section_perimeter_nm')
DIRECTIONS = [
    np.eye(3),
    Rotation.from_euler('y', 90, degrees=True).as_matrix(),
    Rotation.from_euler('y', 45, degrees=True).as_matrix(),
    Rotation.from_euler('yz', (63.4, 26.6), degrees=True).as_matrix(),
    *Rotation.random(4, random_state=0).as_matrix(),
]


def _rod(radius: float, length: float, rotation: np.ndarray, *, round_ends: bool) -> np.ndarray:
    """A rod along the third axis, turned; a round end is half a ball within the length."""
    n = int(np.ceil(length / 2 + radius)) + 2
    lines = np.arange(-n, n + 1) - 0.3
    points = np.stack(np.meshgrid(lines, lines + 0.5, lines + 0.1, indexing='ij'), -1) @ rotation
    across, along = np.hypot(points[..., 0], points[..., 1]), np.abs(points[..., 2])
    if round_ends:
        return np.hypot(across, np.maximum(along - (length / 2 - radius), 0)) <= radius
    return (across <= radius) & (along <= length / 2)


def _measure(mask: np.ndarray) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    found = filopodia(mask.astype(np.uint8), voxel_size_nm=SIZE)
    assert found.n_cut == 0
    return {name: column[0] for name, column in found.objects.items()}, found.sections


def _check_solid(row: dict[str, float], axes: tuple, volume: float, area: float) -> None:
    """Within 3 % (surface: 5 %) of values in voxels."""
    for name, axis in zip(SOLIDS, axes, strict=False):
        assert row[name] == pytest.approx(axis * NM, rel=0.03), name
    assert row['volume_um3'] == pytest.approx(volume * NM**3 * 1e-9, rel=0.03)
    assert row['surface_um2'] == pytest.approx(area * NM**2 * 1e-6, rel=0.05)
    assert row['surface_to_volume_per_um'] == pytest.approx(area / volume / NM * 1e3, rel=0.03)


@pytest.mark.parametrize('rotation', DIRECTIONS)
def test_rods(rotation: np.ndarray) -> None:
    r, length = 7.2, 100.0
    row, sections = _measure(_rod(r, length, rotation, round_ends=False))
    axes = length * np.sqrt(5 / 3), r * np.sqrt(5), r * np.sqrt(5)
    area = 2 * np.pi * r * length + 2 * np.pi * r**2
    _check_solid(row, axes, np.pi * r**2 * length, area)
    tilt = abs(rotation[0, 2])  # cosine between the rod and z
    if tilt > 0.3:  # most slices cut the rod's side only, in an ellipse
        a = r / tilt
        assert np.median(sections['first_axis_nm']) == pytest.approx(2 * a * NM, rel=0.03)
        assert np.median(sections['second_axis_nm']) == pytest.approx(2 * r * NM, rel=0.03)
        around = 4 * a * special.ellipe(1 - tilt**2) * NM
        assert np.median(sections['perimeter_nm']) == pytest.approx(around, rel=0.03)


@pytest.mark.parametrize('rotation', DIRECTIONS[::3])
def test_rods_with_round_ends(rotation: np.ndarray) -> None:
    r, h = 7.2, 42.0
    row, _ = _measure(_rod(r, 2 * (h + r), rotation, round_ends=True))
    middle, ends = 2 * np.pi * r**2 * h, 4 / 3 * np.pi * r**3
    volume = middle + ends
    along = (middle * h**2 / 3 + ends * (h**2 + 3 / 4 * h * r + r**2 / 5)) / volume
    across = (middle * r**2 / 4 + ends * r**2 / 5) / volume
    axes = tuple(2 * np.sqrt(5 * v) for v in (along, across, across))
    _check_solid(row, axes, volume, 4 * np.pi * r * h + 4 * np.pi * r**2)


@pytest.mark.parametrize('axes', [(30, 12, 8), (13, 13, 13), (50, 8, 8)])
@pytest.mark.parametrize('rotation', DIRECTIONS[2:7:2])
def test_ellipsoids_and_spheres(axes: tuple, rotation: np.ndarray) -> None:
    offset = np.array([0.3, -0.2, 0.1])
    mask = ellipsoid(axes, rotation=rotation, offset=offset)
    row, sections = _measure(mask)
    volume = 4 / 3 * np.pi * np.prod(axes)
    _check_solid(row, tuple(2.0 * a for a in axes), volume, ellipsoid_area(axes))
    heights = sections['z'] - mask.shape[0] // 2 - offset[0]
    exact = np.array([_section(np.array(axes, float), rotation, h) for h in heights]) * NM
    for name, column in zip(SECTIONS, exact.T, strict=True):
        assert row[name] == pytest.approx(column.mean(), rel=0.03), name
        assert row[name.replace('_nm', '_sd_nm')] == pytest.approx(column.std(ddof=1), rel=0.05)
    assert row['n_sections'] == row['n_slices'] == len(heights)


def _section(axes: np.ndarray, rotation: np.ndarray, height: float) -> tuple:
    """Full axes and perimeter of the ellipse in which a plane cuts an ellipsoid."""
    form = rotation @ np.diag(axes**-2.0) @ rotation.T
    inner, mixed = form[1:, 1:], form[1:, 0] * height
    level = 1 - form[0, 0] * height**2 + mixed @ np.linalg.solve(inner, mixed)
    b, a = np.sqrt(level / np.linalg.eigvalsh(inner)[::-1])
    return 2 * a, 2 * b, 4 * a * special.ellipe(1 - (b / a) ** 2)


def test_the_border_cuts_and_labels_and_slices_are_those_of_the_volume() -> None:
    ball = ellipsoid((4, 4, 4)).astype(np.int64)
    instances = np.zeros((20, 40, 60), np.int64)
    for label, start in ((7, (3, 4, 5)), (3, (5, 20, 30))):
        part = tuple(slice(s, s + n) for s, n in zip(start, ball.shape, strict=True))
        instances[part] = label * ball
    instances[:, 38, 58], instances[10, 0, 50] = 5, 9
    found = filopodia(instances, voxel_size_nm=SIZE)
    assert found.objects['label'].tolist() == [3, 7]
    assert found.n_cut == 2
    assert set(found.sections['label']) == {3, 7}
    for label in (3, 7):
        slices = np.flatnonzero((instances == label).any((1, 2)))
        assert found.sections['z'][found.sections['label'] == label].tolist() == slices.tolist()
    box = {3: (slice(7, 16), slice(22, 31), slice(32, 41))}
    assert filopodia(instances, voxel_size_nm=SIZE, boxes=box).objects['label'].tolist() == [3]


def test_hollow_tubes_are_filled() -> None:
    """In all directions, also where one end is open."""
    for rotation in DIRECTIONS[:4]:
        outer, inner = (_rod(r, 44 + 2 * r, rotation, round_ends=True) for r in (8, 5))
        n = min(outer.shape[0], inner.shape[0]) // 2
        outer, inner = (
            m[tuple(slice(k // 2 - n, k // 2 + n + 1) for k in m.shape)] for m in (outer, inner)
        )
        tube = outer & ~inner
        open_tube = tube.copy()
        axis = int(np.abs(rotation[:, 2]).argmax())
        np.moveaxis(open_tube, axis, 0)[: n - 18] = False
        kept = np.count_nonzero(open_tube)
        assert np.array_equal(fill_tube(tube), outer)
        assert np.count_nonzero(fill_tube(open_tube)) > 1.3 * kept
        hollow = filopodia(tube.astype(np.uint8), voxel_size_nm=SIZE, fill=False)
        assert hollow.objects['n_voxels'][0] == np.count_nonzero(tube)


def test_no_object_inside_gives_empty_tables_and_bad_input_is_told() -> None:
    found = filopodia(np.ones((3, 3, 3), np.uint8), voxel_size_nm=SIZE)
    assert found.n_cut == 1
    for table in (found.objects, found.sections):
        assert all(len(column) == 0 for column in table.values())
    with pytest.raises(InputError):
        filopodia(np.ones((3, 3)), voxel_size_nm=SIZE)
    with pytest.raises(InputError):
        filopodia(np.ones((3, 3, 3), int), voxel_size_nm=(1, 0, 1))
