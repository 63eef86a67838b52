from functools import partial

import jax
import numpy as np
import pytest

from sxt_jax.data.augment import Augmentation, augment_batch
from sxt_jax.data.distort import Distortion, distort
from sxt_jax.data.stage_maps import WithProbabilities, covering
from sxt_jax.ops.resample import resize

RNG = np.random.default_rng(0)
MAPS = RNG.integers(0, 256, (4, 3, 5, 2)).astype(np.uint8)


@pytest.mark.parametrize('factors', [(2, 2, 2), (1, 3, 2)])
def test_probabilities_follow_the_gray_values_enlarged_where_they_lie(factors):
    shape = tuple(n * f for n, f in zip(MAPS.shape[:3], factors, strict=True))
    gray = RNG.random((*shape, 1)).astype(np.float32)
    image = WithProbabilities(gray, MAPS, [1 / f for f in factors])
    assert image.shape == (*shape, 3)
    whole = image[:, :, :]
    np.testing.assert_array_equal(whole[..., :1], gray)
    expected = np.asarray(resize(MAPS.astype(np.float32) / 255, shape))
    np.testing.assert_allclose(whole[..., 1:], expected, atol=1e-6)
    window = image[1:3, 2:5, 1:7]
    np.testing.assert_allclose(window, whole[1:3, 2:5, 1:7], atol=1e-6)
    np.testing.assert_allclose(image[2:4], whole[2:4], atol=1e-6)
    np.testing.assert_array_equal(image[0:1, 0:1, 0:2, 1:2], whole[0:1, 0:1, 0:2, 1:2])


def test_sides_that_do_not_divide_and_equal_grids():
    """The last bins hold what is left; where the grids are one, the bytes come back."""
    gray = np.zeros((7, 5, 9), np.float32)
    image = WithProbabilities(gray, MAPS, (0.5, 0.5, 0.5))[:, :, :]
    expected = np.asarray(resize(MAPS.astype(np.float32) / 255, (8, 6, 10)))[:7, :5, :9]
    np.testing.assert_allclose(image[..., 1:], expected, atol=1e-6)
    same = WithProbabilities(np.zeros(MAPS.shape[:3]), MAPS, (1, 1, 1))[:, :, :]
    np.testing.assert_array_equal(np.rint(255 * same[..., 1:]).astype(np.uint8), MAPS)


def test_large_windows_are_made_in_parts(monkeypatch):
    gray = np.zeros((8, 6, 10), np.float32)
    image = WithProbabilities(gray, MAPS, (0.5, 0.5, 0.5))
    whole = image[:, :, :]
    monkeypatch.setattr('sxt_jax.data.stage_maps._CHUNK_BYTES', 1000)
    np.testing.assert_array_equal(image[:, :, :], whole)


def test_spans_are_covered_by_the_voxels_they_lie_in():
    for factor in (1, 2, 3, 7):
        for start in range(12):
            for stop in range(start + 1, 15):
                voxels = {i // factor for i in range(start, stop)}
                found = covering(start, stop, 1 / factor, 100)
                assert found == (min(voxels), max(voxels) + 1)
    assert covering(-3, 2, 0.5, 4) == (0, 1)
    assert covering(5, 20, 0.5, 4) == (2, 4)


def test_only_gray_values_change_but_all_channels_move():
    image = RNG.random((4, 4, 4, 4, 3)).astype(np.float32)
    key = jax.random.key(0)

    def change(**fields):
        options = {'augmentation': Augmentation(flip_axes='zy', **fields), 'n_gray': 1}
        return jax.jit(partial(augment_batch, **options))(key, {'image': image})['image']

    found, moved = change(shift=0.5), change()
    np.testing.assert_array_equal(found[..., 1:], moved[..., 1:])
    assert not np.array_equal(moved[..., 1:], image[..., 1:])
    assert np.all(np.abs(found[..., 0] - moved[..., 0]).max((1, 2, 3)) > 0.01)

    gray = Distortion(
        probability=1, anisotropy=1, stretch=1, shrink=1, noise=0, shuffle_windows=0,
        inpaint_windows=0, decline=False,
    )  # fmt: skip
    found = jax.jit(partial(distort, distortion=gray, n_gray=1))(key, {'image': image})['image']
    np.testing.assert_array_equal(found[..., 1:], image[..., 1:])
    assert not np.array_equal(found[..., 0], image[..., 0])
