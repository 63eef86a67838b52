"""Validation of a mask and a reconstructed image on whole slices; and pictures of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from sxt_jax.core.processes import ALONE, Team
from sxt_jax.core.volume import ArrayLike, load
from sxt_jax.data.classes import IGNORE_INDEX
from sxt_jax.data.datasets import Example
from sxt_jax.data.patches import Sampling, grid_of_patches, read_patch
from sxt_jax.losses import huber, image_accuracy, image_reconstruction_loss
from sxt_jax.training.mask_objective import DELTA, LABEL_WEIGHT, SSIM_WEIGHT

MASK_THRESHOLD = 0.0  # of the label, after tanh
SCORE_THRESHOLD = 0.9  # published scores count pixels beyond ± this
MASK_LOSS = 'validation/loss'
_STRICT = 0.02  # of labels in −1 … 1; see `losses.label_accuracy`
_PANEL_SIDE = 512

Heads = Mapping[str, np.ndarray]
Predict = Callable[[ArrayLike], Heads]


def mask_scores(
    predict: Predict,
    examples: Sequence[Example],
    *,
    patch: tuple[int, int, int],
    value_range: float,
    label_weight: float = LABEL_WEIGHT,
    ssim_weight: float = SSIM_WEIGHT,
    delta: float = DELTA,
    team: Team = ALONE,
) -> dict[str, float]:
    """How well slices are segmented and, if the network does that, reconstructed.

    Args:
      predict: [z, y, x, c] image → 'label' [z, y, x, 1] and perhaps 'image' [z, y, x, 1].
      examples: labelled slices.
      patch: (z, y, x) in which reconstructed images are compared with the images.
      value_range, label_weight, ssim_weight, delta: of the training losses.
      team: processes that see some of the slices each.

    Returns:
      'dice' of the mask, label above 0, by which the best checkpoint is found. As published, at
      ± 0.9: 'validation/accuracy' is the share of pixels that are right and beyond the thresholds;
      'validation/precision', 'recall' and 'f1' are of the pixels beyond them. 'label_accuracy' is
      that of the training. The losses: 'validation/label_loss', and 'validation/loss' as of
      labelled slices; with the head 'image' also 'image_loss', as of unlabelled slices, and
      'image_accuracy', the share of pixels within one SD. Counts are over all slices together, of
      pixels that are not ignored; what is 0/0 is left out.
    """

    def count(example: Example) -> Counter[str]:
        total: Counter[str] = Counter()
        image, labels = load(example.image), load(example.labels)
        heads = predict(image)
        total.update(_label_sums(heads['label'][..., 0], labels, delta))
        if 'image' in heads:
            weights = {'value_range': value_range, 'ssim_weight': ssim_weight, 'delta': delta}
            total.update(_image_sums(heads['image'], image, patch, weights))
        return total

    total: Counter[str] = Counter()
    for counts in team.share(count, examples, name='validation'):
        total.update(counts)
    result = _ratios(total)
    if 'validation/label_loss' in result:
        loss = result['validation/label_loss']
        if total['patches']:
            of_image = total['image_huber'] / total['patches']
            loss = label_weight * loss + (1 - label_weight) * of_image
        result[MASK_LOSS] = loss
    return result


def _label_sums(label: np.ndarray, labels: np.ndarray, delta: float) -> dict[str, float]:
    counted, true = labels != IGNORE_INDEX, labels == 1
    signed = np.where(true, 1.0, -1.0).astype(np.float32)
    mask = (label > MASK_THRESHOLD) & counted
    positive, negative = label > SCORE_THRESHOLD, label < -SCORE_THRESHOLD
    distance = np.abs(label - signed)[counted]
    loss = np.where(distance <= delta, distance**2 / 2, delta * (distance - delta / 2))
    return {
        'counted': float(counted.sum()),
        'mask': float(mask.sum()),
        'true': float(true.sum()),
        'both': float((mask & true).sum()),
        'tp': float((positive & true).sum()),
        'tn': float((negative & ~true & counted).sum()),
        'fp': float((positive & ~true & counted).sum()),
        'fn': float((negative & true).sum()),
        'strict': float((distance <= _STRICT).sum()),
        'label_huber': float(loss.sum(dtype=np.float64)),
    }


def _image_sums(
    again: np.ndarray, image: np.ndarray, patch: tuple[int, int, int], weights: dict[str, float]
) -> Mapping[str, float]:
    """Sums over patches that cover the slice, all of one size: one program serves all slices."""
    sums: Counter[str] = Counter()
    for box in grid_of_patches(image.shape[:3], Sampling(patch)):
        a, b = (jnp.asarray(read_patch(data, box)) for data in (again, image))
        found = jax.device_get(_compare_images(a, b, **weights))
        sums.update({name: float(value) for name, value in found.items()}, patches=1)
    return sums


@jax.jit
def _compare_images(
    again: jax.Array, image: jax.Array, *, value_range: float, ssim_weight: float, delta: float
) -> dict[str, jax.Array]:
    """Losses and accuracy of a patch [1, y, x, 1]."""
    loss = image_reconstruction_loss(
        again, image, value_range=value_range, ssim_weight=ssim_weight, delta=delta
    )
    return {
        'image_loss': loss[0],
        'image_huber': huber(again, image, delta=delta)[0],
        'image_accuracy': image_accuracy(again, image)[0],
    }


def _ratios(total: Counter[str]) -> dict[str, float]:
    tp, fp, fn = total['tp'], total['fp'], total['fn']
    ratios = {
        'dice': (2 * total['both'], total['mask'] + total['true']),
        'validation/label_loss': (total['label_huber'], total['counted']),
        'validation/label_accuracy': (total['strict'], total['counted']),
        'validation/accuracy': (tp + total['tn'], total['counted']),
        'validation/precision': (tp, tp + fp),
        'validation/recall': (tp, tp + fn),
        'validation/f1': (2 * tp, 2 * tp + fp + fn),
        'validation/image_loss': (total['image_loss'], total['patches']),
        'validation/image_accuracy': (total['image_accuracy'], total['patches']),
    }
    return {name: part / whole for name, (part, whole) in ratios.items() if whole > 0}


def mask_panel(predict: Predict, example: Example) -> np.ndarray:
    """Image, reconstruction, true label and predicted label of a slice side by side.

    Without the head 'image' there is no reconstruction. Of large slices the middle is shown.

    Args:
      predict, example: as of `mask_scores`.

    Returns:
      [y, n·x] uint8 gray; ignored pixels are gray in the true label.
    """
    image, labels = load(example.image), load(example.labels)
    heads = predict(image)
    signed = np.where(labels == IGNORE_INDEX, 0.0, np.where(labels == 1, 1.0, -1.0))
    low, high = np.quantile(image[0, ..., 0], (0.005, 0.995))
    pictures = [(image[0, ..., 0], low, high)]
    if 'image' in heads:
        pictures.append((heads['image'][0, ..., 0], low, high))
    pictures += [(signed[0], -1, 1), (heads['label'][0, ..., 0], -1, 1)]
    height, width = image.shape[1:3]
    y, x = max(0, (height - _PANEL_SIDE) // 2), max(0, (width - _PANEL_SIDE) // 2)
    middle = slice(y, y + _PANEL_SIDE), slice(x, x + _PANEL_SIDE)
    gray = [(a[middle] - low) / max(high - low, 1e-6) for a, low, high in pictures]
    return (255 * np.clip(np.concatenate(gray, axis=1), 0, 1)).astype(np.uint8)
