"""Boxes, centroids and centres of cells against loops over cells."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sxt_jax.core.errors import InputError
from sxt_jax.instances import cells as cells_module
from sxt_jax.instances.cells import centres, find_cells

FIXTURE = Path(__file__).parents[1] / 'fixtures' / 'cellpose_flows.npz'


def _centre(points: np.ndarray) -> np.ndarray:
    """As published, with exact fractions: distances are integers times 1 / n²."""
    n, sums = len(points), (points - points.min(0)).sum(0)
    if points.shape[1] == 2:
        sums = n * np.array([round(int(s) / n) for s in sums])
    distance = ((n * (points - points.min(0)) - sums) ** 2).sum(1)
    return points[distance.argmin()]


@pytest.mark.parametrize('shape', [(17, 23), (7, 9, 8)])
@pytest.mark.parametrize('n_ids', [4, 60])
def test_cells_equal_a_loop_over_cells(shape, n_ids, monkeypatch):
    monkeypatch.setattr(cells_module, 'SLAB', 100)  # several slabs
    labels = np.random.default_rng(0).integers(0, n_ids, shape)
    cells = find_cells(labels)
    np.testing.assert_array_equal(cells.ids, np.unique(labels)[1:])
    np.testing.assert_array_equal(cells.ids[cells.labels[labels > 0] - 1], labels[labels > 0])
    assert not cells.labels[labels == 0].any()
    centre = centres(cells)
    for i, number in enumerate(cells.ids):
        points = np.argwhere(labels == number)
        assert cells.count[i] == len(points)
        np.testing.assert_array_equal(cells.start[i], points.min(0))
        np.testing.assert_array_equal(cells.stop[i], points.max(0) + 1)
        np.testing.assert_allclose(cells.centroid[i], points.mean(0), rtol=1e-14)
        np.testing.assert_array_equal(centre[i], _centre(points))


@pytest.mark.parametrize('rank', ['2d', '3d'])
def test_centres_are_the_published_ones(rank):
    with np.load(FIXTURE) as file:
        cells = find_cells(file[f'{rank}/labels'])
        np.testing.assert_array_equal(centres(cells), file[f'{rank}/centres'])


@pytest.mark.parametrize(
    ('dtype', 'ids'),
    [
        (np.uint8, [3, 200]),
        (np.int16, [1, 2]),
        (np.int64, [7, 2**40]),
        (np.uint64, [1, 2**63]),
        (np.int32, [5, 2**31 - 1]),
    ],
)
@pytest.mark.parametrize('background', [True, False])
def test_ids_may_be_any(dtype, ids, background):
    labels = np.array([[0, 1, 1], [2, 2, 0]]) if background else np.array([[1, 1, 1], [2, 2, 2]])
    cells = find_cells(np.array([0, *ids], dtype)[labels])
    np.testing.assert_array_equal(cells.labels, labels)
    assert cells.labels.dtype == np.int32
    assert cells.ids.tolist() == ids


@pytest.mark.parametrize('shape', [(3, 4), (3, 4, 5), (0, 4), (3, 0, 5)])
def test_no_cells(shape):
    cells = find_cells(np.zeros(shape, np.uint16))
    assert len(cells) == 0
    assert cells.start.shape == cells.centroid.shape == centres(cells).shape == (0, len(shape))


@pytest.mark.parametrize(
    ('labels', 'message'),
    [
        (np.zeros((2, 2, 2, 1), int), 'shape'),
        (np.zeros((2, 2)), 'float64'),
        (np.zeros((2, 2), bool), 'bool'),
        (np.array([[0, -1]]), '-1'),
    ],
)
def test_what_is_no_label_image_is_refused(labels, message):
    with pytest.raises(InputError, match=message):
        find_cells(labels)
