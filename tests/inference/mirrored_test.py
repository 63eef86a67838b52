"""Averaging over mirror images: equal by hand, equivariant, vectors change sign."""

import jax.numpy as jnp
import numpy as np
import pytest

from sxt_jax.core.errors import InputError
from sxt_jax.inference import mirrored, predict_volume


def shifted(variables, tiles):
    """Looks one voxel back along each axis: as far from mirror-symmetric as can be."""
    out = tiles
    for axis, factor in ((1, 2.0), (2, 3.0), (3, 5.0)):
        out = out + factor * jnp.roll(tiles, 1, axis)
    return {'out': out}


def gradient(variables, tiles):
    """The image's gradient by central differences, a true vector."""
    return {'flows': jnp.concatenate([jnp.gradient(tiles, axis=a) for a in (1, 2, 3)], axis=-1)}


@pytest.fixture
def tiles():
    return np.random.default_rng(0).random((2, 4, 5, 6, 1), np.float32)


def test_one_axis_by_hand(tiles):
    out = mirrored(shifted, axes='y')(None, tiles)['out']
    flipped = shifted(None, tiles[:, :, ::-1])['out'][:, :, ::-1]
    np.testing.assert_allclose(out, (shifted(None, tiles)['out'] + flipped) / 2, rtol=1e-6)


@pytest.mark.parametrize('axes', ['zyx', 'x', 'zy'])
def test_the_average_turns_with_its_input(tiles, axes):
    fn = mirrored(shifted, axes=axes)
    dim = 1 + 'zyx'.index(axes[0])
    turned = jnp.flip(fn(None, jnp.flip(tiles, dim))['out'], dim)
    np.testing.assert_allclose(turned, fn(None, tiles)['out'], rtol=1e-5)


def test_no_axes_change_nothing(tiles):
    np.testing.assert_array_equal(
        mirrored(shifted, axes='')(None, tiles)['out'], shifted(None, tiles)['out']
    )


def test_a_true_vector_field_is_unchanged(tiles):
    out = mirrored(gradient)(None, tiles)['flows']
    np.testing.assert_allclose(out, gradient(None, tiles)['flows'], atol=1e-6)


def test_works_in_tiles_and_hands_on_what_divides_them():
    class Strided:
        side_multiple = 4

        def __call__(self, variables, tiles):
            return {'out': tiles * variables}

    fn = mirrored(Strided(), axes='zx')
    assert fn.side_multiple == (4, 4, 4)
    image = np.random.default_rng(0).random((9, 10, 11), np.float32)
    out = predict_volume(fn, jnp.float32(3), image, tile=8, overlap=2)['out']
    np.testing.assert_allclose(out[..., 0], 3 * image, rtol=1e-5)


@pytest.mark.parametrize('axes', ['zz', 'w'])
def test_unknown_axes_are_refused(axes):
    with pytest.raises(InputError, match='axes'):
        mirrored(shifted, axes=axes)
