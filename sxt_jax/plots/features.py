"""Dot plots of features of objects, side by side for every data set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sxt_jax.core.errors import InputError
from sxt_jax.plots.dots import draw_dots, mean_and_sd
from sxt_jax.plots.figures import new_figure

_MARGIN = 0.08
_SHOWN = 10  # characters of a name


def feature_panels(
    columns: Mapping[str, Any],
    panels: Mapping[str, tuple[str, str]],
    *,
    by: str = 'name',
    n_columns: int = 4,
    title: str = '',
) -> Figure:
    """A panel a feature with one dot an object, data sets side by side, and their mean ± SD.

    As fig. 11 and 12 of Machireddy et al. 2023: axes span the values and need not begin at 0.
    Values that are not finite are left out.

    Args:
      columns: table with the features.
      panels: by name of the column, what it is and its unit.
      by: column with the data set of each object.
      n_columns: panels in a row.
      title: above the figure.

    Raises:
      InputError: a column is missing.
    """
    missing = [name for name in (by, *panels) if name not in columns]
    if missing or not panels:
        raise InputError('table', f'no column {missing}', f'columns {[by, *panels]}')
    groups = np.asarray(columns[by]).astype(str)
    names = list(dict.fromkeys(groups.tolist()))
    wide, n_rows = min(n_columns, len(panels)), -(-len(panels) // n_columns)
    figure = new_figure((1.4 + 0.35 * len(names)) * wide, 2.5 * n_rows + 0.2)
    grid = figure.subplots(n_rows, wide, squeeze=False).ravel()
    for axes, (name, (what, unit)) in zip(grid, panels.items(), strict=False):
        values = np.asarray(columns[name], dtype=float)
        each = [values[(groups == group) & np.isfinite(values)] for group in names]
        for place, of_group in enumerate(each):
            draw_dots(axes, of_group, place=place)
        told = f'\n{mean_and_sd(each[0])} {unit}'.rstrip() if len(names) == 1 else ''
        axes.set_title(f'{what}{told}', fontsize=8)
        axes.set_ylabel(unit, fontsize=8)
        _span(axes, each)
        _name(axes, names)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def _span(axes: Axes, each: list[np.ndarray]) -> None:
    """Limits that hold all dots and bars."""
    ends = [v for v in each if len(v)]
    ends += [v.mean() + v.std(ddof=1) * np.array([-1, 1]) for v in each if len(v) > 1]
    if not ends:
        return
    low, high = (float(limit(np.concatenate(ends))) for limit in (np.min, np.max))
    margin = _MARGIN * (high - low) or 0.05 * abs(high) or 1
    axes.set_ylim(low - margin, high + margin)


def _name(axes: Axes, names: list[str]) -> None:
    axes.set_xlim(-0.6, len(names) - 0.4)
    if len(names) == 1:
        axes.set_xticks([])
        return
    stems = [Path(name).stem for name in names]
    short = [stem if len(stem) <= _SHOWN else stem[: _SHOWN - 1] + '…' for stem in stems]
    axes.set_xticks(range(len(names)), short, fontsize=7, rotation=45, ha='right')
