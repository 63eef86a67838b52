"""Box plots of scores per cell draw the statistics they promise."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes

from sxt_jax.core.errors import InputError
from sxt_jax.plots.figures import save_figure
from sxt_jax.plots.matching import cell_score_boxes

SCORES = np.linspace(0, 1, 101) ** 2


def draw(scores: Mapping[str, object]) -> Axes:
    return cell_score_boxes(scores).axes[0]


def captions(axes: Axes) -> list[str]:
    return [tick.get_text() for tick in axes.get_xticklabels()]


def heights(axes: Axes, colour: str, marker: str = '') -> list[float]:
    """Where lines of this colour are drawn; those of the legend have no points."""
    lines = [
        np.asarray(line.get_ydata(), float)
        for line in axes.lines
        if str(line.get_marker()).strip('None') == marker
        and colour in (line.get_color(), line.get_markeredgecolor())
    ]
    return [float(y[0]) for y in lines if len(y)]


def test_box_whiskers_median_and_mean() -> None:
    axes = draw({'tanh': SCORES})
    assert heights(axes, '#E69F00') == pytest.approx([0.25])  # the square of the middle
    assert heights(axes, '#009E73', '^') == pytest.approx([SCORES.mean()])
    drawn = {round(float(y), 6) for line in axes.lines for y in np.asarray(line.get_ydata())}
    assert {0.0025, 0.0625, 0.5625, 0.9025} <= drawn
    (dots,) = axes.collections
    beyond = np.asarray(dots.get_offsets())[:, 1]
    np.testing.assert_allclose(beyond, [*SCORES[:5], *SCORES[-5:]])


def test_captions_tell_method_number_of_cells_and_mean() -> None:
    axes = draw({'heat': np.full(1200, 0.9), 'tanh': [0.25, 0.75], 'none': []})
    assert captions(axes) == [
        'heat\nn = 1,200\nmean 0.900',
        'tanh\nn = 2\nmean 0.500',
        'none\nn = 0',
    ]
    assert len(heights(axes, '#E69F00')) == 2  # nothing is drawn for a method without cells


def test_dots_of_many_cells_are_left_out() -> None:
    assert draw({'few': np.linspace(0, 1, 1000)}).collections
    assert not draw({'many': np.linspace(0, 1, 1001)}).collections


def test_written_whole(tmp_path: Path) -> None:
    path = tmp_path / 'dice.png'
    save_figure(path, cell_score_boxes({'tanh': SCORES}, label='IoU', title='cells'), dpi=60)
    assert path.read_bytes().startswith(b'\x89PNG')
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ('scores', 'message'),
    [
        ({}, 'no method'),
        ({'a': [0.5], 'b': [0.5, 1.5]}, r'scores of b: values 0.5 … 1.5'),
        ({'a': [0.5, np.nan]}, 'scores of a'),
        ({'a': [[0.5]]}, r'shape \(1, 1\)'),
        ({'a': 0.5}, r'shape \(\)'),
    ],
)
def test_bad_input(scores: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        cell_score_boxes(scores)
