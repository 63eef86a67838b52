"""Truncated squared distances against scipy.ndimage.distance_transform_edt."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from sxt_jax.core.errors import InputError
from sxt_jax.ops.distance import squared_distance


@pytest.mark.parametrize(
    ('shape', 'limit', 'share'),
    [((12, 17, 33), 3, 0.02), ((9, 20, 31), 6.5, 0.001), ((40, 61), 8, 0.01), ((1, 50), 200, 0.05)],
)
def test_as_scipy_in_voxels(shape, limit, share):
    mask = np.random.default_rng(0).random(shape) < share
    mask.flat[mask.size // 3] = True
    expected = np.rint(ndimage.distance_transform_edt(~mask) ** 2)
    expected[expected > limit**2] = np.floor(limit**2) + 1
    found = squared_distance(jnp.asarray(mask), limit=limit)
    assert found.dtype == jnp.int32
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ('shape', 'voxel_size', 'limit'),
    [((10, 20, 30), (2.0, 1.0, 0.7), 4.2), ((30, 40), (0.1, 0.3), 0.3)],
)
def test_as_scipy_with_voxel_sizes(shape, voxel_size, limit):
    mask = np.random.default_rng(1).random(shape) < 0.01
    expected = ndimage.distance_transform_edt(~mask, sampling=voxel_size) ** 2
    expected[expected > limit**2 * (1 + 1e-6)] = np.inf
    found = squared_distance(jnp.asarray(mask), limit=limit, voxel_size=voxel_size)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_nothing_to_be_near_to():
    mask = jnp.zeros((3, 5, 7), bool)
    assert (squared_distance(mask, limit=2.5) == 7).all()
    assert (squared_distance(~mask, limit=2.5) == 0).all()
    assert jnp.isinf(squared_distance(mask, limit=2, voxel_size=(1.0, 1.0, 2.0))).all()


def test_bad_input():
    mask = jnp.zeros((3, 4), bool)
    with pytest.raises(InputError, match='dtype'):
        squared_distance(mask.astype(jnp.float32), limit=1)
    with pytest.raises(InputError, match='array'):
        squared_distance(mask[0], limit=1)
    with pytest.raises(InputError, match='limit'):
        squared_distance(mask, limit=-1)
    with pytest.raises(InputError, match='voxel_size'):
        squared_distance(mask, limit=1, voxel_size=(1.0,))
