"""Inference on volumes of any size, tile by tile, with overlapping tiles blended on the device.

The volume is worked through in slabs along z. Weighted outputs and weights are summed on the
device; slices that no later tile touches are divided, handed on and forgotten, so that neither the
device nor the host holds more than a slab or two. Reading the next slab, running the network and
using the last result go on at the same time.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import flax.errors
import jax
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from sxt_jax.core.devices import is_out_of_memory, make_device_mesh, replicated, split_batch
from sxt_jax.core.errors import InputError
from sxt_jax.core.tiles import make_grid
from sxt_jax.inference.apply import ApplyFn, Finish, side_multiple
from sxt_jax.inference.batch import compile_network, find_batch_size, halve
from sxt_jax.inference.kernels import Heads, Sums, add_tiles, cut_tiles, make_sums, take_rows
from sxt_jax.inference.selection import Selection
from sxt_jax.inference.slabs import SlabPlan, make_plan, read_slabs, work_ahead
from sxt_jax.inference.windows import BLENDS, Blend, grid_windows

Size = int | Sequence[int]


@dataclasses.dataclass(frozen=True)
class Slab:
    """Finished slices of a prediction.

    Attributes:
      z_start: the first slice.
      z_stop: one past the last slice.
      heads: head name -> [z_stop - z_start, y, x, k] float32, or what `finish` made of them.
    """

    z_start: int
    z_stop: int
    heads: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class _Job:
    """What stays the same from slab to slab."""

    network: Any
    variables: Any
    plan: SlabPlan
    windows: list[np.ndarray]
    blend: Blend
    device_mesh: Mesh
    finish: Finish | None
    slices: tuple[int, int]  # that are wanted
    chosen: np.ndarray | None = None  # [n_z, n_y, n_x] tiles that the network runs on; None: all
    otherwise: Any = None  # in its place on the others

    @property
    def tile(self) -> tuple[int, int, int]:
        z, y, x = self.plan.grid.tile
        return z, y, x


@dataclasses.dataclass(frozen=True)
class _Tiles:
    """Tiles of one slab: where they start in it [n, 3], and their windows, [n, side] per axis."""

    starts: np.ndarray
    windows: tuple[np.ndarray, np.ndarray, np.ndarray]

    def __len__(self) -> int:
        return len(self.starts)

    def where(self, chosen: np.ndarray) -> _Tiles:
        """Some of them."""
        z, y, x = (w[chosen] for w in self.windows)
        return _Tiles(self.starts[chosen], (z, y, x))

    def batch(self, start: int, size: int, device_mesh: Mesh) -> tuple[jax.Array, Any]:
        """Starts and windows of a batch on the devices, filled up with tiles of weight 0."""
        split = split_batch(device_mesh)

        def put(values: np.ndarray) -> jax.Array:
            values = values[start : start + size]
            filled = np.pad(values, ((0, size - len(values)), (0, 0)))
            return jax.device_put(filled, split)

        return put(self.starts), tuple(put(w) for w in self.windows)


def _triple(name: str, size: Size) -> tuple[int, int, int]:
    sizes = (size,) * 3 if isinstance(size, (int, np.integer)) else tuple(size)
    if len(sizes) != 3:
        raise InputError(name, f'{size}', 'one number, or one for each of z, y, x')
    z, y, x = (int(s) for s in sizes)
    return z, y, x


def _check_options(
    image: Any, apply_fn: ApplyFn, *, tile: Sequence[int], blend: Blend, batch_size: int | None
) -> None:
    if isinstance(apply_fn, nn.Module):
        raise InputError('apply_fn', f'the model {type(apply_fn).__name__}', 'make_apply_fn(model)')
    if len(image.shape) not in (3, 4):
        raise InputError('image', f'shape {tuple(image.shape)}', '[z, y, x] or [z, y, x, c]')
    if blend not in BLENDS:
        raise InputError('blend', repr(blend), ', '.join(BLENDS))
    if batch_size is not None and batch_size < 1:
        raise InputError('batch_size', str(batch_size), 'at least 1')
    multiple = side_multiple(apply_fn)
    if any(t % m for t, m in zip(tile, multiple, strict=True)):
        raise InputError('tile', f'{tile} for this network', f'multiples of {multiple}')


def _check_margin(margin: Sequence[int], overlap: Sequence[int], starts: Sequence[Any]) -> None:
    for axis, (m, o, s) in enumerate(zip(margin, overlap, starts, strict=True)):
        if m < 0 or (len(s) > 1 and 2 * m > o):
            raise InputError(
                'margin', f'{m} voxels on axis {axis}', f'0 to half the overlap of {o}'
            )


def _head_channels(
    apply_fn: ApplyFn, variables: Any, tile: tuple[int, int, int], n_channels: int
) -> dict[str, int]:
    """Channels of each head, and that heads have the tile's shape."""
    tiles = jax.ShapeDtypeStruct((1, *tile, n_channels), np.float32)
    try:
        heads = jax.eval_shape(apply_fn, variables, tiles)
    except flax.errors.ScopeParamShapeError as error:
        raise InputError('image', f'{n_channels} channels', 'as the model has') from error
    for name, head in heads.items():
        if head.shape[:-1] != tiles.shape[:-1]:
            raise InputError(f'head {name}', f'shape {head.shape}', f'{tiles.shape[:-1]} + (k,)')
    return {name: head.shape[-1] for name, head in heads.items()}


