"""What a checkpoint holds, ready to apply: by training or by import."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import logging
from flax import linen as nn

from sxt_jax.core.devices import compute_dtype
from sxt_jax.inference import make_apply_fn
from sxt_jax.inference.apply import ApplyFn
from sxt_jax.inference.biomedisa import StandardisedFn
from sxt_jax.models import build_model
from sxt_jax.training.checkpoint import best_checkpoint
from sxt_jax.training.loop import SCORE
from sxt_jax.training.state import make_variables


@dataclasses.dataclass(frozen=True)
class TrainedNetwork:
    """A network with its weights.

    Attributes:
      path: of the checkpoint.
      model: the network.
      apply_fn: (variables, tiles [b, z, y, x, c]) → heads, with what the checkpoint says is done to
        tiles before.
      variables: numpy arrays.
      facts: the checkpoint's description.
    """

    path: Path
    model: nn.Module
    apply_fn: ApplyFn
    variables: dict[str, Any]
    facts: Mapping[str, Any]


def load_network(checkpoint: str | Path, *, dtype: str | None = None) -> TrainedNetwork:
    """The best intact checkpoint of a run, or an imported one.

    Args:
      checkpoint: workdir, or the folder of one checkpoint.
      dtype: in which it computes, a name of `core.devices.compute_dtype`; None: as in training.

    Raises:
      InputError: no intact checkpoint.
    """
    found = best_checkpoint(checkpoint, metric=SCORE)
    logging.info('Using %s', found.path)
    facts = found.description
    dtype = dtype or facts['config']['compute_dtype']
    model = build_model({**facts['model'], 'dtype': compute_dtype(dtype)})
    apply_fn: ApplyFn = make_apply_fn(model)
    if facts.get('standardise_tiles', False):
        apply_fn = StandardisedFn(apply_fn)
    saved = found.restore()
    variables = make_variables(saved['params'], saved.get('batch_stats'))
    return TrainedNetwork(found.path, model, apply_fn, variables, facts)


def keep_heads(network: TrainedNetwork, heads: Sequence[str]) -> TrainedNetwork:
    """The network without its other heads, and what is only for those.

    Args:
      network: one whose variables begin with the name of the head they belong to, such as
        `DoubleDecoder`.
      heads: of it.
    """
    dropped = tuple(f'{name}_' for name in network.model.heads if name not in heads)  # type: ignore[attr-defined]
    model = network.model.clone(heads=tuple(heads))
    kept = {
        kind: {name: tree for name, tree in trees.items() if not name.startswith(dropped)}
        for kind, trees in network.variables.items()
    }
    return dataclasses.replace(network, model=model, apply_fn=make_apply_fn(model), variables=kept)
