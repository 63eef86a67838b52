"""Dot plots of measures of single objects or slices, with mean ± SD."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sxt_jax.core.errors import InputError
from sxt_jax.plots.figures import COLOURS, GRAY, new_figure, tidy

_MEAN = COLOURS[5]
_LEVELS = 40  # values closer than this share of the range lie side by side
_STEP, _WIDEST = 0.055, 0.4  # between dots side by side, and of all on one side of the middle


def dot_panels(
    columns: Mapping[str, Any],
    panels: Mapping[str, tuple[str, str]],
    *,
    n_columns: int = 4,
    title: str = '',
) -> Figure:
    """A panel a measure with one dot an object, and the mean ± SD of all in red.

    As fig. 3B of Dyhr et al. 2023. Values that are not finite are left out.

    Args:
      columns: table with the measures.
      panels: by name of the column, what it is and its unit.
      n_columns: panels in a row.
      title: above the figure.

    Raises:
      InputError: a column is missing.
    """
    missing = [name for name in panels if name not in columns]
    if missing or not panels:
        raise InputError('table', f'no column {missing}', f'columns {list(panels)}')
    n_rows = -(-len(panels) // n_columns)
    figure = new_figure(1.75 * min(n_columns, len(panels)), 2.5 * n_rows + 0.2)
    grid = figure.subplots(n_rows, min(n_columns, len(panels)), squeeze=False).ravel()
    for axes, (name, (what, unit)) in zip(grid, panels.items(), strict=False):
        values = np.asarray(columns[name], dtype=float)
        values = values[np.isfinite(values)]
        draw_dots(axes, values)
        told = f'{mean_and_sd(values)} {unit}'.strip()
        axes.set_title(f'{what}\n{told}', fontsize=8)
        axes.set(xticks=[], xlim=(-0.6, 0.6), ylabel=unit)
        axes.yaxis.label.set_fontsize(8)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def draw_dots(
    axes: Axes,
    values: np.ndarray,
    *,
    place: float = 0.0,
    mean_at: float | None = None,
    colour: str = GRAY,
) -> None:
    """Dots of values around a place on the horizontal axis, and their mean ± SD in red.

    Args:
      axes: to draw on.
      values: [n] finite values.
      place: on the horizontal axis.
      mean_at: place of the mean; None: that of the dots.
      colour: of the dots.
    """
    tidy(axes)
    axes.margins(y=0.12)
    if not len(values):
        return
    axes.scatter(place + _spread(values), values, s=11, color=colour, alpha=0.75, lw=0)
    sd = values.std(ddof=1) if len(values) > 1 else 0.0
    axes.errorbar(
        place if mean_at is None else mean_at,
        values.mean(),
        sd,
        color=_MEAN,
        marker='o',
        ms=6,
        capsize=4,
        lw=1.6,
        zorder=4,
    )
    if values.min() >= 0:
        axes.set_ylim(bottom=min(0, axes.get_ylim()[0]) if values.min() == 0 else 0)


def mean_and_sd(values: np.ndarray) -> str:
    """'302 ± 189', with the digits that the SD (or the mean) allows."""
    if not len(values):
        return '–'
    mean = values.mean()
    sd = values.std(ddof=1) if len(values) > 1 else np.nan
    scale = abs(sd) if np.isfinite(sd) and sd > 0 else abs(mean)
    digits = int(np.clip(1 - np.floor(np.log10(scale)), 0, 9)) if scale > 0 else 0
    return f'{mean:,.{digits}f} ± {sd:,.{digits}f}' if len(values) > 1 else f'{mean:,.{digits}f}'


def _spread(values: np.ndarray) -> np.ndarray:
    """Horizontal places that keep dots of like value apart; the same for the same values."""
    extent = np.ptp(values)
    level = (
        np.floor((values - values.min()) / extent * _LEVELS) if extent else np.zeros(len(values))
    )
    result = np.zeros(len(values))
    for one in np.unique(level):
        (here,) = np.nonzero(level == one)
        here = here[np.argsort(values[here], kind='stable')]
        step = min(_STEP, 2 * _WIDEST / max(len(here) - 1, 1))
        result[here] = (np.arange(len(here)) - (len(here) - 1) / 2) * step
    return result
