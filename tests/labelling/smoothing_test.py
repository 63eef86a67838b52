"""Mean-curvature smoothing: known answers, the published labels, and the same in any parts."""

from __future__ import annotations

import itertools
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from sxt_jax.core.box import Box
from sxt_jax.core.errors import InputError
from sxt_jax.labelling import smoothing
from sxt_jax.labelling.smoothing import curvature_step, smooth_labels

FIXTURE = Path(__file__).parents[1] / 'fixtures' / 'smart_interpolation.npz'
INNER = (slice(1, -1),) * 3


def _grid(*shape):
    return np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in shape), indexing='ij')


def _change(field, **options):
    """What a step adds, in 1/100, away from the border."""
    field = np.asarray(field, np.float32)
    return 100 * (np.asarray(curvature_step(jnp.asarray(field), **options)) - field)[INNER]


def _numpy_step(field, published):
    """The formula with differences as they are defined."""
    padded, (nz, ny, nx) = np.pad(field, 1), field.shape

    def at(z, y, x):
        return padded[1 + z : 1 + z + nz, 1 + y : 1 + y + ny, 1 + x : 1 + x + nx]

    e = np.eye(3, dtype=int)
    first = [(at(*e[i]) - at(*-e[i])) / 2 for i in range(3)]
    squares = sum(d * d for d in first)
    sum_ = 0
    for i in range(3):
        sum_ += (at(*e[i]) - 2 * field + at(*-e[i])) * (squares - first[i] ** 2)
    for i, j in itertools.combinations(range(3), 2):
        same, other = e[i] + e[j], e[i] - e[j]
        mixed = (at(*same) + at(*-same) - at(*other) - at(*-other)) / 4
        wrong = published and i == 0
        sum_ -= (-1 if wrong else 1) * 2 * first[i] * first[j] * mixed
    return field + 0.01 * sum_ / (squares + 1e-10)


def _numpy_labels(hits, ids, n_iterations, published):
    fields = []
    for field in hits.astype(np.float64):
        for _ in range(n_iterations):
            field = _numpy_step(field, published)
        fields.append(field)
    return ids[np.argmax(fields, 0)]


def _hits(*shape):
    return np.random.default_rng(0).integers(0, 200, shape, dtype=np.int32)


def test_a_sphere_shrinks_with_its_curvature():
    r = np.sqrt(sum(c**2 for c in _grid(32, 32, 32)))
    far = (r[INNER] > 8) & (r[INNER] < 15)
    np.testing.assert_allclose(_change(50 - r)[far], -2 / r[INNER][far], rtol=0.03)


def test_flat_surfaces_stay():
    z, y, x = _grid(12, 12, 12)
    assert not _change(np.tanh(y)).any()
    np.testing.assert_allclose(_change(7 * z - 3 * y + 2 * x), 0, atol=1e-3)


@pytest.mark.parametrize(('axes', 'published'), [('xy', 0.0), ('xz', 0.4), ('yz', 0.4)])
def test_the_published_cross_terms_bend_oblique_planes(axes, published):
    coordinates = dict(zip('zyx', _grid(7, 7, 7), strict=True))
    field = (coordinates[axes[0]] + coordinates[axes[1]] + 1) ** 2 / 10
    sloped = np.abs(np.gradient(field)).sum(0)[INNER] > 0.1
    np.testing.assert_allclose(_change(field)[sloped], 0, atol=1e-3)
    np.testing.assert_allclose(_change(field, published=True)[sloped], published, atol=1e-3)


@pytest.mark.parametrize('published', [True, False])
def test_labels_are_those_of_the_formula(published):
    hits, ids = _hits(3, 21, 14, 17), np.array([0, 900, 3], np.uint16)
    labels = smooth_labels(hits, ids, n_iterations=23, published=published)
    assert labels.dtype == ids.dtype
    np.testing.assert_array_equal(labels, _numpy_labels(hits, ids, 23, published))


def _flown(hits, core, n_iterations, sign):
    """The field in the core, put together from the blocks it comes out in."""
    flow = smoothing._Flow.around(core, hits.shape, n_iterations)
    field = np.full(hits.shape, np.nan, np.float32)
    for b, block in flow._blocks(hits[flow.region.slices], sign):
        box = flow._box(b)
        corner = (flow.region.start[0] + flow._first(b), *flow.region.start[1:])
        here = box.shift([-c for c in corner])
        field[box.slices] = flow.plane.rows(np.asarray(block))[here.slices]
    return field[core.slices]


