"""Random walks against the exact expectation of a Markov chain."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sxt_jax.core.box import Box
from sxt_jax.core.errors import InputError
from sxt_jax.labelling import random_walk
from sxt_jax.labelling.neighbours import mark_voxels, pack_neighbours
from sxt_jax.labelling.random_walk import Starts, add_hits

SHAPE = (4, 5, 6)
STEPS = 12


def _image():
    return np.random.default_rng(0).integers(180, 220, SHAPE).astype(np.uint16)


def _starts():
    """Two starts, one in a corner."""
    voxels = np.array([0, np.ravel_multi_index((2, 2, 3), SHAPE)])
    levels = _image().reshape(-1)[voxels].astype(np.float32)
    return Starts(voxels, levels, np.array([16.0, 360.0], np.float32))


def _count_hits(image, starts, *, seed, n_walks, n_steps, **options):
    hits = np.zeros(image.shape, np.int32)
    add_hits(hits, image, starts, seed=seed, walks=range(n_walks), n_steps=n_steps, **options)
    return hits


def _expected_hits(image, start, level, variance, n_steps):
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
                weights.append(np.exp(-((level - value) ** 2) / (2 * variance)))
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
    found = _count_hits(image, starts, seed=3, n_walks=n_walks, n_steps=STEPS) / n_walks
    assert found.sum() == pytest.approx(expected.sum(), rel=0.002)
    # Visits of a walk cluster: the error is a few times that of independent counts.
    np.testing.assert_allclose(found, expected, atol=5 * np.sqrt(expected.max() / n_walks))


def test_hits_do_not_depend_on_groups_and_devices_but_on_the_seed(monkeypatch):
    image, starts = _image(), _starts()
    told = []
    options = {'n_walks': 37, 'n_steps': 9}
    whole = _count_hits(image, starts, seed=1, on_walks=told.append, **options)
    assert sum(told) == 2 * 37
    monkeypatch.setattr(random_walk, '_WALKERS_CPU', 8)
    for n_devices in (1, 8):
        devices = jax.devices()[:n_devices]
        hits = _count_hits(image, starts, seed=1, devices=devices, **options)
        np.testing.assert_array_equal(hits, whole)
    assert (_count_hits(image, starts, seed=2, **options) != whole).any()


def test_walks_are_numbered():
    image, starts = _image(), _starts()
    parts = np.zeros(SHAPE, np.int32)
    for walks in (range(2), range(2, 5)):
        add_hits(parts, image, starts, seed=1, walks=walks, n_steps=9)
    whole = _count_hits(image, starts, seed=1, n_walks=5, n_steps=9)
    np.testing.assert_array_equal(parts, whole)


def test_walks_go_on_from_block_to_block(monkeypatch):
    image = np.random.default_rng(0).integers(180, 220, (30, 20, 23)).astype(np.uint16)
    voxels = np.arange(0, image.size, 97)
    starts = Starts(voxels, image.reshape(-1)[voxels] * np.float32(1), np.full(len(voxels), 90.0))
    told = []
    whole = _count_hits(image, starts, seed=5, n_walks=4, n_steps=60)
    monkeypatch.setattr(random_walk, '_BLOCK_CPU', 6)
    monkeypatch.setattr(random_walk, '_HALO', (3, 3))
    hits = _count_hits(image, starts, seed=5, n_walks=4, n_steps=60, on_walks=told.append)
    np.testing.assert_array_equal(hits, whole)
    assert sum(told) == 4 * len(voxels)


def test_walks_keep_to_their_gray_value():
    image = np.full(SHAPE, 200, np.uint16)
    image[1:3, 1:4, 1:5] = 50
    inside = np.array([np.ravel_multi_index((1, 2, 2), SHAPE)])
    starts = Starts(inside, np.array([50.0], np.float32), np.ones(1, np.float32))
    hits = _count_hits(image, starts, seed=0, n_walks=50, n_steps=100)
    assert hits.sum() == 50 * 100
    assert not hits[image == 200].any()


def test_without_any_weight_the_first_neighbour_is_entered():
    image = np.full((3, 1, 1), 255, np.uint16)
    level = np.full(1, 128, np.float32)
    starts = Starts(np.zeros(1, np.int64), level, np.ones(1, np.float32))
    hits = _count_hits(image, starts, seed=0, n_walks=1, n_steps=5)
    assert hits.reshape(-1).tolist() == [0, 1, 1]


def _packed(image, region):
    marked = mark_voxels(image, region)
    _, y, x = marked.shape
    words = pack_neighbours(jnp.asarray(marked.reshape(-1)), jnp.array([y * x, x, 1]))
    inner = (slice(1, -1),) * 3
    return [np.asarray(word).reshape(marked.shape)[inner] for word in words]


def test_neighbours_are_packed():
    image = np.arange(1, 13, dtype=np.uint16).reshape(2, 2, 3) + 300
    first, second = _packed(image, Box.of_shape(image.shape))
    # z + 1, z − 1, y + 1, then y − 1, x + 1, x − 1; and which of them are inside
    assert first[0, 0, 0] == 307 | 304 << 18 | 0b101 << 27
    assert second[0, 0, 0] == 302 << 9 | 0b010 << 27
    assert second[1, 1, 2] == 309 | 311 << 18 | 0b101 << 27


def test_the_rim_of_a_region_is_where_the_volume_goes_on():
    image = np.random.default_rng(0).integers(0, 511, (5, 6, 7)).astype(np.uint16)
    region = Box((0, 2, 1), (3, 6, 6))
    whole, part = _packed(image, Box.of_shape(image.shape)), _packed(image, region)
    np.testing.assert_array_equal(part[1], whole[1][region.slices])
    rim = np.uint32(1 << 30)
    np.testing.assert_array_equal(part[0] & ~rim, whole[0][region.slices])
    inner = np.zeros(region.shape, bool)
    inner[:-1, 1:, 1:-1] = True
    np.testing.assert_array_equal((part[0] & rim) == 0, inner)


def test_nothing_to_walk():
    empty = Starts(*(np.zeros(0, dtype) for dtype in (np.int64, np.float32, np.float32)))
    assert not _count_hits(_image(), empty, seed=0, n_walks=3, n_steps=3).any()
    assert not _count_hits(_image(), _starts(), seed=0, n_walks=3, n_steps=0).any()


@pytest.mark.parametrize(
    ('image', 'options', 'told'),
    [
        (np.zeros((3, 3), np.uint16), {}, 'uint16'),
        (np.zeros(SHAPE, np.float32), {}, 'float32'),
        (np.zeros(SHAPE, np.uint16), {'n_steps': -1}, 'n_steps'),
        (np.zeros(SHAPE, np.uint16), {'seed': 2**32}, 'seed'),
    ],
)
def test_what_is_wrong_is_told(image, options, told):
    with pytest.raises(InputError, match=told):
        _count_hits(image, _starts(), **{'seed': 0, 'n_walks': 1, 'n_steps': 1, **options})
