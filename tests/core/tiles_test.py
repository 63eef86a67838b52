"""Tile grids: full cover, even steps, alignment, z-rows; bad grids are refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sxt_jax.core.errors import InputError
from sxt_jax.core.tiles import axis_starts, make_grid


@st.composite
def axes(draw):
    align = draw(st.sampled_from([1, 1, 2, 4, 8]))
    tile = align * draw(st.integers(1, 8))
    return draw(st.integers(1, 200)), tile, draw(st.integers(0, tile - align)), align


@given(axes())
@settings(max_examples=300, deadline=None)
def test_tiles_of_an_axis_cover_it_evenly_with_the_overlap_asked_for(axis):
    size, tile, overlap, align = axis
    starts = np.array(axis_starts(size, tile, overlap=overlap, align=align))
    steps = np.diff(starts)
    assert starts[0] == 0
    assert not (starts % align).any()
    assert 0 <= starts[-1] + tile - size < max(align, tile - size + 1)
    if len(starts) > 1:
        assert steps.min() > 0
        assert steps.max() <= tile - overlap
        assert steps.max() - steps.min() <= align


@given(axes())
@settings(max_examples=100, deadline=None)
def test_no_grid_of_fewer_tiles_would_do(axis):
    size, tile, overlap, align = axis
    n = len(axis_starts(size, tile, overlap=overlap, align=align))
    reach = tile + (n - 2) * ((tile - overlap) // align * align)
    assert n == 1 or reach < size


def test_known_grid():
    grid = make_grid((256, 64, 40), tile=(64, 64, 64), overlap=(32, 32, 32))
    assert grid.starts == (tuple(range(0, 193, 32)), (0,), (0,))
    assert grid.padded_shape == (256, 64, 64)
    assert grid.padding == (0, 0, 24)
    assert grid.largest_step == (32, 32, 32)
    assert grid.n_tiles == 7


def test_rows_hold_every_tile_once_and_cover_the_volume():
    grid = make_grid((20, 17, 9), tile=(8, 8, 8), overlap=(2, 3, 4), align=(2, 1, 4))
    tiles = list(grid.tiles())
    assert len(tiles) == len(set(tiles)) == grid.n_tiles
    count = np.zeros(grid.padded_shape, int)
    for box in tiles:
        assert box.shape == (8, 8, 8)
        count[box.slices] += 1
    assert count.min() == 1
    for i, z in enumerate(grid.starts[0]):
        assert {box.start[0] for box in grid.row(i)} == {z}


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'shape': (0, 8, 8)}, 'empty'),
        ({'tile': (8, 8)}, '3 numbers'),
        ({'tile': (0, 8, 8)}, 'multiple of 1'),
        ({'tile': (10, 8, 8), 'align': (4, 4, 4)}, 'multiple of 4'),
        ({'overlap': (8, 0, 0)}, '0 to 7'),
        ({'overlap': (-1, 0, 0)}, '0 to 7'),
        ({'overlap': (6, 0, 0), 'align': (4, 4, 4)}, '0 to 4'),
    ],
)
def test_bad_grids_are_refused(changes, message):
    options = {'shape': (16, 16, 16), 'tile': (8, 8, 8), 'overlap': (0, 0, 0), **changes}
    shape = options.pop('shape')
    with pytest.raises(InputError, match=message):
        make_grid(shape, **options)
