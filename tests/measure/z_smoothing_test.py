"""Smoothing along z against the published definition on labels −1 and 1."""

import numpy as np
import pytest
from scipy import ndimage

from sxt_jax.core.errors import InputError
from sxt_jax.measure import smooth_along_z


@pytest.mark.parametrize('depth', [1, 2, 3])
def test_is_the_sign_of_a_gaussian_mean_of_labels(depth: int) -> None:
    mask = np.random.default_rng(0).random((12, 9, 8)) < 0.5
    weights = np.exp(-0.5 * np.arange(-depth, depth + 1.0) ** 2)
    signed = np.where(mask, 1.0, -1.0)
    expected = ndimage.correlate1d(signed, weights / weights.sum(), axis=0) > 0
    found = smooth_along_z(mask, depth=depth)
    inner = slice(depth, -depth)
    np.testing.assert_array_equal(found[inner], expected[inner])
    assert (found[inner] != mask[inner]).any()
    for ends in (slice(0, depth), slice(-depth, None)):
        np.testing.assert_array_equal(found[ends], mask[ends])


def test_a_slice_that_was_missed_is_filled_and_a_lone_one_removed() -> None:
    mask = np.zeros((15, 2, 2), bool)
    mask[3:8, 0], mask[5, 0], mask[10, 1] = True, False, True
    found = smooth_along_z(mask, depth=2)
    assert found[3:8, 0].all()
    assert not found[:, 1].any()


def test_depth_zero_copies() -> None:
    mask = np.ones((3, 2, 2), bool)
    found = smooth_along_z(mask, depth=0)
    found[:] = False
    assert mask.all()


def test_bad_input() -> None:
    with pytest.raises(InputError, match='depth -1'):
        smooth_along_z(np.ones((3, 2, 2), bool), depth=-1)
