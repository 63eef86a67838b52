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
    if len(examples) < n_folds:
        found = f'{n_folds}, of {len(examples)} to train on ({examples[0].name} …)'
        raise InputError('config.data.folds', found, f'at most {len(examples)}')
    order = np.random.default_rng(seed).permutation(len(examples))
    held = set(order[fold::n_folds].tolist())
    return (
        [e for i, e in enumerate(examples) if i not in held],
        [e for i, e in enumerate(examples) if i in held],
    )
