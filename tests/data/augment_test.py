import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sxt_jax.core.devices import make_device_mesh, split_batch
from sxt_jax.core.errors import InputError
from sxt_jax.data.augment import Augmentation, augment

KEY = jax.random.key(0)


def _batch(n=64, side=4, seed=0):
    labels = (
        np.random.default_rng(seed)
        .permuted(np.tile(np.arange(side**3), (n, 1)), axis=1)
        .reshape(n, side, side, side)
    )
    return jnp.asarray(labels[..., None], jnp.float32), jnp.asarray(labels, jnp.int16)


def run(image, labels, augmentation):
    """As one program: one by one, operations take longer to compile."""
    return jax.jit(lambda *a: augment(*a, augmentation=augmentation))(KEY, image, labels)


def _symmetries(volume):
    """All 48 symmetries of a cube, by numpy."""
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            yield (
                tuple(order),
                signs,
                volume.transpose(order)[tuple(slice(None, None, s) for s in signs)],
            )


def _which(original, changed):
    return [(o, s) for o, s, volume in _symmetries(original) if np.array_equal(volume, changed)]


def test_nothing_is_done_by_default():
    image, labels = _batch()
    same_image, same_labels = augment(KEY, image, labels, augmentation=Augmentation())
    assert same_image is image
    assert same_labels is labels


def test_labels_move_with_their_image():
    image, labels = _batch()
    changed = Augmentation(flip_axes='zyx', swap_axes=True, rotate_90=True)
    new_image, new_labels = run(image, labels, changed)
    np.testing.assert_array_equal(new_image[..., 0], new_labels)
    assert new_labels.dtype == labels.dtype


@pytest.mark.parametrize(
    ('shape', 'orders'),
    [((4, 4, 3), {'zyx', 'yzx'}), ((4, 3, 4), {'zyx', 'xyz'}), ((3, 4, 4), {'zyx', 'zxy'})],
)
def test_axes_of_equal_length_are_exchanged_half_of_the_time(shape, orders):
    """Also the first and the last, with another one between them."""
    image = np.arange(np.prod(shape), dtype=np.float32).reshape(1, *shape, 1)
    batch = np.repeat(image, 400, axis=0)
    augmentation = Augmentation(swap_axes=True)
    changed, labels = run(batch, batch[..., 0].astype(int), augmentation)
    np.testing.assert_array_equal(changed[..., 0], labels)
    counts = {
        order: int(np.all(changed[..., 0] == image[0, ..., 0].transpose(axes), (1, 2, 3)).sum())
        for order in orders
        for axes in [['zyx'.index(a) for a in order]]
    }
    assert sum(counts.values()) == 400
    assert min(counts.values()) > 150


def test_flips_and_swaps_reach_all_48_symmetries_equally():
    _, labels = _batch(1, side=3)
    labels = jnp.tile(labels, (4800, 1, 1, 1))
    changed = Augmentation(flip_axes='zyx', swap_axes=True)
    _, new = run(labels[..., None].astype(jnp.float32), labels, changed)
    unique, counts = np.unique(np.asarray(new).reshape(4800, -1), axis=0, return_counts=True)
    assert len(unique) == 48
    assert counts.min() > 50  # 100 expected, SD 10
    assert counts.max() < 150


def test_quarter_turns_are_proper_rotations_in_the_plane():
    _, labels = _batch(40)
    _, new = run(labels[..., None].astype(jnp.float32), labels, Augmentation(rotate_90=True))
    turns = set()
    for before, after in zip(np.asarray(labels), np.asarray(new), strict=True):
        found = [k for k in range(4) if np.array_equal(np.rot90(before, k, (1, 2)), after)]
        assert len(found) == 1
        turns.update(found)
    assert turns == {0, 1, 2, 3}


def test_only_the_axes_asked_for_are_mirrored():
    _, labels = _batch()
    _, new = run(labels[..., None].astype(jnp.float32), labels, Augmentation(flip_axes='y'))
    found = [_which(a, b)[0] for a, b in zip(np.asarray(labels), np.asarray(new), strict=True)]
    assert set(found) == {((0, 1, 2), (1, 1, 1)), ((0, 1, 2), (1, -1, 1))}


def test_intensity_changes_stay_within_their_limits():
    image = jnp.ones((200, 4, 4, 4, 1))
    labels = jnp.zeros((200, 4, 4, 4), jnp.int16)
    scaled, _ = run(image, labels, Augmentation(scale=0.2, shift=0.1))
    values = np.asarray(scaled).reshape(200, -1)
    np.testing.assert_array_equal(values.min(1), values.max(1))
    assert values.min() >= 0.7
    assert values.max() <= 1.3
    assert values.std() > 0.05
    noisy, _ = run(image, labels, Augmentation(noise=0.3))
    sds = np.asarray(noisy).reshape(200, -1).std(1)
    assert 0.1 < sds.mean() < 0.2
    assert sds.max() < 0.45


def test_deformation_moves_image_and_labels_alike():
    side = 24
    z, y, x = np.indices((side,) * 3) - side / 2
    ball = (z**2 + (y - 3) ** 2 + x**2 < 49).astype(np.int16)
    image = jnp.tile(jnp.asarray(ball, jnp.float32)[None, ..., None], (6, 1, 1, 1, 1))
    labels = jnp.tile(jnp.asarray(ball)[None], (6, 1, 1, 1))
    changed = Augmentation(rotate_degrees=40, elastic_voxels=1.5)
    new_image, new_labels = run(image, labels, changed)
    seen = np.asarray(new_labels) >= 0
    agree = (np.asarray(new_image[..., 0]) > 0.5) == (np.asarray(new_labels) == 1)
    assert agree[seen].mean() > 0.99
    assert len({bytes(v) for v in np.asarray(new_labels)}) == 6
    assert set(np.unique(new_labels)) <= {-1, 0, 1}


def test_sharding_does_not_change_the_result():
    image, labels = _batch(16)
    changed = Augmentation(flip_axes='zyx', swap_axes=True, noise=0.1, elastic_voxels=1.0)
    one = run(image, labels, changed)
    split = split_batch(make_device_mesh())
    many = run(*jax.device_put((image, labels), split), changed)
    np.testing.assert_allclose(one[0], many[0], atol=1e-4)
    np.testing.assert_array_equal(one[1], many[1])


def test_bad_options():
    with pytest.raises(InputError, match='unknown'):
        Augmentation.from_config({'flips': 'z'})
    with pytest.raises(InputError, match='flip_axes'):
        Augmentation.from_config({'flip_axes': 'xw'})
    flat = jnp.zeros((1, 1, 4, 6, 1)), jnp.zeros((1, 1, 4, 6), jnp.int16)
    with pytest.raises(InputError, match='equally long'):
        augment(KEY, *flat, augmentation=Augmentation(rotate_90=True))
