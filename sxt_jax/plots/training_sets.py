"""Dice over the number of tomograms trained on, with the curves fitted to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sxt_jax.core.errors import InputError
from sxt_jax.plots.figures import GRAY, colour, new_figure, tidy

_MOST_COLUMNS = 3
_DODGE = 0.008  # of the width
_BEYOND = 2.5  # how far curves are drawn, in largest numbers measured


def training_set_curves(
    points: Mapping[str, Any],
    curves: Mapping[tuple[str, str], Callable[[Any], Any]],
    *,
    targets: Sequence[float] = (),
    needed: Sequence[float] | np.ndarray = (),
    axis: str = 'tomograms trained on',
    title: str = '',
) -> Figure:
    """Dice of every training, mean ± SD of each size, fitted curves and target lines.

    Args:
      points: table with `method`, `class`, `n_tomograms` and `dice`, one row a training. With a
        column `sd` the bars of sizes with one row are that, else the SD over the rows of a size.
      curves: of method and class, what number of tomograms gives which Dice.
      targets: Dice of dashed lines.
      needed: numbers of tomograms to be seen in the figure, unless they are far beyond all points.
      axis: what the numbers of tomograms are.
      title: above the figure.

    Raises:
      InputError: a column is missing.
    """
    missing = [n for n in ('method', 'class', 'n_tomograms', 'dice') if n not in points]
    if missing:
        raise InputError('table', f'no column {missing}', 'method, class, n_tomograms, dice')
    columns = {name: np.asarray(values) for name, values in points.items()}
    classes = list(dict.fromkeys(columns['class'].tolist()))
    n_columns = min(len(classes), _MOST_COLUMNS)
    n_rows = math.ceil(len(classes) / n_columns)
    largest = float(columns['n_tomograms'].max())
    seen = [n for n in needed if n <= _BEYOND * largest]
    width = 1.05 * max([largest, *seen])
    left = 0 if columns['n_tomograms'].min() > 0 else -0.04 * width  # points on the edge are cut
    figure = new_figure(1 + 3.2 * n_columns, 0.6 + 2.8 * n_rows)
    panels = figure.subplots(n_rows, n_columns, squeeze=False, sharey=True).ravel()
    for panel, name in zip(panels, classes, strict=False):
        _draw(panel, columns, curves, name, width)
        for target in targets:
            label = f'Dice {target:g}'
            panel.axhline(target, color=GRAY, lw=0.8, ls='--')
            panel.annotate(label, (width, target), fontsize=7, color=GRAY, ha='right', va='bottom')
        panel.set(xlabel=axis, xlim=(left, width), title=name)
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.title.set_fontsize(9)
        tidy(panel)
    for panel in panels[len(classes) :]:
        panel.set_visible(False)
    for panel in panels[::n_columns]:
        panel.set_ylabel('Dice')
    lowest = float(np.nanmin(columns['dice']))
    panels[0].set_ylim(max(lowest - 0.25 * max(1 - lowest, 0.02), -0.03), 1.0)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside lower center', ncols=4, frameon=False, fontsize=8)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def _draw(
    axes: Axes,
    columns: Mapping[str, np.ndarray],
    curves: Mapping[tuple[str, str], Callable[[Any], Any]],
    name: str,
    width: float,
) -> None:
    methods = list(dict.fromkeys(columns['method'].tolist()))
    for i, method in enumerate(methods):
        chosen = (columns['class'] == name) & (columns['method'] == method)
        if not chosen.any():
            continue
        x, y = columns['n_tomograms'][chosen].astype(float), columns['dice'][chosen].astype(float)
        given = columns['sd'][chosen].astype(float) if 'sd' in columns else np.full(len(x), np.nan)
        axes.plot(x, y, 'o', ms=2.5, color=colour(i), alpha=0.6, mew=0)
        sizes = np.unique(x)
        means = np.array([y[x == size].mean() for size in sizes])
        bars = np.array([_spread(y[x == size], given[x == size]) for size in sizes])
        beside = _DODGE * width * (i - (len(methods) - 1) / 2)  # bars would hide each other
        axes.errorbar(sizes + beside, means, bars, fmt='none', ecolor=colour(i), lw=0.8, capsize=2)
        axes.plot(sizes, means, 'o', ms=5, color=colour(i), label=method)
        if (method, name) in curves:
            along = np.linspace(0, width, 300)
            axes.plot(along, curves[method, name](along), color=colour(i), lw=1.4)


def _spread(values: np.ndarray, given: np.ndarray) -> float:
    """SD of several values, of a single one what is given, or no bar."""
    if len(values) > 1:
        return float(values.std(ddof=1))
    return float(np.nan_to_num(given[0]))
