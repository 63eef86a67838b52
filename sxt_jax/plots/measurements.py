"""Scores and measures of a set of volumes at a glance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sxt_jax.core.errors import InputError
from sxt_jax.plots.figures import GRAY, colour, new_figure, tidy

_SPREAD = 0.7  # of the distance between two classes, taken by the methods side by side


def scores_by_class(columns: Mapping[str, Any], *, score: str = 'dice', title: str = '') -> Figure:
    """One dot a volume for every class and method, with mean ± SD.

    Args:
      columns: table with `class`, `method` and the score, one row for each volume, class and
        method; NaN scores are left out.
      score: which column.
      title: above the figure.

    Raises:
      InputError: a column is missing.
    """
    _require(columns, ('class', 'method', score))
    names = list(dict.fromkeys(columns['class']))
    figure = new_figure(1.6 + 1.3 * len(names), 3.2)
    axes = figure.subplots()
    _strips(axes, columns, score, names)
    axes.set(ylabel=score.capitalize() if score != 'iou' else 'IoU', ylim=(-0.02, 1.04))
    axes.set_xticks(range(len(names)), names, fontsize=8)
    axes.set_xlim(-0.6, len(names) - 0.4)
    tidy(axes)
    figure.legend(loc='outside lower center', ncols=4, frameon=False, fontsize=8)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def predicted_against_true(
    columns: Mapping[str, Any], *, measure: str, label: str, title: str = ''
) -> Figure:
    """A measure of the prediction over the same of the truth, one dot a volume and class.

    Args:
      columns: table with `class`, `<measure>_prediction` and `<measure>_truth`.
      measure: such as 'volume_um3'.
      label: name with unit for the axes, such as 'volume (µm³)'.
      title: above the figure.

    Raises:
      InputError: a column is missing.
    """
    _require(columns, ('class', f'{measure}_prediction', f'{measure}_truth'))
    true = np.asarray(columns[f'{measure}_truth'], dtype=float)
    predicted = np.asarray(columns[f'{measure}_prediction'], dtype=float)
    classes = np.asarray(columns['class'])
    figure = new_figure(3.6, 3.4)
    axes = figure.subplots()
    for i, name in enumerate(dict.fromkeys(classes.tolist())):
        of_class = classes == name
        axes.scatter(
            true[of_class], predicted[of_class], s=22, color=colour(i), edgecolor='white',
            linewidth=0.5, label=name, zorder=3,
        )  # fmt: skip
    top = np.nanmax(np.append(np.concatenate([true, predicted]), 0)) * 1.06 or 1
    axes.plot((0, top), (0, top), color=GRAY, lw=0.8, ls='--', label='equal')
    axes.set(xlim=(0, top), ylim=(0, top), aspect='equal')
    axes.set(xlabel=f'true {label}', ylabel=f'predicted {label}')
    tidy(axes)
    axes.legend(fontsize=8, frameon=False, loc='upper left')
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def _strips(axes: Axes, columns: Mapping[str, Any], score: str, names: list[str]) -> None:
    classes, methods = np.asarray(columns['class']), np.asarray(columns['method'])
    values = np.asarray(columns[score], dtype=float)
    all_methods = list(dict.fromkeys(methods.tolist()))
    for i, method in enumerate(all_methods):
        step = _SPREAD / len(all_methods)
        shift = (i - (len(all_methods) - 1) / 2) * step
        for k, name in enumerate(names):
            v = values[(classes == name) & (methods == method) & np.isfinite(values)]
            # Even spacing instead of a random jitter: the same table gives the same figure.
            jitter = np.linspace(-0.2, 0.2, len(v)) * step if len(v) > 1 else np.zeros(len(v))
            axes.scatter(k + shift + jitter, v, s=14, color=colour(i), alpha=0.7, lw=0)
            if len(v):
                sd = v.std(ddof=1) if len(v) > 1 else 0.0
                axes.errorbar(
                    k + shift, v.mean(), sd, color='black', marker='_', ms=11, capsize=2.5, lw=0.9
                )
        axes.scatter([], [], s=14, color=colour(i), label=method)
    axes.errorbar([], [], [], color='black', marker='_', ms=9, lw=0.9, label='mean ± SD')


def _require(columns: Mapping[str, Any], names: tuple[str, ...]) -> None:
    missing = [name for name in names if name not in columns]
    if missing:
        raise InputError('table', f'no column {missing}', f'columns {list(names)}')
