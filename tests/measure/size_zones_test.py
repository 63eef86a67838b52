"""Size zones against a slow search, and their features by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from sxt_jax.measure.size_zones import SizeZones, size_zone_features, size_zones


def _slow_zones(levels: np.ndarray, mask: np.ndarray) -> list[tuple[int, int]]:
    """Level and size of every zone, each spread from one voxel over its neighbours."""
    left = {tuple(place) for place in np.argwhere(mask)}
    zones = []
    while left:
        front = [left.pop()]
        level, size = int(levels[front[0]]), 0
        while front:
            place = front.pop()
            size += 1
            for step in itertools.product((-1, 0, 1), repeat=3):
                other = tuple(a + b for a, b in zip(place, step, strict=True))
                if other in left and levels[other] == level:
                    left.remove(other)
                    front.append(other)
        zones.append((level, size))
    return sorted(zones)


def test_zones_agree_with_a_slow_search() -> None:
    rng = np.random.default_rng(0)
    levels = rng.integers(0, 6, (6, 7, 8)).astype(np.uint8)
    mask = rng.random(levels.shape) < 0.8
    zones = size_zones(levels, mask)
    found = sorted(zip(zones.levels.tolist(), zones.sizes.tolist(), strict=True))
    assert found == _slow_zones(levels, mask)
    assert zones.sizes.sum() == mask.sum()


def test_features_by_hand() -> None:
    features = size_zone_features(SizeZones(np.array([0, 3, 3]), np.array([6, 1, 2])))
    assert features['zones_per_voxel'] == pytest.approx(3 / 9)
    assert features['small_zone_high_gray'] == pytest.approx((1 / 36 + 16 + 16 / 4) / 3)
    assert features['zone_size_centroid_voxels'] == pytest.approx(3)
    assert features['zone_gray_centroid'] == pytest.approx((1 + 4 + 4) / 3)
