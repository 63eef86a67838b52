"""From the label of deep_sxt's network, −1 … 1 after tanh, to probabilities of two classes."""

from __future__ import annotations

import functools

import jax.numpy as jnp

from sxt_jax.inference.apply import Finish, Heads


@functools.lru_cache(maxsize=16)
def finish_label(finish: Finish) -> Finish:
    """What `finish` makes of a label: the same function for the same `finish`.

    The label is blended as it is, one channel. Then (1 + label) / 2 is the probability of the
    foreground, so the most probable class is the foreground where the label is above 0, as
    published (Dyhr et al. 2023).

    Args:
      finish: of heads with 'probs' [..., 2], such as `keep_classes`.

    Returns:
      The function of heads with 'label' [..., 1].
    """

    def of_label(heads: Heads) -> Heads:
        half = heads['label'] / 2
        return finish({'probs': jnp.concatenate([0.5 - half, 0.5 + half], axis=-1)})

    return of_label
