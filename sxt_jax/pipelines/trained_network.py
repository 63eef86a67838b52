"""What a checkpoint holds, ready to apply: by training or by import."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import logging
from flax import linen as nn

from sxt_jax.core.devices import compute_dtype
from sxt_jax.core.errors import InputError
from sxt_jax.inference import make_apply_fn
from sxt_jax.inference.apply import ApplyFn
from sxt_jax.inference.biomedisa import StandardisedFn
from sxt_jax.models import build_model
from sxt_jax.training.checkpoint import Checkpoint, best_checkpoint
from sxt_jax.training.loop import SCORE
from sxt_jax.training.state import make_variables

EVERYWHERE, SURFACE = PLACES = ('everywhere', 'surface')  # where a stage sees a volume
STAGES = 'stages'  # of the description of a cascade's checkpoint: those of its networks


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
      InputError: no intact checkpoint, or one of a cascade.
    """
    found = best_checkpoint(checkpoint, metric=SCORE)
    if STAGES in found.description:
        names = ', '.join(stages_of(found.description))
        expected = 'one network: the folder of a stage in the workdir of its training'
        raise InputError(found.path, f'a cascade of {names}', expected)
    logging.info('Using %s', found.path)
    return _build(found.path, found.description, found.restore(), dtype=dtype)


def load_stages(checkpoint: str | Path) -> list[TrainedNetwork]:
    """The networks of a cascade in the order they run; of any other checkpoint the one it holds.

    Args:
      checkpoint: workdir, or the folder of one checkpoint.

    Raises:
      InputError: no intact checkpoint, or a later stage of a cascade without those before it.
    """
    found = best_checkpoint(checkpoint, metric=SCORE)
    if 'n_gray' in found.description:
        name = stage_name(found.description)
        expected = 'the workdir of the whole cascade, which has the stages before it'
        raise InputError(found.path, f'stage {name} of a cascade', expected)
    logging.info('Using %s', found.path)
    saved = found.restore()
    if STAGES not in found.description:
        return [_build(found.path, found.description, saved)]
    stages = found.description[STAGES]
    return [_build(found.path, facts, saved[stage_name(facts)]) for facts in stages]


def stage_name(facts: Mapping[str, Any]) -> str:
    """Of the description of a network that is a stage of a cascade."""
    return str(facts['config']['stage']['name'])


@dataclasses.dataclass(frozen=True)
class _Part(Checkpoint):
    """The network of one stage in the checkpoint of a cascade."""

    stage: str = ''

    def restore(self) -> Any:
        return super().restore()[self.stage]


def open_network(checkpoint: str | Path, *, stage: str | None = None) -> Checkpoint:
    """The best intact checkpoint of one network; of a cascade's checkpoint, what is of a stage.

    Args:
      checkpoint: workdir, or the folder of one checkpoint.
      stage: for which stage it is; None: for a network by itself.

    Raises:
      InputError: no intact checkpoint, or one of a cascade without that stage.
    """
    found = best_checkpoint(checkpoint, metric=SCORE)
    names = stages_of(found.description)
    if not names:
        return found
    if stage not in names:
        expected = 'the run of one network' + (f', or a stage called {stage}' if stage else '')
        raise InputError(found.path, f'a cascade of {", ".join(names)}', expected)
    facts = found.description[STAGES][names.index(stage)]
    return _Part(found.path, found.step, facts, stage)


def stages_of(facts: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the stages of a cascade, by the description of its checkpoint; of others none."""
    return tuple(stage_name(stage) for stage in facts.get(STAGES, ()))


def _build(
    path: Path, facts: Mapping[str, Any], saved: Mapping[str, Any], *, dtype: str | None = None
) -> TrainedNetwork:
    dtype = dtype or facts['config']['compute_dtype']
    model = build_model({**facts['model'], 'dtype': compute_dtype(dtype)})
    apply_fn: ApplyFn = make_apply_fn(model)
    if facts.get('standardise_tiles', False):
        apply_fn = StandardisedFn(apply_fn)
    variables = make_variables(saved['params'], saved.get('batch_stats'))
    return TrainedNetwork(path, model, apply_fn, variables, facts)


def stage_reach(facts: Mapping[str, Any]) -> int | None:
    """Of a stage along the surface, how far it reaches, in its voxels; None: it is everywhere."""
    stage = facts['config'].get('stage', {})
    return int(stage['surface_voxels']) if stage.get('where') == SURFACE else None


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
