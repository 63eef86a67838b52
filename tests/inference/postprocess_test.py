"""Clean and fill: known objects and holes, classes apart, scikit-image as oracle."""

import numpy as np
import pytest
from scipy import ndimage
from skimage import measure, morphology

from sxt_jax.core.errors import InputError
from sxt_jax.inference import clean, fill


def two_classes():
    labels = np.zeros((12, 12, 12), np.uint8)
    labels[1:5, 1:5, 1:5] = 1  # 64 voxels
    labels[8:10, 8:10, 8:10] = 1  # 8
    labels[0, 0, 10] = 1  # 1
    labels[6, 6, 6] = 2  # the only one of its class
    return labels


def test_clean_removes_what_is_small_for_its_class():
    labels = two_classes()
    cleaned = clean(labels, 0.1)
    assert np.bincount(cleaned.ravel()).tolist()[1:] == [72, 1]
    assert cleaned[0, 0, 10] == 0
    assert np.bincount(clean(labels, 0.5).ravel()).tolist()[1:] == [64, 1]
    np.testing.assert_array_equal(clean(labels, 0), labels)
    np.testing.assert_array_equal(labels, two_classes())


def test_objects_of_exactly_the_fraction_stay():
    assert clean(two_classes(), 8 / 64)[8, 8, 8] == 1


@pytest.mark.parametrize('seed', range(3))
def test_clean_agrees_with_scikit_image(seed):
    mask = np.random.default_rng(seed).random((20, 20, 20)) < 0.25
    objects = measure.label(mask, connectivity=1)
    limit = 0.2 * np.bincount(objects[mask]).max()
    expected = mask & (np.bincount(objects.ravel())[objects] >= limit)
    np.testing.assert_array_equal(clean(mask.astype(np.int32), 0.2), expected)


def shell(outer=8, inner=2, size=20):
    z, y, x = np.indices((size,) * 3) - (size - 1) / 2
    radius = np.sqrt(z**2 + y**2 + x**2)
    return ((radius < outer) & (radius >= inner)).astype(np.uint16), radius


def test_fill_closes_small_holes_only():
    labels, radius = shell()
    np.testing.assert_array_equal(fill(labels, 0.1), radius < 8)
    np.testing.assert_array_equal(fill(labels, 0.001), labels)


def test_fill_leaves_tunnels_to_the_border_and_other_classes():
    labels, radius = shell()
    labels[radius < 1.5] = 2
    filled = fill(labels, 0.5)
    assert (filled[radius < 1.5] == 2).all()
    assert (filled[(radius >= 1.5) & (radius < 8)] == 1).all()
    open_to_border, _ = shell()
    open_to_border[:, 10, 10] = 0
    open_to_border[:, 9, 9] = 0
    np.testing.assert_array_equal(
        fill(open_to_border, 1), ndimage.binary_fill_holes(open_to_border)
    )


@pytest.mark.parametrize('seed', range(3))
def test_fill_agrees_with_scikit_image_for_one_object(seed):
    rng = np.random.default_rng(seed)
    mask = morphology.dilation(rng.random((16, 16, 16)) < 0.02, morphology.ball(2))
    mask[2:14, 2:14, 2:14] |= rng.random((12, 12, 12)) < 0.9
    mask = ndimage.label(mask)[0] == 1
    limit = 0.002 * mask.sum()
    expected = morphology.remove_small_holes(mask, max_size=int(np.ceil(limit)) - 1, connectivity=1)
    border = ndimage.label(~mask)[0]  # scikit-image fills pockets at the border, which are no holes
    at_border = np.unique(np.concatenate([border[f].ravel() for f in faces(border)]))
    expected &= ~(np.isin(border, at_border) & ~mask)
    np.testing.assert_array_equal(fill(mask.astype(np.uint8), 0.002), expected)


def faces(array):
    return [tuple(slice(None) if a != axis else side for a in range(3)) for axis in range(3)
            for side in (0, -1)]  # fmt: skip


def test_empty_labels_stay_empty():
    empty = np.zeros((4, 4, 4), np.int32)
    np.testing.assert_array_equal(clean(empty, 0.5), empty)
    np.testing.assert_array_equal(fill(empty, 0.5), empty)


@pytest.mark.parametrize('function', [clean, fill])
def test_bad_input_is_refused(function):
    with pytest.raises(InputError, match='labels'):
        function(np.zeros((2, 2, 2)), 0.5)
    with pytest.raises(InputError, match='fraction'):
        function(np.zeros((2, 2, 2), int), 1.5)
