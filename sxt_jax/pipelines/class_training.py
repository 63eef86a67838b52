"""Training a network to give classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np
from absl import logging
from jax.sharding import Mesh

from sxt_jax.core.errors import InputError
from sxt_jax.core.processes import everyone
from sxt_jax.data.binning import NO_BINNING
from sxt_jax.data.datasets import Example, class_frequencies
from sxt_jax.data.intensity import Intensity
from sxt_jax.inference import make_apply_fn
from sxt_jax.instances.gradient_maps import KINDS
from sxt_jax.models import build_model
from sxt_jax.models.slicewise import takes_slices
from sxt_jax.pipelines.config_fields import binning, working_shape
from sxt_jax.pipelines.slice_data import check_slices, load_slices, slice_facts
from sxt_jax.pipelines.training_data import (
    TrainingData,
    check_together,
    hold_out,
    make_objective,
    make_stream,
    read_pairs,
)
from sxt_jax.training.evaluators import validation_scores
from sxt_jax.training.objectives import Objective, make_segmentation_loss


class ClassTraining:
    """Each voxel's class is learnt: a `pipelines.training_task.Task`."""

    def check(self, config: Any, model: nn.Module) -> None:
        """Whether the network gives classes.

        Raises:
          InputError: naming the field.
        """
        name, heads = config.model.name, getattr(model, 'head_activations', {})
        if {'foreground', 'flows'} <= set(heads):
            found = f'empty, with the network {name!r}, which gives foreground and flows'
            raise InputError('config.flows.kind', found, f'one of {KINDS}')
        if 'logits' not in heads:
            found = f'{name!r}, which gives {", ".join(heads) or "nothing"}'
            raise InputError('config.model', found, 'a network that gives classes')
        if takes_slices(model):
            check_slices(config)
        elif working_shape(config) and binning(config) != NO_BINNING:
            found = f'{binning(config)}, with a working_shape of {working_shape(config)}'
            raise InputError('config.data.binning', found, 'one of them')
        make_segmentation_loss(dict(config.loss))

    def load(self, config: Any, *, intensity: str | Intensity, folder: Path) -> TrainingData:
        """Labelled volumes, of which some are held out; slices, for networks of these."""
        del folder
        if takes_slices(build_model(config.model)):
            return check_together(load_slices(config, intensity=intensity))
        fields = config.data
        train, classes, fitted = read_pairs(
            config, fields.train, fields.labels, intensity=intensity
        )
        held: list[Example]
        if fields.validation:
            images, labels = fields.validation, fields.validation_labels
            held, _, _ = read_pairs(config, images, labels, intensity=fitted, classes=classes)
        else:
            train, held = hold_out(config, train)
        return check_together(TrainingData(train, held, classes, fitted))

    def network_fields(self, n_classes: int) -> Mapping[str, Any]:
        """As many labels as classes."""
        return {'n_labels': n_classes}

    def objectives(self, config: Any, model: nn.Module, data: TrainingData) -> list[Objective]:
        """One: the labels."""
        del model
        stream = make_stream(config, data.train, n_classes=len(data.classes))
        weights = _class_weights(config, data)
        loss = make_segmentation_loss(dict(config.loss), class_weights=weights)
        return [make_objective(config, 'supervised', stream, loss, n_gray=data.n_gray)]

    def validator(
        self, config: Any, model: nn.Module, data: TrainingData, device_mesh: Mesh
    ) -> Callable[[Any], Mapping[str, float]]:
        """Dice of whole volumes."""
        apply_fn = make_apply_fn(model)

        def validate(variables: Any) -> dict[str, float]:
            return validation_scores(
                apply_fn,
                variables,
                data.validation,
                classes=data.classes,
                tiling=dict(config.inference),
                device_mesh=device_mesh,
                team=everyone(),
            )

        return validate

    def panels(
        self, config: Any, model: nn.Module, data: TrainingData, device_mesh: Mesh
    ) -> Callable[[Any], Mapping[str, np.ndarray]] | None:
        """None."""
        return None

    def facts(self, config: Any, model: nn.Module, data: TrainingData) -> Mapping[str, Any]:
        """How voxels are binned; in a cascade, how many channels are gray values."""
        gray = {} if data.n_gray is None else {'n_gray': data.n_gray}
        return {**slice_facts(config), **gray}

    def what(self, config: Any) -> str:
        return 'slices' if takes_slices(build_model(config.model)) else 'volumes'


def _class_weights(config: Any, data: TrainingData) -> list[float] | None:
    """1 / frequency, with mean 1 over the voxels."""
    if not config.class_balance:
        return None
    frequency = class_frequencies(data.train, len(data.classes))
    weights = [1 / (f * int((frequency > 0).sum())) if f > 0 else 0.0 for f in frequency]
    logging.info('Class weights: %s', ', '.join(f'{w:.3g}' for w in weights))
    return weights
