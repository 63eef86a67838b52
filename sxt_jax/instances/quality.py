"""Which instances are plausible: size, foreground, agreement with the flows, and shape."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from sxt_jax.ops import label_stats
from sxt_jax.ops.morphology import dilate

# Distance from the centroid, in voxels, over which the flows of a cell rise to 0.76.
_FLOW_WIDTH = 5.0


def keep_plausible(
    instances: jax.Array,
    flows: jax.Array,
    foreground: jax.Array,
    *,
    n_labels: int,
    voxel_size: tuple[float, ...] | None = None,
    min_diameter: float | None = None,
    max_diameter: float | None = None,
    min_foreground_share: float = 0.0,
    foreground_reach: float | None = None,
    max_flow_error: float | None = None,
    min_axis_ratio: float = 0.0,
) -> jax.Array:
    """Which instances are plausible; the rules of Cellpose3D's released code.

    Args:
      instances: [(z,) y, x] int32, 0 for none.
      flows: [(z,) y, x, n_dims] float32, toward the centre.
      foreground: [(z,) y, x] mask.
      n_labels: the largest instance, or more; static.
      voxel_size: sides of a voxel per axis; None: ones.
      min_diameter, max_diameter: of the ball (2-D: disk) that is as large; None: any.
      min_foreground_share: of the voxels, in the foreground widened by a ball.
      foreground_reach: radius of that ball; None: 0.
      max_flow_error: mean over voxels and axes of |flow − tanh((centroid − x) / 5)|; None: any.
      min_axis_ratio: shortest by longest axis of the ellipsoid with the same moments.

    Returns:
      [n_labels + 1] bool; False for 0 and for numbers that do not occur.
    """
    regions = label_stats.regions(instances, n_labels=n_labels)
    volume = regions.sizes * math.prod(voxel_size or (1.0,))
    keep = (regions.sizes > 0) & (jnp.arange(n_labels + 1) > 0)
    if min_diameter is not None:
        keep &= volume >= _ball(min_diameter, instances.ndim)
    if max_diameter is not None:
        keep &= volume <= _ball(max_diameter, instances.ndim)
    if min_foreground_share > 0:
        widened = dilate(foreground, foreground_reach or 0.0, voxel_size=voxel_size)
        keep &= label_stats.means(instances, widened, n_labels=n_labels) >= min_foreground_share
    if max_flow_error is not None:
        errors = _flow_errors(instances, flows, regions.centroids)
        keep &= label_stats.means(instances, errors, n_labels=n_labels) <= max_flow_error
    if min_axis_ratio > 0:
        axes = label_stats.axis_lengths(instances, n_labels=n_labels, voxel_size=voxel_size)
        keep &= axes[:, -1] >= min_axis_ratio * axes[:, 0]
    return keep


def _flow_errors(instances: jax.Array, flows: jax.Array, centroids: jax.Array) -> jax.Array:
    """Mean absolute difference of the components from the flows that the instance should have."""
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
