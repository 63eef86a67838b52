"""Learning foreground and flows: the losses of Cellpose3D and, for slices, of Cellpose."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sxt_jax.core.errors import InputError
from sxt_jax.data.classes import IGNORE_INDEX
from sxt_jax.models.cellpose2d import FLOW_SCALE
from sxt_jax.training.objectives import Loss

BACKGROUND_WEIGHT = 0.01  # of a voxel's flow where there is no cell, beside 1 in cells


def foreground_loss(prediction: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean absolute difference of predicted foreground and 0 or 1, over the counted voxels.

    The L1 loss of the first output of Cellpose3D (Eschweiler and Stegmaier 2021).

    Args:
      prediction: [b, z, y, x] float foreground.
      labels: [b, z, y, x] 1 in cells, 0 outside, `IGNORE_INDEX` where voxels do not count.

    Returns:
      [b] float32; 0 where no voxel counts.
    """
    error = jnp.abs(prediction.astype(jnp.float32) - (labels > 0))
    return _counted_mean(error, labels)


def flow_loss(prediction: jax.Array, flows: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean squared difference of flows, weighted 1 in cells and 0.01 outside.

    The loss of Cellpose3D: squared differences times the foreground clamped to 0.01 … 1, summed,
    divided by the sum of these weights (at least 1), the mean over the components. Published are
    sums over the batch, which are these where it is 1, as in the published training.

    Args:
      prediction: [b, z, y, x, 3] float flows.
      flows: the same shape, true.
      labels: [b, z, y, x] 1 in cells, 0 outside, `IGNORE_INDEX` where voxels do not count.

    Returns:
      [b] float32; 0 where no voxel counts.
    """
    weight = flow_weights(labels)
    error = jnp.mean(jnp.square(prediction.astype(jnp.float32) - flows), -1)
    axes = tuple(range(1, labels.ndim))
    return jnp.sum(error * weight, axes) / jnp.maximum(jnp.sum(weight, axes), 1)


def flow_weights(labels: jax.Array | np.ndarray) -> jax.Array:
    """How much each voxel's flow counts, float32: 1 in cells, 0.01 outside, 0 where ignored."""
    weight = jnp.where(labels > 0, 1.0, BACKGROUND_WEIGHT)
    return jnp.where(labels == IGNORE_INDEX, 0.0, weight).astype(jnp.float32)


def slice_foreground_loss(logit: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean binary cross-entropy of the foreground, over the counted voxels.

    The second term of the loss of Cellpose (Stringer et al. 2021; `loss_fn` of cellpose 2.2.3).

    Args:
      logit: [b, z, y, x] float, of the foreground.
      labels: [b, z, y, x] 1 in cells, 0 outside, `IGNORE_INDEX` where voxels do not count.

    Returns:
      [b] float32; 0 where no voxel counts.
    """
    target = (labels > 0).astype(jnp.float32)
    entropy = optax.sigmoid_binary_cross_entropy(logit.astype(jnp.float32), target)
    return _counted_mean(entropy, labels)


def slice_flow_loss(prediction: jax.Array, flows: jax.Array, labels: jax.Array) -> jax.Array:
    """Half the mean squared difference of 5 × the flows within slices, over the counted voxels.

    The first term of the loss of Cellpose, which trains its network on flows five times as long.

    Args:
      prediction: [b, z, y, x, 2] float flows (y, x).
      flows: [b, z, y, x, 3] true; the first component does not count.
      labels: [b, z, y, x] `IGNORE_INDEX` where voxels do not count.

    Returns:
      [b] float32; 0 where no voxel counts.
    """
    error = jnp.mean(jnp.square(prediction.astype(jnp.float32) - flows[..., 1:]), -1)
    return 0.5 * FLOW_SCALE**2 * _counted_mean(error, labels)


def _counted_mean(values: jax.Array, labels: jax.Array) -> jax.Array:
    counted = (labels != IGNORE_INDEX).astype(jnp.float32)
    axes = tuple(range(1, labels.ndim))
    return jnp.sum(values * counted, axes) / jnp.maximum(jnp.sum(counted, axes), 1)


def make_flow_loss(
    *, slices: bool = False, foreground_weight: float = 1.0, flow_weight: float = 1.0
) -> Loss:
    """Weighted sum of the losses of foreground and flows.

    Args:
      slices: of a network of slices, `slice_foreground_loss` and `slice_flow_loss` of the heads
        'foreground_logit' and 'flows'; else `foreground_loss` and `flow_loss` of 'foreground' and
        'flows'.
      foreground_weight: published 1.
      flow_weight: published 1.

    Raises:
      InputError: a weight is negative, or both are 0.
    """
    if not (min(foreground_weight, flow_weight) >= 0 < foreground_weight + flow_weight):
        found = f'foreground_weight {foreground_weight}, flow_weight {flow_weight}'
        raise InputError('config.flows', found, 'positive weights')
    head = 'foreground_logit' if slices else 'foreground'
    loss_of_foreground = slice_foreground_loss if slices else foreground_loss
    loss_of_flows = slice_flow_loss if slices else flow_loss

    def loss(
        outputs: Mapping[str, jax.Array], batch: Mapping[str, jax.Array]
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        labels = batch['labels']
        foreground = loss_of_foreground(outputs[head][..., 0], labels)
        flows = loss_of_flows(outputs['flows'], batch['flows'], labels)
        total = foreground_weight * foreground + flow_weight * flows
        return total, {'foreground_loss': foreground, 'flow_loss': flows}

    return loss
