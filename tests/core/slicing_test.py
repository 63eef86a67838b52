"""Slices in three orientations, without reading the volume."""

import numpy as np
import pytest

from sxt_jax.core.slicing import ORIENTATIONS, planes, turn


class Lazy:
    """An array that remembers how much of it was read."""

    def __init__(self, data):
        self.data, self.shape, self.dtype, self.n_read = data, data.shape, data.dtype, 0

    def __getitem__(self, index):
        part = self.data[index]
        self.n_read += part.size
        return part


@pytest.mark.parametrize('channels', [(), (2,)])
@pytest.mark.parametrize('order', ORIENTATIONS.values())
def test_lazy_volumes_are_turned_as_arrays_are(order, channels):
    data = np.random.default_rng(0).random((3, 4, 5, *channels))
    lazy = Lazy(data)
    seen, whole = turn(lazy, order), turn(data, order)
    assert seen.shape == whole.shape == (*(data.shape[a] for a in order), *channels)
    assert np.shares_memory(whole, data)
    np.testing.assert_array_equal(seen[1:3, :2], whole[1:3, :2])
    assert lazy.n_read == whole[1:3, :2].size
    np.testing.assert_array_equal(seen[1:2], whole[1:2])
    np.testing.assert_array_equal(seen[(slice(None),) * seen[:].ndim], whole)


def test_planes_are_named_by_the_axes_they_show():
    data = np.indices((3, 4, 5)).transpose(1, 2, 3, 0)  # each voxel holds its place
    for plane, order in ORIENTATIONS.items():
        one = turn(data, order)[2]
        assert {'zyx'[a] for a in range(3) if np.ptp(one[..., a])} == set(plane)
    assert set(planes((3, 4, 5))) == {'xy', 'xz', 'yz'}
    assert set(planes((1, 4, 5))) == {'xy'}
