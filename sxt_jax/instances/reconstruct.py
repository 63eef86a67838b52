"""From foreground and flows to instances.

Method of Cellpose3D (Eschweiler, Smith and Stegmaier 2022): every voxel follows the flows; where
paths end is closed with a ball and labelled; a voxel takes the label of its end; instances of
implausible size, foreground share, flow error or shape are removed. `Recipe.published` is that,
step by step. The default differs in what made it lose cells: only foreground voxels move, so that
no trails of background voxels join cells; smoothing does not mix the background in; ends are found
by path doubling.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from sxt_jax.core.errors import InputError
from sxt_jax.instances.quality import judge, weigh
from sxt_jax.instances.recipe import Recipe
from sxt_jax.instances.tracking import track
from sxt_jax.ops import label_stats
from sxt_jax.ops.components import connected_components
from sxt_jax.ops.filters import gaussian_filter
from sxt_jax.ops.morphology import close

# Tables of labels have one of these many rows, so that few programs are compiled.
_LEAST_LABELS = 256


def reconstruct(
    foreground: ArrayLike,
    flows: ArrayLike,
    *,
    cell_radius: float,
    voxel_size: tuple[float, ...] | None = None,
    recipe: Recipe | None = None,
) -> jax.Array:
    """Instances of foreground and flows.

    Everything is computed on the device; only the number of components comes back, to choose the
    length of the tables of labels.

    Args:
      foreground: [(z,) y, x] real or bool, e.g. between 0 and 1.
      flows: [(z,) y, x, n_dims] vectors toward the centre of the cell, components in axis order, in
        voxels.
      cell_radius: typical radius of a cell, in voxels or in the unit of `voxel_size`.
      voxel_size: sides of a voxel per axis, for the closing, sizes and axes; None: ones.
      recipe: how; None: `Recipe()`.

    Returns:
      [(z,) y, x] int32, 1, 2, … and 0 for none. Numbers follow the places in which paths end, in
      raster order; with `split`, the first voxels.

    Raises:
      InputError: shapes do not fit, flows are not finite, the foreground has NaN, or a radius is
        not positive.
    """
    recipe = recipe or Recipe()
    foreground, flows = jnp.asarray(foreground), jnp.asarray(flows)
    check(foreground.shape, flows.shape, cell_radius, voxel_size)
    recipe = recipe.filled_in(cell_radius, voxel_size)
    raw = _find(foreground, flows, recipe=recipe.of_finding(), voxel_size=voxel_size)
    check_values(finite=bool(raw['finite']), known=bool(raw['known']))
    n_labels = table_length(int(raw['n']))
    return _select(
        raw['instances'],
        raw['flows'],
        raw['mask'],
        recipe=recipe,
        voxel_size=voxel_size,
        n_labels=n_labels,
    )


def check(
    shape: tuple[int, ...],
    flows: tuple[int, ...],
    cell_radius: float,
    voxel_size: tuple[float, ...] | None,
) -> None:
    """Raises `InputError` as `reconstruct`, of the shapes of foreground and flows."""
    n_dims = len(shape)
    if n_dims not in (2, 3) or tuple(flows) != (*shape, n_dims):
        found = f'foreground {tuple(shape)} and flows {tuple(flows)}'
        raise InputError('reconstruct', found, '[z, y, x] and [z, y, x, 3], or 2-D')
    if not 0 < cell_radius < math.inf:
        raise InputError('cell_radius', f'{cell_radius}', 'a positive number')
    if voxel_size is not None and (len(voxel_size) != n_dims or min(voxel_size) <= 0):
        raise InputError('voxel_size', f'{voxel_size}', f'{n_dims} positive numbers')


def check_values(*, finite: bool, known: bool) -> None:
    """Raises `InputError` as `reconstruct`: flows are not `finite`, the foreground not `known`."""
    if not finite:
        raise InputError('flows', 'NaN or infinity', 'finite vectors')
    if not known:
        raise InputError('foreground', 'NaN', 'numbers')


@functools.partial(jax.jit, static_argnames=('recipe', 'voxel_size'))
def _find(
    foreground: jax.Array,
    flows: jax.Array,
    *,
    recipe: Recipe,
    voxel_size: tuple[float, ...] | None,
) -> dict[str, jax.Array]:
    """Instances before any is removed, and what they are judged by."""
    mask = foreground > recipe.threshold
    moving = None if recipe.everywhere else mask
    finite, known = jnp.isfinite(flows).all(), ~jnp.isnan(foreground).any()
    flows = prepare(flows.astype(jnp.float32), moving, recipe)
    ends = _follow(flows, moving, recipe)
    components = connected_components(_close_ends(ends, moving, recipe, voxel_size))
    instances = _label(components, ends, moving)
    return {
        'instances': instances,
        'n': components.max(initial=0),
        'flows': flows,
        'mask': mask,
        'finite': finite,
        'known': known,
    }


def _follow(flows: jax.Array, moving: jax.Array | None, recipe: Recipe) -> jax.Array:
    """Where the paths of the moving voxels end."""
    assert recipe.n_steps is not None
    return track(
        flows,
        moving,
        n_steps=recipe.n_steps,
        method=recipe.method,
        lookup=recipe.lookup,
        step_size=recipe.step_size,
        n_direct=recipe.n_direct,
    )


def _close_ends(
    ends: jax.Array,
    moving: jax.Array | None,
    recipe: Recipe,
    voxel_size: tuple[float, ...] | None,
) -> jax.Array:
    """Mask of the voxels in which a path ends, closed."""
    assert recipe.closing_radius is not None
    targets = ends if moving is None else jnp.where(moving, ends, ends.size)
    reached = jnp.zeros(ends.size, bool).at[targets].set(True, mode='drop').reshape(ends.shape)
    return close(reached, recipe.closing_radius, voxel_size=voxel_size)


def _label(components: jax.Array, ends: jax.Array, moving: jax.Array | None) -> jax.Array:
    """Every moving voxel with the component of its end."""
    instances = components.reshape(-1)[ends]
    return instances if moving is None else jnp.where(moving, instances, 0)


def table_length(n: int) -> int:
    """Labels that tables for n components have room for; few programs serve all."""
    return max(_LEAST_LABELS, 1 << n.bit_length())


def prepare(
    flows: jax.Array, mask: jax.Array | None, recipe: Recipe, *, largest: jax.Array | None = None
) -> jax.Array:
    """Flows normalised and smoothed; within the mask by the weighted mean of what is in it.

    Args:
      flows: [(z,) y, x, n_dims] float32.
      mask: [(z,) y, x]; None: everywhere.
      recipe: how.
      largest: absolute component of the flows, if they are a part of a volume.
    """
    if recipe.normalise:
        scale = jnp.abs(flows).max(initial=0) if largest is None else largest
        flows = flows / jnp.where(scale > 0, scale, 1)
    if not recipe.smoothing:
        return flows
    smooth = functools.partial(gaussian_filter, sigma=recipe.smoothing)
    # Where the mask is set the weight is at least that of the voxel itself.
    weight = 1 if mask is None else jnp.where(mask, smooth(mask.astype(jnp.float32)), 1)

    def component(axis: jax.Array, flows: jax.Array) -> jax.Array:
        part = lax.dynamic_index_in_dim(flows, axis, flows.ndim - 1, keepdims=False)
        part = smooth(part) if mask is None else smooth(jnp.where(mask, part, 0)) / weight
        return lax.dynamic_update_index_in_dim(flows, part, axis, flows.ndim - 1)

    # One component after the other: all at once takes three times the memory and as long.
    return lax.fori_loop(0, flows.shape[-1], component, flows)


@functools.partial(jax.jit, static_argnames=('recipe', 'voxel_size', 'n_labels'))
def _select(
    instances: jax.Array,
    flows: jax.Array,
    mask: jax.Array,
    *,
    recipe: Recipe,
    voxel_size: tuple[float, ...] | None,
    n_labels: int,
) -> jax.Array:
    """Those that are plausible, numbered anew."""
    evidence = weigh(
        instances, flows, mask, recipe=recipe, voxel_size=voxel_size, n_labels=n_labels
    )
    keep = judge(evidence, recipe, voxel_size=voxel_size, n_dims=instances.ndim)
    kept = label_stats.relabel(instances, keep)
    return connected_components(kept) if recipe.split else kept
