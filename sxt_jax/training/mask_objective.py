"""Learning a mask, and the image again: the two objectives of deep_sxt (Dyhr et al. 2023)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from sxt_jax.data.classes import IGNORE_INDEX
from sxt_jax.losses import (
    huber,
    image_accuracy,
    image_reconstruction_loss,
    label_accuracy,
    label_loss,
    label_only_loss,
)
from sxt_jax.training.objectives import Arrays, Loss

LABEL_WEIGHT, SSIM_WEIGHT, DELTA = 0.99, 0.5, 0.1  # as published
LABEL_BRANCH = '^label_'  # names of all variables of the label decoder, and of no other


def signed_labels(labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What the label decoder is to give, and which pixels count.

    Args:
      labels: [...] class indices: 0, 1, `IGNORE_INDEX`.

    Returns:
      [...] float32: 1 in the foreground, −1 elsewhere; and 1 where a pixel counts, else 0.
    """
    signed = jnp.where(labels > 0, 1.0, -1.0).astype(jnp.float32)
    return signed, (labels != IGNORE_INDEX).astype(jnp.float32)


def make_mask_loss(*, label_weight: float = LABEL_WEIGHT, delta: float = DELTA) -> Loss:
    """Of labelled slices: Huber losses of the head 'label' and, where there is one, of 'image'.

    Args:
      label_weight: of the label, the rest is the image's; without the head 'image' not used.
      delta: of both Huber losses.

    Returns:
      The loss; it reports 'label_loss' and 'label_accuracy' (the published, strict one), and
      'image_loss' and 'image_accuracy' where there is an image.
    """

    def loss(outputs: Arrays, batch: Arrays) -> tuple[jax.Array, dict[str, jax.Array]]:
        label, image = outputs['label'], batch['image']
        truth, counted = signed_labels(batch['labels'][..., None])
        told = {
            'label_loss': label_only_loss(label, truth, delta=delta, weights=counted),
            'label_accuracy': label_accuracy(label, truth, weights=counted),
        }
        if 'image' not in outputs:
            return told['label_loss'], told
        again = outputs['image']
        total = label_loss(
            label, truth, again, image, label_weight=label_weight, delta=delta, weights=counted
        )
        told['image_loss'] = huber(again, image, delta=delta)
        told['image_accuracy'] = image_accuracy(again, image)
        return total, told

    return loss


def make_image_loss(
    *, value_range: float, ssim_weight: float = SSIM_WEIGHT, delta: float = DELTA
) -> Loss:
    """Of unlabelled slices: how far the head 'image' is from the image.

    Args:
      value_range: largest minus smallest gray value of the data set.
      ssim_weight: of 1 − SSIM, the rest is the Huber loss's.
      delta: of the Huber loss.

    Returns:
      The loss of patches of one slice; it reports 'image_accuracy'.
    """

    def loss(outputs: Arrays, batch: Arrays) -> tuple[jax.Array, dict[str, jax.Array]]:
        again, image = outputs['image'][:, 0], batch['image'][:, 0]
        total = image_reconstruction_loss(
            again, image, value_range=value_range, ssim_weight=ssim_weight, delta=delta
        )
        return total, {'image_accuracy': image_accuracy(again, image)}

    return loss
