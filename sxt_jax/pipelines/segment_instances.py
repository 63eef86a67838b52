"""Cells one by one: a network gives foreground and flows, and instances are made of them."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import numpy as np
from absl import logging

from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import Volume
from sxt_jax.inference.apply import Heads
from sxt_jax.io import VolumeWriter, open_writer, write_volume
from sxt_jax.pipelines.reconstruct_instances import instances_of
from sxt_jax.pipelines.segmenter import Segmenter, predict_image
from sxt_jax.pipelines.slice_segmenter import predict_slices

_SLICES = 16  # written at once


def write_instances(
    segmenter: Segmenter,
    image: Volume,
    target: Path,
    *,
    name: str,
    cell_radius: float,
    flows_to: Path | None = None,
) -> int:
    """Write the instances of one tomogram; nothing is left behind if anything goes wrong.

    Paths to the centres of cells cross the borders of tiles, so instances are made of the whole
    volume: foreground and flows of it are held in host memory (16 bytes a voxel), then on one
    device, or a block of them at a time. An image of one slice is 2-D, whatever the network: its
    flows have no z. A 2-D network sees an image of several slices in three orientations
    (`inference.orthogonal`).

    Args:
      segmenter: a network with flows.
      image: with as many channels as it takes.
      target: file for the instances, in the smallest of uint16 and uint32 that holds them.
      name: what to call the image in errors.
      cell_radius: typical radius of a cell, in voxels along x; published 2-D networks get slices in
        which cells are as large as they know them.
      flows_to: file for [z, y, x, (foreground, z, y, x)] float32, which `io.read_flows` takes.

    Returns:
      How many instances there are.

    Raises:
      InputError: NaN voxels or no contrast, flows that are not finite, or a result cannot be
        written.
    """
    n_dims = 3 if image.shape[0] > 1 else 2
    with contextlib.ExitStack() as stack:
        writer = None
        if flows_to is not None:
            opened = open_writer(
                flows_to,
                shape=(*image.shape, 1 + n_dims),
                dtype=np.float32,
                axes='zyxc',
                voxel_size_nm=image.voxel_size_nm,
            )
            writer = stack.enter_context(opened)
        if segmenter.slices:
            foreground, flows = _of_slices(segmenter, image, name, cell_radius, writer)
        else:
            foreground, flows = _predict(segmenter, image, name, n_dims, writer)
        instances = _reconstruct(foreground, flows, name, cell_radius)
        write_volume(target, instances)
    return int(instances.data.max(initial=0))


def _of_slices(
    segmenter: Segmenter, image: Volume, name: str, cell_radius: float, writer: VolumeWriter | None
) -> tuple[np.ndarray, Volume]:
    """Foreground [z, y, x] and flows of the whole image, from slices in three orientations."""
    heads = predict_slices(segmenter, image, name=name, cell_radius=cell_radius)
    if writer is not None:
        for z in range(0, image.shape[0], _SLICES):
            rows = slice(z, z + _SLICES)
            parts = [heads['foreground'][rows], heads['flows'][rows]]
            writer.write(z, np.concatenate(parts, axis=-1))
    return heads['foreground'][..., 0], Volume(heads['flows'], image.voxel_size_nm, axes='zyxc')


def _keep_flows(heads: Heads) -> Heads:
    return {'foreground': heads['foreground'][..., 0], 'flows': heads['flows']}


def _predict(
    segmenter: Segmenter, image: Volume, name: str, n_dims: int, writer: VolumeWriter | None
) -> tuple[np.ndarray, Volume]:
    """Foreground [z, y, x] and flows of the whole image, which go to the file on the way."""
    foreground = np.empty(image.shape, np.float32)
    flows = np.empty((*image.shape, n_dims), np.float32)
    for z, heads in predict_image(segmenter, image, name=name, finish=_keep_flows):
        rows = slice(z, z + len(heads['flows']))
        foreground[rows], flows[rows] = heads['foreground'], heads['flows'][..., -n_dims:]
        if writer is not None:
            writer.write(z, np.concatenate([foreground[rows, ..., None], flows[rows]], axis=-1))
    return foreground, Volume(flows, image.voxel_size_nm, axes='zyxc')


def _reconstruct(foreground: np.ndarray, flows: Volume, name: str, cell_radius: float) -> Volume:
    start = time.perf_counter()
    try:
        instances = instances_of(foreground, flows, cell_radius=cell_radius)
    except InputError as error:
        raise InputError(name, f'of its flows: {error}') from error
    n, seconds = int(instances.data.max(initial=0)), time.perf_counter() - start
    logging.info('%s: %d instances in %.1f s, compilation included', name, n, seconds)
    return instances
