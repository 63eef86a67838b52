"""Dot plots by data set: what they show and what they refuse."""

import numpy as np
import pytest
from matplotlib.collections import PathCollection

from sxt_jax.core.errors import InputError
from sxt_jax.plots.features import feature_panels


def test_data_sets_stand_side_by_side() -> None:
    values = np.array([0.95, 0.96, 0.97, 0.80, 0.82, np.nan])
    table = {'name': ['PTT.tif'] * 3 + ['Bx1_with_a_long_name.tif'] * 3, 'solidity': values}
    (axes,) = feature_panels(table, {'solidity': ('solidity', '')}).axes
    assert [t.get_text() for t in axes.get_xticklabels()] == ['PTT', 'Bx1_with_…']
    dots = [c for c in axes.collections if isinstance(c, PathCollection)]
    first, second = (np.asarray(c.get_offsets()) for c in dots)
    np.testing.assert_allclose(np.sort(first[:, 1]), values[:3])
    np.testing.assert_allclose(np.sort(second[:, 1]), values[3:5])
    assert np.abs(first[:, 0]).max() < 0.5 < second[:, 0].min()
    low, high = axes.get_ylim()
    assert 0.7 < low < 0.8
    assert 0.97 < high < 1


def test_one_data_set_is_told_in_numbers() -> None:
    table = {'name': ['a'] * 2, 'flat': [0.0, 0.0], 'none': [np.nan] * 2}
    flat, none = feature_panels(table, {'flat': ('flat', 'nm'), 'none': ('none', '')}).axes
    assert '0 ± 0 nm' in flat.get_title()
    assert '–' in none.get_title()


def test_missing_columns_are_told() -> None:
    with pytest.raises(InputError, match='no column'):
        feature_panels({'name': []}, {'solidity': ('solidity', '')})
