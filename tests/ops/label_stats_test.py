"""Sizes, places, shapes and means of objects against numpy and skimage.measure."""

import jax.numpy as jnp
import numpy as np
import pytest
from skimage.measure import regionprops

from sxt_jax.core.errors import InputError
from sxt_jax.ops.label_stats import axis_lengths, means, regions, relabel, second_moments, sizes


def _check_regions(instances, n_labels):
    found = regions(jnp.asarray(instances), n_labels=n_labels)
    expected = np.bincount(instances[instances <= n_labels], minlength=n_labels + 1)
    expected[0] = 0
    np.testing.assert_array_equal(found.sizes, expected)
    np.testing.assert_array_equal(sizes(jnp.asarray(instances), n_labels=n_labels), expected)
    empty = expected == 0
    centroids, low, high, first = (np.asarray(field) for field in found[1:])
    for field in (centroids, low, high):
        assert not field[empty].any()
    assert (first[empty] == 2**31 - 1).all()
    for label in np.flatnonzero(~empty)[:60]:
        places = np.argwhere(instances == label)
        np.testing.assert_allclose(centroids[label], places.mean(0), atol=1e-4)
        np.testing.assert_array_equal(low[label], places.min(0))
        np.testing.assert_array_equal(high[label], places.max(0) + 1)
        assert first[label] == np.ravel_multi_index(places[0], instances.shape)


@pytest.mark.parametrize('shape', [(5, 9, 37), (23, 70)])
def test_regions_of_random_labels(shape):
    rng = np.random.default_rng(0)
    instances = rng.integers(0, 9, shape).astype(np.int32)
    instances[instances == 4] = 0
    _check_regions(instances, 12)
    _check_regions(np.zeros(shape, np.int32), 12)
    _check_regions(np.full(shape, 12, np.int32), 12)
    _check_regions(np.where(instances == 7, 13, instances), 12)


def test_regions_of_70000_labels():
    instances = np.random.default_rng(0).integers(0, 70001, (40, 64, 64)).astype(np.int32)
    _check_regions(instances, 70000)


def test_sums_of_coordinates_do_not_overflow():
    # The sum of y alone is 2³⁶.
    instances = jnp.ones((1, 16384, 512), jnp.int32)
    found = regions(instances, n_labels=1)
    assert found.sizes[1] == 16384 * 512
    np.testing.assert_allclose(found.centroids[1], [0, 8191.5, 255.5], rtol=1e-6)


def _ellipsoids(shape):
    rng = np.random.default_rng(2)
    grid = np.indices(shape)
    instances = np.zeros(shape, np.int32)
    for label in range(1, 8):
        axes = rng.uniform(2, 9, len(shape)).reshape(-1, *(1,) * len(shape))
        centre = (rng.random(len(shape)) * shape).reshape(axes.shape)
        mixed = np.tensordot(np.linalg.qr(rng.normal(size=(len(shape),) * 2))[0], grid - centre, 1)
        instances[((mixed / axes) ** 2).sum(0) < 1] = label
    return instances


@pytest.mark.parametrize('shape', [(24, 30, 37), (50, 70)])
def test_axes_as_skimage(shape):
    instances = _ellipsoids(shape)
    found = np.asarray(axis_lengths(jnp.asarray(instances), n_labels=12))
    properties = regionprops(instances)
    assert len(properties) > 3
    for region in properties:
        lengths = found[region.label]
        assert (np.diff(lengths) <= 0).all()
        np.testing.assert_allclose(lengths[0], region.axis_major_length, rtol=1e-4)
        np.testing.assert_allclose(lengths[-1], region.axis_minor_length, rtol=1e-4)
    assert not found[0].any()
    assert not found[12].any()


def test_moments_far_from_the_origin():
    instances = np.zeros((3, 30, 2000), np.int32)
    instances[0, 4:29, 1960:1990] = 1
    instances[2, 29, 1999] = 2
    found = np.asarray(second_moments(jnp.asarray(instances), n_labels=2))
    expected = np.diag([0, (25**2 - 1) / 12, (30**2 - 1) / 12])
    np.testing.assert_allclose(found[1], expected, atol=1e-3)
    np.testing.assert_allclose(found[2], 0, atol=1e-6)


def test_axes_in_the_unit_of_the_voxel_size():
    half = np.asarray(axis_lengths(jnp.ones((8, 8, 8), jnp.int32), n_labels=1))
    stretched = axis_lengths(jnp.ones((8, 8, 4), jnp.int32), n_labels=1, voxel_size=(1.0, 3.0, 2.0))
    assert np.ptp(half[1]) < 1e-3
    np.testing.assert_allclose(stretched[1, 0], 3 * half[1, 0], rtol=1e-5)


@pytest.mark.parametrize('shape', [(70, 5, 9), (130, 20)])
def test_means_of_maps(shape):
    rng = np.random.default_rng(3)
    instances = rng.integers(0, 6, shape).astype(np.int32)
    instances[instances == 2] = 9
    maps = rng.normal(1000, 1, (*shape, 2)).astype(np.float32)
    both = np.asarray(means(jnp.asarray(instances), jnp.asarray(maps), n_labels=7))
    one = means(jnp.asarray(instances), jnp.asarray(maps[..., 1]), n_labels=7)
    np.testing.assert_allclose(one, both[:, 1], rtol=1e-6)
    for label in (1, 3, 4, 5):
        expected = maps[instances == label].mean(0, dtype=np.float64)
        np.testing.assert_allclose(both[label], expected, rtol=1e-6)
    assert not both[[0, 2, 6, 7]].any()
    share = means(jnp.asarray(instances), jnp.asarray(maps[..., 0] > 1000), n_labels=7)
    np.testing.assert_allclose(share[3], (maps[..., 0] > 1000)[instances == 3].mean(), rtol=1e-6)


def test_relabel_keeps_the_order():
    instances = jnp.asarray([[0, 5, 2], [3, 2, 7]], jnp.int32)
    keep = jnp.asarray([True, True, True, False, True, True])
    np.testing.assert_array_equal(relabel(instances, keep), [[0, 4, 2], [0, 2, 0]])
    assert not relabel(instances, jnp.zeros(6, bool)).any()


def test_bad_input():
    instances = jnp.zeros((3, 4), jnp.int32)
    with pytest.raises(InputError, match='dtype'):
        sizes(instances.astype(jnp.float32), n_labels=1)
    with pytest.raises(InputError, match='array'):
        regions(instances[0], n_labels=1)
    with pytest.raises(InputError, match='n_labels'):
        regions(instances, n_labels=-1)
    with pytest.raises(InputError, match='maps'):
        means(instances, jnp.zeros((4, 3)), n_labels=1)
    with pytest.raises(InputError, match='voxel_size'):
        axis_lengths(instances, n_labels=1, voxel_size=(1.0,))
