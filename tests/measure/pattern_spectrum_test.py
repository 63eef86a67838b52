"""Pattern spectra of balls of known radii, and against SciPy's gray-value morphology."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from sxt_jax.measure.pattern_spectrum import PatternSpectrum, pattern_spectrum, spectrum_moments
from tests.measure.shapes import ellipsoid


def _balls(radii: dict[int, int]) -> tuple[np.ndarray, dict[int, int]]:
    """Balls side by side, as many as told of each radius, and how many voxels each radius has."""
    n_voxels, rows = {}, []
    for radius, n in radii.items():
        ball = np.pad(ellipsoid((radius,) * 3), 7 - radius)
        n_voxels[radius] = n * int(ball.sum())
        rows += [ball] * n
    return np.concatenate(rows, axis=2).astype(np.uint8) * 200, n_voxels


def test_balls_of_known_radii() -> None:
    image, n_voxels = _balls({1: 4, 3: 2, 6: 1})
    spectrum = pattern_spectrum(image, np.ones(image.shape, bool), largest_ball=8)
    share = dict(zip(spectrum.sizes.tolist(), spectrum.shares, strict=True))
    total = sum(n_voxels.values())
    for size in range(8):
        assert share[size] == pytest.approx(n_voxels.get(size, 0) / total, abs=1e-12), size


def test_dark_balls_are_on_the_other_side() -> None:
    image, n_voxels = _balls({2: 1, 5: 1})
    dark = 200 - np.pad(image, 6)
    spectrum = pattern_spectrum(dark, np.ones(dark.shape, bool), largest_ball=6)
    share = dict(zip(spectrum.sizes.tolist(), spectrum.shares, strict=True))
    lit = (dark > 0).sum()
    # A closing of radius n fills a dark ball of radius n − 1.
    assert share[-3] == pytest.approx(n_voxels[2] / lit, rel=0.2)
    assert share[-6] == pytest.approx(n_voxels[5] / lit, rel=0.2)
    assert sum(share[n] for n in range(-6, 0)) == pytest.approx(sum(n_voxels.values()) / lit)


@pytest.mark.parametrize('voxel_size', [(1.0, 1.0, 1.0), (2.0, 1.5, 1.0)])
def test_agrees_with_scipy_within_a_mask(voxel_size, monkeypatch) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (11, 12, 13)).astype(np.uint8)
    mask = ndimage.binary_opening(rng.random(image.shape) < 0.9, iterations=1)
    step = max(voxel_size)

    def opened(values: np.ndarray, radius: float) -> np.ndarray:
        reach = [int(radius // side) for side in voxel_size]
        grid = np.mgrid[tuple(slice(-r, r + 1) for r in reach)]
        ball = np.tensordot(np.square(voxel_size), np.square(grid), 1) <= radius**2
        options = {'footprint': ball, 'mode': 'constant'}
        eroded = ndimage.grey_erosion(np.where(mask, values, 255), cval=255, **options)
        raised = ndimage.grey_dilation(np.where(mask, eroded, 0), cval=0, **options)
        return np.where(mask, raised, 0)

    def sums(values: np.ndarray) -> np.ndarray:
        each = [np.where(mask, values, 0), *(opened(values, n * step) for n in (1, 2, 3))]
        return np.array([np.max(each[n:], axis=0).sum(dtype=int) for n in range(4)])

    opened_sums, closed_sums = sums(image), 255 * mask.sum() - sums(255 - image)
    lost = np.concatenate([np.diff(closed_sums)[::-1], -np.diff(opened_sums)])
    options = {'largest_ball': 3, 'voxel_size': voxel_size}
    found = pattern_spectrum(image, mask, **options)
    np.testing.assert_allclose(found.shares, lost / opened_sums[0], atol=1e-12)
    assert found.sizes.tolist() == [-3, -2, -1, 0, 1, 2]
    monkeypatch.setattr('sxt_jax.measure.pattern_spectrum._BLOCK', 5)
    np.testing.assert_array_equal(pattern_spectrum(image, mask, **options).shares, found.shares)


def test_moments_are_those_of_a_distribution() -> None:
    spectrum = PatternSpectrum(np.arange(-2, 2), np.array([0.1, 0.3, 0.4, 0.2]))
    moments = spectrum_moments(spectrum, step=10.0)
    values = np.repeat([-2, -1, 0, 1], [1, 3, 4, 2])
    assert moments['mean'] == pytest.approx(10 * values.mean())
    assert moments['sd'] == pytest.approx(10 * values.std())
    standard = (values - values.mean()) / values.std()
    assert moments['skewness'] == pytest.approx((standard**3).mean())
    assert moments['kurtosis'] == pytest.approx((standard**4).mean())
    flat = pattern_spectrum(
        np.full((4, 4, 4), 9, np.uint8), np.ones((4, 4, 4), bool), largest_ball=2
    )
    assert not flat.shares.any()
    assert np.isnan(list(spectrum_moments(flat).values())).all()
