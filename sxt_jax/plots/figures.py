"""What all figures share: colours that colour-blind readers tell apart, scale bars, files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from sxt_jax.core.atomic import atomic_path

# Okabe & Ito 2008, without black, in an order that keeps neighbours apart on gray images.
COLOURS = ('#E69F00', '#56B4E9', '#009E73', '#F0E442', '#CC79A7', '#D55E00', '#0072B2')
GRAY = '#555555'


def new_figure(width_inch: float, height_inch: float) -> Figure:
    """An empty figure that draws itself without a display or pyplot's global state."""
    figure = Figure(figsize=(width_inch, height_inch), layout='constrained')
    FigureCanvasAgg(figure)
    return figure


def colour(index: int) -> str:
    """Colour of the class or method number `index`, from 0; repeats after seven."""
    return COLOURS[index % len(COLOURS)]


def tidy(axes: Axes) -> None:
    """Axes without a frame on the upper and right side, and a light grid."""
    axes.spines[['top', 'right']].set_visible(False)
    axes.grid(axis='y', color='0.9', linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8)


def scale_bar(axes: Axes, *, extent: Sequence[float], unit: str) -> None:
    """A white bar of round length (1, 2 or 5 × 10ⁿ, at most a quarter of the width).

    Args:
      axes: whose data coordinates are in `unit`.
      extent: width and height of the picture in `unit`.
      unit: written behind the length.
    """
    width, height = extent
    length = round_length(width / 4)
    x, y = width * 0.96 - length, height * 0.94
    bar = Rectangle((x, y), length, min(extent) * 0.014, facecolor='white', edgecolor='black')
    bar.set(linewidth=0.5, zorder=5)
    axes.add_patch(bar)
    text = axes.text(
        x + length / 2, y - height * 0.012, f'{length:g} {unit}', color='white', fontsize=8
    )
    text.set(ha='center', va='bottom', zorder=5)
    text.set_bbox({'facecolor': 'black', 'alpha': 0.45, 'pad': 1.2, 'linewidth': 0})


def round_length(most: float) -> float:
    """The largest of 1, 2, 5 × 10ⁿ that is not above `most`."""
    power = 10.0 ** int(f'{most:e}'.split('e')[1])
    return max(step * power for step in (1, 2, 5) if step * power <= most * (1 + 1e-9))


def save_figure(path: str | Path, figure: Figure, *, dpi: int = 200) -> None:
    """Write a figure as a PNG (or the format of the suffix), whole or not at all.

    Raises:
      InputError: the file cannot be written.
    """
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=dpi)
