"""Slices split into cells: answers by hand, what counts more, what is an island."""

import numpy as np
import pytest
from scipy import ndimage
from skimage.segmentation import watershed

from sxt_jax.core.errors import InputError
from sxt_jax.propagation import METHODS, Recipe, split_cells
from sxt_jax.propagation.cells import _grow, centroids, outlines

SHAPE = (24, 40)
FIRST = 10  # number of the first island
COMBINED = ('overlay', 'selective', 'frames')


def two_cells(border: int) -> np.ndarray:
    """Cells 1 and 2 of 16 × 16 pixels or so, which touch at that column."""
    labels = np.zeros(SHAPE, np.int32)
    labels[4:20, 4:border], labels[4:20, border:36] = 1, 2
    return labels


def maps_of(mask: np.ndarray, boundary: np.ndarray | None = None) -> np.ndarray:
    maps = np.zeros((*mask.shape, 2), np.uint8)
    maps[..., 0] = 255 * (mask > 0)
    if boundary is not None:
        maps[..., 1] = boundary
    return maps


def split(maps, moved, method='selective', seeds='regions', points=None, **options):
    points = centroids(moved) if points is None else points
    recipe = Recipe(method, seeds, **options)
    return split_cells(maps, moved, points, first_island=FIRST, recipe=recipe)


@pytest.mark.parametrize('method', COMBINED)
def test_moved_boundaries_split_cells_between_which_none_is_predicted(method):
    truth = two_cells(14)
    np.testing.assert_array_equal(split(maps_of(truth), truth, method), truth)
    published = split(maps_of(truth), truth, method, 'centroids')
    assert np.mean(published == truth) > 0.98


def test_without_a_boundary_seeds_alone_go_astray():
    truth = two_cells(12)
    found = split(maps_of(truth), truth, 'mask', 'centroids')
    assert np.mean(found == truth) < 0.98
    np.testing.assert_array_equal(found > 0, truth > 0)


@pytest.mark.parametrize('seeds', ['regions', 'centroids'])
def test_a_predicted_boundary_counts_more_than_a_moved_one(seeds):
    truth, moved = two_cells(20), two_cells(17)
    boundary = np.zeros(SHAPE, np.uint8)
    boundary[4:20, 19:21] = 200
    found = split(maps_of(truth, boundary), moved, 'selective', seeds)
    np.testing.assert_array_equal(found[:, :19], truth[:, :19])
    np.testing.assert_array_equal(found[:, 21:], truth[:, 21:])


def test_a_boundary_with_a_gap_parts_cells_beyond_the_gap_too():
    truth, moved = two_cells(20), two_cells(16)
    boundary = np.zeros(SHAPE, np.uint8)
    boundary[4:20, 19:21] = 200
    boundary[10:13] = 0
    found = split(maps_of(truth, boundary), moved, 'frames')
    rows = np.r_[4:9, 15:20]
    np.testing.assert_array_equal(found[rows, :19], truth[rows, :19])
    np.testing.assert_array_equal(found[rows, 21:], truth[rows, 21:])


@pytest.mark.parametrize('seeds', ['regions', 'centroids'])
def test_parts_without_a_seed_are_islands(seeds):
    moved = two_cells(14)
    mask, boundary = moved > 0, np.zeros(SHAPE, np.uint8)
    mask[0:3, 0:4] = True  # free
    mask[22:24, 30:36], boundary[22:24, 30:36] = True, 255  # so thin that all is boundary
    mask[21, 0:2] = True  # too small
    mask[8:14, 36:40], boundary[4:20, 35:37] = True, 255  # beside a cell, and parted from it
    found = split(maps_of(mask, boundary), moved, seeds=seeds, min_island_px=4)
    islands = {int(found[0, 0]), int(found[22, 30]), int(found[10, 39])}
    assert islands == {FIRST, FIRST + 1, FIRST + 2}
    assert (found[0:3, 0:4] == found[0, 0]).all()
    assert (found[22:24, 30:36] == found[22, 30]).all()
    assert not found[21, 0:2].any()
    assert set(np.unique(found)) == {0, 1, 2, *islands}


