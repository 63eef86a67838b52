"""Each kind of distortion against a plain numpy version of what it should be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sxt_jax.core.devices import make_device_mesh, split_batch
from sxt_jax.core.errors import InputError
from sxt_jax.data.distort import Distortion, distort

KEY = jax.random.key(0)
OFF = {
    'anisotropy': 1, 'stretch': 1, 'shrink': 1, 'scale_low': 1.0, 'scale_high': 1.0, 'noise': 0.0,
    'shuffle_windows': 0, 'inpaint_windows': 0, 'decline': False,
}  # fmt: skip
SHAPE = (7, 6, 5)


def only(probability=1.0, **kinds):
    return Distortion(**{**OFF, 'probability': probability, **kinds})


def numbered(n, shape=SHAPE):
    """Patches in which every voxel has its own gray value, which is its label too."""
    labels = np.tile(np.arange(np.prod(shape), dtype=np.int16).reshape(shape), (n, 1, 1, 1))
    return {'image': jnp.asarray(labels[..., None], jnp.float32), 'labels': jnp.asarray(labels)}


def run(batch, distortion):
    return jax.device_get(
        jax.jit(lambda key, batch: distort(key, batch, distortion=distortion))(KEY, batch)
    )


def along(axis, index):
    return (slice(None),) * axis + (index,)


def repeated(a, axis, factor):
    found = np.repeat(a[along(axis, slice(None, None, factor))], factor, axis)
    return found[along(axis, slice(a.shape[axis]))]


def stretched(a, axis, factor):
    n = a.shape[axis]
    return np.repeat(a[along(axis, slice(-(-n // factor)))], factor, axis)[along(axis, slice(n))]


def shrunk(a, axis, factor):
    kept = a[along(axis, slice(None, None, factor))]
    missing = a.shape[axis] - kept.shape[axis]
    return np.pad(kept, [(0, missing if k == axis else 0) for k in range(a.ndim)], 'reflect')


def test_nothing_is_done_by_default():
    batch = numbered(2)
    assert distort(KEY, batch, distortion=Distortion())['image'] is batch['image']


@pytest.mark.parametrize(
    ('kind', 'factor', 'oracle'),
    [('anisotropy', 2, repeated), ('stretch', 2, stretched), ('shrink', 2, shrunk),
     ('shrink', 3, shrunk)],
)  # fmt: skip
def test_the_grid_changes_along_each_axis_for_image_and_labels_alike(kind, factor, oracle):
    batch = numbered(30)
    found = run(batch, only(**{kind: factor}))
    np.testing.assert_array_equal(found['image'][..., 0], found['labels'])
    before = np.asarray(batch['labels'][0])
    axes = [
        [axis for axis in range(3) if np.array_equal(oracle(before, axis, factor), after)]
        for after in found['labels']
    ]
    assert all(len(axis) == 1 for axis in axes)
    assert {axis[0] for axis in axes} == {0, 1, 2}


def test_all_changes_of_the_grid_together_are_those_one_after_the_other():
    batch = numbered(40)
    found = run(batch, only(anisotropy=2, stretch=2, shrink=2))['labels']
    before = np.asarray(batch['labels'][0])
    expected = {
        shrunk(stretched(repeated(before, i, 2), j, 2), k, 2).tobytes()
        for i in range(3) for j in range(3) for k in range(3)
    }  # fmt: skip
    assert {after.tobytes() for after in found} <= expected
    assert len({after.tobytes() for after in found}) > 10


def test_flows_still_point_to_the_centre_on_both_sides_of_the_mirror():
    n, centre = 16, 4
    toward = np.sign(centre - np.arange(n))
    flows = np.stack(np.meshgrid(toward, toward, toward, indexing='ij'), -1).astype(np.float32)
    flows = np.tile(flows, (12, 1, 1, 1, 1))
    batch = {'image': jnp.zeros((12, n, n, n, 1)), 'flows': jnp.asarray(flows)}
    # Slice 4 becomes 2, its image behind the mirror at 7 is 12, that behind the one at 14 is 16.
    place = np.arange(n)
    nearest = np.select([place < 7.5, place < 13.5], [2, 12], 16)
    mirrored = np.sign(nearest - place)
    axes = set()
    for after in run(batch, only(shrink=2))['flows']:
        (axis,) = [a for a in range(3) if not np.array_equal(after[..., a], flows[0, ..., a])]
        axes.add(axis)
        for a in range(3):
            expected = mirrored if a == axis else toward
            shape = [n if k == a else 1 for k in range(3)]
            whole = np.broadcast_to(expected.reshape(shape), (n, n, n))
            np.testing.assert_array_equal(after[..., a], whole)
    assert axes == {0, 1, 2}


def test_gray_values_are_scaled_and_grained_within_their_range():
    image = jnp.tile(jnp.linspace(0, 1, 512).reshape(1, 8, 8, 8, 1), (50, 1, 1, 1, 1))
    scaled = run({'image': image}, only(scale_low=0.6, scale_high=1.2))['image']
    middle = scaled[:, 3, 4, 4, 0] / image[:, 3, 4, 4, 0]
    assert 0.6 <= middle.min() < 0.7 < 1.1 < middle.max() <= 1.2
    assert scaled.max() <= 1
    noisy = run({'image': image}, only(noise=0.1))['image']
    assert abs((noisy - image)[:, 3:5].std() - 0.1) < 0.005
    assert (noisy.min(), noisy.max()) == (0, 1)


def test_slices_of_a_box_are_shuffled():
    batch = numbered(20)
    found = run(batch, only(shuffle_windows=1, shuffle_side=4))
    starts = set()
    for after in found['image'][..., 0]:
        before = np.asarray(batch['labels'][0])
        changed = np.argwhere(after != before)
        if not len(changed):
            continue
        low, high = changed.min(0), changed.max(0) + 1
        assert (high - low <= 4).all()
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        # Whole slices of the box move, to other places of it.
        moved = {tuple(s.ravel()) for s in after[box]}
        assert moved == {tuple(s.ravel()) for s in before[box]}
        starts.add(tuple(low[1:]))
    assert len(starts) > 3
    np.testing.assert_array_equal(found['labels'], batch['labels'])


def test_boxes_are_filled_with_one_gray_value_of_the_range():
    batch = numbered(20)
    found = run(batch, only(inpaint_windows=2, inpaint_side=3))['image'][..., 0]
    for after in found:
        before = np.asarray(batch['labels'][0])
        changed = after != before
        assert changed.sum() + 1 >= 27  # a voxel may have had the value
        assert len(np.unique(after[changed])) <= 2
        assert before.min() <= after.min() <= after.max() <= before.max()
    whole = run(numbered(2), only(inpaint_windows=1, inpaint_side=50))['image']
    assert all(len(np.unique(after)) == 1 for after in whole)


def test_gray_values_decline_along_an_axis():
    found = run({'image': jnp.ones((40, *SHAPE, 1))}, only(decline=True))['image'][..., 0]
    weights = {}
    for axis, n in enumerate(SHAPE):
        for length in range(n):
            weight = np.concatenate([np.linspace(0, 1, length), np.ones(n - length)])
            shape = [n if a == axis else 1 for a in range(3)]
            whole = np.broadcast_to(weight.reshape(shape), SHAPE).astype(np.float32)
            weights.setdefault(whole.tobytes(), (axis, length))
    seen = {weights[after.tobytes()] for after in found}
    assert {axis for axis, length in seen if length} == {0, 1, 2}


def test_each_kind_has_the_probability():
    batch = numbered(400, (4, 4, 4))
    found = run(batch, only(0.25, anisotropy=2))
    share = (found['labels'] != batch['labels']).any((1, 2, 3)).mean()
    assert abs(share - 0.25) < 0.07
    both = run(batch, only(0.5, anisotropy=2, decline=True))
    turned = (both['labels'] != batch['labels']).any((1, 2, 3))
    faded = np.abs(both['image'][..., 0] - both['labels']).max((1, 2, 3)) > 0
    # Fading over less than one slice changes nothing, so some that faded are not seen to.
    assert 0.1 < (turned & faded).mean() < 0.3
    assert 0.1 < (turned & ~faded).mean() < 0.4


def test_sharding_does_not_change_the_result():
    batch = {**numbered(8), 'flows': jnp.ones((8, *SHAPE, 3))}
    every = Distortion(
        probability=0.7, shuffle_windows=1, shuffle_side=3, inpaint_windows=1, inpaint_side=2
    )
    split = jax.device_put(batch, split_batch(make_device_mesh()))
    jax.tree.map(np.testing.assert_array_equal, run(batch, every), run(split, every))


@pytest.mark.parametrize(
    ('field', 'value', 'named'),
    [
        ('warp', 2, 'unknown'),
        ('probability', 1.5, 'probability'),
        ('stretch', 0, 'stretch'),
        ('noise', -0.1, 'noise'),
        ('scale_low', 3.0, 'scale_low'),
    ],
)
def test_bad_options(field, value, named):
    with pytest.raises(InputError, match=named):
        Distortion.from_config({field: value})
