"""The devices: which there are, and how arrays are laid out over them.

One axis, `DATA_AXIS`, splits the batch: every device holds all parameters and its share of the
batch. The published networks (1–77 M parameters, below 1 GiB with optimizer state) fit on every
accelerator, so splitting parameters would cost communication and save nothing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sxt_jax.core.errors import InputError

DATA_AXIS = 'data'


def make_device_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A one-axis device mesh over `devices` (default: all)."""
    devices = list(devices) if devices is not None else jax.devices()
    return jax.make_mesh(
        (len(devices),), (DATA_AXIS,), devices=devices, axis_types=(jax.sharding.AxisType.Auto,)
    )


def replicated(device_mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(device_mesh, PartitionSpec())


def split_batch(device_mesh: Mesh) -> NamedSharding:
    """Axis 0 is split over the devices."""
    return NamedSharding(device_mesh, PartitionSpec(DATA_AXIS))


def place(array: Any, sharding: jax.sharding.Sharding | None) -> jax.Array:
    """An array that all processes of the job have, over devices of which some may be others'.

    Without a sharding, as shapes by themselves have none, it goes to the default device.
    """
    if sharding is None or sharding.is_fully_addressable:
        return jax.device_put(array, sharding)
    # Else `device_put` would compare what the processes have, an exchange for each array.
    array = np.asarray(array)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def own_copy(tree: Any) -> Any:
    """Arrays that all devices of all processes hold, as one device of this process does."""
    return jax.tree.map(lambda a: a if a.is_fully_addressable else a.addressable_data(0), tree)


def is_accelerated() -> bool:
    """Whether computations run on something faster than the CPU."""
    return jax.default_backend() != 'cpu'


def usable_cores() -> int:
    """CPU cores that this process may use; a scheduler may have left it a few of the machine's."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


def free_bytes(device: jax.Device) -> int | None:
    """Memory left on a device; None where it is not told (CPU)."""
    stats = device.memory_stats()
    if not stats or 'bytes_limit' not in stats:
        return None
    return int(stats['bytes_limit'] - stats['bytes_in_use'])


def is_out_of_memory(error: Exception) -> bool:
    """Whether a device refused memory, rather than anything else going wrong."""
    return 'RESOURCE_EXHAUSTED' in str(error)


def compute_dtype(name: str) -> Any:
    """The type that networks compute in: 'float32', 'bfloat16', or 'auto' for the latter where an
    accelerator is.

    Raises:
      InputError: another name.
    """
    kinds = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}
    kinds['auto'] = jnp.bfloat16 if is_accelerated() else jnp.float32
    if name not in kinds:
        raise InputError('compute_dtype', repr(name), f'one of {sorted(kinds)}')
    return kinds[name]


def describe_devices() -> str:
    """One line for the log, e.g. `8 × NVIDIA H100 (gpu), JAX 0.10.2`."""
    devices = jax.devices()
    kind, n_processes = f'{devices[0].device_kind} ({devices[0].platform})', jax.process_count()
    where = f' in {n_processes} processes' if n_processes > 1 else ''
    return f'{len(devices)} × {kind}{where}, JAX {jax.__version__}'


def require_accelerator() -> None:
    """Raise unless JAX found a GPU or TPU.

    Raises:
      InputError: only the CPU is there.
    """
    if not is_accelerated():
        raise InputError(
            '--require_accelerator',
            f'JAX found only {describe_devices()}',
            "a GPU or TPU: install with pip install -e '.[cuda]' or '.[tpu]' and check the driver",
        )
