import numpy as np
import pytest

from sxt_jax.data.binning import (
    BinnedMean,
    BinnedNearest,
    bin_image,
    bin_mean,
    binned_shape,
    binned_voxel_size,
)

RNG = np.random.default_rng(0)


def slow_means(voxels, binning):
    shape = (*binned_shape(voxels.shape[:3], binning), *voxels.shape[3:])
    found = np.empty(shape)
    for z, y, x in np.ndindex(shape[:3]):
        place = zip((z, y, x), binning, strict=True)
        found[z, y, x] = voxels[tuple(slice(n * i, n * (i + 1)) for i, n in place)].mean((0, 1, 2))
    return found


@pytest.mark.parametrize('dtype', [np.uint8, np.int16, np.float32])
@pytest.mark.parametrize('shape', [(2, 8, 12), (1, 7, 10), (3, 9, 5, 3)])
@pytest.mark.parametrize('binning', [(1, 4, 3), (2, 3, 2)])
def test_means_of_bins_also_at_the_border(shape, dtype, binning):
    voxels = RNG.integers(0, 250, shape).astype(dtype)
    found = bin_mean(voxels, binning)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, slow_means(voxels, binning), rtol=1e-6)


@pytest.mark.parametrize('kind', [BinnedMean, BinnedNearest])
def test_windows_are_parts_of_the_whole(kind):
    voxels = RNG.integers(0, 250, (3, 18, 22)).astype(np.uint8)
    binned = kind(voxels, (1, 4, 4))
    assert binned.shape == (3, 5, 6)
    whole = binned[:, :, :]
    assert whole.shape == (3, 5, 6)
    np.testing.assert_array_equal(binned[1:3, 2:5, 3:6], whole[1:3, 2:5, 3:6])
    np.testing.assert_array_equal(binned[1:2], whole[1:2])


def test_labels_are_those_of_the_pixel_in_the_middle():
    labels = np.arange(7 * 9, dtype=np.int32).reshape(1, 7, 9)
    found = BinnedNearest(labels, (1, 4, 4))[:, :, :]
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found[0], labels[0][[2, 6]][:, [2, 6, 8]])


def test_a_labelled_voxel_stands_for_a_bin_whose_middle_has_none():
    """Slices labelled in any orientation are all seen; where the middle is labelled, it counts."""
    unlabelled = 9
    for axis, n in enumerate((6, 7, 9)):
        for place in range(n):
            labels = np.full((6, 7, 9), unlabelled, np.uint8)
            index = (slice(None),) * axis
            labels[(*index, place)] = 1
            found = BinnedNearest(labels, (2, 2, 3), lambda v: v == unlabelled)[:, :, :]
            assert found.shape == (3, 4, 3)
            expected = np.full((3, 4, 3), unlabelled)
            expected[(*index, place // (2, 2, 3)[axis])] = 1
            np.testing.assert_array_equal(found, expected)
    labels = RNG.integers(0, 3, (4, 4, 4)).astype(np.uint8)
    plain = BinnedNearest(labels, (2, 2, 2))[:, :, :]
    found = BinnedNearest(labels, (2, 2, 2), lambda v: v == unlabelled)[:, :, :]
    np.testing.assert_array_equal(found, plain)
    np.testing.assert_array_equal(plain, labels[1::2, 1::2, 1::2])


def test_only_what_a_window_needs_is_read():
    class Watched:
        shape, dtype, asked = (3, 64, 64), np.uint8, None

        def __getitem__(self, index):
            self.asked = index
            return np.zeros([part.stop - part.start for part in index], np.uint8)

    data = Watched()
    BinnedMean(data, (1, 4, 4))[1:2, 3:5, 0:1]
    assert data.asked == (slice(1, 2), slice(12, 20), slice(0, 4))


def test_no_binning_is_the_image_itself():
    voxels = np.zeros((1, 2, 2))
    assert bin_image(voxels, (1, 1, 1)) is voxels
    assert binned_voxel_size((8.0, 4.0, 4.0), (1, 4, 4)) == (8, 16, 16)
    assert binned_voxel_size(None, (1, 4, 4)) is None
