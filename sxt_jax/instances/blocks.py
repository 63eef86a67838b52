"""Reconstruction of volumes larger than the device, block by block, with the result of the whole.

The device sees a block and a halo at a time; the host holds what belongs to all: a voxel index for
each voxel. No step is approximated:

- The direct steps of `tracking.track` go no further than their number times the longest flow that
  is followed, so with a halo of that width their ends are those of the whole. The map of voxels to
  voxels is squared on the host, where it may lead anywhere.
- A closing needs a halo of twice its ball.
- Components of blocks are joined where they touch (`seams`), and numbered as in the whole.
- What instances are judged by are sums over blocks.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sxt_jax.core.blocks import Block, make_blocks
from sxt_jax.core.devices import free_bytes, is_out_of_memory
from sxt_jax.core.errors import InputError
from sxt_jax.core.memory import free_host_bytes
from sxt_jax.core.volume import ArrayLike, load
from sxt_jax.instances.quality import Evidence, flow_errors, judge
from sxt_jax.instances.recipe import Recipe
from sxt_jax.instances.reconstruct import check, check_values, prepare, reconstruct, table_length
from sxt_jax.instances.seams import components_by_blocks
from sxt_jax.instances.tracking import Part, follow, plan_steps
from sxt_jax.ops import label_stats
from sxt_jax.ops.filters import gaussian_radius
from sxt_jax.ops.morphology import close, dilate

# Sides of a block: with its halo some 20 million voxels, of which each takes 60 bytes.
BLOCK = {2: (4096, 4096), 3: (256, 256, 256)}
_WHOLE_BYTES = 80  # a voxel of `reconstruct`, arguments and result included, by the compiler's plan
_USABLE_SHARE = 0.8  # of the free memory
_HALO_STEP = 4  # voxels
_CHUNK = 2**22  # voxels that a thread of the host works on at once


def reconstruct_to_host(
    foreground: ArrayLike,
    flows: ArrayLike,
    *,
    cell_radius: float,
    voxel_size: tuple[float, ...] | None = None,
    recipe: Recipe | None = None,
    block: Sequence[int] | None = None,
    on_block: Callable[[int], Any] | None = None,
) -> np.ndarray:
    """Instances in host memory: made at once where the device has room, or block by block.

    The instances are the same.

    Args:
      foreground, flows, cell_radius, voxel_size, recipe: as in `reconstruct`.
      block, on_block: as in `reconstruct_by_blocks`, which is taken in any case if there is a
        block.

    Returns:
      [(z,) y, x] int32.

    Raises:
      InputError: as `reconstruct_by_blocks`.
    """
    options: dict[str, Any] = {
        'cell_radius': cell_radius, 'voxel_size': voxel_size, 'recipe': recipe
    }  # fmt: skip
    if block is None and fits_device(foreground.shape):
        try:
            return np.asarray(reconstruct(load(foreground), load(flows), **options))
        except jax.errors.JaxRuntimeError as error:
            if not is_out_of_memory(error):
                raise
    return reconstruct_by_blocks(foreground, flows, block=block, on_block=on_block, **options)


def fits_device(shape: Sequence[int]) -> bool:
    """Whether `reconstruct` has room for a volume, or `reconstruct_by_blocks` must do it."""
    if not label_stats.takes(shape):
        return False
    free = free_bytes(jax.local_devices()[0])
    free = free_host_bytes() if free is None else free
    return free is None or math.prod(shape) * _WHOLE_BYTES <= free * _USABLE_SHARE


def reconstruct_by_blocks(
    foreground: ArrayLike,
    flows: ArrayLike,
    *,
    cell_radius: float,
    voxel_size: tuple[float, ...] | None = None,
    recipe: Recipe | None = None,
    block: Sequence[int] | None = None,
    on_block: Callable[[int], Any] | None = None,
) -> np.ndarray:
    """`reconstruct` of a volume of which only a block is on the device.

    The instances are those of `reconstruct`, whatever the block, up to rounding: of positions,
    where a compiler adds in another order, and of the measures that instances are judged by. Beside
    its arguments it takes 15 bytes a voxel on the host, 19 from 2³¹ voxels on. With method 'euler'
    halos are as long as all steps: choose 'doubling'.

    Args:
      foreground: [(z,) y, x], read part by part: numpy, or a data set of a file.
      flows: [(z,) y, x, n_dims], likewise.
      cell_radius, voxel_size, recipe: as in `reconstruct`.
      block: sides of a block in voxels; None: `BLOCK`.
      on_block: called with the number of blocks, after each whose voxels were tracked.

    Returns:
      [(z,) y, x] int32.

    Raises:
      InputError: as `reconstruct`, sides of a block that are not positive, or a block that with
        its halo does not fit the device.
    """
    shape = tuple(foreground.shape)
    check(shape, tuple(flows.shape), cell_radius, voxel_size)
    recipe = (recipe or Recipe()).filled_in(cell_radius, voxel_size)
    block = tuple(BLOCK[len(shape)] if block is None else block)
    if len(block) != len(shape) or min(block) < 1:
        raise InputError('block', f'{block}', f'{len(shape)} positive sides')
    if 0 in shape:
        return np.zeros(shape, np.int32)
    volume = _survey(_Volume(foreground, flows, shape, block, recipe, voxel_size))
    try:
        return _select(volume, _find(volume, on_block))
    except jax.errors.JaxRuntimeError as error:
        if not is_out_of_memory(error):
            raise
        found = f'{block}, which with {volume.halo} voxels around it does not fit the device'
        raise InputError('block', found, 'smaller sides') from error


@dataclasses.dataclass(frozen=True)
class _Volume:
    """What is to be reconstructed, and how."""

    foreground: ArrayLike
    flows: ArrayLike
    shape: tuple[int, ...]
    block: tuple[int, ...]
    recipe: Recipe
    voxel_size: tuple[float, ...] | None
    largest: float = 0.0  # absolute component of all flows
    halo: int = 0  # voxels that the direct steps lead out of a block, and look further

    def blocks(self, halo: Sequence[int] | None = None) -> Iterator[Block]:
        return make_blocks(self.shape, block=self.block, halo=halo)

    def ball(self) -> list[int]:
        """Voxels per axis that the closing's ball reaches from its centre."""
        radius, sides = self.recipe.closing_radius, self.voxel_size or (1.0,) * len(self.shape)
        assert radius is not None
        return [math.ceil(radius / side) for side in sides]

    def part(self, block: Block) -> Part:
        return Part(*(jnp.asarray(n, jnp.int32) for n in (block.region.start, self.shape)))


