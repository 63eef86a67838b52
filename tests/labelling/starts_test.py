"""Where walks start: labelled slices, their labels, and how much the gray values vary there."""

from __future__ import annotations

import numpy as np
import pytest

from sxt_jax.core.errors import InputError
from sxt_jax.labelling.gray import GrayLevels
from sxt_jax.labelling.starts import find_starts, labelled_slices

SHAPE = (7, 8, 9)


def _image():
    return np.random.default_rng(0).integers(0, 256, SHAPE).astype(np.uint8)


def _starts(image, labels, **options):
    return find_starts(GrayLevels(image, percentiles=(0, 100)), labels, **options)


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
    starts = _starts(image, labels)
    assert list(starts) == [0, 2, 5]
    for label, found in starts.items():
        expected = [tuple(p) for p in np.argwhere(labels == label) if p[0] in (2, 5)]
        places = np.stack(np.unravel_index(found.voxels, SHAPE), 1)
        assert [tuple(p) for p in places] == expected
        np.testing.assert_array_equal(found.levels, [2.0 * image[place] for place in expected])
        variances = [_variance(image, labels, *place) for place in expected]
        np.testing.assert_allclose(found.variances / 4, variances, rtol=1e-6)


def test_a_flat_image_has_the_least_variance():
    image, labels = np.full(SHAPE, 9, np.uint8), np.zeros(SHAPE, np.uint8)
    labels[3, 2:5, 2:5] = 1
    assert (_starts(image, labels)[1].variances == 4).all()


def test_slices_that_cross_are_told_apart_and_their_voxels_start_once():
    image, truth = _image(), np.zeros(SHAPE, np.uint8)
    truth[1:6, 1:7, 1:8] = 1
    labels = np.zeros_like(truth)
    for index in ((3,), (slice(None), 4), (slice(None), slice(None), 5)):
        labels[index] = truth[index]
    starts = _starts(image, labels, axes='zyx')
    inside = np.zeros(SHAPE, bool)
    inside[3], inside[:, 4], inside[:, :, 5] = True, True, True
    for label in (0, 1):
        expected = np.flatnonzero((truth == label) & inside)
        np.testing.assert_array_equal(np.sort(starts[label].voxels), expected)
    # The first orientation counts where slices cross.
    (crossing,) = np.flatnonzero(starts[1].voxels == np.ravel_multi_index((3, 4, 5), SHAPE))
    assert starts[1].variances[crossing] / 4 == pytest.approx(_variance(image, labels, 3, 4, 5))
    # Without that, every slice that is crossed counts as labelled.
    n = sum(len(found.voxels) for found in _starts(image, labels).values())
    assert n == 5 * SHAPE[1] * SHAPE[2]


def test_crossing_slices_at_the_border_are_told_apart_too():
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:5, 0, 1:8] = 1  # a labelled xz slice at the border
    assert labelled_slices(labels, axes='zyx') == {'xy': [], 'xz': [0], 'yz': []}
    assert labelled_slices(labels)['xy'] == [2, 3, 4]


def test_nothing_labelled():
    assert _starts(_image(), np.zeros(SHAPE, np.uint8)) == {}


def test_voxels_without_a_label_start_no_walks_where_their_value_is_given():
    labels = np.full(SHAPE, 255, np.uint8)
    labels[2] = 0  # all background: a labelled slice
    labels[4, 2:5, 2:6] = 7
    assert labelled_slices(labels, unlabelled=255) == {'xy': [2, 4]}
    starts = _starts(_image(), labels, unlabelled=255)
    assert {label: len(found.voxels) for label, found in starts.items()} == {0: 8 * 9, 7: 3 * 4}


def test_what_is_wrong_is_told():
    with pytest.raises(InputError, match='shape of the image'):
        _starts(_image(), np.zeros((7, 8, 8), np.uint8))
    with pytest.raises(InputError, match='integers'):
        _starts(_image(), np.zeros(SHAPE))
    with pytest.raises(InputError, match='axes'):
        _starts(_image(), np.zeros(SHAPE, np.uint8), axes='x')
