"""Tiles for networks of slices: each slice whole where memory allows, else overlapping chunks."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
from absl import logging
from jax.sharding import Mesh

from sxt_jax.core.devices import free_bytes, is_out_of_memory, make_device_mesh, split_batch
from sxt_jax.core.memory import free_host_bytes
from sxt_jax.inference.apply import ApplyFn, side_multiple
from sxt_jax.inference.batch import USABLE_SHARE, compile_network

_HOST_SHARE = 0.5  # of the memory that is free on the host, where devices do not tell theirs
_SIZES_PER_OCTAVE = 16
Tiling = tuple[tuple[int, int, int], tuple[int, int, int]]


def padded_side(side: int, multiple: int) -> int:
    """A side rounded up to one of sixteen sizes an octave, all multiples of `multiple`.

    At most 1/16 more than it must be: what is compiled for one size serves slices of many.
    """
    step = max(1, 1 << max(0, side.bit_length() - 1) >> _SIZES_PER_OCTAVE.bit_length() - 1)
    step = -(-step // multiple) * multiple
    return -(-side // step) * step


def slice_tiling(
    apply_fn: ApplyFn,
    variables: Any,
    shape: Sequence[int],
    *,
    tile: Sequence[int],
    overlap: Sequence[int],
    n_channels: int = 1,
    device_mesh: Mesh | None = None,
) -> Tiling:
    """Tile and overlap with which `predict_slabs` sees the slices of a volume whole, if they fit.

    A slice fits if it is no larger than a tile, or if the network, as the compiler plans it, takes
    no more than half of the host's free memory or the usable part of the devices'.

    Args:
      apply_fn: function of tiles of a network of slices, from `make_apply_fn`.
      variables: what the network has learnt.
      shape: (z, y, x) of the volume.
      tile: (z, y, x) of the chunks that slices are cut into otherwise; less along axes that are
        shorter.
      overlap: of neighbouring chunks, likewise.
      n_channels: of the volume.
      device_mesh: the devices; by default all of this process.

    Returns:
      Tile and overlap, both (z, y, x).
    """
    multiple = side_multiple(apply_fn)
    sides = [padded_side(n, m) for n, m in zip(shape[1:], multiple[1:], strict=True)]
    whole = (1, sides[0], sides[1])
    if whole[1] * whole[2] <= tile[1] * tile[2]:
        return whole, (0, 0, 0)
    device_mesh = device_mesh or make_device_mesh(jax.local_devices())
    structure = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), variables)
    needed = _needed_bytes(apply_fn, _Structure(structure), whole, n_channels, device_mesh)
    free = _free_bytes(device_mesh)
    if needed is not None and (free is None or needed <= free):
        return whole, (0, 0, 0)
    y, x = (min(t, n) for t, n in zip(tile[1:], sides, strict=True))
    o_y, o_x = (min(o, t - m) for o, t, m in zip(overlap[1:], (y, x), multiple[1:], strict=True))
    logging.info(
        'Slices of %d × %d pixels do not fit in memory and are seen in chunks of %d × %d',
        *shape[1:], y, x,
    )  # fmt: skip
    return (1, y, x), (0, o_y, o_x)


class _Structure:
    """Shapes of variables, equal to those of the same network."""

    def __init__(self, tree: Any) -> None:
        self.tree = tree
        leaves, structure = jax.tree.flatten(tree)
        self._key = structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Structure) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


@functools.lru_cache(maxsize=64)
def _needed_bytes(
    apply_fn: ApplyFn,
    variables: _Structure,
    tile: tuple[int, int, int],
    n_channels: int,
    device_mesh: Mesh,
) -> int | None:
    """Of each device, for one tile; None where the compiler says that it does not fit."""
    tiles = jax.ShapeDtypeStruct(
        (device_mesh.size, *tile, n_channels), 'float32', sharding=split_batch(device_mesh)
    )
    try:
        network = compile_network(apply_fn, device_mesh)
        plan = network.lower(variables.tree, tiles).compile().memory_analysis()
    except jax.errors.JaxRuntimeError as error:
        if is_out_of_memory(error):
            return None
        raise
    # Two batches are under way, of which one waits for the other.
    outputs = 2 * plan.output_size_in_bytes
    return int(plan.temp_size_in_bytes + outputs + plan.argument_size_in_bytes)


def _free_bytes(device_mesh: Mesh) -> float | None:
    """Of each device, what a network may take; on the CPU they share the host's memory."""
    free = [free_bytes(device) for device in device_mesh.devices.flat]
    if None not in free:
        return USABLE_SHARE * min(n for n in free if n is not None)
    host = free_host_bytes()
    return None if host is None else _HOST_SHARE * host / device_mesh.size
