"""Gray levels of images of any type."""

from __future__ import annotations

import numpy as np
import pytest

from sxt_jax.core.errors import InputError
from sxt_jax.labelling.gray import GrayLevels


def test_bytes_stay_what_they_are():
    image = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)
    levels = GrayLevels(image, percentiles=(10, 90))
    np.testing.assert_array_equal(levels[1:, :2], 2 * image[1:, :2])
    assert levels[:].dtype == np.uint16


@pytest.mark.parametrize('dtype', [np.uint16, np.int16, np.float32, np.float64])
def test_other_types_are_brought_to_the_scale(dtype):
    image = np.linspace(-3000 if dtype != np.uint16 else 0, 5000, 6 * 7 * 8)
    image = image.reshape(6, 7, 8).astype(dtype)
    low, high = float(image.min()), float(image.max())
    found = GrayLevels(image, percentiles=(0, 100))[:]
    np.testing.assert_allclose(found, 510 * (image - low) / (high - low), atol=0.51)
    assert (found.min(), found.max()) == (0, 510)


def test_bright_specks_do_not_take_the_contrast():
    image = np.random.default_rng(0).normal(0, 1, (16, 32, 32)).astype(np.float32)
    image[3, 4, 5] = 1e4
    assert GrayLevels(image, percentiles=(0, 100))[:].std() < 20
    found = GrayLevels(image, percentiles=(0.1, 99.9))[:]
    assert 60 < found.std() < 100
    assert found[3, 4, 5] == 510


def test_contrast_in_a_few_voxels_is_kept():
    image = np.zeros((10, 20, 30), np.float32)
    image[5, 5, 5:9] = 0.01
    found = GrayLevels(image, percentiles=(0.1, 99.9))[:]
    assert set(np.unique(found)) == {0, 510}


@pytest.mark.parametrize(
    ('image', 'percentiles', 'told'),
    [
        (np.full((2, 3, 4), np.nan, np.float32), (0, 100), 'NaN'),
        (np.ones((2, 3, 4), np.float32), (0, 100), 'constant'),
        (np.ones((3, 4), np.uint8), (0, 100), r'\[z, y, x\]'),
        (np.ones((2, 3, 4), np.uint8), (50, 50), 'percentiles'),
    ],
)
def test_what_is_wrong_is_told(image, percentiles, told):
    with pytest.raises(InputError, match=told):
        GrayLevels(image, percentiles=percentiles)
