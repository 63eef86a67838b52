"""Morphology with balls against scipy.ndimage and skimage.morphology."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage
from skimage import morphology as reference

from sxt_jax.core.errors import InputError
from sxt_jax.ops.morphology import close, dilate, erode, open_

CASES = [
    ((12, 15, 40), 1, None),
    ((12, 15, 40), 2.5, None),
    ((12, 15, 70), 6, None),
    ((9, 20, 33), 1.5, (2.0, 1.0, 0.5)),
    ((30, 64), 3.5, None),
    ((30, 70), 0.3, (0.3, 0.1)),
    ((1, 50), 4, None),
    ((3, 4, 5), 0, None),
]


def _ball(radius, voxel_size):
    reach = [int(radius / side + 1e-6) for side in voxel_size]
    axes = [np.arange(-n, n + 1) * side for n, side in zip(reach, voxel_size, strict=True)]
    return sum(x**2 for x in np.meshgrid(*axes, indexing='ij')) <= radius**2 + 1e-6


@pytest.mark.parametrize(('shape', 'radius', 'voxel_size'), CASES)
def test_as_scipy_with_a_ball(shape, radius, voxel_size):
    rng = np.random.default_rng(len(shape))
    ball = _ball(radius, voxel_size or (1,) * len(shape))
    for share in (0.01, 0.3, 0.97):
        mask = rng.random(shape) < share
        x = jnp.asarray(mask)
        dilated = ndimage.binary_dilation(mask, ball)
        np.testing.assert_array_equal(dilate(x, radius, voxel_size=voxel_size), dilated)
        for border in (True, False):
            options = {'voxel_size': voxel_size, 'border': border}
            eroded = ndimage.binary_erosion(mask, ball, border_value=border)
            closed = ndimage.binary_erosion(dilated, ball, border_value=border)
            opened = ndimage.binary_dilation(eroded, ball)
            np.testing.assert_array_equal(erode(x, radius, **options), eroded)
            np.testing.assert_array_equal(close(x, radius, **options), closed)
            np.testing.assert_array_equal(open_(x, radius, **options), opened)


def test_closing_as_skimage():
    rng = np.random.default_rng(5)
    for n_dims, footprint in ((2, reference.disk), (3, reference.ball)):
        mask = rng.random((24,) * n_dims) < 0.05
        expected = ndimage.binary_dilation(mask, footprint(4))
        expected = reference.erosion(np.pad(expected, 9, constant_values=True), footprint(4))
        expected = expected[(slice(9, -9),) * n_dims]
        np.testing.assert_array_equal(close(jnp.asarray(mask), 4), expected)


def test_a_single_voxel_becomes_the_ball_and_back():
    mask = np.zeros((21, 21, 21), bool)
    mask[10, 10, 10] = True
    ball = dilate(jnp.asarray(mask), 7)
    assert int(ball.sum()) == reference.ball(7).sum()
    np.testing.assert_array_equal(erode(ball, 7), mask)
    assert not open_(jnp.asarray(mask), 1).any()


def test_bad_input():
    mask = jnp.zeros((3, 4), bool)
    with pytest.raises(InputError, match='dtype'):
        dilate(mask.astype(jnp.int32), 1)
    with pytest.raises(InputError, match='array'):
        dilate(mask[0], 1)
    with pytest.raises(InputError, match='radius'):
        erode(mask, -1)
    with pytest.raises(InputError, match='voxel_size'):
        close(mask, 1, voxel_size=(1.0, 1.0, 1.0))
    with pytest.raises(InputError, match='voxel_size'):
        open_(mask, 1, voxel_size=(0.0, 1.0))
