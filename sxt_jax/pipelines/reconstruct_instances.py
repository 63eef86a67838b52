"""Instances from saved flow volumes: read, reconstruct, write."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import logging

from sxt_jax.core.atomic import check_writable
from sxt_jax.core.errors import InputError
from sxt_jax.core.progress import late_bar
from sxt_jax.core.volume import Volume, relative_sides
from sxt_jax.instances import Recipe, reconstruct_to_host
from sxt_jax.io import WRITABLE_SUFFIXES, Flows, open_volume, read_flows, write_volume


def reconstruct_file(
    flows: Sequence[str | Path],
    output: str | Path,
    *,
    cell_radius: float,
    foreground: str | Path | None = None,
    components: str = 'zyx',
    away: bool = False,
    dataset: str | None = None,
    recipe: Recipe | None = None,
    block: Sequence[int] | None = None,
) -> int:
    """Write the instances of a flow volume.

    Args:
      flows: files as `io.read_flows` takes them.
      output: file for the instances.
      cell_radius: typical radius of a cell, in voxels along x.
      foreground: file of the foreground, where that of the flows has none.
      components, away, dataset: see `io.read_flows`.
      recipe: how; None: `Recipe()`.
      block: see `instances_of`.

    Returns:
      How many instances there are.

    Raises:
      InputError: a file is missing or of the wrong kind, shapes do not fit, flows are not finite,
        or the output cannot be written.
    """
    output = Path(output)
    if output.suffix.lower() not in WRITABLE_SUFFIXES:
        raise InputError(output, 'the suffix', f'one of {sorted(WRITABLE_SUFFIXES)}')
    check_writable(output.parent)
    saved = read_flows(flows, components=components, away=away, dataset=dataset)
    mask = _foreground(saved, flows[0], foreground, dataset)
    start = time.perf_counter()
    instances = instances_of(mask, saved.flows, cell_radius=cell_radius, recipe=recipe, block=block)
    seconds = time.perf_counter() - start
    n = int(instances.data.max(initial=0))
    logging.info(
        '%d instances of %s voxels in %.1f s, compilation included', n, instances.shape, seconds
    )
    write_volume(output, instances)
    return n


def instances_of(
    foreground: np.ndarray,
    flows: Volume,
    *,
    cell_radius: float,
    recipe: Recipe | None = None,
    block: Sequence[int] | None = None,
) -> Volume:
    """Instances of a volume, or of an image of one slice, in the smallest type that holds them.

    Args:
      foreground: [z, y, x].
      flows: 'zyxc', three components, or two of one slice.
      cell_radius: in voxels along x.
      recipe: how; None: `Recipe()`.
      block: (z, y, x) sides of the blocks in which it is done, one at a time on the device. None:
        all at once where that fits. The instances are the same.

    Raises:
      InputError: flows are not finite, or `cell_radius` or `block` are not positive.
    """
    data, sides = flows.data, relative_sides(flows.voxel_size_nm)
    flat = data.shape[-1] == 2
    if flat:
        foreground, data = foreground[0], data[0]
        sides, block = sides and sides[1:], block and block[1:]
    with contextlib.ExitStack() as stack:
        tell = late_bar(stack, unit='block', desc='instances', inner=True)
        labels = reconstruct_to_host(
            foreground,
            data,
            cell_radius=cell_radius,
            voxel_size=sides,
            recipe=recipe,
            block=block,
            on_block=lambda n_blocks: tell(1, n_blocks),
        )
    dtype = np.uint16 if labels.max(initial=0) < 2**16 else np.uint32
    labels = labels.astype(dtype)
    return flows.with_data(labels[None] if flat else labels, axes='zyx')


def _foreground(
    saved: Flows, flows: str | Path, foreground: str | Path | None, dataset: str | None
) -> np.ndarray:
    if foreground is None:
        if saved.foreground is None:
            raise InputError(flows, 'no foreground', 'a channel before the flows, or --foreground')
        return saved.foreground
    volume = open_volume(foreground, dataset=dataset).load()
    if volume.axes != 'zyx' or volume.shape != saved.flows.shape:
        found = f'{volume.data.shape} with axes {volume.axes}'
        raise InputError(foreground, found, f'{saved.flows.shape} as the flows')
    return volume.data
