"""Dense labels of sparse ones: a simple scene, options, and what is wrong with an input."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from sxt_jax.core.devices import make_device_mesh
from sxt_jax.core.errors import InputError
from sxt_jax.labelling import interpolate

KEY = jax.random.key(0)
SHAPE = (20, 24, 28)
LABELLED = (4, 10, 16)


@pytest.fixture(scope='module')
def scene():
    """Image, true labels and sparse ones: a bright cell with a brighter nucleus in noise."""
    z, y, x = np.indices(SHAPE)
    radius = np.sqrt(((z - 10) / 8) ** 2 + ((y - 12) / 9) ** 2 + ((x - 14) / 10) ** 2)
    truth = (radius < 1).astype(np.uint8) + (radius < 0.5)
    noise = np.random.default_rng(0).normal(0, 18, SHAPE)
    image = np.clip(70 + 45 * truth + noise, 0, 255).astype(np.uint8)
    sparse = np.zeros_like(truth)
    for number in LABELLED:
        sparse[number] = truth[number]
    return image, truth, sparse


@pytest.fixture(scope='module')
def dense(scene):
    image, _, sparse = scene
    return interpolate(image, sparse, key=KEY, n_steps=100)


def _dice(a, b, label):
    return 2 * np.sum((a == label) & (b == label)) / (np.sum(a == label) + np.sum(b == label))


def test_the_cell_between_the_slices_is_found(scene, dense):
    _, truth, _ = scene
    assert dense.ids == (0, 1, 2)
    assert dense.n_walks == 10
    assert dense.labels.dtype == np.uint8
    assert [_dice(dense.labels, truth, label) > least for label, least in
            ((0, 0.98), (1, 0.93), (2, 0.9))] == [True] * 3  # fmt: skip
    # Where labels are wrong walks disagree.
    wrong = dense.labels != truth
    assert dense.uncertainty[wrong].mean() > 3 * dense.uncertainty[~wrong].mean()


def test_hits_are_those_of_all_steps_but_at_the_border(scene, dense):
    _, _, sparse = scene
    for label, hits in zip(dense.ids, dense.hits, strict=True):
        n_walks = 10 * np.sum(sparse[list(LABELLED)] == label)
        assert 0.9 * 100 * n_walks < hits.sum() <= 100 * n_walks
    # Nothing keeps walkers in the inside from making every step.
    assert dense.hits[2].sum() == 1000 * np.sum(sparse == 2)


@pytest.mark.parametrize('n_devices', [1, 8])
def test_the_key_decides_and_devices_do_not(scene, dense, n_devices):
    image, _, sparse = scene
    mesh = make_device_mesh(jax.devices()[:n_devices])
    again = interpolate(image, sparse, key=KEY, n_steps=100, device_mesh=mesh)
    np.testing.assert_array_equal(again.hits, dense.hits)
    if n_devices == 1:
        other = interpolate(image, sparse, key=jax.random.key(1), n_steps=100, device_mesh=mesh)
        assert (other.hits != dense.hits).any()
        assert _dice(other.labels, dense.labels, 1) > 0.95


def test_other_types_of_image_and_of_labels_give_the_same(scene, dense):
    image, truth, sparse = scene
    floats = image.astype(np.float32) / 10 - 3
    ids = np.array([0, 4, 70_000])
    found = interpolate(floats, ids[sparse], key=KEY, n_steps=100)
    assert found.labels.dtype == np.uint32
    assert set(np.unique(found.labels)) == set(ids)
    labels = np.searchsorted(ids, found.labels)
    assert _dice(labels, dense.labels, 1) > 0.95
    assert abs(_dice(labels, truth, 2) - _dice(dense.labels, truth, 2)) < 0.03


def test_labelled_slices_can_be_kept(scene, dense):
    image, _, sparse = scene
    noisy = sparse.copy()
    noisy[10, 2:4, 2:4] = 2  # the walks will not agree
    noisy[10, 20, 20] = -1 % 256
    kept = interpolate(image, noisy.view(np.int8), key=KEY, n_steps=100, keep_slices=True)
    given = noisy[list(LABELLED)].view(np.int8)
    np.testing.assert_array_equal(kept.labels[list(LABELLED)][given >= 0], given[given >= 0])
    assert not kept.uncertainty[list(LABELLED)][given >= 0].any()
    assert (dense.labels[list(LABELLED)] != sparse[list(LABELLED)]).any()


def test_slices_in_three_orientations(scene):
    image, truth, _ = scene
    sparse = np.zeros_like(truth)
    sparse[10], sparse[:, 12], sparse[:, :, 14] = truth[10], truth[:, 12], truth[:, :, 14]
    found = interpolate(image, sparse, key=KEY, n_steps=100, axes='zyx', keep_slices=True)
    assert _dice(found.labels, truth, 1) > 0.9
    np.testing.assert_array_equal(found.labels[:, 12], truth[:, 12])


def test_smoothed_labels_are_nearer_to_the_truth(scene, dense):
    image, truth, sparse = scene
    smooth = interpolate(image, sparse, key=KEY, n_steps=100, smooth=20)
    np.testing.assert_array_equal(smooth.hits, dense.hits)
    np.testing.assert_array_equal(smooth.uncertainty, dense.uncertainty)
    assert np.sum(smooth.labels != truth) < np.sum(dense.labels != truth)


def test_hits_on_disk_and_not_returned(scene, dense, tmp_path):
    image, _, sparse = scene
    told = []
    found = interpolate(
        image, sparse, key=KEY, n_steps=100, keep_hits=False, scratch=tmp_path,
        on_walks=lambda n, total: told.append((n, total)),
    )  # fmt: skip
    assert found.hits is None
    np.testing.assert_array_equal(found.labels, dense.labels)
    assert sum(n for n, _ in told) == told[0][1] == 10 * 3 * SHAPE[1] * SHAPE[2]
    assert not list(tmp_path.iterdir())


def test_walks_end_when_labels_have_settled(scene, dense):
    image, _, sparse = scene
    found = interpolate(image, sparse, key=KEY, n_steps=100, n_walks=64, settled=0.1)
    assert found.n_walks in (2, 4, 8, 16)
    fewer = interpolate(image, sparse, key=KEY, n_steps=100, n_walks=found.n_walks)
    np.testing.assert_array_equal(found.labels, fewer.labels)
    never = interpolate(image, sparse, key=KEY, n_steps=100, settled=1e-9)
    np.testing.assert_array_equal(never.hits, dense.hits)


def test_what_nobody_visits_is_background_and_uncertain():
    image = np.full((40, 8, 8), 100, np.uint8)
    sparse = np.zeros(image.shape, np.uint8)
    sparse[3] = 5  # one label, and no background
    found = interpolate(image, sparse, key=KEY, n_walks=20, n_steps=20)
    assert found.ids == (5,)
    assert (found.labels[3] == 5).all()
    assert not found.labels[24:].any()
    assert (found.uncertainty[24:] == 255).all()


def test_labels_in_every_slice(scene):
    image, truth, _ = scene
    inside = slice(3, 17)  # slices with labels
    found = interpolate(image[inside], truth[inside], key=KEY, n_steps=20, keep_slices=True)
    np.testing.assert_array_equal(found.labels, truth[inside])
    loose = interpolate(image[inside], truth[inside], key=KEY, n_steps=20)
    assert _dice(loose.labels, truth[inside], 1) > 0.97


@pytest.mark.parametrize(
    ('change', 'options', 'told'),
    [
        (lambda image, sparse: (image, sparse[:-1]), {}, 'the shape of the image'),
        (lambda image, sparse: (image, 0 * sparse), {}, 'no labelled slice'),
        (lambda image, sparse: (image, sparse / 2), {}, 'integers'),
        (lambda image, sparse: (np.where(sparse, np.nan, image), sparse), {}, 'NaN'),
        (lambda image, sparse: (image, sparse), {'axes': 'x'}, 'axes'),
        (lambda image, sparse: (image, sparse), {'n_walks': 0}, 'n_walks'),
        (lambda image, sparse: (image, sparse), {'smooth': -1}, 'smooth'),
    ],
)
def test_what_is_wrong_is_told(scene, change, options, told):
    image, sparse = change(*scene[::2])
    with pytest.raises(InputError, match=told):
        interpolate(image, sparse, key=KEY, **options)
