"""Losses of each example of a batch.

Every loss takes a batch and returns [b] float32: one number an example, the mean over its counted
voxels. A batch that is split over devices needs no communication until the mean of those numbers,
and a patch in which nothing is labelled counts 0, with a gradient of 0.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

_TINY = 1e-6


def cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    *,
    ignore_label: int | None = None,
    class_weights: jax.Array | None = None,
) -> jax.Array:
    """Softmax cross-entropy.

    Args:
      logits: [b, …, k] float.
      labels: [b, …] int class of each voxel, 0 … k − 1.
      ignore_label: voxels of this label do not count.
      class_weights: [k] what the loss of each class's voxels is multiplied by; the mean is over
        voxels, whatever their weight, so that an example of the rarest class counts most. None: 1.

    Returns:
      [b] float32, in nats.
    """
    _check(logits, labels)
    counted, labels = _counted(labels, ignore_label)
    # One-hot labels: the gradient of reading logits at an index is a scatter, slow on all devices.
    truth = jax.nn.one_hot(labels, logits.shape[-1])
    losses = optax.softmax_cross_entropy(logits.astype(jnp.float32), truth)
    if class_weights is None:
        return _mean(losses, counted)
    return _mean(losses * jnp.sum(truth * jnp.asarray(class_weights, jnp.float32), -1), counted)


def soft_dice(
    probs: jax.Array,
    labels: jax.Array,
    *,
    ignore_label: int | None = None,
    squared: bool = False,
    include_background: bool = True,
) -> jax.Array:
    """1 − Dice between probabilities and labels, averaged over the classes that occur.

    Dice of a class is 2·Σpt / (Σp + Σt), or with squared denominators 2·Σpt / (Σp² + Σt²)
    (Milletari et al. 2016, section 3). A class of which the example has no counted voxel is left
    out: its Dice is 0 for any prediction and would only add a constant. If it has none but
    background and that is excluded, the example counts 0.

    Args:
      probs: [b, …, k] probabilities (softmax).
      labels: [b, …] int class of each voxel.
      ignore_label: voxels of this label count in no sum.
      squared: squared denominators.
      include_background: whether class 0 is averaged in.

    Returns:
      [b] float32, 0 (perfect) … 1.
    """
    _check(probs, labels)
    counted, labels = _counted(labels, ignore_label)
    probs = probs.astype(jnp.float32) * counted[..., None]
    truth = jax.nn.one_hot(labels, probs.shape[-1]) * counted[..., None]
    axes = tuple(range(1, labels.ndim))
    both = jnp.sum(probs * truth, axes)  # [b, k]
    size = jnp.sum(truth, axes)
    mass = jnp.sum(jnp.square(probs) if squared else probs, axes)
    occurs = (size > 0).astype(jnp.float32)
    if not include_background:
        occurs = occurs.at[:, 0].set(0)
    return _mean(1 - 2 * both / jnp.maximum(mass + size, _TINY), occurs)


def huber(
    prediction: jax.Array, target: jax.Array, *, delta: float, weights: jax.Array | None = None
) -> jax.Array:
    """Huber loss: e²/2 up to |e| = δ, then δ·|e| − δ²/2.

    Args:
      prediction: [b, …] float.
      target: the same shape.
      delta: where the square ends.
      weights: the same shape, how much each voxel counts; None: all the same.

    Returns:
      [b] float32.
    """
    if prediction.shape != target.shape:
        raise ValueError(f'prediction {prediction.shape} and target {target.shape} differ in shape')
    losses = optax.huber_loss(
        prediction.astype(jnp.float32), target.astype(jnp.float32), delta=delta
    )
    return _mean(losses, jnp.ones_like(losses) if weights is None else weights)


def _check(scores: jax.Array, labels: jax.Array) -> None:
    if scores.shape[:-1] != labels.shape or labels.ndim < 2:
        raise ValueError(
            f'scores of shape {scores.shape} and labels of shape {labels.shape}: '
            'expected [b, …, k] and [b, …]'
        )
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f'labels are {labels.dtype}: expected integers')


def _counted(labels: jax.Array, ignore_label: int | None) -> tuple[jax.Array, jax.Array]:
    """(1 where a voxel counts and 0 elsewhere, labels with 0 where it does not)."""
    if ignore_label is None:
        return jnp.ones(labels.shape, jnp.float32), labels
    counted = labels != ignore_label
    return counted.astype(jnp.float32), jnp.where(counted, labels, 0)


def _mean(values: jax.Array, weights: jax.Array) -> jax.Array:
    """Weighted mean over all axes but the first; 0 where all weights are."""
    axes = tuple(range(1, values.ndim))
    total = jnp.sum(weights, axes)
    return jnp.sum(values * weights, axes) / jnp.where(total > 0, total, 1.0)
