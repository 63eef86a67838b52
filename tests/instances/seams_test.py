"""Components found block by block are those of the whole, number for number."""

from __future__ import annotations

import numpy as np
import pytest

from sxt_jax.instances.seams import components_by_blocks
from sxt_jax.ops.components import connected_components


@pytest.mark.parametrize(
    ('shape', 'kind', 'connectivity'),
    [
        ((13, 22, 31), 'mask', 3),
        ((13, 22, 31), 'labels', 2),
        ((40, 50), 'mask', 1),
        ((40, 50), 'labels', 2),
    ],
)
def test_blocks_make_no_difference(shape, kind, connectivity):
    rng = np.random.default_rng(0)
    data = rng.random(shape) < 0.3 if kind == 'mask' else rng.integers(0, 3, shape, np.int32)
    expected = np.asarray(connected_components(data, connectivity=connectivity))
    for block in ((6, 8, 9), (13, 5, 64)):
        found = components_by_blocks(data, block=block[: len(shape)], connectivity=connectivity)
        np.testing.assert_array_equal(found, expected)


def test_a_component_winds_through_many_blocks():
    snake = np.zeros((9, 41), bool)
    snake[:, ::2] = True
    snake[0, 1::4] = snake[-1, 3::4] = True
    found = components_by_blocks(snake, block=(2, 3))
    np.testing.assert_array_equal(found, snake)


def test_nothing_at_all():
    assert not components_by_blocks(np.zeros((5, 6, 7), bool), block=(2, 3, 4)).any()