@pytest.mark.parametrize('core', [Box((0, 0, 0), (40, 9, 11)), Box((17, 3, 0), (33, 9, 2))])
def test_fields_that_flow_block_by_block_are_those_of_single_steps(core):
    hits = _hits(40, 9, 11)
    field = jnp.asarray(hits, jnp.float32)
    for _ in range(12):
        field = curvature_step(field, published=True)
    flown = _flown(hits, core, 12, np.float32(-1))
    np.testing.assert_allclose(flown, np.asarray(field)[core.slices], rtol=1e-6, atol=1e-4)


def test_labels_are_those_of_biomedisa():
    # What lies beyond 6 voxels shows in none: fields move by little more than 1 voxel.
    rim = (slice(6, -6),) * 3
    with np.load(FIXTURE) as file:
        hits, near = file['hits_near'], tuple(slice(*bounds) for bounds in file['near'])
        expected, before = file['smooth'][near][rim], file['regular'][near][rim]
    ids = np.arange(3, dtype=np.uint8)
    published, labels = (
        smooth_labels(hits, ids, n_iterations=100, published=p)[rim] for p in (True, False)
    )
    np.testing.assert_array_equal(published, expected)
    assert (published != before).sum() > 50
    assert (published != labels).sum() > 10


@pytest.mark.parametrize(
    ('block', 'memory', 'parts'), [(2**19, 2**19, 4), (2**12, 240 * 2**10, 12)]
)
def test_parts_and_blocks_change_nothing(block, memory, parts, tmp_path, monkeypatch):
    hits, ids = _hits(2, 50, 23, 25), np.array([4, 1], np.uint8)
    whole = smooth_labels(hits, ids, n_iterations=5)
    np.save(tmp_path / 'hits.npy', hits)
    hits = np.load(tmp_path / 'hits.npy', mmap_mode='r')
    monkeypatch.setattr(smoothing, '_CPU', (block, 4, 16, 2**30))
    assert len(smoothing._cut(whole.shape, 5, memory)) == parts
    told = []
    labels = smooth_labels(
        hits, ids, n_iterations=5, memory_bytes=memory, on_slab=lambda *n: told.append(n)
    )
    np.testing.assert_array_equal(labels, whole)
    assert sum(n for n, _ in told) == hits.size
    assert {total for _, total in told} == {hits.size}


def test_one_program_serves_volumes_of_about_a_size():
    ids = np.arange(1, dtype=np.uint8)
    smooth_labels(_hits(1, 9, 22, 25), ids, n_iterations=3)
    programs = smoothing._iterate._cache_size()
    for shape, n in (((1, 30, 23, 24), 7), ((1, 4, 24, 23), 12)):
        smooth_labels(_hits(*shape), ids, n_iterations=n, published=True)
    assert smoothing._iterate._cache_size() == programs


def test_of_equally_high_fields_the_first_wins():
    hits = np.repeat(_hits(1, 3, 4, 5), 2, 0)
    assert (smooth_labels(hits, np.array([7, 2]), n_iterations=1) == 7).all()


@pytest.mark.parametrize(
    ('hits', 'ids', 'n', 'message'),
    [
        (_hits(2, 3, 4), np.arange(2), 1, r'int32 of shape \(2, 3, 4\)'),
        (_hits(2, 3, 0, 4), np.arange(2), 1, r'shape \(2, 3, 0, 4\)'),
        (np.ones((2, 3, 4, 5)), np.arange(2), 1, 'float64'),
        (_hits(2, 3, 4, 5), np.arange(3), 1, 'expected 2 integers'),
        (_hits(2, 3, 4, 5), np.array([0.5, 1]), 1, 'ids: float64'),
        (_hits(2, 3, 4, 5), np.arange(2), 0, 'n_iterations: 0; expected at least 1'),
    ],
)
def test_what_cannot_be_smoothed_is_told(hits, ids, n, message):
    with pytest.raises(InputError, match=message):
        smooth_labels(hits, ids, n_iterations=n)


def test_overshooting_does_not_hand_voxels_to_labels_that_were_never_there():
    rng = np.random.default_rng(0)
    hits = np.zeros((2, 16, 24, 24), np.int32)
    hits[0] = rng.poisson(0.05, hits.shape[1:]) * 9  # background far from any labelled slice
    found = smooth_labels(hits, [0, 7], n_iterations=10)
    assert not found.any()
    assert smooth_labels(hits, [0, 7], n_iterations=10, published=True).any()
    # Where no field is above 0 the label with most hits stays, if any was there.
    hits = hits[:1]
    found = smooth_labels(hits, np.array([7]), n_iterations=10)
    assert (found[hits[0] > 0] == 7).all()
    assert set(np.unique(found)) == {0, 7}
