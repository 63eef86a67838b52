"""A picture of all surfaces of a tomogram."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sxt_jax.core.errors import InputError
from sxt_jax.measure import Surface
from sxt_jax.plots.figures import new_figure, scale_bar
from sxt_jax.plots.render import View, render_triangles

_SAMPLES = 2  # a pixel along each axis, against stairs at the edges
_MARGIN = 0.04
_INCHES = 8.0
_BACKGROUND = np.array([0.07, 0.075, 0.09])


def surface_scene(
    surfaces: Sequence[Surface],
    *,
    view: View | None = None,
    n_pixels: int = 1600,
    seed: int = 0,
    title: str = '',
) -> Figure:
    """All surfaces, each in a random colour, in parallel projection with a scale bar.

    The arrows are the axes of the stack, z from slice to slice.

    Args:
      surfaces: at least one.
      view: from where; None: from above the first slice and from the side.
      n_pixels: along the longer side of the picture.
      seed: of the colours.
      title: above the figure.

    Raises:
      InputError: there is no triangle.
    """
    if not any(len(surface.faces) for surface in surfaces):
        raise InputError('scene', 'no surface', 'one or more')
    view = view or View()
    points, faces, owner = _joined(surfaces, view)
    low, high = points.min(0), points.max(0)
    extent = (high - low)[:2] * (1 + 2 * _MARGIN)
    scale = n_pixels * _SAMPLES / extent.max()
    n_x, n_y = (int(np.ceil(length * scale / _SAMPLES)) for length in extent)
    middle = (low + high)[:2] / 2
    pixels = np.empty_like(points)
    pixels[:, 0] = (points[:, 0] - middle[0]) * scale + n_x * _SAMPLES / 2
    pixels[:, 1] = (middle[1] - points[:, 1]) * scale + n_y * _SAMPLES / 2
    pixels[:, 2] = (points[:, 2] - high[2]) * scale
    colours = random_colours(len(surfaces), seed=seed)[owner]
    picture, covered = render_triangles(
        pixels, faces, colours, shape=(n_y * _SAMPLES, n_x * _SAMPLES)
    )
    picture = np.where(covered[..., None], picture, _BACKGROUND)
    picture = picture.reshape(n_y, _SAMPLES, n_x, _SAMPLES, 3).mean((1, 3))
    return _figure(
        picture, n_x * _SAMPLES / scale / 1000, n_y * _SAMPLES / scale / 1000, view, title
    )


def random_colours(n: int, *, seed: int = 0) -> np.ndarray:
    """[n, 3] vivid RGB colours; hues a golden section apart, so that neighbours differ."""
    rng = np.random.default_rng(seed)
    hues = (rng.random() + np.arange(n) * 0.6180339887) % 1
    saturation, value = rng.uniform(0.45, 0.8, n), rng.uniform(0.8, 1.0, n)
    return np.array([colorsys.hsv_to_rgb(*c) for c in zip(hues, saturation, value, strict=True)])


def _joined(surfaces: Sequence[Surface], view: View) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices (right, up, to the viewer) in nm, faces, and the number of each face's surface."""
    counts = [len(surface.vertices_nm) for surface in surfaces]
    starts = np.cumsum([0, *counts[:-1]])
    axes = view.axes().T
    points = np.concatenate([surface.vertices_nm[:, ::-1] @ axes for surface in surfaces])
    faces = np.concatenate([s.faces + start for s, start in zip(surfaces, starts, strict=True)])
    return points, faces, np.repeat(np.arange(len(surfaces)), [len(s.faces) for s in surfaces])


def _figure(
    picture: np.ndarray, width_um: float, height_um: float, view: View, title: str
) -> Figure:
    scale = _INCHES / max(width_um, height_um)
    figure = new_figure(width_um * scale, height_um * scale + (0.3 if title else 0))
    figure.set_layout_engine('constrained', w_pad=0, h_pad=0)
    axes = figure.subplots()
    axes.imshow(picture, extent=(0, width_um, height_um, 0), interpolation='antialiased')
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    scale_bar(axes, extent=(width_um, height_um), unit='µm')
    _triad(axes, view, min(width_um, height_um), height_um)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def _triad(axes: Axes, view: View, side: float, height: float) -> None:
    """Arrows along x, y and z in the lower left corner."""
    length, origin = 0.07 * side, np.array([0.09 * side, height - 0.09 * side])
    for name, (right, up, _) in zip('xyz', view.axes().T, strict=True):
        if np.hypot(right, up) < 0.2:  # seen from its end
            continue
        tip = origin + length * np.array([right, -up])
        arrow = {'arrowstyle': '-|>', 'color': '0.85', 'lw': 0.9, 'shrinkA': 0, 'shrinkB': 0}
        axes.annotate('', tuple(tip), tuple(origin), arrowprops=arrow)
        place = origin + 1.3 * length * np.array([right, -up])
        axes.text(place[0], place[1], name, color='0.85', fontsize=8, ha='center', va='center')
