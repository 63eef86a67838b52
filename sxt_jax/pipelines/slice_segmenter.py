"""Cells of a volume by a network of slices, which sees it in three orientations (Cellpose)."""

from __future__ import annotations

from typing import Any

import numpy as np
from absl import logging

from sxt_jax.core.progress import progress_bar
from sxt_jax.core.volume import ArrayLike, Volume, equal_sides
from sxt_jax.data.intensity import NormalisedArray, measure_affine
from sxt_jax.inference.orthogonal import predict_orthogonal
from sxt_jax.io import split_dataset
from sxt_jax.pipelines.segmenter import Heads, Segmenter, run_options


def predict_slices(segmenter: Segmenter, image: Volume, *, name: str, cell_radius: float) -> Heads:
    """Foreground and flows of an image from its slices in three orientations.

    The image is held in memory as it is stored. Slices are resized so that voxels are as flat as
    those of the training data (of published networks: cubes), and cells as large as published
    networks expect; without voxel sizes, voxels are taken to be as flat.

    Args:
      segmenter: a network with `slices`.
      image: with as many channels as it takes.
      name: what to call it in errors.
      cell_radius: typical radius of a cell, in voxels along x.

    Returns:
      'foreground' [z, y, x, 1] and 'flows' [z, y, x, 3], float32; of one slice [1, y, x, 2].

    Raises:
      InputError: NaN voxels or no contrast.
    """
    affine = measure_affine(segmenter.intensity, image.data, name=name)
    gray: ArrayLike = NormalisedArray(image.load().data, affine)
    if image.n_channels < segmenter.n_channels:
        gray = _WithEmptyChannels(gray, segmenter.n_channels)
    n_slices = sum(image.shape) if image.shape[0] > 1 else 1
    title = split_dataset(name)[0].name
    with progress_bar(total=n_slices, unit='slice', desc=title, inner=True) as bar:
        return predict_orthogonal(
            segmenter.apply_fn,
            segmenter.variables,
            gray,
            scale=_slice_scale(segmenter, image, name, cell_radius),
            mirror=segmenter.mirror,
            on_slices=bar.update,
            **run_options(segmenter),
        )


def _slice_scale(
    segmenter: Segmenter, image: Volume, name: str, cell_radius: float
) -> tuple[float, float, float]:
    """Pixels of the network's slices in a voxel along z, y and x."""
    trained, given = segmenter.voxel_size_nm, image.voxel_size_nm
    if trained is None and segmenter.diameter_px is not None:
        trained = (1.0, 1.0, 1.0)  # published networks know images of square pixels
    flatness = 1.0
    if given and trained and image.shape[0] > 1:
        found, known = given[0] / given[2], trained[0] / trained[2]
        if not equal_sides((found, known)):
            flatness = found / known
            logging.info(
                '%s: voxels are %.3g times as long along z as along x, those of the training %.3g '
                'times: slices across z are resized', name, found, known,
            )  # fmt: skip
    zoom = 1.0
    if segmenter.diameter_px is not None:
        zoom = segmenter.diameter_px / (2 * cell_radius)
        logging.info(
            '%s: cells of %.3g voxels are resized to the %.3g pixels of the training',
            name, 2 * cell_radius, segmenter.diameter_px,
        )  # fmt: skip
    return flatness * zoom, zoom, zoom


class _WithEmptyChannels:
    """An image with channels of zeros behind its own (an `ArrayLike`)."""

    def __init__(self, data: ArrayLike, n_channels: int) -> None:
        self._data, self.dtype = data, data.dtype
        self.shape = (*data.shape[:3], n_channels)

    def __getitem__(self, index: Any) -> np.ndarray:
        index = index if isinstance(index, tuple) else (index,)
        voxels = np.asarray(self._data[index[: len(self._data.shape)]])
        voxels = voxels if len(self._data.shape) == 4 else voxels[..., None]
        return np.pad(voxels, [(0, 0)] * 3 + [(0, self.shape[3] - voxels.shape[3])])
