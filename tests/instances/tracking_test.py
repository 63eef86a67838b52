"""Tracking against a numpy loop, on fields whose ends are known, and how doubling composes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sxt_jax.instances import tracking
from sxt_jax.instances.tracking import track


def _to_centres(shape, centres):
    """Unit vectors to the nearest of the centres."""
    grid = np.stack(np.indices(shape), -1).astype(np.float32)
    ways = np.asarray(centres, np.float32) - grid[..., None, :]
    nearest = np.argmin(np.linalg.norm(ways, axis=-1), -1)
    way = np.take_along_axis(ways, nearest[..., None, None], -2)[..., 0, :]
    return way / np.maximum(np.linalg.norm(way, axis=-1, keepdims=True), 1), nearest


def _published(flows, n_steps):
    """The loop of Cellpose3D, its sign turned: look-up below, all voxels, ends rounded down."""
    last = np.array(flows.shape[:-1], np.float32) - 1
    place = np.stack(np.indices(flows.shape[:-1]), -1).astype(np.float32)
    for _ in range(n_steps):
        at = tuple(np.moveaxis(place.astype(np.int64), -1, 0))
        place = np.clip(place + flows[at], 0, last)
    return np.ravel_multi_index(tuple(np.moveaxis(place.astype(np.int64), -1, 0)), flows.shape[:-1])


@pytest.mark.parametrize('shape', [(7, 9, 8), (11, 13), (5, 1, 6), (1, 4)])
def test_euler_with_the_voxel_below_is_the_published_loop(shape):
    rng = np.random.default_rng(0)
    flows = rng.normal(0, 0.7, (*shape, len(shape))).astype(np.float32)
    found = track(jnp.asarray(flows), None, n_steps=9, method='euler', lookup='floor')
    np.testing.assert_array_equal(found, _published(flows, 9))


@pytest.mark.parametrize('shape', [(6, 9, 8), (11, 13), (6, 1, 6)])
def test_linear_lookup_follows_a_linear_field_exactly(shape):
    centre = np.array([(n - 1) / 2 for n in shape], np.float32)
    grid = np.stack(np.indices(shape), -1).astype(np.float32)
    flows = 0.3 * (centre - grid)
    found = track(jnp.asarray(flows), None, n_steps=2, method='euler')
    ends = np.rint(centre + 0.49 * (grid - centre) + 1e-6).astype(int)
    exact = np.rint(centre + 0.49 * (grid - centre) - 1e-6).astype(int)
    expected = np.ravel_multi_index(tuple(np.moveaxis(ends, -1, 0)), shape)
    sure = (ends == exact).all(-1)  # not between two voxels
    assert sure.mean() > 0.9
    np.testing.assert_array_equal(np.asarray(found)[sure], expected[sure])


@pytest.mark.parametrize('method', ['euler', 'doubling'])
@pytest.mark.parametrize(
    ('shape', 'centres'),
    [((16, 20, 18), [(4, 5, 5), (11, 14, 12), (4, 14, 5)]), ((30, 34), [(8, 9), (20, 22)])],
)
def test_all_voxels_reach_their_centre(method, shape, centres):
    flows, nearest = _to_centres(shape, centres)
    mask = np.ones(shape, bool)
    ends = track(jnp.asarray(flows), jnp.asarray(mask), n_steps=64, method=method)
    ends = np.stack(np.unravel_index(np.asarray(ends), shape), -1)
    assert np.abs(ends - np.asarray(centres)[nearest]).max() <= 1


def test_background_stays_and_paths_end_at_its_border():
    flows = jnp.zeros((1, 12, 2)).at[..., 1].set(1.0)
    mask = jnp.zeros((1, 12), bool).at[0, 2:7].set(True)
    ends = track(flows, mask, n_steps=20, method='euler', lookup='floor')
    np.testing.assert_array_equal(ends[0], [0, 1, 7, 7, 7, 7, 7, 7, 8, 9, 10, 11])


@pytest.mark.parametrize('n', [0, 1, 37])
def test_groups_of_any_size_give_the_same(monkeypatch, n):
    rng = np.random.default_rng(n)
    flows = jnp.asarray(rng.normal(0, 1, (6, 7, 8, 3)).astype(np.float32))
    mask = np.zeros(6 * 7 * 8, bool)
    mask[rng.permutation(mask.size)[:n]] = True
    mask = jnp.asarray(mask.reshape(6, 7, 8))
    expected = track(flows, mask, n_steps=16, n_direct=4)
    for size in (1, 5, 37, 64):
        monkeypatch.setattr(tracking, '_VOXELS_CPU', size)
        np.testing.assert_array_equal(track(flows, mask, n_steps=16, n_direct=4), expected)
    np.testing.assert_array_equal(np.asarray(expected)[~mask], np.flatnonzero(~mask))


def test_doubling_squares_the_map():
    rng = np.random.default_rng(0)
    flows = jnp.asarray(rng.normal(0, 1, (9, 10, 2)).astype(np.float32))
    once = np.asarray(track(flows, None, n_steps=3, method='euler')).ravel()
    for n_steps, n_times in ((3, 1), (6, 2), (10, 4), (12, 4), (13, 8)):
        expected = np.arange(once.size)
        for _ in range(n_times):
            expected = once[expected]
        found = track(flows, None, n_steps=n_steps, n_direct=3)
        np.testing.assert_array_equal(np.ravel(found), expected)


def test_one_compilation_serves_any_number_of_voxels():
    flows = jnp.ones((6, 7, 8, 3))
    run = jax.jit(lambda flows, mask: track(flows, mask, n_steps=8))
    for share in (0.0, 0.3, 1.0):
        run(flows, jax.random.uniform(jax.random.key(0), (6, 7, 8)) < share)
    assert run._cache_size() == 1


@pytest.mark.parametrize(
    ('shape', 'mask', 'options', 'told'),
    [
        ((4, 4, 3), None, {}, 'flows of shape'),
        ((4, 4, 2), (4, 5), {}, 'do not fit'),
        ((4, 4, 2), None, {'method': 'midpoint'}, 'expected one of'),
        ((4, 4, 2), None, {'lookup': 'cubic'}, 'expected one of'),
        ((4, 4, 2), None, {'n_steps': -1}, 'n_steps -1'),
    ],
)
def test_what_does_not_fit_is_told(shape, mask, options, told):
    mask = None if mask is None else jnp.ones(mask, bool)
    with pytest.raises(ValueError, match=told):
        track(jnp.zeros(shape), mask, **{'n_steps': 4, **options})
