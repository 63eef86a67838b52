import numpy as np
import pytest

from sxt_jax.data.cell_maps import BOUNDARY, MASK, cell_codes, with_cell_maps
from sxt_jax.data.datasets import Example
from sxt_jax.data.phantom import boundaries_of

ROW = [0, 0, 0, 5, 5, 5, 5, 7, 7, 7, 7, -1, -1]


def test_boundaries_lie_on_either_side_of_where_ids_change():
    ids = np.tile(np.array(ROW, np.int32), (1, 4, 1))
    (row, *_), *_ = cell_codes(ids, boundary_px=1)
    np.testing.assert_array_equal(row, [0, 0, 2, 3, 1, 1, 3, 3, 1, 1, 1, -1, -1])
    (row, *_), *_ = cell_codes(ids, boundary_px=2)
    np.testing.assert_array_equal(row, [0, 2, 2, 3, 3, 3, 3, 3, 3, 1, 1, -1, -1])


def _slow(ids, reach):
    codes = np.zeros(ids.shape, np.int16)
    for z, y, x in np.ndindex(ids.shape):
        near = ids[z, max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
        codes[z, y, x] = MASK * (ids[z, y, x] > 0) + BOUNDARY * (near != ids[z, y, x]).any()
    return codes


@pytest.mark.parametrize('reach', [1, 3])
def test_slices_are_seen_alone(reach):
    ids = np.random.default_rng(0).integers(0, 3, (2, 3, 4)).repeat(5, 1).repeat(6, 2)
    np.testing.assert_array_equal(cell_codes(ids.astype(np.int32), boundary_px=reach),
                                  _slow(ids, reach))  # fmt: skip


def test_their_inner_half_is_the_boundary_of_the_simulation():
    """That is of the four neighbours: ours has corners as well, where only a diagonal differs."""
    ids = np.random.default_rng(1).integers(0, 3, (1, 3, 4)).repeat(5, 1).repeat(6, 2)
    ours = (cell_codes(ids.astype(np.int32), boundary_px=1) & BOUNDARY > 0) & (ids > 0)
    theirs = boundaries_of(ids)
    assert (ours | theirs).sum() == ours.sum()
    assert (ours & ~theirs).sum() < 0.1 * theirs.sum()


def test_maps_are_made_as_slices_are_read():
    ids = np.tile(np.array(ROW, np.int32), (1, 4, 1))
    example = Example('a', ids[..., None].astype(np.float32), ids)
    (made,) = with_cell_maps([example], boundary_px=2)
    whole = cell_codes(ids, boundary_px=2)
    assert made.shape == ids.shape
    assert made.labels.dtype == np.int16
    np.testing.assert_array_equal(made.labels[0:1, 1:3, 5:9], whole[:, 1:3, 5:9])
