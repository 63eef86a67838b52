"""Textures of one object: gray levels, what they depend on and what not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from sxt_jax.core.errors import InputError
from sxt_jax.measure import Texture, measure_texture
from sxt_jax.measure.texture import TEXTURES, quantised
from tests.measure.shapes import ellipsoid

SIZE = (10.0, 10.0, 10.0)
SMALL = Texture(n_levels=8, largest_ball=3)


@pytest.fixture(name='scene', scope='module')
def _scene() -> tuple[np.ndarray, np.ndarray]:
    mask = ellipsoid((7, 8, 9))
    noise = np.random.default_rng(0).normal(size=mask.shape)
    return ndimage.gaussian_filter(noise, 1.2), mask


def test_levels_have_equal_width() -> None:
    image = np.array([-1.0, 0.0, 0.24, 0.25, 0.99, 1.0, 5.0, np.nan])
    levels = quantised(image, low=0, high=1, n_levels=4)
    assert levels[:7].tolist() == [0, 0, 0, 1, 3, 3, 3]
    assert not quantised(np.arange(3), low=2, high=2, n_levels=4).any()


def test_brightness_and_what_lies_around_make_no_difference(scene) -> None:
    image, mask = scene
    found = measure_texture(image, mask, voxel_size_nm=SIZE, options=SMALL)
    assert tuple(found) == TEXTURES
    around = np.where(mask, 3 * image + 100, 1e6)
    other = measure_texture(around, mask, voxel_size_nm=SIZE, options=SMALL)
    assert other == pytest.approx(found, rel=1e-6)
    wide = measure_texture(np.pad(image, 3), np.pad(mask, 3), voxel_size_nm=SIZE, options=SMALL)
    assert wide == pytest.approx(found)
    turned = measure_texture(
        image.transpose(2, 0, 1), mask.transpose(2, 0, 1), voxel_size_nm=SIZE, options=SMALL
    )
    assert turned == pytest.approx(found)


def test_a_given_range_keeps_contrast(scene) -> None:
    image, mask = scene
    options = Texture(n_levels=8, gray_range=(-1, 1), largest_ball=2)
    high, low = (
        measure_texture(image * c, mask, voxel_size_nm=SIZE, options=options) for c in (2, 0.5)
    )
    assert high['glcm_contrast'] > 2 * low['glcm_contrast']
    assert high['zones_per_voxel'] > low['zones_per_voxel']


def test_coarse_texture_has_larger_zones_and_sizes(scene) -> None:
    image, mask = scene
    noise = np.random.default_rng(0).normal(size=mask.shape)
    fine = measure_texture(noise, mask, voxel_size_nm=SIZE, options=SMALL)
    coarse = measure_texture(image, mask, voxel_size_nm=SIZE, options=SMALL)
    for name in ('glcm_homogeneity', 'glcm_correlation', 'zone_size_centroid_voxels'):
        assert coarse[name] > fine[name], name
    assert coarse['glcm_contrast'] < fine['glcm_contrast']
    assert coarse['spectrum_sd_nm'] > fine['spectrum_sd_nm']


@pytest.mark.parametrize(
    'options',
    [
        Texture(n_levels=1),
        Texture(gray_range=(1, 1)),
        Texture(percentiles=(5, 101)),
        Texture(distance=0),
        Texture(largest_ball=0),
    ],
)
def test_options_that_make_no_sense(options: Texture) -> None:
    with pytest.raises(InputError):
        measure_texture(
            np.ones((2, 2, 2)), np.ones((2, 2, 2), bool), voxel_size_nm=SIZE, options=options
        )


def test_gray_values_must_be_numbers() -> None:
    with pytest.raises(InputError, match='not finite'):
        measure_texture(np.full((2, 2, 2), np.nan), np.ones((2, 2, 2), bool), voxel_size_nm=SIZE)
