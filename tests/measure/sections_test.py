"""Sections of objects: their axes and perimeters against direct sums and closed forms."""

import numpy as np
import pytest
from scipy import ndimage, special

from sxt_jax.measure import sections

SIZE = (30.0, 9.8, 9.8)
DIRECTIONS = [(0, 1), (1, 2), (1, 1), (2, 1), (1, 0), (2, -1), (1, -1), (1, -2)]


def _ellipse(a: float, b: float, angle: float, offset: np.ndarray) -> np.ndarray:
    """[1, y, x] pixels with their middle in an ellipse."""
    n = int(np.ceil(a)) + 2
    y, x = np.mgrid[-n : n + 1, -n : n + 1] - offset.reshape(2, 1, 1)
    u, v = np.cos(angle) * y + np.sin(angle) * x, np.cos(angle) * x - np.sin(angle) * y
    return ((u / a) ** 2 + (v / b) ** 2 <= 1)[None]


def _crossings(mask: np.ndarray, step: tuple[int, int]) -> int:
    """Pairs of pixels at a distance `step` of which one is in the mask."""
    padded = np.pad(mask, 4)
    return np.count_nonzero(padded != np.roll(padded, step, (0, 1)))


def test_agrees_with_sums_over_the_pixels_of_each_part() -> None:
    rng = np.random.default_rng(0)
    masks = [
        ndimage.gaussian_filter(rng.standard_normal(shape), 1.2) > 0.05
        for shape in ((4, 17, 13), (3, 9, 30), (2, 1, 7))
    ]
    size = (30.0, 8.0, 5.0)
    table = sections(masks, voxel_size_nm=size)
    gaps = np.radians([0, *np.degrees([np.arctan2(8 * y, 5 * x) for y, x in DIRECTIONS[1:]])])
    widths = (np.roll(np.append(gaps, np.pi), -1)[:-1] - np.append(gaps[-1] - np.pi, gaps[:-1])) / 2
    expected = []
    for i, mask in enumerate(masks):
        for z, section in enumerate(mask):
            parts, n = ndimage.label(section, np.ones((3, 3)))
            for k in range(1, n + 1):
                pixels = np.argwhere(parts == k) * size[1:]
                covariance = np.cov(pixels.T, bias=True) + np.diag(np.square(size[1:])) / 12
                axes = 4 * np.sqrt(np.linalg.eigvalsh(covariance))
                lines = [8 * 5 / np.hypot(8 * y, 5 * x) for y, x in DIRECTIONS]
                counts = [_crossings(parts == k, step) for step in DIRECTIONS]
                perimeter = np.sum(widths * lines * counts) / 2
                expected.append((i, z, len(pixels), len(pixels) * 40, axes[1], axes[0], perimeter))
    found = np.stack(list(table.values()), axis=1)
    assert len(found) == len(expected) > 20
    order = [np.lexsort(np.round(np.array(rows), 6).T[::-1]) for rows in (found, expected)]
    np.testing.assert_allclose(found[order[0]], np.array(expected)[order[1]], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ('a', 'b', 'mean', 'worst'),
    [(4, 4, 0.015, 0.04), (6.7, 6.7, 0.01, 0.03), (16, 6.7, 0.006, 0.03), (50, 6.7, 0.006, 0.03)],
)
def test_perimeters_of_ellipses_in_any_direction(
    a: float, b: float, mean: float, worst: float
) -> None:
    rng = np.random.default_rng(1)
    angles = np.append(np.linspace(0, np.pi, 40), rng.uniform(0, np.pi, 40))
    masks = [_ellipse(a, b, angle, rng.uniform(-0.5, 0.5, 2)) for angle in angles]
    table = sections(masks, voxel_size_nm=SIZE)
    exact = 4 * a * special.ellipe(1 - (b / a) ** 2) * 9.8
    errors = table['perimeter_nm'] / exact - 1
    assert abs(errors.mean()) < mean
    assert np.abs(errors).max() < worst
    assert table['first_axis_nm'].mean() / 9.8 == pytest.approx(2 * a, rel=0.04)
    assert table['second_axis_nm'].mean() / 9.8 == pytest.approx(2 * b, rel=0.02)


def test_a_rectangle() -> None:
    mask = np.zeros((1, 40, 90), bool)
    mask[0, 5:35, 5:85] = True
    table = sections([mask], voxel_size_nm=(30.0, 10.0, 10.0))
    np.testing.assert_allclose(table['first_axis_nm'], 80 * 10 * 2 / np.sqrt(3))
    np.testing.assert_allclose(table['second_axis_nm'], 30 * 10 * 2 / np.sqrt(3))
    assert table['perimeter_nm'][0] == pytest.approx(2 * (800 + 300), rel=0.03)


def test_parts_of_a_slice_are_sections_of_their_own() -> None:
    mask = np.zeros((3, 6, 9), bool)
    mask[0, 1:5, 1:8] = True
    mask[1, 1:5, 1:3] = mask[1, 1:5, 5:8] = True
    mask[2, 1, 1] = mask[2, 2, 2] = mask[2, 4, 7] = True  # the first two touch with a corner
    table = sections([mask, mask[:1]], voxel_size_nm=SIZE)
    assert table['object'].tolist() == [0, 0, 0, 0, 0, 1]
    assert table['z'].tolist() == [0, 1, 1, 2, 2, 0]
    assert sorted(table['n_pixels'][3:5].tolist()) == [1, 2]


def test_neighbours_in_the_list_do_not_mix() -> None:
    """Full masks, whose runs lie side by side in memory, measure as each does alone."""
    masks = [np.ones((2, 3, 4), bool), np.ones((1, 5, 2), bool), np.ones((2, 1, 1), bool)]
    together = sections(masks, voxel_size_nm=SIZE)
    alone = [sections([mask], voxel_size_nm=SIZE) for mask in masks]
    for name in ('first_axis_nm', 'perimeter_nm', 'n_pixels'):
        np.testing.assert_allclose(together[name], np.concatenate([t[name] for t in alone]))


def test_nothing() -> None:
    for masks in ([], [np.zeros((2, 3, 4), bool)]):
        assert all(len(column) == 0 for column in sections(masks, voxel_size_nm=SIZE).values())
