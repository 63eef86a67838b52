"""Connected components against scipy.ndimage.label and skimage.measure.label."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage
from skimage.measure import label

from sxt_jax.core.errors import InputError
from sxt_jax.ops.components import connected_components

KINDS = [((6, 9, 37), 1), ((6, 9, 37), 2), ((6, 9, 37), 3), ((23, 70), 1), ((23, 70), 2)]


def _components(array, connectivity=None):
    result = connected_components(jnp.asarray(array), connectivity=connectivity)
    assert result.dtype == jnp.int32
    return np.asarray(result)


@pytest.mark.parametrize(('shape', 'connectivity'), KINDS)
def test_masks_as_scipy(shape, connectivity):
    rng = np.random.default_rng(connectivity)
    structure = ndimage.generate_binary_structure(len(shape), connectivity)
    for share in (0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.9, 1):
        for _ in range(4):
            mask = rng.random(shape) < share
            expected, _ = ndimage.label(mask, structure)
            np.testing.assert_array_equal(_components(mask, connectivity), expected)


@pytest.mark.parametrize(('shape', 'connectivity'), KINDS)
def test_labels_as_skimage(shape, connectivity):
    rng = np.random.default_rng(connectivity)
    for n_labels in (1, 2, 3, 9):
        for stretch in (1, 3):
            labels = rng.integers(0, n_labels + 1, shape).astype(np.int32)
            labels = np.repeat(labels, stretch, -1)[..., : shape[-1]]
            expected = label(labels, connectivity=connectivity)
            np.testing.assert_array_equal(_components(labels, connectivity), expected)


def _spiral(size):
    """One path of width 1 that winds inwards, with gaps of width 1."""
    mask = np.zeros((size, size), bool)
    y = x = 0
    mask[0, 0] = True
    lengths = [size - 1] + [n for k in range(size - 1, 0, -2) for n in (k, k)]
    for turn, length in enumerate(lengths):
        dy, dx = ((0, 1), (1, 0), (0, -1), (-1, 0))[turn % 4]
        for _ in range(length):
            y, x = y + dy, x + dx
            mask[y, x] = True
    return mask


def test_winding_shapes_are_one_component():
    comb = np.zeros((101, 200), bool)
    comb[:, ::2] = True
    comb[-1] = True
    diagonal = np.eye(150, dtype=bool)[::-1]
    for mask, connectivity in ((_spiral(101), 1), (comb, 1), (comb.T, 1), (diagonal, 2)):
        np.testing.assert_array_equal(_components(mask, connectivity), mask.astype(np.int32))
    assert _components(diagonal, 1).max() == 150


def test_more_than_65536_components():
    mask = np.indices((48, 64, 64)).sum(0) % 2 == 0
    found = _components(mask, 1)
    np.testing.assert_array_equal(found[mask], np.arange(1, mask.sum() + 1))
    assert mask.sum() > 65536
    assert not found[~mask].any()
    everywhere_new = np.arange(1, mask.size + 1, dtype=np.int32).reshape(mask.shape)
    np.testing.assert_array_equal(_components(everywhere_new, 1), everywhere_new)


def test_two_balls_joined_by_one_voxel():
    z, y, x = np.indices((11, 11, 30))
    ball = (z - 5) ** 2 + (y - 5) ** 2 + (x - 6) ** 2 < 17
    mask = ball | ball[..., ::-1]
    gap = np.flatnonzero(~mask[5, 5, 6:24]) + 6
    assert _components(mask).max() == 2
    mask[5, 5, gap] = True
    assert _components(mask, 1).max() == 1


def test_default_is_full_connectivity():
    mask = np.stack([np.eye(3, dtype=bool), np.eye(3, dtype=bool)[::-1]])
    assert _components(mask).max() == 1
    assert _components(np.eye(5, dtype=bool)).max() == 1


def test_bad_input():
    mask = jnp.zeros((3, 4, 5), bool)
    with pytest.raises(InputError, match='array'):
        connected_components(mask[0, 0])
    with pytest.raises(InputError, match='dtype'):
        connected_components(mask.astype(jnp.float32))
    with pytest.raises(InputError, match='connectivity'):
        connected_components(mask, connectivity=4)
