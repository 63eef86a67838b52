"""Cross-validation: k parts of a data set, each of which is held out in turn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sxt_jax.core.errors import InputError
from sxt_jax.data.datasets import Example


def split_folds(
    examples: Sequence[Example], *, n_folds: int, fold: int, seed: int
) -> tuple[list[Example], list[Example]]:
    """Training and validation examples of a fold; each example is held out in one fold.

    Args:
      examples: all examples.
      n_folds: parts, as large as each other but for one example.
      fold: 0 … n_folds − 1, which part is held out.
      seed: decides which examples make a part; the same for all folds.

    Raises:
      InputError: fewer examples than parts.
    """
    _check_enough(examples, n_folds)
    held = _draw_fold(len(examples), n_folds, fold, seed)
    return _part(examples, [i in held for i in range(len(examples))])


def split_slice_folds(
    slices: Sequence[Example], *, n_folds: int, fold: int, seed: int
) -> tuple[list[Example], list[Example]]:
    """As `split_folds`, of slices, of which neighbours are too alike to part one from another.

    All slices of a volume are in one fold. Where there are fewer volumes than folds, a fold is a
    block of slices that follow each other, the first block fold 0, whatever the seed.

    Args:
      slices: in their order, those of a volume one after another.
      n_folds, fold, seed: as of `split_folds`; parts are as large as each other in volumes, or
        else in slices.

    Raises:
      InputError: fewer slices than parts.
    """
    _check_enough(slices, n_folds)
    stacks = [e.stack or e.name for e in slices]
    names = list(dict.fromkeys(stacks))
    if len(names) < n_folds:
        n = len(slices)
        return _part(slices, [i * n_folds // n == fold for i in range(n)])
    held = {names[k] for k in _draw_fold(len(names), n_folds, fold, seed)}
    return _part(slices, [stack in held for stack in stacks])


def _check_enough(examples: Sequence[Example], n_folds: int) -> None:
    if len(examples) < n_folds:
        found = f'{n_folds}, of {len(examples)} to train on ({examples[0].name} …)'
        raise InputError('config.data.folds', found, f'at most {len(examples)}')


def _draw_fold(n: int, n_folds: int, fold: int, seed: int) -> set[int]:
    """Which of n are in the fold."""
    return set(np.random.default_rng(seed).permutation(n)[fold::n_folds].tolist())


def _part(
    examples: Sequence[Example], is_held: Sequence[bool]
) -> tuple[list[Example], list[Example]]:
    """Training and validation examples."""
    pairs = list(zip(examples, is_held, strict=True))
    return [e for e, held in pairs if not held], [e for e, held in pairs if held]
