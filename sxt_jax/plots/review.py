"""A sheet on which an expert's corrections of a segmentation are seen and counted."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from sxt_jax.core.errors import InputError
from sxt_jax.plots.dots import draw_dots
from sxt_jax.plots.figures import COLOURS, new_figure, scale_bar

# The colours of fig. 2D of Dyhr et al. 2023, of the palette that colour-blind readers tell apart.
OUTCOMES = {
    'true_positive': ('true positive', COLOURS[2]),
    'false_negative': ('false negative', COLOURS[6]),
    'false_positive': ('false positive', COLOURS[1]),
    'artefact': ('artefact', COLOURS[4]),
}
_PREDICTION = COLOURS[5]
_OPACITY = 0.75
_MOST_PIXELS = 720  # of a picture along its longer side
_PANEL_INCHES = 2.5
_WIDER = (2, 12)  # with more slices a row has one more


@dataclasses.dataclass(frozen=True)
class ReviewedSlice:
    """One slice with a prediction and what became of it.

    Attributes:
      overlay: [y, x, 3] uint8, the image with the prediction over it.
      outcome: [y, x, 3] uint8, the image with the outcomes over it.
      extent: width and height in `unit`.
      unit: of the scale bar.
      title: above it.
    """

    overlay: np.ndarray
    outcome: np.ndarray
    extent: tuple[float, float]
    unit: str
    title: str


def draw_slice(
    image: np.ndarray,
    prediction: np.ndarray,
    outcomes: Mapping[str, np.ndarray],
    *,
    pixel_nm: tuple[float, float] | None = None,
    title: str = '',
) -> ReviewedSlice:
    """The two pictures of a slice, not larger than a sheet needs.

    Args:
      image: [y, x] gray values.
      prediction: [y, x] bool.
      outcomes: by name in `OUTCOMES`, [y, x] bool.
      pixel_nm: height and width of a pixel; None: the scale bar counts pixels.
      title: above it.
    """
    low, high = np.nanquantile(image.astype(np.float64), (0.005, 0.995))
    gray = np.clip((image - low) / (high - low if high > low else 1), 0, 1).astype(np.float32)
    tinted = {OUTCOMES[name][1]: mask for name, mask in outcomes.items()}
    step_y, step_x = (1, 1) if pixel_nm is None else (pixel_nm[0] / 1000, pixel_nm[1] / 1000)
    return ReviewedSlice(
        _compose(gray, {_PREDICTION: prediction}),
        _compose(gray, tinted),
        (image.shape[1] * step_x, image.shape[0] * step_y),
        'pixels' if pixel_nm is None else 'µm',
        title,
    )


def review_sheet(
    slices: Sequence[ReviewedSlice], percent: Mapping[str, np.ndarray], *, title: str = ''
) -> Figure:
    """All slices, each with its prediction and with the outcomes, below their shares.

    As fig. 2C–E of Dyhr et al. 2023: one dot a slice, mean ± SD in red.

    Args:
      slices: at least one.
      percent: by name in `OUTCOMES`, the share of each slice's labelled pixels in %.
      title: above the sheet.

    Raises:
      InputError: there is no slice.
    """
    if not slices:
        raise InputError('review', 'no slice', 'one or more')
    pairs = 1 + sum(len(slices) > n for n in _WIDER)
    n_rows = -(-len(slices) // pairs)
    width = 2 * pairs * _PANEL_INCHES
    shape = np.mean([s.extent[1] / s.extent[0] for s in slices])
    height = float(np.clip(shape, 0.2, 3)) * _PANEL_INCHES + 0.3
    figure = new_figure(width, 3.1 + n_rows * height)
    parts: Any = figure.subfigures(2, 1, height_ratios=(3.1, n_rows * height))
    above, below = parts
    _chart(above.subplots(), percent)
    if title:
        above.suptitle(title, fontsize=10)
    panels = below.subplots(n_rows, 2 * pairs, squeeze=False).ravel()
    for one, axes, other in zip(slices, panels[::2], panels[1::2], strict=False):
        for picture, panel in ((one.overlay, axes), (one.outcome, other)):
            _show(panel, picture, one)
        axes.set_title(f'{one.title}, prediction', fontsize=7, pad=3)
        other.set_title('against the corrected labels', fontsize=7, pad=3)
    for axes in panels[2 * len(slices) :]:
        axes.set_axis_off()
    return figure


def _chart(axes: Axes, percent: Mapping[str, np.ndarray]) -> None:
    for place, (name, values) in enumerate(percent.items()):
        values = values[np.isfinite(values)]
        draw_dots(axes, values, place=place, mean_at=place + 0.3, colour=OUTCOMES[name][1])
        sd = f' ± {values.std(ddof=1):.1f}' if len(values) > 1 else ''
        axes.text(place, 108, f'{values.mean():.1f}{sd} %', ha='center', va='bottom', fontsize=8)
    names = [OUTCOMES[name][0] for name in percent]
    axes.set_xticks(range(len(names)), names, fontsize=8)
    axes.set(ylim=(-3, 106), xlim=(-0.6, len(names) - 0.4), ylabel='of all labelled pixels (%)')
    axes.yaxis.label.set_fontsize(8)
    handles = [Patch(color=OUTCOMES[name][1], label=OUTCOMES[name][0]) for name in percent]
    handles.insert(0, Patch(color=_PREDICTION, label='prediction'))
    axes.legend(
        handles=handles, fontsize=7, frameon=False, loc='upper left', bbox_to_anchor=(1.01, 1)
    )


def _show(axes: Axes, picture: np.ndarray, one: ReviewedSlice) -> None:
    width, height = one.extent
    axes.imshow(picture, extent=(0, width, height, 0), interpolation='antialiased')
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    scale_bar(axes, extent=one.extent, unit=one.unit)


def _compose(gray: np.ndarray, tints: Mapping[str, np.ndarray]) -> np.ndarray:
    """[y, x, 3] uint8: gray values with masks in colours over them, at most `_MOST_PIXELS`."""
    picture = np.repeat(gray[..., None], 3, axis=2)
    for hue, mask in tints.items():
        picture[mask] *= 1 - _OPACITY
        picture[mask] += np.array(to_rgb(hue), np.float32) * _OPACITY
    step = -(-max(gray.shape) // _MOST_PIXELS)
    n_y, n_x = (max(1, n // step) for n in gray.shape)
    whole = picture[: n_y * step, : n_x * step]
    small = whole.reshape(n_y, min(step, len(whole)), n_x, -1, 3).mean((1, 3))
    return np.rint(small * 255).astype(np.uint8)
