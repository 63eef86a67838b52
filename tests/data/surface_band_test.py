import dataclasses

import numpy as np
import pytest

from sxt_jax.core.box import Box
from sxt_jax.core.errors import InputError
from sxt_jax.core.tiles import make_grid
from sxt_jax.data.classes import IGNORE_INDEX
from sxt_jax.data.datasets import Example, crop_example
from sxt_jax.data.patches import Sampling
from sxt_jax.data.pipeline import PatchStream
from sxt_jax.data.stage_maps import enlarge_window
from sxt_jax.data.surface_band import Band, find_borders

RNG = np.random.default_rng(0)
CLASSES = np.zeros((7, 6, 8), int)  # two boxes that touch, of two classes
CLASSES[2:5, 1:3, 2:6] = 1
CLASSES[2:5, 3:5, 2:6] = 2
MAPS = np.where(CLASSES[..., None] == np.arange(3), 200, 25).astype(np.uint8)


def slow_borders(classes):
    found = np.zeros(classes.shape, bool)
    for place in np.ndindex(classes.shape):
        near = tuple(slice(max(0, i - 1), i + 2) for i in place)
        found[place] = len(np.unique(classes[near])) > 1
    return found


def slow_band(borders, factors, reach, shape):
    """Voxels of the finer grid with a border voxel not further than `reach` along any axis."""
    large = np.stack([
        borders[tuple(i // f for i, f in zip(place, factors, strict=True))]
        for place in np.ndindex(shape)
    ]).reshape(shape)  # fmt: skip
    found = np.zeros(shape, bool)
    for place in np.argwhere(large):
        found[tuple(slice(max(0, i - reach), i + reach + 1) for i in place)] = True
    return found


def test_borders_are_where_a_neighbour_has_another_class(monkeypatch):
    expected = slow_borders(CLASSES)
    assert 0 < expected.sum() < expected.size
    np.testing.assert_array_equal(find_borders(MAPS), expected)
    monkeypatch.setattr('sxt_jax.data.surface_band._SLAB_BYTES', 1000)
    np.testing.assert_array_equal(find_borders(MAPS), expected)


def test_between_enlarged_probabilities_classes_change_near_borders_only():
    maps = RNG.integers(0, 256, (5, 5, 5, 3)).astype(np.uint8)
    maps[:3] = (250, 3, 2)
    shape = (15, 15, 15)
    large = enlarge_window(maps, [(0, n) for n in shape], (1 / 3,) * 3).argmax(-1)
    changes = slow_borders(large)
    near = slow_band(find_borders(maps), (3, 3, 3), 1, shape)
    assert changes.any()
    assert not near.all()
    assert not (changes & ~near).any()


@pytest.mark.parametrize(('factors', 'reach'), [((2, 2, 2), 1), ((1, 2, 3), 0), ((1, 1, 1), 0)])
def test_the_tiles_that_touch_the_band_are_chosen(factors, reach):
    shape = tuple(n * f - (f > 1) for n, f in zip(CLASSES.shape, factors, strict=True))
    borders = slow_borders(CLASSES)
    borders[:4] = borders[:, :, 5:] = False
    band = Band(borders, tuple(1 / f for f in factors), reach)
    expected = slow_band(borders, factors, reach, shape)
    np.testing.assert_array_equal(band.voxels(0, shape[0], shape[1:]), expected)
    grid = make_grid(shape, tile=(4, 4, 4), overlap=(2, 2, 2))
    chosen = [expected[tile.slices].any() for tile in grid.tiles()]
    assert 0 < sum(chosen) < len(chosen)
    np.testing.assert_array_equal(band.choose_tiles(grid).ravel(), chosen)
    part = Box((1, 2, 1), shape)
    cropped = band.moved(part.start).voxels(0, part.shape[0], part.shape[1:])
    np.testing.assert_array_equal(cropped, expected[part.slices])


def test_patches_are_drawn_around_labelled_voxels_of_the_band():
    borders = slow_borders(CLASSES)
    band = Band(np.pad(borders, 3), (1, 1, 1), 1)
    shape = band.borders.shape
    labels = np.full(shape, IGNORE_INDEX, np.int16)
    labels[6], labels[:, 7] = 0, 1
    image = np.zeros((*shape, 1), np.float32)
    example = Example('a', image, labels, band=band)
    near = np.argwhere(band.voxels(0, shape[0], shape[1:]) & (labels != IGNORE_INDEX))
    np.testing.assert_array_equal(band.positions(labels, seed=0), near)
    sampling = Sampling((2, 2, 2), 'random')
    nothing = dataclasses.replace(example, band=Band(np.zeros_like(borders), (1, 1, 1), 1))
    stream = PatchStream([nothing, example], sampling=sampling, batch_size=4, seed=0, n_classes=2)
    drawn = [stream._draw(i) for i in range(50)]
    for e, box, _ in drawn:
        assert e is example
        assert (np.clip(near - 1, 0, np.array(shape) - 2) == box.start).all(1).any()
    assert len({box.start for _, box, _ in drawn}) > 20
    part = crop_example(example, Box((4, 0, 0), shape))
    np.testing.assert_array_equal(
        part.band.positions(part.labels, seed=0), near[near[:, 0] >= 4] - (4, 0, 0)
    )
    with pytest.raises(InputError, match='no labelled voxel near a surface'):
        PatchStream([nothing], sampling=sampling, batch_size=4, seed=0, n_classes=2)


def test_of_many_positions_a_few_are_kept(monkeypatch):
    monkeypatch.setattr('sxt_jax.data.surface_band._POSITIONS', 50)
    monkeypatch.setattr('sxt_jax.data.surface_band._SLAB_BYTES', 16 * 100)
    band = Band(np.ones((20, 10, 10), bool), (1, 1, 1), 0)
    found = band.positions(np.zeros((20, 10, 10), np.int16), seed=0)
    assert len(np.unique(found, axis=0)) == len(found) == 50
    assert found[:, 0].min() < 5
    assert found[:, 0].max() > 14
    np.testing.assert_array_equal(found, band.positions(np.zeros((20, 10, 10)), seed=0))
