"""Learning curves: loss and validation score over the training steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from sxt_jax.core.errors import InputError
from sxt_jax.plots.figures import GRAY, colour, new_figure, tidy

_MOST_LINES = 8


def learning_curves(
    columns: Mapping[str, Any],
    *,
    x: str = 'step',
    losses: Sequence[str] = ('loss',),
    scores: Sequence[str] = ('dice',),
    title: str = '',
) -> Figure:
    """Losses on a logarithmic scale beside validation scores, with the best step marked.

    Args:
      columns: the table of metrics, one array a column. A column has a value only in the rows
        where it was measured, NaN elsewhere.
      x: the column along the horizontal axis.
      losses: columns of the left panel.
      scores: columns of the right panel, from 0 to 1; those that are missing are left out, and
        those that are too many to be told apart.
      title: above the figure.

    Raises:
      InputError: the table lacks `x` or all of the losses.
    """
    losses = [name for name in losses if name in columns]
    scores = [name for name in scores if name in columns][:_MOST_LINES]
    if x not in columns or not losses:
        raise InputError('metrics', f'columns {list(columns)}', f'{x!r} and a loss')
    figure = new_figure(7.2 if scores else 3.8, 2.8)
    panels = figure.subplots(1, 2 if scores else 1, squeeze=False)[0]
    for i, name in enumerate(losses):
        _line(panels[0], columns[x], columns[name], name, colour(i))
    values = np.concatenate([np.asarray(columns[name], float) for name in losses])
    if np.nanmin(values) > 0:
        panels[0].set_yscale('log')
        if np.nanmax(values) < 10 * np.nanmin(values):  # a decade has no tick of its own in there
            panels[0].yaxis.set_major_locator(MaxNLocator(5))
            panels[0].yaxis.set_major_formatter('{x:g}')
            panels[0].yaxis.set_minor_formatter(NullFormatter())
    panels[0].set(xlabel=x, ylabel='loss')
    if scores:
        for i, name in enumerate(scores):
            _line(panels[1], columns[x], columns[name], name, colour(i + 2))
        _mark_best(panels[1], columns[x], columns[scores[0]])
        panels[1].set(xlabel=x, ylabel='score', ylim=(0, 1.02))
    for panel in panels:
        tidy(panel)
        panel.legend(fontsize=8, frameon=False)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def _line(axes: Axes, x: Any, y: Any, name: str, hue: str) -> None:
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    measured = np.isfinite(y)
    marker = 'o' if measured.sum() <= 40 else None
    label = name.replace('_', ' ')
    axes.plot(x[measured], y[measured], color=hue, lw=1.4, marker=marker, ms=3, label=label)


def _mark_best(axes: Axes, x: Any, y: Any) -> None:
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if np.isfinite(y).any():
        best = int(np.nanargmax(y))
        axes.axvline(x[best], color=GRAY, lw=0.8, ls=':')
        label = f'best {y[best]:.3f}'
        axes.plot(x[best], y[best], '*', color='black', ms=8, label=label, zorder=4)
