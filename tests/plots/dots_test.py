"""Dot plots: what they show and what they refuse."""

import numpy as np
import pytest

from sxt_jax.core.errors import InputError
from sxt_jax.plots import dot_panels
from sxt_jax.plots.dots import mean_and_sd


def test_a_dot_an_object_and_mean_and_sd() -> None:
    values = np.append(np.random.default_rng(0).normal(300, 50, 60), np.nan)
    panels = {'axis_nm': ('first axis', 'nm'), 'ratio': ('ratio', '')}
    figure = dot_panels({'axis_nm': values, 'ratio': np.ones(3)}, panels, n_columns=4)
    first, second = figure.axes
    dots = first.collections[0].get_offsets()
    np.testing.assert_allclose(np.sort(dots[:, 1]), np.sort(values[:60]))
    assert np.abs(dots[:, 0]).max() <= 0.41
    assert len(np.unique(np.round(dots, 6), axis=0)) == 60
    (mean,) = first.lines[0].get_ydata()
    assert mean == pytest.approx(np.nanmean(values))
    assert f'{np.nanmean(values):.0f} ± {np.nanstd(values, ddof=1):.0f} nm' in first.get_title()
    assert '1.0 ± 0.0' in second.get_title()


@pytest.mark.parametrize(
    ('values', 'text'),
    [
        ([113, 302, 491], '302 ± 189'),
        ([0.0050, 0.0220, 0.0390], '0.022 ± 0.017'),
        ([24.9, 30.2, 35.5], '30.2 ± 5.3'),
        ([0.25], '0.25'),
        ([], '–'),
    ],
)
def test_digits(values: list, text: str) -> None:
    assert mean_and_sd(np.array(values, float)) == text


def test_missing_columns_are_told() -> None:
    with pytest.raises(InputError, match='volume'):
        dot_panels({'axis': [1.0]}, {'volume': ('volume', 'µm³')})