def _slab_tiles(job: _Job, index: int) -> tuple[_Tiles, _Tiles]:
    """Tiles of a slab that the network runs on, and the others."""
    grid, rows = job.plan.grid, job.plan.slab_rows(index)
    z_start = grid.starts[0][rows[0]]
    numbers = np.stack(
        np.meshgrid(np.array(rows), *(np.arange(len(s)) for s in grid.starts[1:]), indexing='ij'),
        axis=-1,
    ).reshape(-1, 3)
    starts = np.stack(
        [np.array(s)[n] for s, n in zip(grid.starts, numbers.T, strict=True)], axis=-1
    )
    z, y, x = (w[n] for w, n in zip(job.windows, numbers.T, strict=True))
    tiles = _Tiles((starts - [z_start, 0, 0]).astype(np.int32), (z, y, x))
    chosen = np.ones(len(tiles), bool) if job.chosen is None else job.chosen[tuple(numbers.T)]
    return tiles.where(chosen), tiles.where(~chosen)


def _add_slab(
    job: _Job, network: Any, sums: Sums, slab: jax.Array, tiles: _Tiles, batch_size: int
) -> tuple[Sums, int]:
    """Run a network on tiles of a slab and blend them; the batch size that fits.

    A batch is only added once the network has finished it, while the next one runs already: so a
    batch that finds no memory can be run again in halves.
    """
    n_done = n_started = 0
    running: deque[tuple[Heads, jax.Array, Any]] = deque()
    while n_done < len(tiles):
        try:
            while n_started < len(tiles) and len(running) < 2:
                starts, windows = tiles.batch(n_started, batch_size, job.device_mesh)
                cut = cut_tiles(slab, starts, tile=job.tile, device_mesh=job.device_mesh)
                running.append((network(job.variables, cut), starts, windows))
                n_started += batch_size
            outputs, starts, windows = jax.block_until_ready(running.popleft())
        except jax.errors.JaxRuntimeError as error:
            if not is_out_of_memory(error):
                raise
            running.clear()
            batch_size = halve(batch_size, tile=job.tile, device_mesh=job.device_mesh)
            n_started = n_done
            continue
        sums = add_tiles(
            sums, outputs, starts, windows, blend=job.blend, device_mesh=job.device_mesh
        )
        n_done += batch_size
    return sums, batch_size


