"""Gaussian smoothing against scipy's."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from sxt_jax.ops.filters import gaussian_filter


@pytest.mark.parametrize('shape', [(9, 12, 7), (13, 4), (1, 6, 3)])
@pytest.mark.parametrize('sigma', [1, 0.6, 2.5, 0])
def test_equals_scipy(shape, sigma):
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    expected = ndimage.gaussian_filter(image.astype(np.float64), sigma, mode='reflect')
    found = jax.jit(gaussian_filter, static_argnums=1)(image, sigma)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_one_sigma_per_axis():
    image = np.random.default_rng(0).normal(size=(8, 9)).astype(np.float32)
    found = gaussian_filter(image, (0, 1.5))
    np.testing.assert_allclose(found, ndimage.gaussian_filter(image, (0, 1.5)), atol=1e-6)


@pytest.mark.parametrize('sigma', [-1, (1, 2, 3), (1, -1)])
def test_sigmas_that_do_not_fit_are_told(sigma):
    with pytest.raises(ValueError, match='sigma'):
        gaussian_filter(jnp.ones((4, 4)), sigma)
