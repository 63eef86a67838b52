"""Even contrast along a stack: known tables, and slices that differ by a curve alone."""

import numpy as np
import pytest

from sxt_jax.data import contrast


def image(seed, dtype=np.uint8):
    values = np.random.default_rng(seed).normal(120, 25, (80, 90))
    return np.clip(np.rint(values), 0, 255).astype(dtype)


@pytest.mark.parametrize('dtype', contrast.DTYPES)
def test_a_histogram_counts_levels(dtype):
    gray = image(0, dtype)
    counts = contrast.histogram(gray)
    levels = contrast.levels_of(np.dtype(dtype))
    assert len(counts) == len(levels)
    values, wanted = np.unique(gray, return_counts=True)
    np.testing.assert_array_equal(levels[counts > 0], values)
    np.testing.assert_array_equal(counts[counts > 0], wanted)
    without = contrast.histogram(gray, padding=int(values[3]))
    assert without.sum() == counts.sum() - wanted[3]


@pytest.mark.parametrize('dtype', ['uint8', 'int16'])
def test_equalised_levels_are_shares_of_darker_pixels(dtype):
    gray = np.repeat(np.array([10, 20, 30, 40], dtype), 25).reshape(10, 10)
    table = contrast.equalising_table(contrast.histogram(gray), np.dtype(dtype))
    new = contrast.apply_table(gray, table)
    info = np.iinfo(dtype)
    wanted = info.min + np.array([1, 3, 5, 7]) / 8 * (info.max - info.min + 1)
    np.testing.assert_allclose(np.unique(new), wanted, atol=1)


def test_matched_to_itself_nothing_changes():
    gray = image(1)
    own = contrast.quantiles(contrast.histogram(gray))
    table = contrast.matching_table(own, own, gray.dtype)
    np.testing.assert_array_equal(contrast.apply_table(gray, table), gray)


def test_a_slice_that_differs_by_a_curve_is_matched():
    gray = image(2)
    darker = np.rint(0.6 * gray + 15).astype(np.uint8)
    own, wanted = (contrast.quantiles(contrast.histogram(g)) for g in (darker, gray))
    table = contrast.matching_table(own, wanted, gray.dtype)
    new = contrast.apply_table(darker, table).astype(float)
    inner = (gray > 60) & (gray < 180)  # a histogram tells little of its ends
    assert np.abs(new - gray)[inner].max() <= 3
    assert np.all(np.diff(table.astype(int)) >= 0)


def test_the_running_reference_follows_slow_changes_only():
    z = np.arange(200)
    slow, fast = 0.1 * z, 8.0 * (z % 2)
    levels = (slow + fast)[:, None] + np.linspace(50, 200, contrast.N_QUANTILES)
    reference = contrast.running_reference(levels, n_slices=10)
    left = reference - (slow + 4)[:, None] - np.linspace(50, 200, contrast.N_QUANTILES)
    assert np.abs(left[40:-40]).max() < 0.1
    whole = contrast.running_reference(levels, n_slices=np.inf)
    assert np.ptp(whole, axis=0).max() == 0
