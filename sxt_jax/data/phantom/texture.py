"""Texture inside cells: smooth random fields, periodic so that a small tile serves any volume."""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import ndimage

_TILE = 128


@dataclasses.dataclass(frozen=True)
class Texture:
    """Two random fields of unit variance on the voxel grid, drawn once and tiled.

    Attributes:
      fine: [z, y, x] tile, correlation length as of vesicles and ribosome clusters.
      coarse: [z, y, x] tile, correlation length as of chromatin domains and reticulum.
    """

    fine: np.ndarray
    coarse: np.ndarray

    def at(self, box: tuple[slice, ...], offset: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Fine and coarse field over a box of the volume, moved by `offset` voxels."""
        index = [
            np.arange(s.start + o, s.stop + o) % n
            for s, o, n in zip(box, offset, self.fine.shape, strict=True)
        ]
        return self.fine[np.ix_(*index)], self.coarse[np.ix_(*index)]


def random_texture(
    rng: np.random.Generator, *, voxel_size_nm: float, fine_nm: float = 70, coarse_nm: float = 200
) -> Texture:
    """Texture tiles with Gaussian correlation of the given widths (nm)."""

    def field(width_nm: float) -> np.ndarray:
        noise = rng.standard_normal((_TILE,) * 3).astype(np.float32)
        smooth = ndimage.gaussian_filter(noise, max(width_nm / voxel_size_nm, 0.5), mode='wrap')
        return (smooth - smooth.mean()) / smooth.std()

    return Texture(field(fine_nm), field(coarse_nm))


def cytoplasm_pattern(fine: np.ndarray, coarse: np.ndarray) -> np.ndarray:
    """Relative LAC of cytoplasm: granules and the sheets of a reticulum (mean about 0)."""
    sheets = np.exp(-((coarse / 0.25) ** 2))
    return 0.06 * fine + 0.16 * (sheets - 0.175)


def chromatin_pattern(fine: np.ndarray, coarse: np.ndarray, depth_nm: np.ndarray) -> np.ndarray:
    """Relative LAC of a nucleus: condensed domains, denser below the envelope (`depth_nm` > 0)."""
    rim = np.exp(-depth_nm / 150)
    return 0.05 * fine + 0.12 * np.tanh(1.5 * coarse) + 0.12 * rim - 0.02


def plain_pattern(fine: np.ndarray, strength: float) -> np.ndarray:
    """Relative LAC of an object of one material with granules."""
    return strength * fine
