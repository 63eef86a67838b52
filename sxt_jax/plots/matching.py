"""Scores of single cells as box plots, one box a method."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sxt_jax.core.errors import InputError
from sxt_jax.plots.figures import COLOURS, GRAY, new_figure, tidy

_MEDIAN, _MEAN = COLOURS[0], COLOURS[2]  # orange and green as in the paper
_WIDTH = 0.5  # of the distance between two boxes
_CHARACTERS = 15  # of a name have room below a box
_MOST_DOTTED = 1000  # cells of a method: the dots of more run together


def cell_score_boxes(
    scores: Mapping[str, Any], *, label: str = 'Dice per cell', title: str = ''
) -> Figure:
    """Box plots of a score of every cell, with the number of cells and the mean in figures.

    As figs. 2 and 3 of Eschweiler & Stegmaier 2021: the box spans the quartiles, the whiskers
    reach to the last cells within the 5th to 95th percentile, the orange line is the median and
    the green triangle the mean. Cells beyond the whiskers are dots where a method has at most
    1000 cells. A method without cells has an empty place.

    Args:
      scores: by name of method, [n] score of each cell in [0, 1], such as `matched_dice(…).dice`.
      label: of the vertical axis.
      title: above the figure.

    Raises:
      InputError: there is no method, or scores are not a list of numbers in [0, 1].
    """
    columns = {str(name): np.asarray(values, dtype=float) for name, values in scores.items()}
    _check(columns)
    figure = new_figure(max(3.0, 1.1 + 1.0 * len(columns)), 3.4)
    axes = figure.subplots()
    for place, values in enumerate(columns.values()):
        if len(values):
            _box(axes, place, values)
    axes.set_xticks(range(len(columns)), [_caption(*item) for item in columns.items()], fontsize=8)
    axes.set(ylabel=label, xlim=(-0.6, len(columns) - 0.4), ylim=(-0.02, 1.04))
    tidy(axes)
    _legend(figure)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def _check(columns: Mapping[str, np.ndarray]) -> None:
    if not columns:
        raise InputError('scores', 'no method', 'scores of one or more')
    for name, values in columns.items():
        if values.ndim != 1 or not ((values >= 0) & (values <= 1)).all():
            raise InputError(f'scores of {name}', _found(values), 'a list of values in [0, 1]')


def _found(values: np.ndarray) -> str:
    if values.ndim != 1:
        return f'shape {values.shape}'
    return f'values {values.min():g} … {values.max():g}'


def _box(axes: Axes, place: int, values: np.ndarray) -> None:
    parts = axes.boxplot(
        [values], positions=[place], whis=(5, 95), widths=_WIDTH, showmeans=True, showfliers=False,
        manage_ticks=False, medianprops={'color': _MEDIAN, 'lw': 1.6},
        meanprops={'marker': '^', 'mfc': _MEAN, 'mec': _MEAN, 'ms': 6, 'zorder': 4},
    )  # fmt: skip
    if len(values) > _MOST_DOTTED:
        return
    low, high = (line.get_ydata()[1] for line in parts['whiskers'])
    beyond = np.sort(values[(values < low) | (values > high)])
    # Even spacing instead of a random jitter: the same scores give the same figure.
    shift = (np.arange(len(beyond)) % 7 - 3) * _WIDTH / 20
    axes.scatter(place + shift, beyond, s=6, color=GRAY, alpha=0.5, lw=0)


def _caption(name: str, values: np.ndarray) -> str:
    mean = f'\nmean {values.mean():.3f}' if len(values) else ''
    return f'{textwrap.fill(name, _CHARACTERS)}\nn = {len(values):,}{mean}'


def _legend(figure: Figure) -> None:
    axes = figure.axes[0]
    axes.plot([], [], color=_MEDIAN, lw=1.6, label='median')
    axes.plot([], [], '^', color=_MEAN, ms=6, label='mean')
    axes.plot([], [], color='black', lw=1, label='5–95 %')
    figure.legend(loc='outside lower center', ncols=3, frameon=False, fontsize=8, columnspacing=1.2)
