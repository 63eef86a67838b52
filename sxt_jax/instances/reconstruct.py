"""From foreground and flows to instances.

Method of Cellpose3D (Eschweiler, Smith and Stegmaier 2022): every voxel follows the flows; where
paths end is closed with a ball and labelled; a voxel takes the label of its end; instances of
implausible size, foreground share, flow error or shape are removed. `Recipe.published` is that,
step by step. The default differs in what made it lose cells: only foreground voxels move, so that
no trails of background voxels join cells; smoothing does not mix the background in; ends are found
by path doubling.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from sxt_jax.core.errors import InputError
from sxt_jax.instances.quality import keep_plausible
from sxt_jax.instances.tracking import track
from sxt_jax.ops import label_stats
from sxt_jax.ops.components import connected_components
from sxt_jax.ops.filters import gaussian_filter
from sxt_jax.ops.morphology import close

# Tables of labels have one of these many rows, so that few programs are compiled.
_LEAST_LABELS = 256


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How instances are made.

    Attributes:
      threshold: foreground above it.
      everywhere: all voxels move and are labelled, not only those of the foreground.
      normalise: flows are divided by their one largest absolute component.
      smoothing: standard deviation in voxels of the Gaussian that smooths the flows; within the
        foreground only, unless `everywhere`.
      n_steps: steps along the flows; None: 32 times the cell radius in voxels.
      method, lookup, step_size, n_direct: see `tracking.track`.
      closing_radius: of the ball that joins the ends of a cell; None: half the cell radius.
      min_diameter, max_diameter: instances smaller or larger than a ball (2-D: disk) of this
        diameter are removed; None: the cell radius, and no upper limit.
      min_foreground_share: instances with a smaller share of foreground, widened by the closing's
        ball, are removed; 0: none.
      max_flow_error: instances whose flows differ more from those that their shape should have
        ('tanh') are removed; None: none. Mean absolute difference of components.
      min_axis_ratio: instances whose shortest axis is a smaller share of the longest are removed.
      split: instances in several pieces become several instances.
    """

    threshold: float = 0.5
    everywhere: bool = False
    normalise: bool = False
    smoothing: float = 1.0
    n_steps: int | None = None
    method: str = 'doubling'
    lookup: str = 'linear'
    step_size: float = 1.0
    n_direct: int = 8
    closing_radius: float | None = None
    min_diameter: float | None = None
    max_diameter: float | None = None
    min_foreground_share: float = 0.0
    max_flow_error: float | None = None
    min_axis_ratio: float = 0.0
    split: bool = False

    @classmethod
    def published(cls, *, min_diameter: float, max_diameter: float, **changes: Any) -> Recipe:
        """The one of Cellpose3D's released code, with its parameters."""
        recipe = cls(
            everywhere=True,
            normalise=True,
            n_steps=100,
            method='euler',
            lookup='floor',
            closing_radius=min_diameter // 2,
            min_diameter=min_diameter,
            max_diameter=max_diameter,
            min_foreground_share=0.5,
            max_flow_error=0.8,
            min_axis_ratio=0.1,
            split=True,
        )
        return dataclasses.replace(recipe, **changes)


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
      InputError: shapes do not fit, flows are not finite, or a radius is not positive.
    """
    recipe = recipe or Recipe()
    foreground, flows = jnp.asarray(foreground), jnp.asarray(flows)
    _check(foreground, flows, cell_radius, voxel_size)
    recipe = _fill_in(recipe, cell_radius, voxel_size)
    raw = _find(foreground, flows, recipe=recipe, voxel_size=voxel_size)
    if not raw['finite']:
        raise InputError('flows', 'NaN or infinity', 'finite vectors')
    n_labels = _table_length(int(raw['n']))
    return _select(
        raw['instances'],
        raw['flows'],
        raw['mask'],
        recipe=recipe,
        voxel_size=voxel_size,
        n_labels=n_labels,
    )


def _check(
    foreground: jax.Array,
    flows: jax.Array,
    cell_radius: float,
    voxel_size: tuple[float, ...] | None,
) -> None:
    n_dims = foreground.ndim
    if n_dims not in (2, 3) or flows.shape != (*foreground.shape, n_dims):
        found = f'foreground {foreground.shape} and flows {flows.shape}'
        raise InputError('reconstruct', found, '[z, y, x] and [z, y, x, 3], or 2-D')
    if not 0 < cell_radius < math.inf:
        raise InputError('cell_radius', f'{cell_radius}', 'a positive number')
    if voxel_size is not None and (len(voxel_size) != n_dims or min(voxel_size) <= 0):
        raise InputError('voxel_size', f'{voxel_size}', f'{n_dims} positive numbers')


def _fill_in(recipe: Recipe, cell_radius: float, voxel_size: tuple[float, ...] | None) -> Recipe:
    """The recipe with what it leaves to the cell radius."""
    in_voxels = cell_radius / min(voxel_size or (1.0,))
    filled: dict[str, Any] = {
        'n_steps': math.ceil(32 * in_voxels),
        'closing_radius': cell_radius / 2,
        'min_diameter': cell_radius,
    }
    missing = {name: value for name, value in filled.items() if getattr(recipe, name) is None}
    return dataclasses.replace(recipe, **missing)


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
    finite = jnp.isfinite(flows).all()
    flows = _prepare(flows.astype(jnp.float32), moving, recipe)
    ends = _follow(flows, moving, recipe)
    components = connected_components(_close_ends(ends, moving, recipe, voxel_size))
    instances = _label(components, ends, moving)
    return {
        'instances': instances,
        'n': components.max(initial=0),
        'flows': flows,
        'mask': mask,
        'finite': finite,
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


def _table_length(n: int) -> int:
    """Labels that tables for n components have room for; few programs serve all."""
    return max(_LEAST_LABELS, 1 << n.bit_length())


def _prepare(flows: jax.Array, mask: jax.Array | None, recipe: Recipe) -> jax.Array:
    """Flows normalised and smoothed; within the mask by the weighted mean of what is in it."""
    if recipe.normalise:
        largest = jnp.abs(flows).max(initial=0)
        flows = flows / jnp.where(largest > 0, largest, 1)
    if not recipe.smoothing:
        return flows
    smooth = functools.partial(gaussian_filter, sigma=recipe.smoothing)
    parts = [flows[..., i] for i in range(flows.shape[-1])]
    if mask is None:
        return jnp.stack([smooth(part) for part in parts], -1)
    # Where the mask is set the weight is at least that of the voxel itself.
    weight = jnp.where(mask, smooth(mask.astype(jnp.float32)), 1)
    return jnp.stack([smooth(jnp.where(mask, part, 0)) / weight for part in parts], -1)


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
    keep = keep_plausible(
        instances,
        flows,
        mask,
        n_labels=n_labels,
        voxel_size=voxel_size,
        min_diameter=recipe.min_diameter,
        max_diameter=recipe.max_diameter,
        min_foreground_share=recipe.min_foreground_share,
        foreground_reach=recipe.closing_radius,
        max_flow_error=recipe.max_flow_error,
        min_axis_ratio=recipe.min_axis_ratio,
    )
    kept = label_stats.relabel(instances, keep)
    return connected_components(kept) if recipe.split else kept
