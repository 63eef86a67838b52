import numpy as np
import pytest

from sxt_jax.data.binning import bin_mean
from sxt_jax.inference.enlarge import enlarge_bins
from sxt_jax.ops.resample import resize


def _keep(heads):
    return heads


def _enlarge(bins, binning, shape, *, cuts=()):
    slabs = [{'probs': part} for part in np.split(bins, cuts)]
    rows = list(enlarge_bins(slabs, binning=binning, shape=shape, finish=_keep))
    assert [z for z, _ in rows] == list(range(0, shape[0], binning[0]))
    return np.concatenate([heads['probs'] for _, heads in rows])


@pytest.mark.parametrize('depth', [1, 2, 3])
def test_bins_are_interpolated_where_they_lie(depth):
    """However they come in slabs; the last bins may reach beyond the volume."""
    bins = np.random.default_rng(0).random((5, 4, 6, 2)).astype(np.float32)
    shape = (5 * depth - (depth > 1), 14, 17)
    found = _enlarge(bins, (depth, 4, 3), shape, cuts=(1, 4))
    expected = np.asarray(resize(bins, (5 * depth, 16, 18)))[: shape[0], :14, :17]
    assert found.shape == (*shape, 2)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_single_bin_is_repeated():
    bins = np.full((1, 2, 2, 1), 0.25, np.float32)
    np.testing.assert_allclose(_enlarge(bins, (4, 2, 2), (3, 4, 4)), 0.25)


def test_a_ramp_comes_back_from_its_bins():
    ramp = np.broadcast_to(np.arange(20, dtype=np.float32)[:, None, None], (20, 8, 8))
    bins = bin_mean(ramp, (4, 2, 2))[..., None]
    found = _enlarge(bins, (4, 2, 2), (20, 8, 8))
    np.testing.assert_allclose(found[2:-2, ..., 0], ramp[2:-2], atol=1e-5)