def _survey(volume: _Volume) -> _Volume:
    """With the largest component of the flows, and the halo that the moving voxels need."""
    recipe, largest, fastest = volume.recipe, 0.0, 0.0
    for block in volume.blocks():
        flows = np.abs(np.asarray(volume.flows[block.core.slices]))
        foreground = np.asarray(volume.foreground[block.core.slices])
        found = float(flows.max(initial=0))
        check_values(finite=math.isfinite(found), known=not np.isnan(foreground).any())
        moving = flows if recipe.everywhere else flows[foreground > recipe.threshold]
        largest, fastest = max(largest, found), max(fastest, float(moving.max(initial=0)))
    if recipe.normalise and largest:
        fastest /= largest
    n_direct, _ = _plan(recipe)
    reach = math.ceil(n_direct * abs(recipe.step_size) * fastest)
    # In few sizes, for which a program is compiled each: the longest flow of files differs.
    reach += -reach % _HALO_STEP
    halo = reach + 1 + gaussian_radius(recipe.smoothing)
    return dataclasses.replace(volume, largest=largest, halo=halo)


def _plan(recipe: Recipe) -> tuple[int, int]:
    assert recipe.n_steps is not None
    return plan_steps(recipe.n_steps, method=recipe.method, n_direct=recipe.n_direct)


def _find(volume: _Volume, on_block: Callable[[int], Any] | None) -> np.ndarray:
    """Instances before any is removed."""
    ends, moving = _follow_all(volume, on_block)
    reached = np.zeros(ends.size, bool)
    for rows in _chunks(ends.size):
        reached[ends[rows][moving[rows]]] = True
    closed = _closed(volume, reached.reshape(volume.shape))
    components = components_by_blocks(closed, block=volume.block)
    return _take(components.reshape(-1), ends, moving).reshape(volume.shape)


