"""Elections of labels, and how sure they are."""

from __future__ import annotations

import numpy as np

from sxt_jax.core.box import Box
from sxt_jax.labelling import votes
from sxt_jax.labelling.votes import box_of_hits, elect, measure_uncertainty


def _hits():
    hits = np.random.default_rng(0).integers(0, 6, (4, 5, 6, 7)).astype(np.int32)
    hits[:, 2, 3] = 0
    return hits


def test_most_hits_win_and_the_first_of_equal_ones():
    hits, ids = _hits(), (0, 3, 7, 200)
    labels = np.zeros(hits.shape[1:], np.uint8)
    expected = np.array(ids)[hits.argmax(0)]
    assert elect(hits, ids, labels) == np.count_nonzero(expected)
    np.testing.assert_array_equal(labels, expected)
    assert elect(hits, ids, labels) == 0


def test_without_hits_the_label_is_background_also_where_there_is_no_such_label():
    labels = np.full((2, 3, 4), 9, np.uint8)
    elect(np.zeros((1, 2, 3, 4), np.int32), (5,), labels)
    assert not labels.any()


def test_uncertainty_is_that_of_the_three_highest(monkeypatch):
    monkeypatch.setattr(votes, '_CHUNK_VOXELS', 50)  # slice by slice
    hits = _hits()
    third, second, first = np.sort(hits, 0)[1:].astype(float)
    visited = first > 0
    first = np.maximum(first, 1)
    expected = np.where(visited, 1 - (1 - third / first) * (1 - second / first), 1)
    found = measure_uncertainty(hits)
    np.testing.assert_allclose(found, 255 * expected, atol=1)
    assert (found[visited] < 255).all()
    assert (found[2, 3] == 255).all()
    alone = measure_uncertainty(np.ones((1, 2, 2, 2), np.int32))
    assert not alone.any()


def test_box_of_hits():
    hits = np.zeros((2, 6, 7, 8), np.int32)
    assert box_of_hits(hits).size == 0
    hits[0, 2, 3, 5] = hits[1, 4, 1, 6] = 1
    assert box_of_hits(hits) == Box((2, 1, 5), (5, 4, 7))
