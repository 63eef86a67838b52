"""Blocks part a volume; their regions are alike and reach as far as they can."""

from __future__ import annotations

import numpy as np
import pytest

from sxt_jax.core.blocks import make_blocks


@pytest.mark.parametrize('shape', [(10, 21, 7), (3, 5, 40), (16, 16)])
@pytest.mark.parametrize('halo', [0, 2, 9])
def test_cores_part_the_volume_and_regions_hold_their_halo(shape, halo):
    sides = (4, 5, 8)[: len(shape)]
    times = np.zeros(shape, int)
    regions = set()
    for block in make_blocks(shape, block=sides, halo=(halo,) * len(shape)):
        times[block.core.slices] += 1
        regions.add(block.region.shape)
        for axis, n in enumerate(shape):
            assert block.region.start[axis] <= max(0, block.core.start[axis] - halo)
            assert min(n, block.core.stop[axis] + halo) <= block.region.stop[axis] <= n
        inside = np.arange(times.size).reshape(shape)[block.region.slices]
        np.testing.assert_array_equal(
            inside[block.core_in_region.slices],
            np.arange(times.size).reshape(shape)[block.core.slices],
        )
    assert (times == 1).all()
    assert len(regions) == 1
