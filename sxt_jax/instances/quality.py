"""Which instances are plausible: size, foreground, agreement with the flows, and shape."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from sxt_jax.instances.recipe import Recipe
from sxt_jax.ops import label_stats
from sxt_jax.ops.morphology import dilate

# Distance from the centroid, in voxels, over which the flows of a cell rise to 0.76.
_FLOW_WIDTH = 5.0


class Evidence(NamedTuple):
    """What instances are judged by, one row for each number from 0; None where nobody asks.

    Attributes:
      sizes: [n] voxels.
      foreground_shares: [n] share of the voxels in the foreground, widened by the closing's ball.
      flow_errors: [n] mean over voxels and axes of |flow − tanh((centroid − x) / 5)|.
      axes: [n, n_dims] axes of the ellipsoid with the same moments, longest first.
    """

    sizes: jax.Array
    foreground_shares: jax.Array | None = None
    flow_errors: jax.Array | None = None
    axes: jax.Array | None = None


def weigh(
    instances: jax.Array,
    flows: jax.Array,
    foreground: jax.Array,
    *,
    recipe: Recipe,
    voxel_size: tuple[float, ...] | None,
    n_labels: int,
) -> Evidence:
    """What a recipe judges instances by.

    Args:
      instances: [(z,) y, x] int32, 0 for none.
      flows: [(z,) y, x, n_dims] float32, toward the centre, as they were followed.
      foreground: [(z,) y, x] mask.
      recipe: filled in; static.
      voxel_size: sides of a voxel per axis; None: ones.
      n_labels: the largest instance, or more; static.
    """
    regions = label_stats.regions(instances, n_labels=n_labels)
    mean = functools.partial(label_stats.means, instances, n_labels=n_labels)
    shares = errors = axes = None
    if recipe.min_foreground_share > 0:
        assert recipe.closing_radius is not None
        shares = mean(dilate(foreground, recipe.closing_radius, voxel_size=voxel_size))
    if recipe.max_flow_error is not None:
        errors = mean(flow_errors(instances, flows, regions.centroids))
    if recipe.min_axis_ratio > 0:
        axes = label_stats.axis_lengths(instances, n_labels=n_labels, voxel_size=voxel_size)
    return Evidence(regions.sizes, shares, errors, axes)


def judge(
    evidence: Evidence, recipe: Recipe, *, voxel_size: tuple[float, ...] | None, n_dims: int
) -> jax.Array:
    """Which instances are plausible; the rules of Cellpose3D's released code.

    Returns:
      [n] bool; False for 0 and for numbers that do not occur.
    """
    sizes = jnp.asarray(evidence.sizes)
    volume = sizes * math.prod(voxel_size or (1.0,))
    keep = (sizes > 0) & (jnp.arange(sizes.shape[0]) > 0)
    if recipe.min_diameter is not None:
        keep &= volume >= _ball(recipe.min_diameter, n_dims)
    if recipe.max_diameter is not None:
        keep &= volume <= _ball(recipe.max_diameter, n_dims)
    if evidence.foreground_shares is not None:
        keep &= evidence.foreground_shares >= recipe.min_foreground_share
    if evidence.flow_errors is not None and recipe.max_flow_error is not None:
        keep &= evidence.flow_errors <= recipe.max_flow_error
    if evidence.axes is not None:
        keep &= evidence.axes[:, -1] >= recipe.min_axis_ratio * evidence.axes[:, 0]
    return keep


def flow_errors(instances: jax.Array, flows: jax.Array, centroids: jax.Array) -> jax.Array:
    """Mean absolute difference of the components from the flows that the instance should have.

    Args:
      instances: [(z,) y, x] int32.
      flows: [(z,) y, x, n_dims].
      centroids: [n, n_dims] of the instances.

    Returns:
      [(z,) y, x] float32.
    """
    errors = jnp.zeros(instances.shape, jnp.float32)
    for axis in range(instances.ndim):
        place = jax.lax.broadcasted_iota(jnp.float32, instances.shape, axis)
        expected = jnp.tanh((centroids[:, axis][instances] - place) / _FLOW_WIDTH)
        errors = errors + jnp.abs(flows[..., axis] - expected)
    return errors / instances.ndim


def _ball(diameter: float, n_dims: int) -> float:
    """Volume, or area, of a ball of this diameter."""
    radius = diameter / 2
    return 4 / 3 * math.pi * radius**3 if n_dims == 3 else math.pi * radius**2