def _most_at_once(chosen: np.ndarray, n_devices: int) -> int:
    """A batch of which few tiles are filled up: a quarter of the tiles that a row has on average.

    Each slab ends with a batch that is half empty on average. Down to a power of two per device:
    volumes, each with other tiles, share few compilations.
    """
    if not chosen.any():
        return n_devices
    per_row = chosen.sum((1, 2))
    per_device = max(1, int(per_row[per_row > 0].mean() / 4) // n_devices)
    return n_devices << (per_device.bit_length() - 1)


def _run(
    job: _Job, image: Any, channels: dict[str, int], batch_size: int
) -> Iterator[tuple[int, int, Heads]]:
    """First slice, last slice, and the heads of at least those slices, still on the device."""
    plan = job.plan
    finish = jax.jit(job.finish) if job.finish else lambda heads: heads
    n_slices = plan.grid.shape[0]
    # What is summed up for slices that are not wanted lacks tiles, and is dropped. The others get
    # their tiles in the order, and in the batches, in which the whole volume would give them.
    slabs = plan.needed_for(*job.slices)
    sums = make_sums(channels, shape=plan.shape, device_mesh=job.device_mesh)
    for i, rows in zip(slabs, work_ahead(read_slabs(image, plan, slabs)), strict=True):
        slab = jax.device_put(rows, replicated(job.device_mesh))
        tiles, others = _slab_tiles(job, i)
        sums, batch_size = _add_slab(job, job.network, sums, slab, tiles, batch_size)
        if job.otherwise is not None:
            sums, _ = _add_slab(job, job.otherwise, sums, slab, others, batch_size)
        start, stop = plan.completed(i)
        while start < min(stop, n_slices):
            step = min(plan.chunk, stop - start)
            sums, heads = take_rows(
                sums, np.int32(step), n_rows=plan.chunk, device_mesh=job.device_mesh
            )
            heads = finish(heads)
            for head in heads.values():
                head.copy_to_host_async()
            yield start, min(start + step, n_slices), heads
            start += step


def _to_host(results: Iterator[tuple[int, int, Heads]], job: _Job) -> Iterator[Slab]:
    plan = job.plan
    _, y, x = plan.grid.shape
    try:
        for z, z_end, heads in results:
            start, stop = max(z, job.slices[0]), min(z_end, job.slices[1])
            if start < stop:
                rows = slice(start - z, stop - z)
                yield Slab(start, stop, {n: np.asarray(h)[rows, :y, :x] for n, h in heads.items()})
    except jax.errors.JaxRuntimeError as error:
        if not is_out_of_memory(error):
            raise
        found = f'a slab of {plan.shape} voxels with its results does not fit the device memory'
        raise InputError('image', found, 'tiles of fewer slices, or a part of the image') from error


def predict_slabs(
    apply_fn: ApplyFn,
    variables: Any,
    image: Any,
    *,
    tile: Size,
    overlap: Size,
    blend: Blend = 'cosine',
    margin: Size = 0,
    align: Size | None = None,
    batch_size: int | None = None,
    device_mesh: Mesh | None = None,
    finish: Finish | None = None,
    selection: Selection | None = None,
    slices: tuple[int, int] | None = None,
) -> Iterator[Slab]:
    """Predict a volume slab by slab, in memory that does not grow with its depth.

    The volume is mirrored behind its end where tiles reach beyond it. Inputs are taken as they are:
    scale them first. The arguments are checked at the call, the work is done as slabs are asked
    for, in a thread: JAX's context managers (e.g. for matrix precision) do not reach it, its
    global options do.

    Args:
      apply_fn: (variables, tiles [b, z, y, x, c] float32) -> head name -> [b, z, y, x, k], from
        `make_apply_fn`.
      variables: what the network has learnt.
      image: [z, y, x] or [z, y, x, c], numpy or lazily read (any `core.volume.ArrayLike`).
      tile: shape (z, y, x) of the tiles, voxels; one number for all axes.
      overlap: least overlap of neighbouring tiles, voxels.
      blend: weights where tiles overlap: 'constant', 'cosine' (tapered over the overlap) or
        'distance' (to the tile's border).
      margin: voxels at the faces of tiles that do not count, but at the volume's border: with the
        network's reach as margin, tiles give what the whole volume in one piece would.
      align: tiles start at multiples of it; by default what the network's sides must divide by.
      batch_size: tiles in a batch over all devices, rounded up to a multiple of their number; by
        default as many as keep the devices busy and fit their memory. Halved when they do not fit.
      device_mesh: the devices; by default all of this process.
      finish: what to make of blended heads [z, y, x, k] on the device, slice by slice, before they
        go to the host, e.g. `keep_classes`.
      selection: on which tiles the network runs, and what answers for the others; None: on all.
      slices: first and one past the last slice that is wanted; None: all. They are, bit for bit, as
        in the prediction of all by as many devices; tiles that touch none of them cost nothing.
    Returns:
      Slabs in order of z, without gaps or overlaps.
    Raises:
      InputError: an image that is no volume, slices that it has not, a tile, overlap or margin that
        does not go together or with the network, a single tile that does not fit the device memory.
    """
    tile, overlap, margin = (
        _triple(name, size)
        for name, size in (('tile', tile), ('overlap', overlap), ('margin', margin))
    )
    _check_options(image, apply_fn, tile=tile, blend=blend, batch_size=batch_size)
    align = side_multiple(apply_fn) if align is None else _triple('align', align)
    grid = make_grid(image.shape[:3], tile=tile, overlap=overlap, align=align)
    slices = slices or (0, image.shape[0])
    if not 0 <= slices[0] < slices[1] <= image.shape[0]:
        raise InputError('slices', f'{slices}', f'some of the {image.shape[0]} of the image')
    _check_margin(margin, overlap, grid.starts)
    n_channels = image.shape[3] if len(image.shape) == 4 else 1
    channels = _head_channels(apply_fn, variables, tile, n_channels)

    device_mesh = device_mesh or make_device_mesh(jax.local_devices())
    variables = jax.device_put(variables, replicated(device_mesh))
    network = compile_network(apply_fn, device_mesh)
    chosen, otherwise, n_tiles = None, None, grid.n_tiles
    if selection is not None:
        chosen = selection.choose(grid)
        otherwise = compile_network(selection.otherwise, device_mesh)
        n_tiles = max(1, int(chosen.sum()))
    if batch_size is None:
        batch_size = find_batch_size(
            network,
            variables,
            tile=tile,
            n_channels=n_channels,
            device_mesh=device_mesh,
            n_tiles=n_tiles,
            reserved_bytes=2 * make_plan(grid, 1).n_bytes(n_channels + sum(channels.values()) + 1),
        )
    if chosen is not None:
        batch_size = min(batch_size, _most_at_once(chosen, device_mesh.size))
    batch_size = -(-batch_size // device_mesh.size) * device_mesh.size
    windows = grid_windows(grid, blend=blend, margin=margin)
    plan = make_plan(grid, batch_size)
    job = _Job(
        network, variables, plan, windows, blend, device_mesh, finish, slices, chosen, otherwise
    )
    return _to_host(work_ahead(_run(job, image, channels, batch_size)), job)


def predict_volume(
    apply_fn: ApplyFn,
    variables: Any,
    image: Any,
    *,
    tile: Size,
    overlap: Size,
    blend: Blend = 'cosine',
    margin: Size = 0,
    align: Size | None = None,
    batch_size: int | None = None,
    device_mesh: Mesh | None = None,
    finish: Finish | None = None,
    selection: Selection | None = None,
) -> dict[str, np.ndarray]:
    """Predict a volume into host memory: `predict_slabs`, put together.

    Args:
      apply_fn, variables, image, tile, overlap, blend, margin, align, batch_size, device_mesh,
        finish, selection: see `predict_slabs`.
    Returns:
      Head name -> [z, y, x, k] float32, or what `finish` made of them.
    Raises:
      InputError: see `predict_slabs`.
    """
    slabs = predict_slabs(
        apply_fn,
        variables,
        image,
        tile=tile,
        overlap=overlap,
        blend=blend,
        margin=margin,
        align=align,
        batch_size=batch_size,
        device_mesh=device_mesh,
        finish=finish,
        selection=selection,
    )
    volume: dict[str, np.ndarray] = {}
    for slab in slabs:
        for name, head in slab.heads.items():
            if name not in volume:
                volume[name] = np.empty((image.shape[0], *head.shape[1:]), head.dtype)
            volume[name][slab.z_start : slab.z_stop] = head
    return volume
