"""Random walks against the exact expectation of a Markov chain."""

from __future__ import annotations

import numpy as np
import pytest

from sxt_jax.core.errors import InputError
from sxt_jax.labelling import walks
from sxt_jax.labelling.walks import Starts, count_hits, pack_neighbours

SHAPE = (4, 5, 6)
STEPS = 12


def _image():
    return np.random.default_rng(0).integers(90, 110, SHAPE).astype(np.uint8)


def _starts():
    """Two starts, one in a corner."""
    voxels = np.array([0, np.ravel_multi_index((2, 2, 3), SHAPE)], np.int32)
    gray = _image().reshape(-1)[voxels].astype(np.float32)
    return Starts(voxels, gray, np.array([4.0, 90.0], np.float32))


def _expected_hits(image, start, gray, variance, n_steps):
    """Entries into each voxel, by the powers of the transition matrix."""
    n, flat = image.size, image.reshape(-1).astype(float)
    enter, stay = np.zeros((n, n)), np.zeros(n)
    for voxel in range(n):
        place = np.array(np.unravel_index(voxel, image.shape))
        weights, targets = [], []
        for axis in range(3):
            for direction in (1, -1):
                other = place.copy()
                other[axis] += direction
                inside = (other >= 0).all() and (other < image.shape).all()
                target = np.ravel_multi_index(other, image.shape) if inside else None
                value = flat[target] if inside else 0.0
                weights.append(np.exp(-((gray - value) ** 2) / (2 * variance)))
                targets.append(target)
        for weight, target in zip(np.array(weights) / sum(weights), targets, strict=True):
            if target is None:
                stay[voxel] += weight
            else:
                enter[voxel, target] += weight
    here, hits = np.zeros(n), np.zeros(n)
    here[start] = 1
    for _ in range(n_steps):
        entered = here @ enter
        hits += entered
        here = entered + here * stay
    return hits.reshape(image.shape)


def test_hits_are_those_of_the_markov_chain():
    image, starts, n_walks = _image(), _starts(), 40_000
    expected = sum(_expected_hits(image, *start, STEPS) for start in zip(*starts, strict=True))
    found = count_hits(image, starts, seed=3, n_walks=n_walks, n_steps=STEPS) / n_walks
    assert found.sum() == pytest.approx(expected.sum(), rel=0.002)
    # Visits of a walk cluster: the error is a few times that of independent counts.
    np.testing.assert_allclose(found, expected, atol=5 * np.sqrt(expected.max() / n_walks))


def test_hits_do_not_depend_on_groups_but_on_the_seed(monkeypatch):
    image, starts = _image(), _starts()
    told = []
    whole = count_hits(image, starts, seed=1, n_walks=37, n_steps=9, on_walks=told.append)
    assert sum(told) == 2 * 37
    monkeypatch.setattr(walks, '_WALKERS_CPU', 8)
    np.testing.assert_array_equal(count_hits(image, starts, seed=1, n_walks=37, n_steps=9), whole)
    assert (count_hits(image, starts, seed=2, n_walks=37, n_steps=9) != whole).any()


def test_walks_keep_to_their_gray_value():
    image = np.full(SHAPE, 200, np.uint8)
    image[1:3, 1:4, 1:5] = 50
    inside = np.array([np.ravel_multi_index((1, 2, 2), SHAPE)], np.int32)
    starts = Starts(inside, np.array([50.0], np.float32), np.ones(1, np.float32))
    hits = count_hits(image, starts, seed=0, n_walks=50, n_steps=100)
    assert hits.sum() == 50 * 100
    assert not hits[image == 200].any()


def test_without_any_weight_the_first_neighbour_is_entered():
    image = np.full((3, 1, 1), 255, np.uint8)
    gray = np.full(1, 128, np.float32)
    starts = Starts(np.zeros(1, np.int32), gray, np.ones(1, np.float32))
    hits = count_hits(image, starts, seed=0, n_walks=1, n_steps=5)
    assert hits.reshape(-1).tolist() == [0, 1, 1]


def test_neighbours_are_packed():
    image = np.arange(1, 13, dtype=np.uint8).reshape(2, 2, 3)
    first, second = pack_neighbours(image)
    assert first[0] == 7 | 4 << 16
    assert second[0] == 2 | 0b010101 << 16
    assert second[11] == 11 << 8 | 0b101010 << 16


def test_nothing_to_walk():
    empty = Starts(*(np.zeros(0, dtype) for dtype in (np.int32, np.float32, np.float32)))
    assert not count_hits(_image(), empty, seed=0, n_walks=3, n_steps=3).any()
    assert not count_hits(_image(), _starts(), seed=0, n_walks=3, n_steps=0).any()


@pytest.mark.parametrize(
    ('image', 'options', 'told'),
    [
        (np.zeros((3, 3), np.uint8), {}, 'uint8'),
        (np.zeros(SHAPE, np.float32), {}, 'float32'),
        (np.zeros(SHAPE, np.uint8), {'n_steps': -1}, 'n_steps'),
        (np.zeros(SHAPE, np.uint8), {'seed': 2**32}, 'seed'),
    ],
)
def test_what_is_wrong_is_told(image, options, told):
    with pytest.raises(InputError, match=told):
        count_hits(image, _starts(), **{'seed': 0, 'n_walks': 1, 'n_steps': 1, **options})
