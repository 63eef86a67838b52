"""Shifts between images: known ones, whole and of parts of a pixel, and images without a shift."""

import numpy as np
import pytest
from scipy import ndimage

from sxt_jax.core.errors import InputError
from sxt_jax.ops.phase_correlation import shift_between, spectrum

SHAPE = (96, 128)


def texture(seed):
    """A smooth random image, periodic."""
    noise = np.random.default_rng(seed).normal(size=SHAPE)
    return ndimage.gaussian_filter(noise, 2, mode='wrap')


def found(first, second, *, max_shift=20):
    shift, height = shift_between(
        spectrum(first), spectrum(second), shape=SHAPE, max_shift=max_shift
    )
    return np.asarray(shift), float(height)


@pytest.mark.parametrize('shift', [(0, 0), (3, -7), (-11, 5)])
def test_whole_pixels(shift):
    first = texture(0)
    got, height = found(first, np.roll(first, shift, (0, 1)))
    np.testing.assert_allclose(got, shift, atol=0.15)  # the fading of the borders draws to 0
    assert height > 0.5


@pytest.mark.parametrize('shift', [(0.5, 0.25), (-2.3, 4.6)])
def test_parts_of_a_pixel(shift):
    first = texture(1)
    second = np.fft.ifft2(ndimage.fourier_shift(np.fft.fft2(first), shift)).real
    got, _ = found(first, second)
    np.testing.assert_allclose(got, shift, atol=0.1)


def test_the_order_turns_the_sign_and_gain_and_offset_change_nothing():
    first, second = texture(2), np.roll(texture(2), (4, 2), (0, 1))
    there, _ = found(first, second)
    back, _ = found(second, first)
    np.testing.assert_allclose(there, -back, atol=1e-4)
    brighter, _ = found(first, 30 * second + 100)
    np.testing.assert_allclose(brighter, there, atol=1e-3)


def test_an_image_of_something_else_agrees_little():
    _, same = found(texture(3), texture(3))
    _, other = found(texture(3), texture(4))
    assert same > 0.95
    assert other < 0.2


def test_noise_of_each_slice_is_borne():
    rng, first = np.random.default_rng(5), texture(5)
    second = np.roll(first, (6, -9), (0, 1))
    noisy = [a + rng.normal(0, 2 * first.std(), SHAPE) for a in (first, second)]
    got, _ = found(*noisy)
    np.testing.assert_allclose(got, (6, -9), atol=0.5)


def test_the_peak_is_looked_for_within_the_largest_shift():
    first = texture(6)
    got, _ = found(first, np.roll(first, (15, 0), (0, 1)), max_shift=5)
    assert np.abs(got).max() <= 5.5


def test_flat_images_have_no_shift():
    got, height = found(np.ones(SHAPE), np.ones(SHAPE))
    assert got.tolist() == [0, 0]
    assert height < 0.1


def test_images_that_are_too_small():
    with pytest.raises(InputError, match='at least 8'):
        spectrum(np.zeros((4, 40)))
