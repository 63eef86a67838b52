"""Losses of each example of a batch.

Every loss takes a batch and returns [b] float32, and the mean of these numbers is the loss of the
batch. Unless a loss says otherwise, each is one example's: the mean over its counted voxels. Then a
batch that is split over devices needs no communication until the mean of those numbers. A patch in
which nothing is labelled counts 0, with a gradient of 0.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

_TINY = 1e-6


def cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    *,
    ignore_label: int | None = None,
    class_weights: jax.Array | None = None,
    over_batch: bool = False,
) -> jax.Array:
    """Softmax cross-entropy.

    Args:
      logits: [b, …, k] float.
      labels: [b, …] int class of each voxel, 0 … k − 1.
      ignore_label: voxels of this label do not count.
      class_weights: [k] what the loss of each class's voxels is multiplied by; the mean is over
        voxels, whatever their weight, so that an example of the rarest class counts most. None: 1.
      over_batch: the mean is over the voxels of all examples, the same number for each, so that
        every voxel counts as much as any other.

    Returns:
      [b] float32, in nats.
    """
    _check(logits, labels)
    counted, labels = _counted(labels, ignore_label)
    # One-hot labels: the gradient of reading logits at an index is a scatter, slow on all devices.
    truth = jax.nn.one_hot(labels, logits.shape[-1], dtype=jnp.float32)
    losses = optax.softmax_cross_entropy(logits.astype(jnp.float32), truth)
    if class_weights is not None:
        losses = losses * jnp.sum(truth * jnp.asarray(class_weights, jnp.float32), -1)
    return _mean(losses, counted, over_batch=over_batch)


def soft_dice(
    probs: jax.Array,
    labels: jax.Array,
    *,
    ignore_label: int | None = None,
    squared: bool = False,
    include_background: bool = True,
    absent_classes: bool = False,
    over_batch: bool = False,
) -> jax.Array:
    """1 − Dice between probabilities and labels, averaged over the classes that occur.

    Dice of a class is 2·Σpt / (Σp + Σt), or with squared denominators 2·Σpt / (Σp² + Σt²)
    (Milletari et al. 2016, section 3). A class of which the example has no counted voxel is left
    out: its Dice is 0 for any prediction and would only add a constant. If it has none but
    background and that is excluded, the example counts 0.

    The published loss of the organelle cascade (ncxt_sxtcnn) is `cross_entropy` plus this Dice,
    both `over_batch`, and with `absent_classes`.

    Args:
      probs: [b, …, k] probabilities (softmax).
      labels: [b, …] int class of each voxel.
      ignore_label: voxels of this label count in no sum.
      squared: squared denominators.
      include_background: whether class 0 is averaged in.
      absent_classes: whether classes that do not occur are averaged in, with a Dice of 0.
      over_batch: the sums are over the voxels of all examples, the same loss for each.

    Returns:
      [b] float32, 0 (perfect) … 1.
    """
    _check(probs, labels)
    counted, labels = _counted(labels, ignore_label)
    probs = probs.astype(jnp.float32) * counted[..., None]
    truth = jax.nn.one_hot(labels, probs.shape[-1], dtype=jnp.float32) * counted[..., None]
    both = _total(probs * truth, over_batch=over_batch)  # [b, k]
    size = _total(truth, over_batch=over_batch)
    mass = _total(jnp.square(probs) if squared else probs, over_batch=over_batch)
    occurs = (size > 0).astype(jnp.float32)
    if absent_classes:
        occurs = jnp.broadcast_to(jnp.max(occurs, -1, keepdims=True), occurs.shape)
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
    _check_same(prediction, target)
    losses = optax.huber_loss(
        prediction.astype(jnp.float32), target.astype(jnp.float32), delta=delta
    )
    return _mean(losses, jnp.ones_like(losses) if weights is None else weights)


def ssim(
    x: jax.Array,
    y: jax.Array,
    *,
    value_range: float | jax.Array,
    window: int = 11,
    sigma: float = 1.5,
    k1: float = 0.01,
    k2: float = 0.03,
) -> jax.Array:
    """Structural similarity of two images; the mean over all windows inside them, and channels.

    Wang et al. 2004, section 3, with a Gaussian window and variances without correction, as in
    TensorFlow. Reverse-mode derivatives of it are fast and finite everywhere; there are no others.

    Args:
      x: [b, y, x, c] float.
      y: the same shape.
      value_range: largest minus smallest value that images can have, above 0.
      window: side of the Gaussian window, in pixels.
      sigma: its standard deviation, in pixels.
      k1: steadies the comparison of means.
      k2: steadies the comparison of variances.

    Returns:
      [b] float32, at most 1 (equal).
    """
    _check_same(x, y)
    if x.ndim != 4 or min(x.shape[1:3]) < window:
        raise ValueError(f'images {x.shape}: expected [b, y, x, c], y and x at least {window}')
    x, y = x.astype(jnp.float32), y.astype(jnp.float32)
    # Variances are those of the images about their means: float32 loses less in the differences.
    mean_x, mean_y = (jax.lax.stop_gradient(jnp.mean(a, (1, 2), keepdims=True)) for a in (x, y))
    x, y = x - mean_x, y - mean_y
    maps = jnp.concatenate([x, y, jnp.square(x) + jnp.square(y), x * y], -1)
    mu_x, mu_y, squares, products = jnp.split(_blur(maps, window, sigma), 4, -1)
    covariance = products - mu_x * mu_y
    variances = squares - jnp.square(mu_x) - jnp.square(mu_y)
    mu_x, mu_y = mu_x + mean_x, mu_y + mean_y
    c1, c2 = jnp.square(k1 * value_range), jnp.square(k2 * value_range)
    structure = (2 * covariance + c2) / (variances + c2)
    luminance = (2 * mu_x * mu_y + c1) / (jnp.square(mu_x) + jnp.square(mu_y) + c1)
    return jnp.mean(luminance * structure, (1, 2, 3))


def image_reconstruction_loss(
    prediction: jax.Array,
    image: jax.Array,
    *,
    value_range: float | jax.Array,
    ssim_weight: float = 0.5,
    delta: float = 0.1,
) -> jax.Array:
    """How far a reconstructed image is from the image: deep_sxt's loss of unlabelled slices.

    The published loss of a batch (Dyhr et al. 2023) is w·Σ(1 − SSIM) + (1 − w)·Huber with a *sum*
    over the examples in its first part. Its mean over [b] shall be the loss, so the similarity of
    each example counts b times here: a batch of four costs what published training makes it cost.

    Args:
      prediction: [b, y, x, c] float.
      image: the same shape, standardised.
      value_range: as of `ssim`; that of the data set.
      ssim_weight: w, the rest is Huber's.
      delta: of the Huber loss.

    Returns:
      [b] float32.
    """
    dissimilarity = 1 - ssim(prediction, image, value_range=value_range)
    differences = huber(prediction, image, delta=delta)
    return ssim_weight * len(image) * dissimilarity + (1 - ssim_weight) * differences


def label_loss(
    label_prediction: jax.Array,
    label: jax.Array,
    image_prediction: jax.Array,
    image: jax.Array,
    *,
    label_weight: float = 0.99,
    delta: float = 0.1,
    weights: jax.Array | None = None,
) -> jax.Array:
    """Huber losses of label and reconstruction: deep_sxt's loss of labelled slices.

    Args:
      label_prediction: [b, …] float, after tanh.
      label: the same shape, −1 … 1.
      image_prediction: [b, …] float.
      image: the same shape, standardised.
      label_weight: of the label, the rest is the image's.
      delta: of both Huber losses.
      weights: how much each pixel's label counts, of the label's shape; None: all the same.

    Returns:
      [b] float32.
    """
    of_label = huber(label_prediction, label, delta=delta, weights=weights)
    of_image = huber(image_prediction, image, delta=delta)
    return label_weight * of_label + (1 - label_weight) * of_image


def label_only_loss(
    prediction: jax.Array,
    label: jax.Array,
    *,
    delta: float = 0.1,
    weights: jax.Array | None = None,
) -> jax.Array:
    """Huber loss of the label: deep_sxt's where the reconstruction is not trained.

    Args:
      prediction: [b, …] float, after tanh.
      label: the same shape, −1 … 1.
      delta: of the Huber loss.
      weights: how much each pixel counts, of the same shape; None: all the same.

    Returns:
      [b] float32.
    """
    return huber(prediction, label, delta=delta, weights=weights)


def label_accuracy(
    prediction: jax.Array,
    label: jax.Array,
    *,
    tolerance: float = 0.01,
    weights: jax.Array | None = None,
) -> jax.Array:
    """Share of pixels whose label is met, as published training of deep_sxt reports it.

    Strict: an undecided network meets none. It is no score of a segmentation, see `metrics`.

    Args:
      prediction: [b, …] float, after tanh.
      label: the same shape, −1 … 1.
      tolerance: what may be missing, of labels mapped to 0 … 1.
      weights: how much each pixel counts, of the same shape; None: all the same.

    Returns:
      [b] float32, 0 … 1.
    """
    _check_same(prediction, label)
    a, b = (jnp.clip(0.5 * (v.astype(jnp.float32) + 1), 0, 1) for v in (prediction, label))
    met = (jnp.abs(a - b) <= tolerance).astype(jnp.float32)
    return _mean(met, jnp.ones_like(met) if weights is None else weights)


def image_accuracy(prediction: jax.Array, image: jax.Array) -> jax.Array:
    """Share of pixels reconstructed to within one standard deviation of the whole batch.

    As published training of deep_sxt reports it.

    Args:
      prediction: [b, …] float.
      image: the same shape.

    Returns:
      [b] float32, 0 … 1.
    """
    _check_same(prediction, image)
    image = image.astype(jnp.float32)
    met = (jnp.abs(image - prediction) <= jnp.std(image)).astype(jnp.float32)
    return _mean(met, jnp.ones_like(met))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _blur(maps: jax.Array, window: int, sigma: float) -> jax.Array:
    """Gaussian means of the windows that lie inside: [b, y, x, c] to [b, y − w + 1, …, c].

    Sums of shifted images fuse to one pass: 1.7 ms for 256²×5 on 2 CPU cores, a convolution of one
    channel 44. Their derivative by JAX does not (74 ms), so it is written out (4.6; 2026-11-21).
    """
    steps = np.arange(window) - (window - 1) / 2
    weights = np.exp(-0.5 * np.square(steps / sigma))
    weights /= weights.sum()
    for axis in (1, 2):
        n = maps.shape[axis] - window + 1
        shifted = (jax.lax.slice_in_dim(maps, i, i + n, axis=axis) for i in range(window))
        maps = sum(
            (float(w) * s for w, s in zip(weights, shifted, strict=True)), jnp.zeros((), maps.dtype)
        )
    return maps


def _blur_forward(maps: jax.Array, window: int, sigma: float) -> tuple[jax.Array, None]:
    return _blur(maps, window, sigma), None


def _blur_backward(window: int, sigma: float, _: None, gradient: jax.Array) -> tuple[jax.Array]:
    # The window is symmetric, so its transpose is itself, with zeros around.
    pads = (window - 1, window - 1)
    return (_blur(jnp.pad(gradient, ((0, 0), pads, pads, (0, 0))), window, sigma),)


_blur.defvjp(_blur_forward, _blur_backward)


def _check_same(prediction: jax.Array, target: jax.Array) -> None:
    if prediction.shape != target.shape:
        raise ValueError(f'prediction {prediction.shape} and target {target.shape} differ in shape')


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


def _mean(values: jax.Array, weights: jax.Array, *, over_batch: bool = False) -> jax.Array:
    """Weighted mean over all axes but the first; 0 where all weights are."""
    b = len(values)
    total = _total(weights.reshape(b, -1, 1), over_batch=over_batch)[:, 0]
    summed = _total((values * weights).reshape(b, -1, 1), over_batch=over_batch)[:, 0]
    return summed / jnp.where(total > 0, total, 1.0)


def _total(values: jax.Array, *, over_batch: bool) -> jax.Array:
    """Sum over all axes but the first and the last, [b, k]; of all examples, if over the batch."""
    sums = jnp.sum(values, tuple(range(1, values.ndim - 1)))
    return jnp.broadcast_to(jnp.sum(sums, 0), sums.shape) if over_batch else sums
