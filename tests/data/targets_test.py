"""Ids of cells, their flows, and what happens to vectors on the way to a network."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sxt_jax.core.box import Box
from sxt_jax.core.errors import InputError
from sxt_jax.data.augment import Augmentation, augment_batch, exchange_axes
from sxt_jax.data.classes import IGNORE_INDEX
from sxt_jax.data.datasets import Example, crop_example, fingerprint
from sxt_jax.data.patches import Sampling
from sxt_jax.data.pipeline import PatchStream
from sxt_jax.data.targets import ObjectIds, with_flows
from tests.training.cells import make_cells, tanh_flows


def cells_example(seed=0, shape=(16, 24, 24), name='cells') -> Example:
    image, ids = make_cells(seed, shape)
    return with_flows(Example(name, image[..., None], ids.astype(np.int32)), tanh_flows)


def test_ids_keep_their_numbers():
    ids = ObjectIds(ignore_value=255)
    found = ids.indices(np.array([[0, 7, 70_000, 255]]))
    assert found.dtype == np.int32
    assert found.tolist() == [[0, 7, 70_000, IGNORE_INDEX]]
    assert ObjectIds(ignore_value=-9).indices(np.array([-9.0, 3.0])).tolist() == [IGNORE_INDEX, 3]
    assert ObjectIds().indices(np.array([2], np.uint64)).tolist() == [2]
    for dtype in (np.uint8, np.uint16, np.float32):
        assert ids.indices(np.array([7, 255], dtype)).tolist() == [7, IGNORE_INDEX]


@pytest.mark.parametrize('value', [-2, 2**31])
def test_what_is_no_id_is_named(value):
    with pytest.raises(InputError, match=rf'scan: label values \[{value}\]'):
        ObjectIds().indices(np.array([0, value]), name='scan')


def test_foreground_and_flows_are_made_of_ids():
    ids = np.array([IGNORE_INDEX, 0, 5, 5, 5, 9], np.int32).reshape(1, 1, 6)
    asked = []

    def flows_of(labels):
        asked.append(labels)
        return tanh_flows(labels)

    made = with_flows(Example('e', np.zeros((1, 1, 6, 1), np.float32), ids), flows_of)
    assert made.labels.tolist() == [[[IGNORE_INDEX, 0, 1, 1, 1, 1]]]
    assert asked[0].min() == 0  # voxels nobody labelled are no cell
    np.testing.assert_allclose(made.flows[0, 0, 2:5, 2], np.tanh([0.2, 0, -0.2]), atol=1e-3)
    with pytest.raises(ValueError, match='expected'):
        with_flows(Example('e', ids, ids), lambda labels: labels)


def test_crops_and_fingerprints_know_of_flows():
    example = cells_example()
    part = crop_example(example, Box((2, 0, 3), (9, 8, 24)))
    everything = (slice(None),) * 4
    np.testing.assert_array_equal(part.flows[everything], example.flows[2:9, :8, 3:24])
    assert len(np.unique(example.instances)) == 7
    np.testing.assert_array_equal(part.instances[3:5], example.instances[5:7, :8, 3:24])
    _, ids = make_cells(0)
    joined = np.where(ids == 2, 1, ids).astype(np.int32)  # the same foreground, other cells
    other = with_flows(dataclasses.replace(example, labels=joined), tanh_flows)
    np.testing.assert_array_equal(other.labels, example.labels)
    assert fingerprint(other) != fingerprint(example) == fingerprint(cells_example())
    assert fingerprint(part) != fingerprint(crop_example(other, Box((2, 0, 3), (9, 8, 24))))


@pytest.mark.parametrize('order', [(1, 0, 2), (2, 1, 0), (0, 2, 1), (1, 2, 0)])
def test_flows_of_exchanged_axes_are_those_of_exchanged_labels(order):
    _, ids = make_cells(1, (12, 14, 16))
    turned = exchange_axes('flows', tanh_flows(ids), order=order)
    expected = tanh_flows(exchange_axes('labels', ids, order=order))
    np.testing.assert_allclose(turned, expected, atol=1e-6)


def test_flows_move_with_their_patch():
    """Every mirror image and turn: the flows are those of the labels that came out."""
    _, ids = make_cells(2, (12, 12, 12), n_cells=3)
    flows = tanh_flows(ids)
    n = 24
    batch = {
        'image': jnp.tile(jnp.asarray(ids[..., None], jnp.float32), (n, 1, 1, 1, 1)),
        'labels': jnp.tile(jnp.asarray(ids, jnp.int16), (n, 1, 1, 1)),
        'flows': jnp.tile(jnp.asarray(flows), (n, 1, 1, 1, 1)),
    }
    changed = Augmentation(flip_axes='zyx', swap_axes=True, rotate_90=True)
    found = jax.jit(lambda key, b: augment_batch(key, b, augmentation=changed))(
        jax.random.key(0), batch
    )
    assert len({bytes(labels) for labels in np.asarray(found['labels'])}) > 15
    for labels, turned in zip(found['labels'], found['flows'], strict=True):
        np.testing.assert_allclose(turned, tanh_flows(np.asarray(labels)), atol=1e-6)


def test_flows_are_not_bent():
    batch = {'image': jnp.zeros((1, 4, 4, 4, 1)), 'flows': jnp.zeros((1, 4, 4, 4, 3))}
    with pytest.raises(InputError, match='with flows'):
        augment_batch(jax.random.key(0), batch, augmentation=Augmentation(rotate_degrees=5))


def stream(examples, *, batch_size=1, seed=0, **sampling):
    return PatchStream(
        examples,
        sampling=Sampling(**{'patch': (8, 12, 12), 'kind': 'each', **sampling}),
        batch_size=batch_size,
        seed=seed,
        n_classes=2,
    )


def test_each_volume_gives_one_patch_an_epoch():
    examples = [cells_example(name=str(i)) for i in range(4)]
    for i, example in enumerate(examples):
        example.image[:] = i
    seen = stream(examples)
    assert seen.steps_per_epoch == 4
    orders = set()
    for epoch in range(6):
        order = [int(seen.batch(4 * epoch + i)['image'][0, 0, 0, 0, 0]) for i in range(4)]
        assert sorted(order) == [0, 1, 2, 3]
        orders.add(tuple(order))
    assert len(orders) > 2
    assert stream(examples, batch_size=3).steps_per_epoch == 1
    assert stream(examples, batch_size=9).steps_per_epoch == 1
    again = stream(examples)
    again.batch(17)
    for name, array in seen.batch(5).items():
        np.testing.assert_array_equal(again.batch(5)[name], array)


def test_patches_with_exchanged_axes_hold_the_flows_of_their_cells():
    """One cell around the middle: wherever a patch lies, its flows point to one place."""
    shape = (20, 20, 20)
    ids = np.ones(shape, np.int32)
    gray = np.stack(np.indices(shape), -1).astype(np.float32)  # channels tell the place
    example = with_flows(Example('cell', gray, ids), tanh_flows)
    seen = stream([example], exchange_axes=0.5)
    plain = 0
    for step in range(40):
        batch = seen.batch(step)
        assert batch['image'].shape == (1, 8, 12, 12, 3)
        assert batch['labels'].shape == (1, 8, 12, 12)
        # Which channel grows along each axis of the patch: the volume's axis that it was.
        steps = [np.diff(batch['image'][0], axis=a).reshape(-1, 3).mean(0) for a in range(3)]
        order = [int(np.argmax(step)) for step in steps]
        expected = np.tanh((9.5 - batch['image'][0][..., order]) / 5)
        np.testing.assert_allclose(batch['flows'][0], expected, atol=1e-3)
        assert batch['flows'].dtype == np.float32
        plain += order == [0, 1, 2]
    assert 10 <= plain <= 30


def test_a_thin_volume_is_not_turned_on_its_side():
    thin = cells_example(shape=(8, 30, 30))
    thin.image[:] = np.arange(8)[:, None, None, None]
    seen = stream([thin], exchange_axes=1.0)
    for step in range(10):
        batch = seen.batch(step)
        assert (batch['labels'] != IGNORE_INDEX).all()
        np.testing.assert_array_equal(batch['image'][0, :, 0, 0, 0], np.arange(8))


def test_beyond_a_volume_nothing_is_to_be_learnt():
    small = cells_example(shape=(6, 12, 12))
    batch = stream([small]).batch(0)
    assert (batch['labels'][0, 6:] == IGNORE_INDEX).all()
    assert (batch['flows'][0, 6:] == 0).all()
    np.testing.assert_array_equal(batch['image'][0, 6:], batch['image'][0, 5:3:-1])


@pytest.mark.parametrize('sampling', [{'kind': 'strided', 'exchange_axes': 0.5},
                                      {'exchange_axes': 2.0}])  # fmt: skip
def test_bad_sampling(sampling):
    with pytest.raises(InputError, match='exchange_axes'):
        Sampling(**{'patch': (8, 8, 8), 'kind': 'each', **sampling})
