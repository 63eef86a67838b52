import jax.numpy as jnp
import numpy as np
import pytest

from sxt_jax.core.errors import InputError
from sxt_jax.inference.rotated import rotated

TILES = np.random.default_rng(0).random((2, 3, 4, 6, 1)).astype(np.float32)


def lopsided(variables, tiles):
    """Each pixel gets the one to its right."""
    return {'label': jnp.roll(tiles, -1, axis=3)}


def test_it_is_the_mean_of_the_four_turns():
    found = rotated(lopsided)(None, jnp.asarray(TILES))['label']
    neighbours = [np.roll(TILES, shift, axis) for axis in (2, 3) for shift in (-1, 1)]
    np.testing.assert_allclose(found, np.mean(neighbours, axis=0), rtol=1e-6)


def test_a_turned_slice_has_the_turned_answer():
    twice = rotated(lopsided)
    turned = twice(None, jnp.rot90(TILES, 1, (2, 3)))['label']
    np.testing.assert_allclose(turned, np.rot90(twice(None, TILES)['label'], 1, (2, 3)), rtol=1e-6)


def test_sides_of_tiles_stay_what_the_network_takes():
    class Sided:
        side_multiple = (1, 16, 16)

        def __call__(self, variables, tiles):
            return {'label': tiles}

    assert rotated(Sided()).side_multiple == (1, 16, 16)
    Sided.side_multiple = (1, 16, 8)
    with pytest.raises(InputError, match='rotations'):
        rotated(Sided())
