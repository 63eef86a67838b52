"""How many tiles the devices take at once: as many as keep them busy and fit their memory."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from absl import logging
from jax.sharding import Mesh

from sxt_jax.core.devices import free_bytes, is_out_of_memory, replicated, split_batch
from sxt_jax.core.errors import InputError
from sxt_jax.inference.apply import ApplyFn, Heads

# Voxels per device and batch. An accelerator is busy from about a million on; a CPU gains nothing
# from more than one tile, and its memory is the host's.
BUSY_VOXELS = 2**22
USABLE_SHARE = 0.8  # of the free device memory: fragments and transfers need the rest

Network = Callable[[Any, jax.Array], Heads]


@functools.lru_cache(maxsize=32)
def compile_network(apply_fn: ApplyFn, device_mesh: Mesh) -> Any:
    """`apply_fn` jitted with its batch split over the devices; the same for the same arguments."""
    split = split_batch(device_mesh)
    return jax.jit(apply_fn, in_shardings=(replicated(device_mesh), split), out_shardings=split)


def _fits(network: Any, variables: Any, tiles: jax.ShapeDtypeStruct, free: float) -> bool:
    """Whether two batches under way need no more memory per device, as the compiler plans it."""
    try:
        plan = network.lower(variables, tiles).compile().memory_analysis()
    except jax.errors.JaxRuntimeError as error:
        if is_out_of_memory(error):  # TPU compilers refuse what does not fit
            return False
        raise
    sizes = plan.temp_size_in_bytes, 2 * plan.output_size_in_bytes, plan.argument_size_in_bytes
    return sum(sizes) <= free


def _free_bytes(device_mesh: Mesh) -> int | None:
    """Memory left on the fullest device; None where it is not told (CPU)."""
    free = [free_bytes(device) for device in device_mesh.devices.flat]
    return None if None in free else min(n for n in free if n is not None)


def find_batch_size(
    network: Any,
    variables: Any,
    *,
    tile: Sequence[int],
    n_channels: int,
    device_mesh: Mesh,
    n_tiles: int | None = None,
    reserved_bytes: int = 0,
) -> int:
    """Tiles per batch over all devices.

    Where the devices tell their memory: enough to keep them busy, but no more than there are (to
    the next power of two, so that volumes share few compilations), halved until the compiler's plan
    fits. Where not (CPU): one tile per device.

    Args:
      network: from `compile_network`.
      variables: its first argument.
      tile: shape (z, y, x) of a tile.
      n_channels: of a tile.
      device_mesh: the devices.
      n_tiles: how many there are in all; None: very many.
      reserved_bytes: of each device's memory, what else will be needed.
    """
    per_device = 1
    free = _free_bytes(device_mesh)
    if free is not None:
        free = max(0, free - reserved_bytes)
        voxels = tile[0] * tile[1] * tile[2]
        per_device = 1 << max(0, (BUSY_VOXELS // voxels).bit_length() - 1)
        if n_tiles is not None:
            share = -(-n_tiles // device_mesh.size)
            per_device = min(per_device, 1 << (share - 1).bit_length())
        while per_device > 1:
            shape = (per_device * device_mesh.size, *tile, n_channels)
            tiles = jax.ShapeDtypeStruct(shape, 'float32', sharding=split_batch(device_mesh))
            if _fits(network, variables, tiles, USABLE_SHARE * free):
                break
            per_device //= 2
    return per_device * device_mesh.size


def halve(batch_size: int, *, tile: Sequence[int], device_mesh: Mesh) -> int:
    """The next smaller batch after the devices ran out of memory; says so in the log.

    Raises:
      InputError: the batch is one tile per device already.
    """
    per_device = batch_size // device_mesh.size
    if per_device <= 1:
        raise InputError(
            'tile',
            f'a single tile of {tuple(tile)} per device does not fit the device memory',
            'a smaller tile',
        )
    smaller = per_device // 2 * device_mesh.size
    logging.warning(
        'Out of device memory with %d tiles of %s a batch; going on with %d.',
        batch_size, tuple(tile), smaller,
    )  # fmt: skip
    return smaller
