"""What a network learns: classes, flows or maps of cells, a mask and the image. One file each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import flax.linen as nn
import numpy as np
from jax.sharding import Mesh

from sxt_jax.data.intensity import Intensity
from sxt_jax.pipelines.cell_map_training import CellMapTraining, learns_cell_maps
from sxt_jax.pipelines.class_training import ClassTraining
from sxt_jax.pipelines.flow_training import FlowTraining, learns_flows
from sxt_jax.pipelines.mask_training import MaskTraining, learns_mask
from sxt_jax.pipelines.training_data import TrainingData
from sxt_jax.training.objectives import Objective

Validate = Callable[[Any], Mapping[str, float]]
Panels = Callable[[Any], Mapping[str, np.ndarray]]


class Task(Protocol):
    """A kind of learning; what all kinds share is in `train_network`."""

    def check(self, config: Any, model: nn.Module) -> None:
        """Whether fields and network go together; raises `InputError` naming the field."""
        ...

    def load(self, config: Any, *, intensity: str | Intensity, folder: Path) -> TrainingData:
        """The data of the config; `folder` is for targets that do not fit in memory."""
        ...

    def network_fields(self, n_classes: int) -> Mapping[str, Any]:
        """Fields of the network that follow from the data."""
        ...

    def objectives(self, config: Any, model: nn.Module, data: TrainingData) -> list[Objective]:
        """What is learnt, in the order of turns."""
        ...

    def validator(
        self, config: Any, model: nn.Module, data: TrainingData, device_mesh: Mesh
    ) -> Validate:
        """The function from variables to scores of the validation data."""
        ...

    def panels(
        self, config: Any, model: nn.Module, data: TrainingData, device_mesh: Mesh
    ) -> Panels | None:
        """The function from variables to pictures of the validation data, if there are any."""
        ...

    def facts(self, config: Any, model: nn.Module, data: TrainingData) -> Mapping[str, Any]:
        """What checkpoints tell besides or instead of what all tell."""
        ...

    def what(self, config: Any) -> str:
        """What examples are, in the plural."""
        ...


def find_task(config: Any, model: nn.Module) -> Task:
    """What the config's network learns: the field `flows.kind` or the network's heads tell."""
    if learns_flows(config):
        return FlowTraining()
    if learns_cell_maps(model):
        return CellMapTraining()
    return MaskTraining() if learns_mask(model) else ClassTraining()
