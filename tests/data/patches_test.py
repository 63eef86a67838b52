import numpy as np
import pytest

from sxt_jax.core.box import Box
from sxt_jax.core.errors import InputError
from sxt_jax.data.patches import Sampling, grid_of_patches, random_patch, read_patch


def test_published_grid_has_seven_patches_an_axis():
    boxes = grid_of_patches((256, 256, 256), Sampling((64, 64, 64), 'strided', (32, 32, 32)))
    assert len(boxes) == 7**3
    assert boxes[1].start == (0, 0, 32)


def test_grid_covers_any_volume_with_full_patches():
    sampling = Sampling((8, 8, 8), 'strided', (5, 8, 3))
    covered = np.zeros((21, 8, 6), bool)
    for box in grid_of_patches(covered.shape, sampling):
        assert box.shape == sampling.patch
        covered[box.slices] = True
    assert covered.all()


def test_random_patches_lie_inside_and_reach_every_corner():
    rng = np.random.default_rng(0)
    boxes = [random_patch(rng, (6, 7, 4), Sampling((4, 4, 4), 'random')) for _ in range(300)]
    starts = np.array([box.start for box in boxes])
    np.testing.assert_array_equal(starts.min(0), 0)
    np.testing.assert_array_equal(starts.max(0), [2, 3, 0])


def test_foreground_patches_hold_their_class_and_classes_are_equally_frequent():
    sampling = Sampling((4, 4, 4), 'random', foreground_probability=1.0)
    rare, common = np.array([[0, 19, 0]]), np.stack(np.indices((5, 5, 20)), -1).reshape(-1, 3)
    rng = np.random.default_rng(0)
    boxes = [
        random_patch(rng, (20, 20, 20), sampling, [rare, np.empty((0, 3), int), common])
        for _ in range(400)
    ]
    holds_rare = [Box((0, 19, 0), (1, 20, 1)).intersect(box).size for box in boxes]
    assert 0.4 < np.mean(holds_rare) < 0.6


def test_reading_beyond_the_end_mirrors_the_image_and_ignores_labels():
    data = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    box = Box((0, 0, 2), (5, 3, 6))
    mirrored = read_patch(data, box)
    np.testing.assert_array_equal(mirrored[2], mirrored[1])
    np.testing.assert_array_equal(mirrored[..., 2], mirrored[..., 1])
    ignored = read_patch(data, box, pad_value=-1)
    np.testing.assert_array_equal(ignored[:2, :, :2], data[:, :, 2:])
    assert (ignored[2:] == -1).all()
    assert (ignored[..., 2:] == -1).all()


def test_channels_are_kept():
    data = np.random.default_rng(0).random((4, 4, 4, 2))
    box = Box((1, 1, 1), (3, 3, 3))
    np.testing.assert_array_equal(read_patch(data, box), data[1:3, 1:3, 1:3])


def test_bad_options():
    with pytest.raises(InputError, match=r'data\.sampling'):
        Sampling((4, 4, 4), 'sometimes')
    with pytest.raises(InputError, match=r'data\.stride'):
        Sampling((4, 4, 4), 'strided', (5, 4, 4))


def test_anywhere_is_without_regard_to_what_is_there():
    sampling = Sampling((1, 8, 8), 'random', foreground_share=0.8, min_foreground=9)
    assert sampling.anywhere == Sampling((1, 8, 8), 'random')
