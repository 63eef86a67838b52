"""Averaging what a network finds in slices of three orientations."""

import jax.numpy as jnp
import numpy as np
import pytest

from sxt_jax.core.errors import InputError
from sxt_jax.core.slicing import turn
from sxt_jax.inference.orthogonal import predict_orthogonal
from tests.core.slicing_test import Lazy

TILING = {'tile': (2, 4, 5), 'overlap': (0, 0, 0), 'blend': 'constant', 'batch_size': 8}
SHAPE = (5, 6, 7)
ALONG = (1.0, 10.0, 100.0)  # how the second channel rises along z, y, x


def make_image():
    gray = np.random.default_rng(0).random(SHAPE)
    ramp = sum(k * i for k, i in zip(ALONG, np.indices(SHAPE), strict=True))
    return np.stack([gray, ramp], -1).astype(np.float32)


def directional(variables, tiles):
    """Heads that depend on the gray value and on which axes are rows and columns."""
    gray = tiles[..., 0]
    rows, columns = (jnp.gradient(tiles[..., 1], axis=axis) for axis in (2, 3))
    flows = jnp.stack([gray + rows, 3 * gray * columns], -1)
    logit = 0.01 * (gray * rows - columns)[..., None]
    return {'foreground_logit': logit, 'flows': flows, 'foreground': logit}


def expected(gray):
    """What `directional` makes of each plane, averaged by hand."""
    z, y, x = ALONG
    flows = [
        ((gray + z) + (gray + z)) / 2,  # rows of xz and of yz
        ((gray + y) + 3 * gray * y) / 2,  # rows of xy, columns of yz
        (3 * gray * x + 3 * gray * x) / 2,  # columns of xy and of xz
    ]
    logit = 0.01 * ((gray * y - x) + (gray * z - x) + (gray * z - y)) / 3
    return 1 / (1 + np.exp(-logit)), np.stack(flows, -1)


@pytest.mark.parametrize('lazy', [False, True])
def test_each_component_is_the_mean_of_the_slices_that_show_it(lazy):
    image, done = make_image(), []
    found = predict_orthogonal(
        directional, None, Lazy(image) if lazy else image, on_slices=done.append, **TILING
    )
    foreground, flows = expected(image[..., 0])
    np.testing.assert_allclose(found['foreground'][..., 0], foreground, atol=1e-5)
    np.testing.assert_allclose(found['flows'], flows, rtol=1e-5, atol=1e-3)
    assert found['foreground'].dtype == found['flows'].dtype == np.float32
    assert sum(done) == sum(SHAPE)


def test_one_slice_is_seen_once():
    image = make_image()[2:3]
    found = predict_orthogonal(directional, None, image, **TILING)
    gray = image[..., 0]
    _, y, x = ALONG
    flows = np.stack([gray + y, 3 * gray * x], -1)
    np.testing.assert_allclose(found['flows'], flows, rtol=1e-5, atol=1e-3)
    foreground = 1 / (1 + np.exp(-0.01 * (gray * y - x)))
    np.testing.assert_allclose(found['foreground'][..., 0], foreground, atol=1e-5)


def slanted(variables, tiles):
    """The same flow in all slices, of length 1."""
    ones = jnp.ones(tiles.shape[:-1])
    return {'foreground_logit': tiles, 'flows': jnp.stack([0.6 * ones, 0.8 * ones], -1)}


def test_mirrored_axes_are_those_of_the_volume():
    image = make_image()[..., 0]
    found = predict_orthogonal(slanted, None, image, mirror='x', **TILING)
    np.testing.assert_allclose(found['flows'][..., 0], 0.6, atol=1e-6)
    np.testing.assert_allclose(found['flows'][..., 1], (0.6 + 0.8) / 2, atol=1e-6)
    np.testing.assert_allclose(found['flows'][..., 2], 0, atol=1e-6)
    plain = predict_orthogonal(slanted, None, image, **TILING)
    np.testing.assert_allclose(found['foreground'], plain['foreground'], atol=1e-6)


def test_slices_are_resized_to_what_the_network_knows_and_flows_come_back_in_voxels():
    sides = []

    def remember(variables, tiles):
        sides.append(tiles.shape[1:4])
        return slanted(variables, tiles)

    ramp = np.indices((6, 4, 5))[0].astype(np.float32)
    tiling = {**TILING, 'tile': (1, 64, 64)}
    found = predict_orthogonal(remember, None, ramp, scale=(3, 1, 1), **tiling)
    assert set(sides) == {(1, 4, 5), (1, 18, 5), (1, 18, 4)}  # no tile is larger than it must be
    across = np.array([0.6 / 3, 0.8])
    across /= np.linalg.norm(across)
    by_hand = [across[0], (0.6 + across[1]) / 2, (0.8 + across[1]) / 2]
    np.testing.assert_allclose(
        found['flows'], np.broadcast_to(by_hand, (6, 4, 5, 3)), atol=1e-6
    )  # fmt: skip
    # Three pixels of a linear ramp have the mean of their voxel, but at the ends.
    inside = found['foreground'][1:-1, ..., 0]
    np.testing.assert_allclose(inside, 1 / (1 + np.exp(-ramp[1:-1])), atol=1e-5)


def test_turning_the_volume_turns_the_result():
    """x and y exchanged: the planes xz and yz change places, and so do the components."""

    def symmetric(variables, tiles):
        rows, columns = (jnp.gradient(tiles[..., 0], axis=axis) for axis in (2, 3))
        return {'foreground_logit': tiles, 'flows': jnp.stack([rows, columns], -1)}

    image = make_image()[..., 0]
    tiling = {**TILING, 'tile': (1, 8, 8)}
    plain = predict_orthogonal(symmetric, None, image, **tiling)
    turned = predict_orthogonal(symmetric, None, turn(image, (0, 2, 1)), **tiling)
    back = turned['flows'].transpose(0, 2, 1, 3)[..., [0, 2, 1]]
    np.testing.assert_allclose(back, plain['flows'], atol=1e-6)


def without_logit(variables, tiles):
    return {'foreground': tiles, 'flows': jnp.zeros((*tiles.shape[:-1], 2))}


def with_depth(variables, tiles):
    return {'foreground_logit': tiles, 'flows': jnp.zeros((*tiles.shape[:-1], 3))}


@pytest.mark.parametrize(
    ('apply_fn', 'options', 'told'),
    [
        (without_logit, {}, 'network: no foreground_logit'),
        (with_depth, {}, 'network: flows of 3 components'),
        (slanted, {'tile': (1, 8)}, 'tile: .*three numbers'),
        (slanted, {'scale': (1, 0, 1)}, 'scale: .*positive'),
        (slanted, {'mirror': 'xt'}, 'axes to mirror'),
    ],
)
def test_what_does_not_fit_is_told(apply_fn, options, told):
    with pytest.raises(InputError, match=told):
        predict_orthogonal(apply_fn, None, make_image()[..., 0], **{**TILING, **options})
    with pytest.raises(InputError, match='image'):
        predict_orthogonal(slanted, None, np.zeros((3, 4)), **TILING)