def _follow_all(
    volume: _Volume, on_block: Callable[[int], Any] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Flat index of the voxel in which each path ends, and which voxels move; both [voxels]."""
    recipe, shape = volume.recipe.of_finding(), volume.shape
    _, n_doublings = _plan(recipe)
    ends = np.empty(shape, np.int32 if math.prod(shape) < 2**31 else np.int64)
    moving = np.empty(shape, bool)
    plane = math.prod(shape[1:])
    blocks = list(volume.blocks([volume.halo] * len(shape)))
    for block in blocks:
        core, inside = block.core.slices, block.core_in_region.slices
        found = _follow_block(*_arrays(volume, block), volume.part(block), recipe=recipe)
        first, rest, moves = (np.asarray(array)[inside] for array in found)
        ends[core] = first.astype(ends.dtype) * plane + rest
        moving[core] = moves
        if on_block is not None:
            on_block(len(blocks))
    flat = ends.reshape(-1)
    for _ in range(n_doublings):
        flat = _take(flat, flat)
    return flat, moving.reshape(-1)


def _arrays(volume: _Volume, block: Block) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Foreground and flows of a region, and the largest component of all."""
    foreground, flows = volume.foreground, volume.flows
    region = block.region.slices
    return (
        jnp.asarray(np.asarray(foreground[region])),
        jnp.asarray(np.asarray(flows[region]), jnp.float32),
        jnp.float32(volume.largest),
    )


@functools.partial(jax.jit, static_argnames=('recipe',))
def _follow_block(
    foreground: jax.Array, flows: jax.Array, largest: jax.Array, part: Part, *, recipe: Recipe
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Ends of the direct steps as index along the first axis and within it; which voxels move."""
    shape = foreground.shape
    moving, prepared = _prepared_block(foreground, flows, largest, recipe=recipe)
    n_direct, _ = _plan(recipe)
    ends = follow(
        prepared,
        moving,
        part,
        n_steps=n_direct,
        lookup=recipe.lookup,
        step_size=recipe.step_size,
    )
    # Two numbers, since one would be too large for 32 bits in large volumes.
    place = [i + part.origin[axis] for axis, i in enumerate(jnp.unravel_index(ends, shape))]
    rest = functools.reduce(
        lambda index, axis: index * part.whole[axis] + place[axis],
        range(1, len(shape)),
        jnp.zeros(shape, jnp.int32),
    )
    return place[0], rest, jnp.ones(shape, bool) if moving is None else moving


@functools.partial(jax.jit, static_argnames=('recipe',))
def _prepared_block(
    foreground: jax.Array, flows: jax.Array, largest: jax.Array, *, recipe: Recipe
) -> tuple[jax.Array | None, jax.Array]:
    moving = None if recipe.everywhere else foreground > recipe.threshold
    return moving, prepare(flows, moving, recipe, largest=largest)


def _chunks(n: int) -> list[slice]:
    return [slice(start, min(start + _CHUNK, n)) for start in range(0, n, _CHUNK)]


def _take(values: np.ndarray, indices: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """`values[indices]`, by all cores; 0 outside of the mask."""
    found = np.empty(indices.shape, values.dtype)

    def take(rows: slice) -> None:
        np.take(values, indices[rows], out=found[rows], mode='clip')  # 'raise' would copy
        if mask is not None:
            found[rows][~mask[rows]] = 0

    with ThreadPoolExecutor() as pool:
        list(pool.map(take, _chunks(indices.size)))
    return found


def _closed(volume: _Volume, reached: np.ndarray) -> np.ndarray:
    radius = volume.recipe.closing_radius
    assert radius is not None
    closed = np.empty_like(reached)
    for block in volume.blocks([2 * reach for reach in volume.ball()]):
        region = jnp.asarray(reached[block.region.slices])
        found = np.asarray(close(region, radius, voxel_size=volume.voxel_size))
        closed[block.core.slices] = found[block.core_in_region.slices]
    return closed


def _select(volume: _Volume, instances: np.ndarray) -> np.ndarray:
    """Those that are plausible, numbered anew."""
    recipe, n_dims = volume.recipe, instances.ndim
    evidence = _weigh(volume, instances)
    keep = judge(evidence, recipe, voxel_size=volume.voxel_size, n_dims=n_dims)
    number = np.asarray(label_stats.new_numbers(keep))
    kept = _take(number, instances.reshape(-1)).reshape(instances.shape)
    return components_by_blocks(kept, block=volume.block) if recipe.split else kept


def _weigh(volume: _Volume, instances: np.ndarray) -> Evidence:
    """What instances are judged by, in sums over the blocks."""
    recipe, n = volume.recipe, int(instances.max()) + 1
    shared, flowing = recipe.min_foreground_share > 0, recipe.max_flow_error is not None
    if not (shared or flowing or recipe.min_axis_ratio > 0):
        flat = instances.reshape(-1)
        counts = np.zeros(n, np.int64)
        for rows in _chunks(flat.size):
            counts += np.bincount(flat[rows], minlength=n)
        return Evidence(jnp.asarray(counts))
    moments = _sum_over_blocks(volume, instances, n, _moments_of_block)
    sizes = np.maximum(moments[:, 0], 1)
    centroids = moments[:, 1 : 1 + instances.ndim] / sizes[:, None]
    shares = errors = axes = None
    if shared:
        shares = _sum_over_blocks(volume, instances, n, _foreground_of_block) / sizes
    if flowing:
        towards = functools.partial(_flow_errors_of_block, centroids=centroids)
        errors = _sum_over_blocks(volume, instances, n, towards) / sizes
    if recipe.min_axis_ratio > 0:
        second = moments[:, 1 + instances.ndim :].reshape(n, instances.ndim, -1)
        outer = centroids[:, :, None] * centroids[:, None, :]
        axes = label_stats.axes_of(second / sizes[:, None, None] - outer, volume.voxel_size)
    return Evidence(
        jnp.asarray(moments[:, 0]),
        *(None if found is None else jnp.asarray(found) for found in (shares, errors, axes)),
    )


def _sum_over_blocks(
    volume: _Volume, instances: np.ndarray, n: int, of_block: Callable[..., np.ndarray]
) -> np.ndarray:
    """[n, …] float64 sum of `of_block(volume, block, own instances, n_labels)`."""
    n_labels = table_length(n - 1)
    reach = [max(gaussian_radius(volume.recipe.smoothing), ball) for ball in volume.ball()]
    total: Any = 0
    for block in volume.blocks(reach):
        own = np.zeros(block.region.shape, np.int32)
        own[block.core_in_region.slices] = instances[block.core.slices]
        total = total + of_block(volume, block, jnp.asarray(own), n_labels)[:n]
    return np.asarray(total, np.float64)


def _moments_of_block(volume: _Volume, block: Block, own: jax.Array, n_labels: int) -> np.ndarray:
    """[n, 1 + d + d²] voxels, and sums of coordinates and of their products."""
    regions = label_stats.regions(own, n_labels=n_labels)
    covariances = label_stats.second_moments(own, n_labels=n_labels)
    sizes = np.asarray(regions.sizes, np.float64)[:, None]
    # In double precision: products of coordinates in large volumes have more than seven digits.
    place = np.asarray(regions.centroids, np.float64) + np.array(block.region.start)
    products = np.asarray(covariances, np.float64) + place[:, :, None] * place[:, None, :]
    return np.concatenate([sizes, sizes * place, sizes * products.reshape(len(sizes), -1)], 1)


def _foreground_of_block(
    volume: _Volume, block: Block, own: jax.Array, n_labels: int
) -> np.ndarray:
    """[n] voxels in the widened foreground."""
    radius, region = volume.recipe.closing_radius, block.region.slices
    assert radius is not None
    mask = jnp.asarray(np.asarray(volume.foreground[region])) > volume.recipe.threshold
    widened = dilate(mask, radius, voxel_size=volume.voxel_size)
    return _sums(own, widened, n_labels)


def _flow_errors_of_block(
    volume: _Volume, block: Block, own: jax.Array, n_labels: int, *, centroids: np.ndarray
) -> np.ndarray:
    """[n] sum of what the flows differ by from those that an instance should have."""
    recipe = volume.recipe.of_finding()
    _, prepared = _prepared_block(*_arrays(volume, block), recipe=recipe)
    table = np.zeros((n_labels + 1, own.ndim), np.float32)
    # In coordinates of the region, which single precision holds to the last digit.
    table[: len(centroids)] = centroids - np.array(block.region.start)
    return _sums(own, flow_errors(own, prepared, jnp.asarray(table)), n_labels)


def _sums(own: jax.Array, values: jax.Array, n_labels: int) -> np.ndarray:
    sizes = np.asarray(label_stats.sizes(own, n_labels=n_labels), np.float64)
    return np.asarray(label_stats.means(own, values, n_labels=n_labels), np.float64) * sizes
