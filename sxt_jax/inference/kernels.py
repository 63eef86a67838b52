"""What runs on the devices besides the network: cut tiles from a slab, blend them, hand on slices.

The slab is on every device; each device cuts and blends its own share of every batch, into sums of
its own, so that devices exchange nothing until slices are handed on. All three kernels are compiled
once per slab shape; they are small against the network, which does not depend on it.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from sxt_jax.core.devices import DATA_AXIS, split_batch
from sxt_jax.inference.windows import Blend, combine

Heads = dict[str, jax.Array]
Shape3 = tuple[int, int, int]
SPLIT, WHOLE = PartitionSpec(DATA_AXIS), PartitionSpec()


class Sums(NamedTuple):
    """Blended tiles so far, one set of sums per device.

    Attributes:
      heads: Σ weight · output, head name -> [n_devices, z, y, x, k] float32.
      weights: Σ weight, [n_devices, z, y, x, 1] float32.
    """

    heads: Heads
    weights: jax.Array


def make_sums(channels: dict[str, int], *, shape: Shape3, device_mesh: Mesh) -> Sums:
    """Sums of zero for heads of that many channels over a slab of that shape."""

    def zeros(k: int) -> jax.Array:
        return jnp.zeros(
            (device_mesh.size, *shape, k), jnp.float32, device=split_batch(device_mesh)
        )

    return Sums({name: zeros(k) for name, k in channels.items()}, zeros(1))


@partial(jax.jit, static_argnames=('tile', 'device_mesh'))
def cut_tiles(slab: jax.Array, starts: jax.Array, *, tile: Shape3, device_mesh: Mesh) -> jax.Array:
    """Tiles [b, tz, ty, tx, c] float32 of a slab [z, y, x, c] at `starts` [b, 3]."""

    def cut(slab: jax.Array, start: jax.Array) -> jax.Array:
        corner = (*start, start.dtype.type(0))  # where float64 is enabled, 0 would be an int64
        return lax.dynamic_slice(slab, corner, (*tile, slab.shape[3])).astype(jnp.float32)

    def cut_share(slab: jax.Array, starts: jax.Array) -> jax.Array:
        return jax.vmap(cut, in_axes=(None, 0))(slab, starts)

    return jax.shard_map(cut_share, mesh=device_mesh, in_specs=(WHOLE, SPLIT), out_specs=SPLIT)(
        slab, starts
    )


@partial(jax.jit, static_argnames=('blend', 'device_mesh'), donate_argnames='sums')
def add_tiles(
    sums: Sums,
    outputs: Heads,
    starts: jax.Array,
    windows: tuple[jax.Array, jax.Array, jax.Array],
    *,
    blend: Blend,
    device_mesh: Mesh,
) -> Sums:
    """Add weighted tiles to the sums.

    Args:
      sums: what was added before; its memory is reused.
      outputs: head name -> [b, tz, ty, tx, k].
      starts: [b, 3] int32, where the tiles begin in the slab.
      windows: [b, tz], [b, ty], [b, tx] float32; all 0 for tiles that only fill up the batch.
      blend: how windows make weights.
      device_mesh: the devices.
    """

    def add(array: jax.Array, values: jax.Array, start: jax.Array) -> jax.Array:
        zero = start.dtype.type(0)
        corner = (zero, *start, zero)
        old = lax.dynamic_slice(array, corner, (1, *values.shape))
        return lax.dynamic_update_slice(array, old + values[None], corner)

    def add_share(sums: Sums, outputs: Heads, starts: jax.Array, windows: tuple) -> Sums:
        def add_tile(i: jax.Array, sums: Sums) -> Sums:
            z, y, x = (w[i] for w in windows)
            weight = combine(z, y, x, blend)[..., None]
            heads = {
                # Not 0 · output, which is NaN where a network overflows outside its valid region.
                name: add(s, jnp.where(weight > 0, weight * outputs[name][i], 0), starts[i])
                for name, s in sums.heads.items()
            }
            return Sums(heads, add(sums.weights, weight, starts[i]))

        return lax.fori_loop(0, starts.shape[0], add_tile, sums)

    return jax.shard_map(add_share, mesh=device_mesh, in_specs=SPLIT, out_specs=SPLIT)(
        sums, outputs, starts, windows
    )


@partial(jax.jit, static_argnames=('n_rows', 'device_mesh'), donate_argnames='sums')
def take_rows(
    sums: Sums, shift: jax.Array, *, n_rows: int, device_mesh: Mesh
) -> tuple[Sums, Heads]:
    """The blended heads of the first `n_rows` slices, and the sums moved up by `shift` ≤ n_rows."""

    def move(array: jax.Array) -> jax.Array:
        longer = jnp.pad(array, ((0, 0), (0, n_rows), (0, 0), (0, 0), (0, 0)))
        return lax.dynamic_slice_in_dim(longer, shift, array.shape[1], axis=1)

    def take_share(sums: Sums) -> tuple[Sums, Heads]:
        total = jax.tree.map(lambda s: lax.psum(s[0, :n_rows], DATA_AXIS), sums)
        heads = {
            name: jnp.where(total.weights > 0, s / total.weights, 0)
            for name, s in total.heads.items()
        }
        return jax.tree.map(move, sums), heads

    return jax.shard_map(take_share, mesh=device_mesh, in_specs=SPLIT, out_specs=(SPLIT, WHOLE))(
        sums
    )
