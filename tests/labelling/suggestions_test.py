"""Slices to label next."""

from __future__ import annotations

import numpy as np
import pytest

from sxt_jax.labelling.suggestions import suggest_slices

SHAPE = (21, 8, 9)


def _uncertainty(**peaks):
    field = np.zeros(SHAPE, np.uint8)
    for name, value in peaks.items():
        field[int(name[1:])] = value
    return field


def test_the_most_uncertain_come_first_and_none_is_labelled():
    field = _uncertainty(z3=250, z10=100, z16=200)
    found = suggest_slices(field, {'xy': [0, 10, 20]}, n=5)
    assert [s.number for s in found] == [3, 16]  # nothing is left then
    assert found[0].voxels == pytest.approx(8 * 9 * 250 / 255)
    assert {s.plane for s in found} == {'xy'}
    assert [s.number for s in suggest_slices(field, {'xy': [0, 10, 20]}, n=1)] == [3]


def test_what_a_chosen_slice_settles_does_not_count_again():
    # Two neighbours are the worst, but one of them settles most of the other.
    field = _uncertainty(z4=254, z5=250, z15=120)
    assert [s.number for s in suggest_slices(field, {'xy': [0, 10, 20]}, n=2)] == [4, 15]


def test_slices_of_the_other_planes():
    field = np.zeros(SHAPE, np.uint8)
    field[:, :, 6] = 200
    field[:, 2, 6] = 254
    found = suggest_slices(field, {'xy': [10], 'xz': [4], 'yz': [1]}, n=1)
    assert (found[0].plane, found[0].number) == ('yz', 6)


def test_where_no_walk_came_does_not_count():
    field = _uncertainty(z3=255, z16=9)
    assert [s.number for s in suggest_slices(field, {'xy': [10]}, n=3)] == [16]


def test_nothing_is_uncertain():
    assert suggest_slices(np.zeros(SHAPE, np.uint8), {'xy': [3]}, n=4) == []
