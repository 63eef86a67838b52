"""Smart interpolation against results of Biomedisa itself (tests/fixtures/README.md)."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest

from sxt_jax.labelling import interpolate
from sxt_jax.labelling.votes import find_winners

FIXTURE = Path(__file__).parents[1] / 'fixtures' / 'smart_interpolation.npz'
HIT_SUMS = (203_939_524, 53_403_656, 4_612_000)  # of its README
LABELS = (0, 1, 2)


@pytest.fixture(scope='module')
def published():
    return np.load(FIXTURE)


@pytest.fixture(scope='module')
def ours(published):
    image, sparse = published['image'], published['sparse_labels']
    return interpolate(image, sparse, key=jax.random.key(5), smooth=100, published_smoothing=True)


def _dice(a, b):
    both = [np.sum((a == k) & (b == k)) / (np.sum(a == k) + np.sum(b == k)) for k in LABELS]
    return 2 * np.array(both)


def _correlation(a, b):
    return np.corrcoef(a.ravel(), b.ravel())[0, 1]


def test_hits_are_those_of_biomedisa(published, ours):
    assert ours.ids == LABELS
    np.testing.assert_allclose(ours.hits.sum((1, 2, 3), dtype=np.int64), HIT_SUMS, rtol=1e-4)
    for hits, theirs in zip(ours.hits[:, 1::4, 1::8, 1::4], published['hits'], strict=True):
        assert _correlation(hits, theirs) >= 0.96


def test_labels_are_those_of_biomedisa(published, ours):
    plain = find_winners(ours.hits, np.array(LABELS))
    assert (_dice(plain, published['regular']) >= 0.975).all()
    truth = published['truth']
    difference = _dice(plain, truth) - _dice(published['regular'], truth)
    assert (np.abs(difference) < 0.005).all()
    assert (_dice(ours.labels, published['smooth']) >= 0.975).all()
    assert (np.abs(_dice(ours.labels, truth) - _dice(published['smooth'], truth)) < 0.005).all()


def test_uncertainty_is_that_of_biomedisa(published, ours):
    found = ours.uncertainty[::2, ::4, ::2]
    visited = ours.hits[:, ::2, ::4, ::2].any(0)  # elsewhere nothing is known; theirs is 0 there
    assert _correlation(found[visited], published['uncertainty'][visited]) >= 0.85
