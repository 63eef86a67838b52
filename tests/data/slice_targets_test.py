"""Slices of volumes of cells, with the flows of each slice's own labels."""

from functools import partial
from unittest import mock

import numpy as np
import pytest
from scipy import ndimage

from sxt_jax.core.slicing import ORIENTATIONS
from sxt_jax.data import slice_targets
from sxt_jax.data.datasets import Example
from sxt_jax.data.slice_targets import slice_examples, slice_flows
from sxt_jax.instances import labels_to_flows
from tests.training.cells import make_cells

CORNERS = np.ones((3, 3))


def to_centroids(labels):
    """Each pixel's vector to the mean place of its label."""
    flows = np.zeros((*labels.shape, 2))
    for value in np.unique(labels[labels > 0]):
        places = np.argwhere(labels == value)
        flows[tuple(places.T)] = places.mean(0) - places
    return flows


def by_slice(ids):
    """The same of every slice by itself, piece by piece of every id."""
    flows = np.zeros((*ids.shape, 3))
    for flow, labels in zip(flows, ids, strict=True):
        for value in np.unique(labels[labels > 0]):
            pieces, _ = ndimage.label(labels == value, CORNERS)
            flow[..., 1:] += to_centroids(pieces)
    return flows


def cells():
    """Cells; in some slices some are in pieces, joined by a corner, or at the border."""
    _, ids = make_cells(0, (7, 9, 11), n_cells=3)
    ids = ids.astype(np.int32)
    ids[:, 0, 0] = ids[:, 8, 10] = 70_000
    ids[2, 3:6, 2] = ids[2, 6, 3] = 9
    ids[3, 0, 4:8] = ids[3, 8, 4:8] = 5
    return ids


@pytest.mark.parametrize('pixels', [2**21, 3 * 64 * 11])
def test_slices_are_worked_on_together_as_if_alone(pixels, monkeypatch):
    monkeypatch.setattr(slice_targets, '_PIXELS', pixels)
    ids = cells()
    for order in ORIENTATIONS.values():
        turned = ids.transpose(order)
        flows_of = mock.Mock(side_effect=to_centroids)
        found = slice_flows(turned, flows_of)
        np.testing.assert_allclose(found, by_slice(turned), atol=5e-3)
        assert (flows_of.call_count > 1) == (pixels < 2**21)


def test_heat_is_that_of_each_slice():
    """Where the largest cells of all slices are as large; else iterations differ."""
    ids = np.zeros((3, 16, 20), np.int32)
    ids[:, 2:9, 3:12] = 4
    ids[1, 9:12, 5:9] = 7
    ids[2, 13:15, 2:5] = ids[2, 12:15, 14:19] = 7
    heat = partial(labels_to_flows, kind='heat')
    found = slice_flows(ids, heat)
    for flows, labels in zip(found, ids, strict=True):
        alone = labels.copy()
        alone[12:, 14:] *= 2  # the pieces are two cells
        np.testing.assert_allclose(flows[..., 1:], heat(alone), atol=1e-3)
    assert not found[..., 0].any()
    lengths = np.linalg.norm(found.astype(np.float32), axis=-1)
    assert lengths[ids > 0].mean() > 0.9


def test_one_volume_becomes_three_stacks(tmp_path):
    ids = cells()
    ids[6] = -1
    image = np.random.default_rng(0).random((7, 9, 11, 2)).astype(np.float32)
    example = Example('a', image, ids, (30.0, 20.0, 10.0))
    stacks = slice_examples(example, to_centroids)
    kept = slice_examples(example, to_centroids, folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 6
    assert [s.name for s in stacks] == ['a (xy)', 'a (xz)', 'a (yz)']
    sizes = [s.voxel_size_nm for s in stacks]
    assert sizes == [(30, 20, 10), (20, 30, 10), (10, 30, 20)]
    for stack, other, order in zip(stacks, kept, ORIENTATIONS.values(), strict=True):
        turned = ids.transpose(order)
        assert np.shares_memory(stack.image, image)
        np.testing.assert_array_equal(stack.image, image.transpose(*order, 3))
        np.testing.assert_array_equal(stack.labels, np.where(turned < 0, -1, turned > 0))
        np.testing.assert_allclose(stack.flows, by_slice(np.maximum(turned, 0)), atol=5e-3)
        assert isinstance(other.flows, np.memmap)
        np.testing.assert_array_equal(other.flows, stack.flows)
        assert other.checksum == stack.checksum


def test_a_volume_of_one_slice_has_no_slices_across():
    example = Example('a', np.zeros((1, 9, 11, 1)), cells()[2:3])
    (stack,) = slice_examples(example, to_centroids)
    assert stack.shape == (1, 9, 11)
    np.testing.assert_allclose(stack.flows, by_slice(example.labels), atol=5e-3)