@pytest.mark.parametrize('seeds', ['regions', 'centroids'])
def test_a_thin_island_that_touches_a_cell_is_an_island(seeds):
    # All of it is boundary, and one pixel joins it to the boundary of cell 1.
    truth = two_cells(20)
    truth[:, 20:] = 0
    truth[10:14, 21:25] = 7
    mask = truth > 0
    mask[11, 20] = True
    mask[[0, 1, -2, -1]] = True  # more that is all boundary does not make rims wider
    boundary = np.where(mask & ~ndimage.binary_erosion(truth == 1, iterations=2), 255, 0)
    found = split(maps_of(mask, boundary), np.where(truth == 1, 1, 0), 'selective', seeds)
    np.testing.assert_array_equal(found[truth == 1], 1)
    island = np.unique(found[truth == 7])
    assert len(island) == 1
    assert island >= FIRST
    np.testing.assert_array_equal(found > 0, mask)


def test_a_part_is_of_the_cell_that_has_most_of_it():
    """Moved labels that reach a little into the next part do not bring their cell there."""
    moved = two_cells(20)
    moved[4:20, 20:23] = 1
    boundary = np.zeros(SHAPE, np.uint8)
    boundary[4:20, 19:21] = 255
    found = split(maps_of(moved, boundary), moved)
    assert (found[4:20, 21:36] == 2).all()
    assert (found[4:20, 4:19] == 1).all()


def test_a_cell_thinner_than_the_margin_is_kept():
    moved = two_cells(5)
    found = split(maps_of(moved), moved, margin_px=3)
    assert (found[4:20, 4] == 1).all()


def test_the_rim_of_the_markers_gives_the_watershed_of_all():
    rng = np.random.default_rng(0)
    mask = rng.random((40, 50)) < 0.9
    height = rng.integers(0, 6, mask.shape).astype(np.uint8)
    markers = np.zeros(mask.shape, np.int32)
    for number, (y, x) in enumerate(rng.integers(0, 34, (7, 2)), start=1):
        markers[y : y + 6, x : x + 6] = number
    expected = watershed(height, markers, mask=mask)
    np.testing.assert_array_equal(_grow(height, markers, mask), expected)


def test_centroids_and_outlines_of_cells():
    labels = two_cells(14)
    labels[4:20, 4:14] *= np.pad(np.zeros((12, 8), np.int32), ((2, 2), (2, 0)), constant_values=1)
    found = centroids(labels)
    assert list(found) == [1, 2]
    assert labels[found[1]] == 1  # of a horseshoe too
    assert found[2] in {(y, x) for y in (11, 12) for x in (24, 25)}
    whole = two_cells(14)
    lines = outlines(whole)
    assert lines.sum() == 2 * 16 + 2 * 32 - 4 + 2 * 14
    between = outlines(whole, between_cells=True)
    assert between.sum() == 2 * 16
    assert between[4:20, 13:15].all()


def test_nothing_in_the_maps_is_nothing_found():
    moved = two_cells(14)
    for method in METHODS:
        found = split(maps_of(np.zeros(SHAPE, bool)), moved, method)
        np.testing.assert_array_equal(found, moved if method == 'flow' else 0)


@pytest.mark.parametrize('wrong', [{'method': 'x'}, {'seeds': 'x'}, {'margin_px': 0}])
def test_bad_recipes_are_refused(wrong):
    with pytest.raises(InputError):
        Recipe(**wrong)


def test_centroids_of_cells_with_large_ids():
    labels = np.zeros((9, 9), np.int32)
    labels[2:5, 3:6] = 2**30
    assert centroids(labels) == {2**30: (3, 4)}
    assert centroids(np.full((3, 3), 5)) == {5: (1, 1)}
    assert centroids(np.zeros((3, 3), np.int32)) == {}
