"""The figure of learning curves over tomograms draws the numbers of its table."""

import numpy as np
import pytest

from sxt_jax.core.errors import InputError
from sxt_jax.metrics import LearningCurve
from sxt_jax.plots import training_set_curves

POINTS = {
    'method': np.array(['a', 'a', 'a', 'b', 'a']),
    'class': np.array(['cell', 'cell', 'cell', 'cell', 'bead']),
    'n_tomograms': np.array([2.0, 2.0, 8.0, 8.0, 8.0]),
    'dice': np.array([0.5, 0.7, 0.9, 0.8, 0.95]),
}


def test_points_means_curves_and_targets() -> None:
    curve = LearningCurve(0.2, 0.5, 0.0)
    figure = training_set_curves(POINTS, {('a', 'cell'): curve}, targets=[0.85], needed=[12, 99])
    cell, bead = figure.axes
    assert [panel.get_title() for panel in figure.axes] == ['cell', 'bead']
    lines = [np.asarray(line.get_xydata()) for line in cell.lines]
    shown = {tuple(xy) for line in lines for xy in line.round(6).tolist()}
    assert {(2, 0.5), (2, 0.7), (8, 0.9), (8, 0.8)} <= shown
    assert (2, 0.6) in shown  # the mean
    (fitted,) = (line for line in lines if len(line) > 100)
    np.testing.assert_allclose(fitted[:, 1], curve(fitted[:, 0]))
    assert fitted[-1, 0] == pytest.approx(1.05 * 12)  # 99 is too far to be shown
    bars = np.concatenate([c.get_segments() for c in cell.collections])
    heights = np.ptp(bars[:, :, 1], axis=1) / 2
    assert heights.max() == pytest.approx(np.std([0.5, 0.7], ddof=1))
    for panel in (cell, bead):
        assert any(np.all(np.asarray(line.get_ydata()) == 0.85) for line in panel.lines)
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ['a', 'b']


def test_bars_of_single_rows_are_the_sd_of_the_table() -> None:
    points = {**POINTS, 'sd': np.array([0.3, 0.3, 0.04, 0.01, 0.02])}
    figure = training_set_curves(points, {})
    segments = np.concatenate([c.get_segments() for c in figure.axes[0].collections])
    heights = set((np.ptp(segments[:, :, 1], axis=1) / 2).round(6).tolist())
    assert {0.04, 0.01} <= heights
    assert 0.3 not in heights


def test_a_missing_column_is_told() -> None:
    with pytest.raises(InputError, match='n_tomograms'):
        training_set_curves({'method': [], 'class': [], 'dice': []}, {})
