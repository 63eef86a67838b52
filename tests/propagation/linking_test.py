"""Linking of regions over slices: answers by hand, brute force over masks, what must not matter."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from sxt_jax.core.errors import InputError
from sxt_jax.metrics import contingency_table
from sxt_jax.propagation import link, relabel
from sxt_jax.propagation.overlaps import _sparse, count_pairs, find_links
from sxt_jax.propagation.tracks import _look_up


def stack_of(*slices: dict[int, tuple[int, int]], n: int = 30) -> np.ndarray:
    """[z, 2, n]: of each slice, by id the first column of a region and the one past its last."""
    stack = np.zeros((len(slices), 2, n), np.int32)
    for labels, regions in zip(stack, slices, strict=True):
        for number, (low, high) in regions.items():
            labels[:, low:high] = number
    return stack


def linked(stack: np.ndarray, cells: dict[int, np.ndarray] | None = None, **options) -> np.ndarray:
    """The stack with its new numbers."""
    return np.stack(list(relabel(stack, link(stack, cells=cells, **options))))


def numbers(stack: np.ndarray, cells: dict[int, np.ndarray] | None = None, **options) -> list[dict]:
    """By id the new number of each region of every slice."""
    tracks = link(stack, cells=cells, **options)
    of_slices = (tracks.of_slice(z) for z in range(len(stack)))
    return [dict(zip(ids.tolist(), new.tolist(), strict=True)) for ids, new in of_slices]


MEETING = stack_of(
    {3: (0, 10)},
    {5: (0, 10), 2: (14, 18)},  # an island comes up
    {1: (0, 10), 4: (13, 17)},
    {9: (0, 16)},  # and meets the cell
    {2: (0, 9), 7: (12, 15)},  # and breaks off
    {8: (0, 10), 6: (12, 15), 3: (25, 28)},  # another one stays alone
)


@pytest.mark.parametrize('labelled', [0, 3, 5])
def test_an_island_takes_the_number_of_its_cell_before_and_after_they_meet(labelled):
    cells = {labelled: np.where(np.arange(30) < 10, 70, 0) * np.ones((2, 1), np.int32)}
    found = numbers(MEETING, cells)
    assert found[:5] == [{3: 70}, {2: 70, 5: 70}, {1: 70, 4: 70}, {9: 70}, {2: 70, 7: 70}]
    assert found[5] == {3: 71, 6: 70, 8: 70}
    assert numbers(MEETING, cells, keep_islands=False)[5] == {3: 0, 6: 70, 8: 70}


def test_the_stack_gets_the_numbers():
    expected = np.where(MEETING > 0, 70, 0)
    expected[5, :, 25:28] = 71
    cells = {0: np.where(MEETING[0] > 0, 70, 0)}
    np.testing.assert_array_equal(linked(MEETING, cells), expected)


MERGING = stack_of(
    {1: (0, 10), 2: (12, 20)},
    {1: (0, 10), 2: (11, 20)},
    {1: (0, 20)},  # two cells that could not be told apart
    {1: (0, 10), 2: (11, 20)},
    {1: (0, 10), 2: (12, 20)},
)


def test_cells_that_merge_keep_their_numbers():
    found = numbers(MERGING, {0: MERGING[0] * 5})
    assert found[:3] == [{1: 5, 2: 10}, {1: 5, 2: 10}, {1: 5}]  # the greater IoU
    assert found[3:] == [{1: 5, 2: 5}, {1: 5, 2: 5}]  # nothing says which half is which
    found = numbers(MERGING, {0: MERGING[0] * 5, 4: MERGING[4] * 5})
    assert found == [{1: 5, 2: 10}] * 2 + [{1: 5}] + [{1: 5, 2: 10}] * 2


def test_an_island_between_two_cells_goes_to_the_one_that_it_touches_more():
    stack = stack_of(
        {1: (0, 10), 2: (15, 30)},
        {1: (0, 9), 2: (16, 30), 3: (10, 15)},
        {1: (0, 12), 2: (14, 30)},  # two columns of the island go to one, one to the other
    )
    cells = {0: stack[0] * 10}
    assert numbers(stack, cells)[1] == {1: 10, 2: 20, 3: 10}
    mirrored = {0: cells[0][:, ::-1]}
    assert numbers(stack[:, :, ::-1], mirrored)[1] == {1: 10, 2: 20, 3: 10}


def test_regions_of_labelled_slices_are_of_the_cell_with_most_pixels():
    stack = stack_of({1: (0, 10), 2: (12, 20), 3: (22, 30)})
    cells = stack_of({7: (0, 4), 8: (4, 13), 9: (18, 22)})[0]
    # 1: four columns of 7, six of 8; 2: five of none; 3: none
    assert numbers(stack, {0: cells}) == [{1: 8, 2: 10, 3: 11}]


def test_without_cells_regions_go_on_from_the_slice_before():
    assert numbers(MERGING) == [{1: 1, 2: 2}] * 2 + [{1: 1}] + [{1: 1, 2: 1}] * 2
    assert numbers(MEETING)[2] == {1: 1, 4: 2}


def test_ties_go_to_the_smaller_id():
    stack = stack_of({4: (0, 5), 9: (6, 11)}, {1: (0, 11)}, {6: (6, 11), 7: (0, 5)})
    assert numbers(stack) == [{4: 1, 9: 2}, {1: 1}, {6: 1, 7: 1}]
    assert find_links(contingency_table(stack[1], stack[0])).is_predecessor.tolist() == [1, 0]
    assert find_links(contingency_table(stack[2], stack[1])).is_successor.tolist() == [1, 0]


def test_slices_without_regions_end_tracks():
    stack = stack_of({}, {2: (0, 5)}, {}, {2: (0, 5)}, {})
    assert numbers(stack) == [{}, {2: 1}, {}, {2: 2}, {}]
    assert numbers(stack, {1: stack[1]})[3] == {2: 3}
    assert link(stack[:1]).track.size == 0


def random_stack(seed: int) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """Connected pieces of a smooth random solid, and cells in two slices; ids are mixed."""
    rng = np.random.default_rng(seed)
    solid = ndimage.gaussian_filter(rng.standard_normal((12, 50, 60)), (1.5, 2, 2)) > 0.04
    stack = np.zeros(solid.shape, np.int32)
    for labels, mask in zip(stack, solid, strict=True):
        pieces, n = ndimage.label(mask)
        labels[:] = np.concatenate([[0], rng.permutation(n) + 1])[pieces]
    cells = {z: np.where(stack[z] % 3 == 0, stack[z] // 3 + 2 * z, 0) for z in (3, 8)}
    return stack, cells


def same_up_to_islands(one: np.ndarray, other: np.ndarray, largest_cell: int) -> bool:
    is_cell = (one <= largest_cell) | (other <= largest_cell)
    pairs = np.unique(np.stack([one[~is_cell], other[~is_cell]]), axis=1)
    one_to_one = all(len(np.unique(row)) == pairs.shape[1] for row in pairs)
    return one_to_one and np.array_equal(one[is_cell], other[is_cell])


def test_names_and_directions_do_not_matter():
    stack, cells = random_stack(0)
    found, largest = linked(stack, cells), max(c.max() for c in cells.values())
    assert len(np.unique(found[found <= largest])) > 10
    assert len(np.unique(found[found > largest])) > 3
    renamed = np.where(stack > 0, 1000 - 7 * stack, 0)
    assert same_up_to_islands(linked(renamed, cells), found, largest)
    turned = {z: labels.T for z, labels in cells.items()}
    assert same_up_to_islands(linked(stack.swapaxes(1, 2), turned).swapaxes(1, 2), found, largest)
    last = len(stack) - 1
    mirrored = {last - z: labels for z, labels in cells.items()}
    assert same_up_to_islands(linked(stack[::-1], mirrored)[::-1], found, largest)


def test_slices_may_stream_and_be_renumbered_in_parts():
    stack, cells = random_stack(1)
    tracks = link((labels.astype(np.uint16) for labels in stack), cells=cells)
    whole = linked(stack, cells)
    first = list(relabel(iter(stack[:5]), tracks))
    rest = list(relabel((jnp.asarray(labels) for labels in stack[5:]), tracks, first=5))
    np.testing.assert_array_equal(np.stack([np.asarray(labels) for labels in first + rest]), whole)
    assert tracks.n_pixels.sum() == (stack > 0).sum()
    assert first[0].dtype == np.int32


def test_ids_may_be_wide():
    stack, cells = random_stack(2)
    wide = np.where(stack > 0, stack.astype(np.int64) << 33, 0)
    np.testing.assert_array_equal(linked(wide, cells), linked(stack, cells))


def test_an_island_that_is_the_best_match_of_none_joins_the_cell_it_meets():
    # Island 2 goes on as island 3, and overlaps cell 1 by a pixel: both have better matches.
    stack = stack_of({1: (0, 10), 2: (12, 18)}, {1: (0, 13), 3: (14, 18)})
    assert numbers(stack, {0: np.where(stack[0] == 1, 7, 0)}) == [{1: 7, 2: 7}, {1: 7, 3: 7}]


def test_links_are_the_overlaps_of_masks():
    stack, _ = random_stack(3)
    before, after = stack[4], stack[5]
    links = find_links(contingency_table(after, before))
    ids = [np.unique(labels)[1:] for labels in (before, after)]
    masks = (before == ids[0][:, None, None])[:, None], after == ids[1][:, None, None]
    iou = (masks[0] & masks[1]).sum((2, 3)) / (masks[0] | masks[1]).sum((2, 3))
    found = np.zeros_like(iou)
    found[links.before, links.after] = links.iou
    np.testing.assert_array_equal(found, iou)
    predecessor, successor = iou.argmax(0), iou.argmax(1)
    chosen = links.is_successor
    np.testing.assert_array_equal(successor[links.before[chosen]], links.after[chosen])
    assert sorted(links.before[chosen]) == np.flatnonzero(iou.max(1) > 0).tolist()
    chosen = links.is_predecessor
    np.testing.assert_array_equal(predecessor[links.after[chosen]], links.before[chosen])
    assert sorted(links.after[chosen]) == np.flatnonzero(iou.max(0) > 0).tolist()


def test_pairs_are_counted_on_accelerators_as_on_the_host():
    stack, _ = random_stack(4)
    before, after = stack[6] * 2, stack[7]
    counts = count_pairs(jnp.asarray(before), jnp.asarray(after), n_before=128, n_after=64)
    found, expected = _sparse(np.asarray(counts)), contingency_table(after, before)
    for name in vars(expected):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
    table = np.arange(64, 0, -1, dtype=np.int32)
    new = _look_up(table, jnp.asarray(after)), _look_up(table, after)
    np.testing.assert_array_equal(*new)


@pytest.mark.parametrize(
    ('slices', 'cells', 'told'),
    [
        ([], None, 'no slices'),
        ([np.zeros((2, 2, 2), int)], None, 'slice 0'),
        ([np.zeros((2, 2), int), np.zeros((2, 3), int)], None, 'slice 1'),
        ([np.zeros((2, 2))], None, 'float64'),
        ([np.full((2, 2), -1)], None, '-1'),
        ([np.zeros((2, 2), int)], {1: np.zeros((2, 2), int)}, 'labelled slice 1'),
        ([np.zeros((2, 2), int)], {0: np.zeros((2, 3), int)}, 'labelled slice 0'),
        ([np.ones((2, 2), int)], {0: np.full((2, 2), 1 << 31)}, 'below 2³¹'),
    ],
)
def test_bad_input_is_told(slices, cells, told):
    with pytest.raises(InputError, match=told):
        link(slices, cells=cells)


def test_slices_that_were_not_linked_are_refused():
    tracks = link(MEETING)
    for wrong in (MEETING[:1] * 2, np.where(MEETING[:1] > 0, 2, 0), MEETING[[0, 0]] + 1):
        with pytest.raises(InputError, match='not linked'):
            list(relabel(wrong, tracks))
    with pytest.raises(InputError, match='slice 6'):
        list(relabel(MEETING[[5, 5]], tracks, first=5))
    wide = MEETING[:1].astype(np.int64) << 39
    with pytest.raises(InputError, match='not linked'):
        list(relabel(wide * 2, link(wide)))
