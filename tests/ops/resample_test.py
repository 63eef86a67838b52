"""Resampling against scikit-image, SciPy and jax.image; slabs; what must not change."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.transform

from sxt_jax.ops import resample
from sxt_jax.ops.resample import resize, resize_rows, resize_slabs

SHAPES = [((7, 9, 8), (13, 5, 8)), ((12, 5, 6), (4, 11, 13)), ((1, 4, 5), (3, 1, 2))]


def _volume(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(('old', 'new'), SHAPES)
def test_linear_equals_scikit_image(old, new):
    volume = _volume(old)
    expected = skimage.transform.resize(volume, new, order=1, mode='edge', anti_aliasing=False)
    np.testing.assert_allclose(resize(volume, new), expected, atol=1e-5)


@pytest.mark.parametrize(('old', 'new'), SHAPES)
def test_antialiased_equals_jax_inside(old, new):
    volume = _volume((*old, 2))
    expected = jax.image.resize(volume, (*new, 2), 'linear', antialias=True)
    np.testing.assert_allclose(resize(volume, new, antialias=True), expected, atol=1e-5)


@pytest.mark.parametrize(('old', 'new'), SHAPES)
@pytest.mark.parametrize('dtype', [np.uint8, np.int16, np.int32, np.float32])
def test_nearest_takes_the_voxel_under_the_centre(old, new, dtype):
    volume = np.random.default_rng(0).integers(0, 200, old).astype(dtype)
    index = [
        [min(int((i + 0.5) * n / m), n - 1) for i in range(m)]
        for n, m in zip(old, new, strict=True)
    ]
    found = resize(volume, new, method='nearest')
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, volume[np.ix_(*index)])


@pytest.mark.parametrize(('old', 'new'), [((9, 4, 5), (23, 6, 4)), ((23, 4, 5), (9, 3, 7))])
@pytest.mark.parametrize('method', ['linear', 'nearest', 'antialias'])
@pytest.mark.parametrize('on_device', [False, True])
def test_slabs_are_the_rows_of_the_whole(old, new, method, on_device):
    volume = _volume((*old, 2))
    options = {'antialias': True} if method == 'antialias' else {'method': method}
    whole = resize(volume, new, **options)
    given = jnp.asarray(volume) if on_device else volume
    for depth in (1, 4, new[0]):
        slabs = [
            resize_rows(given, new, z, min(z + depth, new[0]), **options)
            for z in range(0, new[0], depth)
        ]
        np.testing.assert_allclose(np.concatenate(slabs), whole, atol=1e-6)


@pytest.mark.parametrize(('old', 'new'), [((40, 4, 5), (23, 6, 4)), ((9, 4, 5), (30, 3, 7))])
@pytest.mark.parametrize('method', ['linear', 'nearest'])
def test_lazily_read_volumes_are_read_slab_by_slab(old, new, method, monkeypatch):
    monkeypatch.setattr(resample, '_SLAB_BYTES', 4 * 4 * 5 * 12)
    volume = _volume(old)
    read = []

    class Lazy:
        shape, dtype = volume.shape, volume.dtype

        def __getitem__(self, rows):
            read.append(len(volume[rows]))
            return volume[rows]

    found = resize_slabs(Lazy(), new, method=method)
    np.testing.assert_allclose(found, resize(volume, new, method=method), atol=1e-6)
    assert max(read) <= 15
    assert len(read) > 2


@pytest.mark.parametrize('antialias', [False, True])
def test_a_constant_stays_and_a_ramp_keeps_its_place(antialias):
    np.testing.assert_allclose(
        resize(np.full((5, 6, 7), 3, np.uint8), (9, 4, 7), antialias=antialias), 3, rtol=1e-6
    )
    ramp = np.broadcast_to(np.arange(64.0)[:, None, None] + 0.5, (64, 2, 2))
    for side in (32, 100):
        found = resize(ramp, (side, 2, 2), antialias=antialias)[:, 0, 0] / 64
        expected = (np.arange(side) + 0.5) / side
        np.testing.assert_allclose(found[4:-4], expected[4:-4], atol=1e-5)


def test_axes_are_treated_alike():
    volume = _volume((5, 6, 7))
    turned = resize(volume.transpose(2, 0, 1), (4, 8, 9))
    np.testing.assert_allclose(turned.transpose(1, 2, 0), resize(volume, (8, 9, 4)), atol=1e-5)


def test_same_shape_changes_nothing():
    volume = _volume((4, 5, 6))
    np.testing.assert_array_equal(resize(volume, volume.shape), volume)


def test_slabs_of_one_depth_share_a_compilation():
    from sxt_jax.ops import resample

    volume = jnp.asarray(_volume((17, 3, 4)))
    resize_rows(volume, (41, 5, 6), 3, 11)
    before = resample.apply_weights._cache_size()
    for z in range(1, 33, 3):
        resize_rows(volume, (41, 5, 6), z, z + 8)
    assert resample.apply_weights._cache_size() == before


@pytest.mark.parametrize(
    ('shape', 'new', 'options', 'message'),
    [
        ((4, 4), (2, 2, 2), {}, r'expected \[z, y, x\]'),
        ((4, 4, 4), (2, 2), {}, r'expected \[z, y, x\]'),
        ((4, 4, 4), (2, 0, 2), {}, 'empty'),
        ((4, 4, 4), (2, 2, 2), {'method': 'cubic'}, 'cubic'),
        ((4, 4, 4), (2, 2, 2), {'method': 'nearest', 'antialias': True}, 'antialias'),
    ],
)
def test_says_what_does_not_fit(shape, new, options, message):
    with pytest.raises(ValueError, match=message):
        resize(np.zeros(shape, np.float32), new, **options)


def test_refuses_to_cut_labels_and_rows_outside():
    with pytest.raises(ValueError, match='int64'):
        resize(np.zeros((2, 2, 2), np.int64), (3, 3, 3), method='nearest')
    with pytest.raises(ValueError, match='rows 2 to 5'):
        resize_rows(np.zeros((2, 2, 2), np.float32), (4, 3, 3), 2, 5)
