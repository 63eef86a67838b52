"""Co-occurrence matrices against scikit-image in a slice and against a plain loop in a volume."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from skimage.feature import graycomatrix, graycoprops

from sxt_jax.measure.cooccurrence import cooccurrence, cooccurrence_features

N_LEVELS = 5


def _levels(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, N_LEVELS, shape).astype(np.uint8)


def test_a_slice_agrees_with_scikit_image() -> None:
    plane = _levels((17, 23))
    angles = [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4]
    theirs = graycomatrix(plane, [1], angles, levels=N_LEVELS, symmetric=True, normed=True)
    matrix = cooccurrence(plane[None], np.ones((1, 17, 23), bool), n_levels=N_LEVELS)
    mean = theirs.mean(axis=3, keepdims=True)
    np.testing.assert_allclose(matrix, mean[:, :, 0, 0], atol=1e-12)
    for name, value in cooccurrence_features(matrix).items():
        assert value == pytest.approx(graycoprops(mean, name)[0, 0], rel=1e-9), name


@pytest.mark.parametrize('distance', [1, 2])
def test_a_volume_agrees_with_a_plain_loop(distance: int) -> None:
    levels = _levels((4, 5, 6))
    mask = np.random.default_rng(1).random(levels.shape) < 0.8
    matrices = []
    for step in itertools.product((-1, 0, 1), repeat=3):
        counts = np.zeros((N_LEVELS, N_LEVELS))
        for place in np.argwhere(mask):
            other = place + distance * np.array(step)
            within = (other >= 0).all() and (other < mask.shape).all()
            if any(step) and within and mask[tuple(other)]:
                counts[levels[tuple(place)], levels[tuple(other)]] += 1
        if any(step):
            matrices.append(counts / counts.sum())
    assert len(matrices) == 26
    matrix = cooccurrence(levels, mask, n_levels=N_LEVELS, distance=distance)
    np.testing.assert_allclose(matrix, np.mean(matrices, axis=0), atol=1e-12)


def test_chunks_and_threads_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    levels = _levels((7, 5, 6))
    mask = np.ones(levels.shape, bool)
    whole = cooccurrence(levels, mask, n_levels=N_LEVELS)
    monkeypatch.setattr('sxt_jax.measure.cooccurrence._CHUNK', 60)
    monkeypatch.setattr('sxt_jax.measure.cooccurrence._LARGE', 60)
    np.testing.assert_array_equal(cooccurrence(levels, mask, n_levels=N_LEVELS), whole)


def test_features_of_flat_striped_and_lonely_voxels() -> None:
    flat = cooccurrence(np.full((3, 3, 3), 2), np.ones((3, 3, 3), bool), n_levels=4)
    features = cooccurrence_features(flat)
    assert (features['homogeneity'], features['contrast'], features['variance']) == (1, 0, 0)
    assert np.isnan(features['correlation'])
    # Levels 0 and 3 in turn along x.
    stripes = np.broadcast_to(np.array([0, 3] * 4), (4, 4, 8))
    found = cooccurrence_features(cooccurrence(stripes, np.ones((4, 4, 8), bool), n_levels=4))
    alike = 8 / 26  # offsets without a step along x
    assert found['contrast'] == pytest.approx(9 * (1 - alike))
    assert found['homogeneity'] == pytest.approx(alike + (1 - alike) / 10)
    assert found['variance'] == pytest.approx(2.25)
    assert found['correlation'] == pytest.approx(2 * alike - 1)
    alone = cooccurrence(np.zeros((1, 1, 1), int), np.ones((1, 1, 1), bool), n_levels=4)
    assert np.isnan(list(cooccurrence_features(alone).values())).all()


def test_as_many_levels_as_a_byte_has() -> None:
    rng = np.random.default_rng(7)
    levels = rng.integers(0, 256, (3, 6, 6)).astype(np.uint8)
    mask = rng.random(levels.shape) < 0.7
    wide = cooccurrence(levels.astype(np.int64), mask, n_levels=300)
    np.testing.assert_allclose(cooccurrence(levels, mask, n_levels=256), wide[:256, :256])
