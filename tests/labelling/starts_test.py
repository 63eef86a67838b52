"""Where walks start: labelled slices, their labels, and how much the gray values vary there."""

from __future__ import annotations

import numpy as np
import pytest

from sxt_jax.core.errors import InputError
from sxt_jax.labelling.starts import find_starts

SHAPE = (7, 8, 9)


def _image():
    return np.random.default_rng(0).integers(0, 256, SHAPE).astype(np.uint8)


def _variance(image, labels, z, y, x):
    """Voxel by voxel, as the kernels say; background of gray value 0 lies around the volume."""
    gray, ids = np.pad(image[z].astype(float), 1), np.pad(labels[z], 1)
    squares = [
        (gray[y + 1, x + 1] - gray[j, i]) ** 2
        for j in range(y, y + 3)
        for i in range(x, x + 3)
        if ids[j, i] == labels[z, y, x]
    ]
    return max(1.0, float(np.mean(squares)))


def test_all_voxels_of_labelled_slices_start_walks_of_their_label():
    image, labels = _image(), np.zeros(SHAPE, np.int16)
    labels[2, 2:6, 3:7] = 5
    labels[2, 3, 4] = -1
    labels[5, 0:2, 0] = 2
    starts = find_starts(image, labels)
    assert list(starts) == [0, 2, 5]
    for label, found in starts.items():
        expected = [tuple(p) for p in np.argwhere(labels == label) if p[0] in (2, 5)]
        places = np.stack(np.unravel_index(found.voxels, SHAPE), 1)
        assert [tuple(p) for p in places] == expected
        np.testing.assert_array_equal(found.gray, [image[place] for place in expected])
        variances = [_variance(image, labels, *place) for place in expected]
        np.testing.assert_allclose(found.variances, variances, rtol=1e-6)
    assert starts[5].voxels.dtype == np.int32


def test_a_flat_image_has_the_least_variance():
    image, labels = np.full(SHAPE, 9, np.uint8), np.zeros(SHAPE, np.uint8)
    labels[3, 2:5, 2:5] = 1
    assert (find_starts(image, labels)[1].variances == 1).all()


def test_slices_that_cross_are_told_apart_and_their_voxels_start_once():
    image, truth = _image(), np.zeros(SHAPE, np.uint8)
    truth[1:6, 1:7, 1:8] = 1
    labels = np.zeros_like(truth)
    for index in ((3,), (slice(None), 4), (slice(None), slice(None), 5)):
        labels[index] = truth[index]
    starts = find_starts(image, labels, axes='zyx')
    inside = np.zeros(SHAPE, bool)
    inside[3], inside[:, 4], inside[:, :, 5] = True, True, True
    for label in (0, 1):
        expected = np.flatnonzero((truth == label) & inside)
        np.testing.assert_array_equal(np.sort(starts[label].voxels), expected)
    # The first orientation counts where slices cross.
    (crossing,) = np.flatnonzero(starts[1].voxels == np.ravel_multi_index((3, 4, 5), SHAPE))
    assert starts[1].variances[crossing] == pytest.approx(_variance(image, labels, 3, 4, 5))
    # Without that, every slice that is crossed counts as labelled.
    n = sum(len(found.voxels) for found in find_starts(image, labels).values())
    assert n == 5 * SHAPE[1] * SHAPE[2]


def test_nothing_labelled():
    assert find_starts(_image(), np.zeros(SHAPE, np.uint8)) == {}


def test_what_is_wrong_is_told():
    with pytest.raises(InputError, match='same shape'):
        find_starts(_image(), np.zeros((7, 8, 8), np.uint8))
    with pytest.raises(InputError, match='axes'):
        find_starts(_image(), np.zeros(SHAPE, np.uint8), axes='x')
