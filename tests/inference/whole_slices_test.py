import dataclasses

import jax
import numpy as np
import pytest

from sxt_jax.core.devices import make_device_mesh
from sxt_jax.inference import predict_volume, whole_slices
from sxt_jax.inference.whole_slices import padded_side, slice_tiling

CHUNKS = {'tile': (1, 32, 32), 'overlap': (0, 8, 16)}
TWICE = np.float32(2)


@dataclasses.dataclass(frozen=True)
class Plain:
    side_multiple: tuple = (1, 16, 16)

    def __call__(self, variables, tiles):
        return {'label': tiles * variables}


def tiling(shape):
    mesh = make_device_mesh(jax.devices()[:2])
    return slice_tiling(Plain(), TWICE, shape, device_mesh=mesh, **CHUNKS)


def test_padded_sides_are_few_and_hardly_longer():
    sides = np.arange(1, 4000)
    padded = np.array([padded_side(int(n), 16) for n in sides])
    assert (padded >= sides).all()
    assert (padded % 16 == 0).all()
    needed = -(-sides // 16) * 16
    assert (padded <= np.maximum(needed, sides * 17 / 16 + 1)).all()
    assert len(set(padded[sides > 256])) <= 16 * 4
    assert padded_side(1664, 16) == 1664
    assert padded_side(7, 1) == 7


@pytest.mark.parametrize('shape', [(5, 1, 1), (1, 17, 33), (3, 50, 41)])
def test_slices_are_seen_whole_where_they_fit(shape):
    tile, overlap = tiling(shape)
    assert overlap == (0, 0, 0)
    assert tile[0] == 1
    assert all(t >= n and t % 16 == 0 for t, n in zip(tile[1:], shape[1:], strict=True))


def test_slices_that_do_not_fit_are_seen_in_chunks(monkeypatch):
    monkeypatch.setattr(whole_slices, '_free_bytes', lambda _: 1e3)
    assert tiling((5, 50, 41)) == ((1, 32, 32), (0, 8, 16))
    assert tiling((5, 90, 10)) == ((1, 32, 16), (0, 8, 0))  # chunks no longer than the slice
    assert tiling((5, 50, 10)) == ((1, 64, 16), (0, 0, 0))  # no larger than a chunk
    monkeypatch.setattr(whole_slices, '_free_bytes', lambda _: None)
    assert tiling((5, 50, 41))[1] == (0, 0, 0)


def test_the_tiling_is_one_that_inference_takes():
    image = np.random.default_rng(0).random((3, 21, 50)).astype(np.float32)
    tile, overlap = tiling(image.shape)
    heads = predict_volume(Plain(), TWICE, image, tile=tile, overlap=overlap, batch_size=8)
    np.testing.assert_array_equal(heads['label'][..., 0], 2 * image)
