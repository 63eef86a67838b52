import numpy as np

from sxt_jax.data.binning import bin_mean
from sxt_jax.inference.enlarge import enlarge_slices
from sxt_jax.ops.resample import resize


def _keep(heads):
    return heads


def test_bins_are_interpolated_where_they_lie():
    bins = np.random.default_rng(0).random((1, 4, 6, 2)).astype(np.float32)
    found = enlarge_slices({'probs': bins}, binning=(1, 4, 3), sides=(14, 17), finish=_keep)
    expected = np.asarray(resize(bins, (1, 16, 18)))[:, :14, :17]
    assert found['probs'].shape == (1, 14, 17, 2)
    np.testing.assert_allclose(found['probs'], expected, atol=1e-6)


def test_a_ramp_comes_back_from_its_bins():
    ramp = np.broadcast_to(np.arange(20, dtype=np.float32), (1, 12, 20))
    bins = bin_mean(ramp, (1, 4, 4))[..., None]
    found = enlarge_slices({'probs': bins}, binning=(1, 4, 4), sides=(12, 20), finish=_keep)
    np.testing.assert_allclose(found['probs'][0, :, 2:-2, 0], ramp[0, :, 2:-2], atol=1e-5)
