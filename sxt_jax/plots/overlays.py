"""Slices of a tomogram with labels drawn over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import VoxelSize
from sxt_jax.plots.figures import colour, new_figure, scale_bar

_TINT = 0.18  # opacity of a class inside its contour
_GAP = 0.02
_THINNEST = 0.04  # of the shorter side of xy: thinner side views show nothing
_PLANES = {'xy': 0, 'xz': 1, 'yz': 2}  # the axis (z, y, x) each is cut across


def orthogonal_slices(
    image: Any,
    labels: Any,
    *,
    voxel_size_nm: Sequence[float] | None = None,
    class_names: Mapping[int, str] | None = None,
    position: Sequence[int] | None = None,
    title: str = '',
) -> Figure:
    """Three slices through one point, with labels as tinted contours, a scale bar and a legend.

    xy is upper left, yz to its right (z to the right), xz below (z downwards); all have the same
    physical scale, and dotted lines show where the other two are cut. Of a stack thinner than
    4 % of its width xy is shown alone.

    Args:
      image: [z, y, x] gray values.
      labels: [z, y, x] integer class ids, 0 is background.
      voxel_size_nm: edge lengths (z, y, x) in nm; None: the scale bar counts voxels.
      class_names: names for the legend, by id.
      position: the point (z, y, x) in voxels; None: a foreground voxel near the middle of the
        foreground.
      title: above the figure.

    Raises:
      InputError: shapes differ or are not three-dimensional, or the point is outside.
    """
    _check(image, labels)
    point = _point(labels, position)
    size, unit = _scale(voxel_size_nm)
    depth, height, width = (n * s for n, s in zip(image.shape, size, strict=True))
    limits = _contrast(image, point)
    shown = _classes([_cut(labels, plane, point) for plane in _PLANES], class_names)

    figure, panels = _panels(width, height, depth, has_title=bool(title))
    for plane, panel in panels.items():
        _draw(panel, _cut(image, plane, point), _pixel(plane, size), limits)
        _contours(panel, _cut(labels, plane, point), _pixel(plane, size), shown)
        if len(panels) > 1:
            _crosshair(panel, plane, point, size)
            panel.set_title(plane, fontsize=8, loc='left', pad=2)
    scale_bar(panels['xy'], extent=(width, height), unit=unit)
    _legend(figure, shown)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def side_by_side(
    image: Any,
    truth: Any,
    prediction: Any,
    *,
    voxel_size_nm: Sequence[float] | None = None,
    class_names: Mapping[int, str] | None = None,
    z: int | None = None,
    title: str = '',
) -> Figure:
    """One xy slice three times: bare, with the true labels, and with the predicted ones.

    Args:
      image: [z, y, x] gray values.
      truth: [z, y, x] integer class ids, 0 is background.
      prediction: [z, y, x] likewise.
      voxel_size_nm: edge lengths (z, y, x) in nm; None: the scale bar counts voxels.
      class_names: names for the legend, by id.
      z: which slice; None: the middle of the true foreground.
      title: above the figure.

    Raises:
      InputError: shapes differ or are not three-dimensional, or the slice is outside.
    """
    _check(image, truth)
    _check(image, prediction)
    point = _point(truth, None if z is None else (z, 0, 0))
    size, unit = _scale(voxel_size_nm)
    _, height, width = (n * s for n, s in zip(image.shape, size, strict=True))
    gray, pixel = _cut(image, 'xy', point), _pixel('xy', size)
    panels = {'image': None, 'truth': truth, 'prediction': prediction}
    cuts = {name: _cut(labels, 'xy', point) for name, labels in panels.items() if name != 'image'}
    shown = _classes(list(cuts.values()), class_names)

    figure = new_figure(9, 3 * height / width + 0.55)
    for axes, name in zip(figure.subplots(1, 3), panels, strict=True):
        _draw(axes, gray, pixel, _contrast(image, point, planes=('xy',)))
        if name in cuts:
            _contours(axes, cuts[name], pixel, shown)
        axes.set_title(name, fontsize=9, pad=3)
        scale_bar(axes, extent=(width, height), unit=unit)
    _legend(figure, shown)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def _panels(
    width: float, height: float, depth: float, *, has_title: bool
) -> tuple[Figure, dict[str, Axes]]:
    """A figure with axes for xy, yz and xz in proportion; xy alone of a very thin stack."""
    above = 0.35 if has_title else 0.1
    if depth < _THINNEST * min(width, height):
        scale = 7.0 / max(width, height)
        figure = new_figure(width * scale, height * scale + above)
        return figure, {'xy': figure.subplots()}
    scale = 7.0 / ((1 + _GAP) * max(width, height) + depth)
    figure = new_figure((width + depth) * scale, (height + depth) * scale + above)
    figure.set_layout_engine('constrained', wspace=0, hspace=0, w_pad=0.03, h_pad=0.03)
    axes = figure.subplots(2, 2, width_ratios=(width, depth), height_ratios=(height, depth))
    axes[1, 1].set_axis_off()
    return figure, {'xy': axes[0, 0], 'yz': axes[0, 1], 'xz': axes[1, 0]}


def _check(image: Any, labels: Any) -> None:
    if len(image.shape) != 3 or tuple(image.shape) != tuple(labels.shape):
        raise InputError(
            'labels', f'shape {tuple(labels.shape)}', f'[z, y, x] as the image {tuple(image.shape)}'
        )


def _point(labels: Any, position: Sequence[int] | None) -> tuple[int, int, int]:
    """The given point, or a foreground voxel near the middle of the foreground."""
    shape = tuple(labels.shape)
    if position is not None:
        if not all(0 <= p < n for p, n in zip(position, shape, strict=True)):
            raise InputError('position', f'{tuple(position)}', f'a voxel of the volume {shape}')
        return int(position[0]), int(position[1]), int(position[2])
    mask = np.asarray(labels) > 0
    by_slice = mask.sum(axis=(1, 2))
    if not by_slice.any():
        return shape[0] // 2, shape[1] // 2, shape[2] // 2
    filled = np.flatnonzero(by_slice)
    z = filled[np.argmin(np.abs(filled - np.average(np.arange(shape[0]), weights=by_slice)))]
    voxels = np.argwhere(mask[z])
    y, x = voxels[np.argmin(((voxels - voxels.mean(axis=0)) ** 2).sum(axis=1))]
    return int(z), int(y), int(x)


def _scale(voxel_size_nm: Sequence[float] | None) -> tuple[VoxelSize, str]:
    if voxel_size_nm is None:
        return (1.0, 1.0, 1.0), 'voxels'
    z, y, x = (float(s) / 1000 for s in voxel_size_nm)
    return (z, y, x), 'µm'


def _cut(volume: Any, plane: str, point: Sequence[int]) -> np.ndarray:
    """The slice of a plane through a point, rows downwards; yz is turned to have z to the right."""
    index: list[Any] = [slice(None)] * 3
    index[_PLANES[plane]] = point[_PLANES[plane]]
    section = np.asarray(volume[tuple(index)])
    return section.T if plane == 'yz' else section


def _pixel(plane: str, size: VoxelSize) -> tuple[float, float]:
    """Height and width of a pixel of the plane."""
    z, y, x = size
    return {'xy': (y, x), 'xz': (z, x), 'yz': (y, z)}[plane]


def _contrast(
    image: Any, point: Sequence[int], planes: Sequence[str] = ('xy', 'xz', 'yz')
) -> tuple[float, float]:
    values = np.concatenate([_cut(image, plane, point).ravel() for plane in planes])
    values = values[np.isfinite(values)].astype(np.float64)
    if not values.size:
        return 0.0, 1.0
    low, high = np.quantile(values, (0.005, 0.995))
    return float(low), float(high) if high > low else float(low) + 1


def _draw(
    axes: Axes, gray: np.ndarray, pixel: tuple[float, float], limits: tuple[float, float]
) -> None:
    extent = (0, gray.shape[1] * pixel[1], gray.shape[0] * pixel[0], 0)
    axes.imshow(gray, cmap='gray', vmin=limits[0], vmax=limits[1], extent=extent, aspect='equal')
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def _contours(
    axes: Axes, section: np.ndarray, pixel: tuple[float, float], shown: Mapping[int, tuple]
) -> None:
    """Each class tinted and outlined on the edges of its voxels."""
    tint = np.zeros((*section.shape, 4))
    extent = (0, section.shape[1] * pixel[1], section.shape[0] * pixel[0], 0)
    for label, (_, hue) in shown.items():
        tint[section == label] = (*to_rgb(hue), _TINT)
        # The frame closes the outlines of objects that reach the edge of the slice.
        framed = np.pad(section == label, 1).astype(np.float32)
        y = (np.arange(framed.shape[0]) - 0.5) * pixel[0]
        x = (np.arange(framed.shape[1]) - 0.5) * pixel[1]
        if framed.any():
            axes.contour(x, y, framed, levels=[0.5], colors=[hue], linewidths=1.1)
    axes.imshow(tint, extent=extent, interpolation='nearest', aspect='equal')
    axes.set(xlim=extent[:2], ylim=extent[2:])


def _crosshair(axes: Axes, plane: str, point: Sequence[int], size: VoxelSize) -> None:
    z, y, x = ((p + 0.5) * s for p, s in zip(point, size, strict=True))
    row, column = {'xy': (y, x), 'xz': (z, x), 'yz': (y, z)}[plane]
    style: dict[str, Any] = {
        'color': 'white',
        'linewidth': 0.6,
        'linestyle': (0, (1, 3)),
        'alpha': 0.8,
    }
    axes.axhline(row, **style)
    axes.axvline(column, **style)


def _classes(
    sections: Sequence[np.ndarray], class_names: Mapping[int, str] | None
) -> dict[int, tuple[str, str]]:
    """Name and colour of every class that is seen; named classes keep theirs in all slices."""
    seen = sorted({int(v) for section in sections for v in np.unique(section) if v > 0})
    names = class_names or {}
    listed = sorted(set(seen) | {k for k in names if k > 0})
    hues = {k: colour(i) for i, k in enumerate(listed)}
    return {k: (names.get(k, f'class {k}'), hues[k]) for k in seen}


def _legend(figure: Figure, shown: Mapping[int, tuple[str, str]]) -> None:
    if shown:
        handles = [Line2D([], [], color=hue, lw=3, label=name) for name, hue in shown.values()]
        figure.legend(
            handles=handles, loc='outside lower center', ncols=4, frameon=False, fontsize=8
        )
