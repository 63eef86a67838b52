"""Stacks split from their labelled slices on: cells that move by a known way, order, bad input."""

import numpy as np
import pytest
from scipy import ndimage

from sxt_jax.core.errors import InputError
from sxt_jax.propagation import Recipe, split_stack
from sxt_jax.propagation.moving import (
    go_on_with,
    gray_for_flow,
    labels_of,
    move,
    start,
)
from sxt_jax.propagation.stack import Step, in_steps, regions_of, steps_between

SIDE, DEPTH = 64, 7
PER_SLICE = 1.4  # pixels along x


def moving_cells() -> tuple[np.ndarray, np.ndarray]:
    """[z, y, x] gray values and ids of two cells that touch and move along x with their texture."""
    rng = np.random.default_rng(0)
    texture = 40 * ndimage.gaussian_filter(rng.standard_normal((SIDE, 2 * SIDE)), (2, 2))
    image, ids = np.empty((DEPTH, SIDE, SIDE), np.float32), np.zeros((DEPTH, SIDE, SIDE), np.int32)
    for z in range(DEPTH):
        shift = PER_SLICE * z
        image[z] = ndimage.shift(texture, (0, shift), order=3, mode='wrap')[:, :SIDE]
        edges = [round(edge + shift) for edge in (14, 28, 46)]
        ids[z, 12:50, edges[0] : edges[1]], ids[z, 12:50, edges[1] : edges[2]] = 1, 2
    return image * (1 + 0.3 * np.arange(DEPTH)[:, None, None]) + 100, ids  # brighter and brighter


@pytest.fixture(scope='module')
def scene():
    return moving_cells()


def maps_of(ids):
    """No boundary at all: cells look alike."""
    return np.stack([255 * (ids > 0), 0 * ids], -1).astype(np.uint8)


def run(scene, place, method, seeds='regions'):
    image, ids = scene
    recipe = Recipe(method, seeds)
    found = split_stack(image, {place: ids[place]}, maps_of(ids), first_island=9, recipe=recipe)
    slices = dict(found)
    assert sorted(slices) == list(range(DEPTH))
    return np.stack([slices[z] for z in range(DEPTH)])


@pytest.mark.parametrize('method', ['flow', 'overlay', 'frames'])
def test_cells_that_move_by_a_known_way_are_found_where_they_are(scene, method):
    _, ids = scene
    for place in (0, 4):
        found = run(scene, place, method)
        np.testing.assert_array_equal(found[place], ids[place])
        for z in range(DEPTH):
            wrong = found[z] != ids[z]
            assert wrong[12:50].mean() < (0.05 if method == 'flow' else 0.02), (place, z)
        if method != 'flow':
            np.testing.assert_array_equal(found > 0, ids > 0)


def test_without_flow_the_seed_stays_behind(scene):
    _, ids = scene
    alone, ours = run(scene, 0, 'mask', 'centroids'), run(scene, 0, 'frames')
    assert np.mean(alone[-1] != ids[-1]) > 2 * np.mean(ours[-1] != ids[-1])


def test_fractions_of_pixels_add_up():
    labels = np.zeros((4, 20), np.int32)
    labels[:, 5:9] = 3
    flows = np.zeros((4, 20, 2), np.float32)
    flows[..., 1] = -0.4
    straight = stepwise = start(labels)
    for _ in range(5):
        straight = move(straight, flows)
        stepwise = move(stepwise, flows)
        stepwise = go_on_with(labels_of(stepwise), stepwise)
    for moved in (straight, stepwise):
        np.testing.assert_array_equal(labels_of(moved), np.roll(labels, 2, axis=1))
    changed = go_on_with(np.zeros_like(labels), stepwise)
    assert not np.asarray(changed.displacement)[:, 7:11].any()  # nothing is known of what is new


def test_gray_values_do_not_depend_on_brightness():
    image = np.random.default_rng(0).integers(0, 1000, (30, 30))
    gray = gray_for_flow(image)
    np.testing.assert_allclose(gray_for_flow(3 * image + 700), gray, atol=1e-3)
    assert (gray.min(), gray.max()) == (0, 255)
    assert not gray_for_flow(np.full((4, 4), 7)).any()


def test_every_slice_goes_to_the_nearest_labelled_one():
    steps = steps_between([6, 1], 9)
    assert steps == [Step(1, 1, 2), Step(1, 2, 3), Step(1, 1, 0), Step(6, 6, 7), Step(6, 7, 8),
                     Step(6, 6, 5), Step(6, 5, 4)]  # fmt: skip
    assert steps_between([0], 1) == []


def test_regions_are_connected():
    labels = np.array([[1, 1, 0, 1], [0, 2, 2, 0]])
    assert len(np.unique(regions_of(labels))) == 4


def test_maps_are_uint8_or_shares():
    np.testing.assert_array_equal(
        in_steps(np.array([0.0, 0.5, 1.0, 2.0, np.nan])), [0, 128, 255, 255, 0]
    )
    with pytest.raises(InputError, match='int32'):
        in_steps(np.ones(3, np.int32))


def test_bad_input_is_told(scene):
    image, ids = scene
    maps = maps_of(ids)
    cases = (
        (image, {}, maps, 'no labelled slice'),
        (image, {DEPTH: ids[0]}, maps, 'slices 0 to 6'),
        (image[0], {0: ids[0]}, maps, r'expected \[z, y, x\]'),
        (image, {0: ids[0]}, None, 'mask and boundary'),
        (image, {0: ids[0]}, maps[..., :1], 'mask and boundary'),
        (np.where(np.arange(SIDE) == 3, np.nan, image), {0: ids[0]}, maps, 'NaN'),
    )
    for stack, labelled, given, told in cases:
        with pytest.raises(InputError, match=told):
            list(split_stack(stack, labelled, given, first_island=9, recipe=Recipe()))
