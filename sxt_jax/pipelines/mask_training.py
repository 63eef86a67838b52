"""Training a network to give a mask and the image again, of slices with and without labels.

Semi-supervised as deep_sxt (Dyhr et al. 2023): two objectives take turns, epoch by epoch. Labelled
slices teach all of the network; unlabelled ones, of other tomograms and of the same, teach all but
the label decoder. A network without the head 'image' learns from labelled slices alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np
from absl import logging
from jax.sharding import Mesh

from sxt_jax.core.errors import InputError
from sxt_jax.core.processes import everyone
from sxt_jax.core.volume import ArrayLike
from sxt_jax.data.datasets import Example
from sxt_jax.data.intensity import Intensity
from sxt_jax.data.labelled_slices import cut_slices
from sxt_jax.inference import make_apply_fn, predict_volume
from sxt_jax.inference.apply import ApplyFn
from sxt_jax.inference.whole_slices import slice_tiling
from sxt_jax.models import build_model
from sxt_jax.pipelines.slice_data import (
    check_no_binning,
    check_slices,
    cut_labelled,
    split_labelled,
)
from sxt_jax.pipelines.training_data import (
    TrainingData,
    check_together,
    make_objective,
    make_stream,
    read_pairs,
    read_unlabelled,
)
from sxt_jax.training.mask_evaluator import mask_panel, mask_scores
from sxt_jax.training.mask_objective import LABEL_BRANCH, make_image_loss, make_mask_loss
from sxt_jax.training.objectives import Objective

_HEADS = {'label', 'image'}
_SSIM_WINDOW = 11
_N_PANELS = 2


def learns_mask(model: nn.Module) -> bool:
    """Whether the network gives a label and perhaps the image, and nothing else."""
    heads = set(getattr(model, 'head_activations', {}))
    return bool(heads) and heads <= _HEADS


def learns_image(model: nn.Module) -> bool:
    """Whether it gives the image, which takes no labels to learn."""
    return 'image' in getattr(model, 'head_activations', {})


class MaskTraining:
    """A mask, and perhaps the image, are learnt: a `pipelines.training_task.Task`."""

    def check(self, config: Any, model: nn.Module) -> None:
        """Whether fields and network fit slices with one class.

        Raises:
          InputError: naming the field.
        """
        if 'label' not in getattr(model, 'head_activations', {}):
            raise InputError('config.model.heads', f'{tuple(model.heads)}', "'label' among them")  # type: ignore[attr-defined]
        check_slices(config)
        check_no_binning(config)
        if config.class_balance:
            raise InputError('config.class_balance', 'on, with a mask', 'off: there is one class')
        _check_losses(config)

    def load(self, config: Any, *, intensity: str | Intensity, folder: Path) -> TrainingData:
        """Labelled slices, of which some are held out, and unlabelled ones."""
        del folder
        fields = config.data
        volumes, classes, fitted = read_pairs(
            config, fields.train, fields.labels, intensity=intensity
        )
        if len(classes) != 2:
            found = f'{len(classes) - 1} classes besides background ({classes})'
            raise InputError(fields.train, found, 'one: the network gives a mask')
        train, unlabelled = cut_labelled(config, volumes)
        train, held, left = split_labelled(config, train)
        unlabelled += left
        if fields.validation:
            images, labels = fields.validation, fields.validation_labels
            volumes, _, _ = read_pairs(config, images, labels, intensity=fitted, classes=classes)
            held, _ = cut_labelled(config, volumes)
        if fields.unlabelled and learns_image(build_model(config.model)):
            volumes = read_unlabelled(config, fields.unlabelled, intensity=fitted)
            unlabelled += cut_slices(volumes)[1]
        logging.info(
            '%d labelled slices to train on, %d to validate on; %d unlabelled',
            len(train), len(held), len(unlabelled),
        )  # fmt: skip
        return check_together(TrainingData(train, held, classes, fitted, unlabelled))

    def network_fields(self, n_classes: int) -> Mapping[str, Any]:
        """None: there is one mask."""
        return {}

    def objectives(self, config: Any, model: nn.Module, data: TrainingData) -> list[Objective]:
        """The unlabelled slices, for networks that give the image, and the labelled ones."""
        if data.n_channels > 1 and learns_image(model):
            found = f'{data.n_channels} channels'
            raise InputError(data.train[0].name, found, 'one: the network gives one again')
        n_classes, fields = len(data.classes), config.mask
        supervised = make_objective(
            config,
            'supervised',
            make_stream(config, data.train, n_classes=n_classes),
            make_mask_loss(label_weight=fields.label_weight, delta=fields.huber_delta),
        )
        if not (learns_image(model) and data.unlabelled):
            logging.info(
                'Supervised training only: %s',
                'there are no unlabelled slices' if learns_image(model)
                else 'the network gives no image',
            )  # fmt: skip
            return [supervised]
        n_drawn = min(config.data.unlabelled_slices or np.inf, len(data.unlabelled))
        stream = make_stream(
            config,
            data.unlabelled,
            n_classes=n_classes,
            seed=config.seed + 1,
            steps_per_epoch=max(1, int(n_drawn) // config.batch_size),
            labelled=False,
        )
        loss = make_image_loss(
            value_range=data.value_range,
            ssim_weight=fields.ssim_weight,
            delta=fields.huber_delta,
        )
        unsupervised = make_objective(config, 'unsupervised', stream, loss, frozen=(LABEL_BRANCH,))
        # Labels last: as in published training, what is validated has just learnt from them.
        return [unsupervised, supervised]

    def validator(
        self, config: Any, model: nn.Module, data: TrainingData, device_mesh: Mesh
    ) -> Callable[[Any], Mapping[str, float]]:
        """Scores of the mask and of the image on whole slices."""
        apply_fn, fields = make_apply_fn(model), config.mask

        def validate(variables: Any) -> dict[str, float]:
            return mask_scores(
                partial(_predict, apply_fn, variables, config, device_mesh),
                data.validation,
                patch=tuple(config.data.patch),
                value_range=data.value_range if learns_image(model) else 1.0,  # or not used
                label_weight=fields.label_weight,
                ssim_weight=fields.ssim_weight,
                delta=fields.huber_delta,
                team=everyone(),
            )

        return validate

    def panels(
        self, config: Any, model: nn.Module, data: TrainingData, device_mesh: Mesh
    ) -> Callable[[Any], Mapping[str, np.ndarray]] | None:
        """Image, reconstruction, true and predicted label of the first held-out slices."""
        apply_fn = make_apply_fn(model)

        def draw(variables: Any) -> dict[str, np.ndarray]:
            predict = partial(_predict, apply_fn, variables, config, device_mesh)
            shown = data.validation[:_N_PANELS]
            return {f'validation_{i}': mask_panel(predict, e) for i, e in enumerate(shown)}

        return draw

    def facts(self, config: Any, model: nn.Module, data: TrainingData) -> Mapping[str, Any]:
        """What the heads mean, and which unlabelled data there were."""
        heads = {'label': f'-1 … 1; above 0 where {data.classes.names[1]} is'}
        if learns_image(model):
            heads['image'] = 'the image again, each slice with mean 0 and SD 1'
        return {
            'conventions': {'intensity': data.intensity.to_dict(), 'heads': heads},
            'unlabelled': _fingerprint(data.unlabelled),
        }

    def what(self, config: Any) -> str:
        return 'slices'


def _check_losses(config: Any) -> None:
    for name in ('label_weight', 'ssim_weight'):
        if not 0 <= config.mask[name] <= 1:
            raise InputError(f'config.mask.{name}', f'{config.mask[name]}', '0 … 1')
    if not 0 < config.mask.huber_delta < np.inf:
        raise InputError('config.mask.huber_delta', f'{config.mask.huber_delta}', 'above 0')
    if min(config.data.patch[1:]) < _SSIM_WINDOW:
        expected = f'at least {_SSIM_WINDOW} pixels, the window in which images are compared'
        raise InputError('config.data.patch', f'{tuple(config.data.patch)}', expected)


def _predict(
    apply_fn: ApplyFn, variables: Any, config: Any, device_mesh: Mesh, image: ArrayLike
) -> dict[str, np.ndarray]:
    """All heads of slices, as `launch.segment` predicts them."""
    fields = config.inference
    tile, overlap = slice_tiling(
        apply_fn,
        variables,
        image.shape[:3],
        tile=fields.tile,
        overlap=fields.overlap,
        device_mesh=device_mesh,
    )
    return predict_volume(
        apply_fn,
        variables,
        image,
        tile=tile,
        overlap=overlap,
        blend=fields.blend,
        batch_size=fields.batch_size,
        device_mesh=device_mesh,
    )


def _fingerprint(slices: list[Example]) -> str:
    """How many there are, and a checksum of their names and shapes."""
    text = '\n'.join(f'{e.name} {e.shape}' for e in slices)
    return f'{len(slices)} slices {zlib.crc32(text.encode()):08x}'
