"""Objectives: what is learnt from which data, and which weights it may change.

Supervised training is one objective. Semi-supervised training is two that take turns, the label
decoder being frozen in the second. Each objective has its own stream, loss, trainable weights and
optimizer; all share one set of parameters.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax

from sxt_jax.core.errors import InputError
from sxt_jax.data.augment import Augmentation, augment_batch
from sxt_jax.data.classes import IGNORE_INDEX
from sxt_jax.data.distort import Distortion, distort
from sxt_jax.data.pipeline import Stream
from sxt_jax.losses import cross_entropy, soft_dice

Arrays = Mapping[str, jax.Array]
_AUGMENTED = ('image', 'labels', 'flows')


class Loss(Protocol):
    """What is minimised: a function of the network's outputs and a batch."""

    def __call__(self, outputs: Arrays, batch: Arrays) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Loss of each example, [b], and other quantities to report, each [b]."""
        ...


@dataclasses.dataclass(frozen=True)
class Objective:
    """One thing to learn.

    Attributes:
      name: in metrics and checkpoints.
      stream: where its batches come from.
      loss: of the network's outputs and a batch.
      optimizer: what turns its gradients into updates.
      frozen: regular expressions; parameters whose path (`encoder_0/conv_1/kernel`) one of them
        finds are not changed by this objective, and modules whose path one finds run as in
        inference: they use their running statistics, and leave them as they are.
      augmentation: what is done to image, labels and flows of its batches, on the device.
      distortion: what is done after that.
      turns: how many epochs in a row it has when objectives take turns.
      n_gray: how many of the first channels are gray values, which augmentation and distortion
        change; None: all.
    """

    name: str
    stream: Stream
    loss: Loss
    optimizer: optax.GradientTransformation
    frozen: tuple[str, ...] = ()
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
    distortion: Distortion = dataclasses.field(default_factory=Distortion)
    turns: int = 1
    n_gray: int | None = None

    def prepare(self, key: jax.Array, batch: Arrays) -> dict[str, jax.Array]:
        """The batch as the network sees it."""
        patches = {name: batch[name] for name in _AUGMENTED if name in batch}
        gray = {'n_gray': self.n_gray}
        patches = augment_batch(key, patches, augmentation=self.augmentation, **gray)
        return {**batch, **distort(key, patches, distortion=self.distortion, **gray)}


def trainable_mask(params: Any, frozen: Sequence[str]) -> Any:
    """A tree like `params`: True where an objective may change the parameter.

    Raises:
      InputError: an expression finds no parameter, or none is left to train.
    """
    unused = set(frozen)

    def is_trainable(path: Any, _: Any) -> bool:
        text = parameter_path(path)
        found = [pattern for pattern in frozen if re.search(pattern, text)]
        unused.difference_update(found)
        return not found

    mask = jax.tree_util.tree_map_with_path(is_trainable, params)
    if unused:
        raise InputError('frozen', f'{sorted(unused)} find no parameter', 'parts of their paths')
    if not any(jax.tree.leaves(mask)):
        raise InputError('frozen', 'every parameter is frozen', 'something to train')
    return mask


def parameter_path(path: Any) -> str:
    """'level_0/conv_0/kernel' of a key path of a parameter tree."""
    return jax.tree_util.keystr(path, simple=True, separator='/')


@dataclasses.dataclass(frozen=True)
class Turn:
    """A step of a run: which objective, and its how-many-eth step that is."""

    objective: int
    step: int


def turn_of_step(objectives: Sequence[Objective], step: int) -> Turn:
    """Whose turn it is: each objective in order for `turns` epochs of its own stream."""
    lengths = [o.turns * o.stream.steps_per_epoch for o in objectives]
    rounds, place = divmod(step, sum(lengths))
    for i, length in enumerate(lengths):
        if place < length:
            return Turn(i, rounds * length + place)
        place -= length
    raise AssertionError('a place beyond the round')


def steps_per_round(objectives: Sequence[Objective]) -> int:
    """Steps in which every objective has had its turn: what the loop calls an epoch."""
    return sum(o.turns * o.stream.steps_per_epoch for o in objectives)


def foreground_dice(probs: jax.Array, labels: jax.Array) -> jax.Array:
    """1 − Dice of the foreground classes, squared denominators, over the batch.

    Over the batch, since patches without a class then lower its Dice by what is found in them.

    Args:
      probs: [b, …, k] probabilities.
      labels: [b, …] class indices, `IGNORE_INDEX` where there is no label.

    Returns:
      [b] float32, all the same.
    """
    return soft_dice(
        probs,
        labels,
        ignore_label=IGNORE_INDEX,
        squared=True,
        include_background=False,
        over_batch=True,
    )


def make_segmentation_loss(
    weights: Mapping[str, float], *, class_weights: Sequence[float] | None = None
) -> Loss:
    """Weighted sum of losses between the head 'logits' and the class indices of a batch.

    Args:
      weights: of 'cross_entropy', 'dice' and 'dice_squared'; the last one has squared
        denominators, and is of the foreground classes over the whole batch (Machireddy et al. 2023,
        whose networks give one foreground class).
      class_weights: of each class in the cross-entropy; None: all equal.
    """
    known = {'cross_entropy', 'dice', 'dice_squared'}
    if set(weights) - known or not any(weights.values()):
        raise InputError('loss', f'{dict(weights)}', f'positive weights of some of {sorted(known)}')

    def loss(outputs: Arrays, batch: Arrays) -> tuple[jax.Array, dict[str, jax.Array]]:
        logits, labels = outputs['logits'], batch['labels'].astype(jnp.int32)
        terms: dict[str, jax.Array] = {}
        if weights.get('cross_entropy'):
            balance = None if class_weights is None else jnp.asarray(class_weights)
            terms['cross_entropy'] = cross_entropy(
                logits, labels, ignore_label=IGNORE_INDEX, class_weights=balance
            )
        probs = jax.nn.softmax(logits)
        if weights.get('dice'):
            terms['dice'] = soft_dice(probs, labels, ignore_label=IGNORE_INDEX)
        if weights.get('dice_squared'):
            terms['dice_squared'] = foreground_dice(probs, labels)
        total = sum((weights[name] * term for name, term in terms.items()), start=jnp.zeros(()))
        told = {f'{name}_loss': term for name, term in terms.items() if len(terms) > 1}
        counted = labels != IGNORE_INDEX
        right = (jnp.argmax(logits, -1) == labels) & counted
        axes = tuple(range(1, labels.ndim))
        accuracy = right.sum(axes) / jnp.maximum(counted.sum(axes), 1)
        return jnp.asarray(total), {**told, 'accuracy': accuracy}

    return loss
