"""The review sheet: what is tinted, how large, and what the chart says."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from sxt_jax.core.errors import InputError
from sxt_jax.plots import review_sheet
from sxt_jax.plots.review import OUTCOMES, ReviewedSlice, draw_slice


def _slice(shape: tuple[int, int]) -> ReviewedSlice:
    image = np.linspace(0, 1, shape[0] * shape[1]).reshape(shape)
    prediction, missed = np.zeros(shape, bool), np.zeros(shape, bool)
    prediction[:, : shape[1] // 3], missed[:, -shape[1] // 3 :] = True, True
    outcomes = {'true_positive': prediction, 'false_negative': missed}
    return draw_slice(image, prediction, outcomes, pixel_nm=(20, 10), title='a, slice 3')


def test_pictures_show_outcomes_in_their_colours() -> None:
    drawn = _slice((30, 60))
    assert drawn.outcome.shape == (30, 60, 3)
    gray = drawn.overlay[:, 30].astype(float)
    assert np.ptp(gray, axis=1).max() == 0
    for column, name in ((5, 'true_positive'), (-5, 'false_negative')):
        hue = np.array(to_rgb(OUTCOMES[name][1])) * 255
        away = np.abs(drawn.outcome[:, column] - hue).max(1)
        assert away.max() < 0.26 * 255
    assert drawn.extent == pytest.approx((0.6, 0.6))
    assert (drawn.outcome[:, -5] != drawn.overlay[:, -5]).any()


def test_large_slices_are_made_smaller() -> None:
    drawn = _slice((1500, 2000))
    assert drawn.overlay.shape == (500, 666, 3)
    assert drawn.extent == pytest.approx((20, 30))


def test_the_sheet_has_two_panels_a_slice_and_a_chart() -> None:
    percent = {'true_positive': np.array([60.0, 80]), 'false_negative': np.array([40.0, 20])}
    figure = review_sheet([_slice((30, 60))] * 3, percent)
    chart, *panels = figure.axes
    assert [text.get_text() for text in chart.texts] == ['70.0 ± 14.1 %', '30.0 ± 14.1 %']
    assert sum(bool(panel.get_images()) for panel in panels) == 6
    with pytest.raises(InputError, match='no slice'):
        review_sheet([], percent)
