"""Learning curves and figures of scores draw the numbers of their tables."""

import numpy as np
import pytest
from matplotlib.axes import Axes

from sxt_jax.core.errors import InputError
from sxt_jax.plots import learning_curves, predicted_against_true, scores_by_class


def line(axes: Axes, label: str) -> np.ndarray:
    return next(found for found in axes.lines if found.get_label() == label).get_xydata()


def test_curves_skip_rows_without_measurement_and_mark_the_best() -> None:
    step = np.arange(6)
    dice = np.array([np.nan, 0.5, np.nan, 0.9, np.nan, 0.8])
    table = {'step': step, 'loss': np.exp(-step), 'dice': dice}
    left, right = learning_curves(table).axes
    np.testing.assert_allclose(line(left, 'loss'), np.stack([step, np.exp(-step)], 1))
    assert left.get_yscale() == 'log'
    np.testing.assert_allclose(line(right, 'dice'), [[1, 0.5], [3, 0.9], [5, 0.8]])
    np.testing.assert_allclose(line(right, 'best 0.900'), [[3, 0.9]])


def test_curves_without_scores_or_with_negative_losses() -> None:
    (only,) = learning_curves({'step': [0, 1], 'loss': [1.0, -1.0]}).axes
    assert only.get_yscale() == 'linear'
    with pytest.raises(InputError, match='loss'):
        learning_curves({'step': [0, 1], 'dice': [0, 1]})


def test_one_dot_a_volume_beside_mean_and_sd() -> None:
    table = {
        'class': ['cell', 'cell', 'cell', 'bead', 'bead', 'bead'],
        'method': ['prediction', 'prediction', 'otsu', 'prediction', 'prediction', 'otsu'],
        'dice': [0.9, 0.8, 0.5, 0.7, np.nan, 0.4],
    }
    figure = scores_by_class(table)
    axes = figure.axes[0]
    dots = np.concatenate([c.get_offsets() for c in axes.collections if hasattr(c, 'get_sizes')])
    assert sorted(np.asarray(dots)[:, 1].tolist()) == [0.4, 0.5, 0.7, 0.8, 0.9]
    means = [
        float(np.asarray(c[0].get_ydata())[0]) for c in axes.containers if len(c[0].get_ydata())
    ]
    assert sorted(means) == pytest.approx([0.4, 0.5, 0.7, 0.85])
    assert [t.get_text() for t in axes.get_xticklabels()] == ['cell', 'bead']
    names = [t.get_text() for t in figure.legends[0].get_texts()]
    assert names == ['prediction', 'otsu', 'mean ± SD']


def test_predicted_against_true() -> None:
    table = {
        'class': ['cell', 'bead', 'cell'],
        'volume_um3_truth': [1.0, 2.0, np.nan],
        'volume_um3_prediction': [1.1, 1.9, np.nan],
    }
    axes = predicted_against_true(table, measure='volume_um3', label='volume (µm³)').axes[0]
    dots = {c.get_label(): np.asarray(c.get_offsets()).tolist() for c in axes.collections}
    assert dots['bead'] == [[2.0, 1.9]]
    assert dots['cell'][0] == [1.0, 1.1]
    assert axes.get_xlabel() == 'true volume (µm³)'
    with pytest.raises(InputError, match='surface_um2_prediction'):
        predicted_against_true(table, measure='surface_um2', label='')
