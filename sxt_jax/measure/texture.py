"""Texture of one object: co-occurrence, size zones and pattern spectrum of its gray levels."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from sxt_jax.core.errors import InputError
from sxt_jax.measure.cooccurrence import cooccurrence, cooccurrence_features
from sxt_jax.measure.pattern_spectrum import pattern_spectrum, spectrum_moments
from sxt_jax.measure.size_zones import size_zone_features, size_zones

TEXTURES = (
    'glcm_homogeneity',
    'glcm_correlation',
    'glcm_variance',
    'glcm_contrast',
    'zones_per_voxel',
    'small_zone_high_gray',
    'zone_size_centroid_voxels',
    'zone_gray_centroid',
    'spectrum_mean_nm',
    'spectrum_sd_nm',
    'spectrum_skewness',
    'spectrum_kurtosis',
)
_FINE_LEVELS = 256  # of the pattern spectrum


@dataclasses.dataclass(frozen=True)
class Texture:
    """How textures are measured.

    Attributes:
      n_levels: gray levels, of equal width over the range, of co-occurrence and size zones.
      gray_range: lowest and highest gray value; what is beyond goes to the first and last level.
        One range for all objects keeps differences in brightness and contrast between them. None:
        the percentiles of each object's own voxels, which leaves such differences out.
      percentiles: lower and upper one.
      distance: of the neighbours of co-occurrence, in voxels.
      largest_ball: radius of the largest ball of the pattern spectrum, in longest voxel sides.
    """

    n_levels: int = 16
    gray_range: tuple[float, float] | None = None
    percentiles: tuple[float, float] = (1.0, 99.0)
    distance: int = 1
    largest_ball: int = 8


def check_texture(options: Texture) -> None:
    """Whether the options make sense.

    Raises:
      InputError: naming the one that does not.
    """
    if not 2 <= options.n_levels <= 256:
        raise InputError('gray levels', f'{options.n_levels}', 'a number from 2 to 256')
    gray, share = options.gray_range, options.percentiles
    if gray is not None and not (np.isfinite(gray).all() and gray[0] < gray[1]):
        raise InputError('gray range', f'{gray}', 'a lower and a higher number')
    if not 0 <= share[0] < share[1] <= 100:
        raise InputError('percentiles', f'{share}', 'two rising numbers from 0 to 100')
    if options.distance < 1:
        raise InputError('distance', f'{options.distance}', 'voxels from 1')
    if not 1 <= options.largest_ball <= 64:
        raise InputError('largest ball', f'{options.largest_ball}', 'a radius from 1 to 64')


def measure_texture(
    image: np.ndarray,
    mask: np.ndarray,
    *,
    voxel_size_nm: Sequence[float],
    options: Texture | None = None,
) -> dict[str, float]:
    """Textures of Machireddy et al. 2023 of one object, `TEXTURES` by name.

    Co-occurrence and size zones take neighbours in voxels, whatever their shape. The balls of the
    pattern spectrum are round in nm; its image has 256 levels over the same range of gray values.
    See `cooccurrence_features`, `size_zone_features` and `spectrum_moments`.

    Args:
      image: [z, y, x] gray values, such as the crop of the object's box.
      mask: [z, y, x] bool, at least one voxel set.
      voxel_size_nm: edge lengths (z, y, x).
      options: None: the defaults.

    Raises:
      InputError: gray values that are not finite, or options that make no sense.
    """
    options = options or Texture()
    check_texture(options)
    low, high = _gray_range(image, mask, options)
    levels = quantised(image, low=low, high=high, n_levels=options.n_levels)
    matrix = cooccurrence(levels, mask, n_levels=options.n_levels, distance=options.distance)
    fine = quantised(image, low=low, high=high, n_levels=_FINE_LEVELS)
    spectrum = pattern_spectrum(
        fine, mask, largest_ball=options.largest_ball, voxel_size=voxel_size_nm
    )
    moments = spectrum_moments(spectrum, step=max(voxel_size_nm))
    values = (
        *cooccurrence_features(matrix).values(),
        *size_zone_features(size_zones(levels, mask)).values(),
        *moments.values(),
    )
    return dict(zip(TEXTURES, values, strict=True))


def quantised(image: np.ndarray, *, low: float, high: float, n_levels: int) -> np.ndarray:
    """Levels of equal width over a range of gray values.

    Args:
      image: gray values; those beyond the range go to the first and the last level.
      low, high: the range; all values are of level 0 where it is empty.
      n_levels: from 2 to 256.

    Returns:
      uint8 of the same shape, from 0 to `n_levels` − 1.
    """
    if not high > low:
        return np.zeros(image.shape, np.uint8)
    levels = (image - np.float64(low)) * (n_levels / (high - low))
    with np.errstate(invalid='ignore'):  # beyond the object there may be no numbers
        return np.clip(levels, 0, n_levels - 1).astype(np.uint8)


def _gray_range(image: np.ndarray, mask: np.ndarray, options: Texture) -> tuple[float, float]:
    values = image[mask]
    if not np.isfinite(values).all():
        raise InputError('image', 'gray values that are not finite', 'numbers in all objects')
    if options.gray_range is not None:
        return options.gray_range
    low, high = np.percentile(values, options.percentiles)
    return float(low), float(high)
