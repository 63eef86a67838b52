"""Tiles that are left out cost nothing, and answer with what was known before."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sxt_jax.core.devices import make_device_mesh
from sxt_jax.inference import predict_volume
from sxt_jax.inference.selection import EarlierProbs, Selection

RNG = np.random.default_rng(0)
IMAGE = RNG.random((24, 20, 16, 3)).astype(np.float32)


class Counting:
    """Gives 1 − the earlier probabilities, and counts the tiles that it is given."""

    def __init__(self):
        self.n = self.traces = 0
        self.sizes = set()

    def __call__(self, variables, tiles):
        self.traces += 1
        self.sizes.add(len(tiles))
        jax.debug.callback(self._count, jnp.zeros(()), n=len(tiles), ordered=False)
        return {'probs': 1 - tiles[..., 1:]}

    def _count(self, _, n):
        self.n += n


def _predict(apply_fn, choose, **options):
    mesh = make_device_mesh(jax.devices()[:1])
    selection = Selection(choose, EarlierProbs(2)) if choose else None
    options = {'tile': 8, 'overlap': 4, 'batch_size': 4, 'device_mesh': mesh, **options}
    found = predict_volume(apply_fn, {}, IMAGE, selection=selection, **options)
    jax.effects_barrier()
    return found['probs']


@pytest.mark.parametrize('blend', ['constant', 'cosine', 'distance'])
def test_other_tiles_are_blended_with_what_they_had(blend):
    """Against the same network with the choice inside: a tile it knows by a mark."""
    marked = []

    def choose(grid):
        chosen = np.zeros([len(s) for s in grid.starts], bool)
        chosen[1, 2, 1] = chosen[3, 0, 0] = chosen[3, 1, 2] = True
        marked.extend(tile for tile, c in zip(grid.tiles(), chosen.ravel(), strict=True) if c)
        return chosen

    apply_fn = Counting()
    found = _predict(apply_fn, choose, blend=blend)
    corners = jnp.array([IMAGE[tile.start] for tile in marked])

    def slow(variables, tiles):
        first = tiles[:, 0, 0, 0]
        is_marked = (first[:, None] == corners).all(-1).any(-1)[:, None, None, None, None]
        return {'probs': jnp.where(is_marked, 1 - tiles[..., 1:], tiles[..., 1:])}

    np.testing.assert_allclose(found, _predict(slow, None, blend=blend), atol=1e-6)
    touched = np.zeros(IMAGE.shape[:3], bool)
    for tile in marked:
        touched[tile.slices] = True
    np.testing.assert_allclose(found[~touched], IMAGE[~touched, 1:], atol=1e-6)


def test_work_is_in_proportion_to_the_tiles_chosen_and_nothing_is_compiled_again():
    apply_fn = Counting()
    counts = []
    for every in (1, 3, 9):
        apply_fn.n = 0
        expected = []

        def choose(grid, every=every, expected=expected):
            chosen = np.zeros(grid.n_tiles, bool)
            chosen[::every] = True
            expected.append(chosen.sum())
            return chosen.reshape([len(s) for s in grid.starts])

        _predict(apply_fn, choose, batch_size=1)
        counts.append((apply_fn.n, *expected))
    assert all(n == chosen for n, chosen in counts), counts
    assert counts[0][0] == 5 * 4 * 3
    assert apply_fn.traces <= 2 * 3  # once a volume for shapes, and the compilation

    apply_fn.n = 0
    found = _predict(apply_fn, lambda grid: np.zeros([len(s) for s in grid.starts], bool))
    assert apply_fn.n == 0
    np.testing.assert_allclose(found, IMAGE[..., 1:], atol=1e-6)


@pytest.mark.parametrize(('asked', 'expected'), [(16, 2), (1, 1)])
def test_volumes_with_other_tiles_share_sizes_of_batches(asked, expected):
    """A quarter of the 12 tiles of a row, down to a power of two; never more than asked for."""
    apply_fn = Counting()
    _predict(apply_fn, lambda grid: np.ones([len(s) for s in grid.starts], bool), batch_size=asked)
    assert apply_fn.sizes == {1, expected}  # of one tile the shapes are told
    assert apply_fn.n == 5 * 4 * 3
