"""Against what OpenCV itself computed, and known displacements."""

from __future__ import annotations

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sxt_jax.ops import farneback, flow_step_cpu, warp
from sxt_jax.ops.flow_step import border_weights
from sxt_jax.ops.polynomial_expansion import expand

FIXTURE = pathlib.Path(__file__).parents[1] / 'fixtures' / 'farneback.npz'
SMALL = np.s_[40:104, 60:140]
OPTIONS = {
    'levels': 3,
    'scale': 0.5,
    'window': 15,
    'iterations': 2,
    'poly_n': 7,
    'poly_sigma': 1.5,
    'gaussian': True,
}


@pytest.fixture(scope='module')
def stored():
    return dict(np.load(FIXTURE))


@pytest.fixture
def three_bands(monkeypatch):
    monkeypatch.setattr(flow_step_cpu, 'usable_cores', lambda: 3)
    monkeypatch.setattr(flow_step_cpu, '_LEAST_ROWS', 16)


def _waves(y, x):
    """A smooth texture at any place, gray values 0 … 255."""
    rng = np.random.default_rng(0)
    waves = [
        np.cos(a * y + b * x + c)
        for a, b, c in zip(*rng.uniform(-0.5, 0.5, (2, 30)), rng.uniform(0, 7, 30), strict=True)
    ]
    return (127 + 14 * np.sum(waves, 0)).astype(np.float32)


def test_is_what_opencv_computes(stored):
    flow = np.asarray(farneback(stored['first'], stored['second']))
    np.testing.assert_allclose(flow[::3, 1::3, ::-1], stored['flow'], atol=1e-4)
    np.testing.assert_allclose(flow[-12:, :, ::-1], stored['flow_border'], atol=1e-4)


def test_is_what_opencv_computes_with_other_options(stored, three_bands):
    flow = farneback(stored['first'][SMALL], stored['second'][SMALL], **OPTIONS)
    np.testing.assert_allclose(flow[..., ::-1], stored['small_flow'], atol=1e-4)


def test_a_shift_is_found_and_undone(three_bands):
    y, x = np.mgrid[:64, :80]
    prev, next_ = _waves(y, x), _waves(y - 1.5, x + 0.75)
    flow = farneback(prev, next_, **OPTIONS)
    inner = np.s_[16:-16, 16:-16]
    np.testing.assert_allclose(flow[inner], np.broadcast_to([1.5, -0.75], (32, 48, 2)), atol=0.1)
    assert np.abs(next_ - prev)[inner].mean() > 10
    np.testing.assert_allclose(warp(next_, flow)[inner], prev[inner], atol=4)


def test_flat_images_do_not_move(three_bands):
    flat = np.full((64, 80), 90, np.uint8)
    np.testing.assert_allclose(farneback(flat, flat, **OPTIONS), 0, atol=1e-5)
    brighter = farneback(flat, flat + 100, **OPTIONS)
    np.testing.assert_allclose(brighter, 0, atol=1e-3)


def test_one_program_in_vmap_is_the_same_as_rows_on_threads():
    y, x = np.mgrid[:24, :32]
    prev, next_ = (jnp.stack([_waves(y + k, x), _waves(y, x - k)]) for k in (0, 1))

    def flow(prev, next_):
        return farneback(prev, next_, levels=0, window=9, iterations=2)

    found = jax.vmap(flow)(prev, next_)
    for k in range(2):
        np.testing.assert_allclose(found[k], flow(prev[k], next_[k]), atol=2e-5)
    assert not np.allclose(found[0], found[1], atol=0.1)


def test_a_polynomial_is_its_own_expansion():
    y, x = (np.mgrid[:24, :26] - 12).astype(np.float32)
    image = 3 + 2 * y - x + 0.5 * y * y - 0.25 * x * x + 0.75 * y * x
    found = jax.jit(lambda i: expand(i, n=5, sigma=1.1))(image)
    expected = (2 + y + 0.75 * x, -1 - 0.5 * x + 0.75 * y, 0.5, -0.25, 0.75)
    for plane, value in zip(found, expected, strict=True):
        wanted = np.broadcast_to(value, image.shape)[5:-5, 5:-5]
        np.testing.assert_allclose(plane[5:-5, 5:-5], wanted, atol=1e-3)


def test_both_borders_count_where_an_image_is_narrow():
    np.testing.assert_allclose(border_weights(3), [0.14 * 0.4472, 0.14**2, 0.14 * 0.4472])
    np.testing.assert_allclose(border_weights(12)[[0, 4, 5, 6, -1]], [0.14, 0.4472, 1, 1, 0.14])


def test_warp_pulls_from_where_flows_point_to():
    image = np.arange(20, dtype=np.float32).reshape(4, 5)
    flows = np.broadcast_to(np.float32([1, -0.5]), (4, 5, 2))
    below = image[[1, 2, 3, 3]]
    expected = (below + below[:, [0, 0, 1, 2, 3]]) / 2
    np.testing.assert_allclose(warp(image, flows), expected)
    np.testing.assert_allclose(warp(image.astype(np.uint8), flows), expected)
    channels = warp(np.stack([image, 2 * image], -1), flows)
    np.testing.assert_allclose(channels[..., 1], 2 * expected)


def test_labels_are_never_mixed():
    labels = np.array([[0, 0, 7, 7], [0, 0, 7, 3]], np.int32)
    found = warp(labels, np.broadcast_to(np.float32([0, 0.9]), (2, 4, 2)), order=0)
    assert found.dtype == labels.dtype
    np.testing.assert_array_equal(found, labels[:, [1, 2, 3, 3]])
    few = warp(labels, np.zeros((1, 2, 2), np.float32), order=0)
    np.testing.assert_array_equal(few, labels[:1, :2])


@pytest.mark.parametrize(
    ('shapes', 'options', 'message'),
    [
        (((8, 9), (9, 8)), {}, 'expected two'),
        (((8, 9, 2), (8, 9, 2)), {}, 'expected two'),
        (((1, 9), (1, 9)), {}, 'expected two'),
        (((8, 9), (8, 9)), {'scale': 1.0}, 'scale 1.0'),
        (((8, 9), (8, 9)), {'window': 1}, 'window 1'),
        (((8, 9), (8, 9)), {'iterations': 0}, 'iterations 0'),
        (((8, 9), (8, 9)), {'poly_sigma': 0}, 'poly_sigma 0'),
    ],
)
def test_what_does_not_fit_is_told(shapes, options, message):
    with pytest.raises(ValueError, match=message):
        farneback(*map(np.zeros, shapes), **options)


def test_a_warp_that_does_not_fit_is_told():
    image, flows = np.zeros((4, 4)), np.zeros((4, 4, 2))
    with pytest.raises(ValueError, match='order 3'):
        warp(image, flows, order=3)
    with pytest.raises(ValueError, match=r'flows of shape \(4, 4\)'):
        warp(image, image)


def test_large_ids_are_kept():
    ids = np.array([[2**24, 2**24 + 1, 2**30 - 1]], np.int32)
    np.testing.assert_array_equal(warp(ids, np.zeros((1, 3, 2)), order=0), ids)
