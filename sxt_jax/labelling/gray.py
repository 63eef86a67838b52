"""Gray values from 0 to 255, the scale that smart interpolation assumes, in halves."""

from __future__ import annotations

from typing import Any

import numpy as np

from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import ArrayLike
from sxt_jax.data.intensity import Intensity, NormalisedArray, measure_affine

PER_GRAY = 2  # levels of a gray value: nine bits, so that three neighbours fit one word
_HIGHEST = 255 * PER_GRAY


class GrayLevels:
    """An image in levels of half a gray value, 0 … 510, as uint16 (an `ArrayLike`).

    Values of uint8 stay what they are. Of other types two percentiles become 0 and 255, and what
    is beyond them is cut off: a few bright voxels would leave the rest without contrast. With 0 and
    100 nothing is, as in the published code, which keeps more digits of a gray value.
    """

    dtype = np.dtype(np.uint16)

    def __init__(
        self, image: ArrayLike, *, percentiles: tuple[float, float], name: str = 'image'
    ) -> None:
        """Measure the image, slab by slab.

        Raises:
          InputError: not [z, y, x], values that are not finite, or a constant image that is not
            uint8.
        """
        if len(image.shape) != 3:
            raise InputError(name, f'shape {list(image.shape)}', '[z, y, x]')
        low, high = percentiles
        if not 0 <= low < high <= 100:
            raise InputError('percentiles', f'{low} and {high}', 'two in order, from 0 to 100')
        self.shape = image.shape
        self._data, self._scale = image, PER_GRAY
        if image.dtype != np.uint8:
            intensity = Intensity('percentile', clip=True, percentiles=percentiles)
            affine = measure_affine(intensity, image, name=name)
            if affine.scale.item() == 1:  # nearly all voxels have one value
                affine = measure_affine(Intensity('unit', clip=True), image, name=name)
            self._data, self._scale = NormalisedArray(image, affine), _HIGHEST

    def __getitem__(self, index: Any) -> np.ndarray:
        values = np.asarray(self._data[index])
        if values.dtype == np.uint8:
            return values.astype(np.uint16) * np.uint16(self._scale)
        return np.rint(values * np.float32(self._scale)).astype(np.uint16)
