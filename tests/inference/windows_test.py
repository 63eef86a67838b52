"""Windows: positive where tiles count, zero in margins, known forms, never a hole in the volume."""

import numpy as np
import pytest
from scipy import ndimage

from sxt_jax.core.tiles import make_grid
from sxt_jax.inference.windows import BLENDS, axis_window, combine, grid_windows


@pytest.mark.parametrize('blend', BLENDS)
@pytest.mark.parametrize('overlap', [0, 1, 4, 8, 15])
def test_every_voxel_counts_without_margins(blend, overlap):
    window = axis_window(16, overlap, blend=blend, margin=0, first=False, last=False)
    assert window.min() > 0
    assert window.max() <= 1
    np.testing.assert_allclose(window, window[::-1])


@pytest.mark.parametrize('blend', BLENDS)
def test_margins_count_only_at_the_ends_of_the_volume(blend):
    options = {'blend': blend, 'margin': 3}
    inside = axis_window(16, 8, first=False, last=False, **options)
    assert (inside[:3] == 0).all()
    assert (inside[-3:] == 0).all()
    assert (inside[3:-3] > 0).all()
    assert (axis_window(16, 8, first=True, last=False, **options)[:13] > 0).all()
    assert (axis_window(16, 8, first=False, last=True, **options)[3:] > 0).all()


@pytest.mark.parametrize(('overlap', 'margin'), [(8, 0), (4, 0), (8, 2), (6, 3)])
def test_tapered_cosine_windows_add_up_to_one_over_their_overlap(overlap, margin):
    step = 16 - overlap
    total = np.zeros(5 * step + 16)
    for i in range(6):
        window = axis_window(16, overlap, blend='cosine', margin=margin, first=False, last=False)
        total[i * step : i * step + 16] += window
    np.testing.assert_allclose(total[16:-16], 1, atol=1e-6)


def test_distance_weights_are_the_euclidean_distance_to_the_border():
    shape = (6, 9, 8)
    windows = [
        axis_window(n, 0, blend='distance', margin=0, first=False, last=False) * n / 2
        for n in shape
    ]
    inside = np.pad(np.ones(shape, bool), 1)
    expected = ndimage.distance_transform_edt(inside)[1:-1, 1:-1, 1:-1] - 0.5
    np.testing.assert_allclose(combine(*windows, 'distance'), expected, rtol=1e-6)


@pytest.mark.parametrize('blend', BLENDS)
def test_weights_of_a_grid_leave_no_hole(blend):
    grid = make_grid((23, 9, 40), tile=(8, 10, 12), overlap=(4, 2, 6), align=(2, 1, 4))
    windows = grid_windows(grid, blend=blend, margin=(2, 1, 3))
    for axis, (starts, n) in enumerate(zip(grid.starts, grid.padded_shape, strict=True)):
        total = np.zeros(n)
        for start, window in zip(starts, windows[axis], strict=True):
            total[start : start + len(window)] += window
        assert total.min() > 0
