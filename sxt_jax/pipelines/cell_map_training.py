"""Training a network of slices to give the mask and the boundary of cells, of their ids.

The maps are what cells are split by (`launch.propagate`), as Machireddy et al. (2023) do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np
from jax.sharding import Mesh

from sxt_jax.core.errors import InputError
from sxt_jax.core.processes import everyone
from sxt_jax.data.cell_maps import CODES, with_cell_maps
from sxt_jax.data.intensity import Intensity
from sxt_jax.data.labelled_slices import hold_slices
from sxt_jax.data.targets import CELLS
from sxt_jax.inference import make_apply_fn
from sxt_jax.models.heads import CELL_MAPS
from sxt_jax.pipelines.slice_data import check_slices, load_slices, slice_facts
from sxt_jax.pipelines.task_cells import check_no_task
from sxt_jax.pipelines.training_data import (
    TrainingData,
    check_together,
    make_objective,
    make_stream,
)
from sxt_jax.training.cell_map_evaluator import cell_map_scores
from sxt_jax.training.cell_map_objective import cell_map_loss
from sxt_jax.training.objectives import Objective

_WIDEST = 64  # pixels of a boundary on one side


def learns_cell_maps(model: nn.Module) -> bool:
    """Whether the network gives the maps of cells."""
    return set(getattr(model, 'head_activations', {})) == set(CELL_MAPS)


class CellMapTraining:
    """Mask and boundary of cells are learnt: a `pipelines.training_task.Task`."""

    def check(self, config: Any, model: nn.Module) -> None:
        """Whether fields and network fit ids of cells in slices.

        Raises:
          InputError: naming the field.
        """
        check_slices(config)
        if not 1 <= config.cells.boundary_px <= _WIDEST:
            found = f'{config.cells.boundary_px}'
            raise InputError('config.cells.boundary_px', found, f'1 … {_WIDEST} pixels')
        check_no_task(config, 'the maps of cells')
        if config.class_balance:
            found = 'on, with the maps of cells'
            raise InputError('config.class_balance', found, 'off: their loss is Dice')

    def load(self, config: Any, *, intensity: str | Intensity, folder: Path) -> TrainingData:
        """Slices with the numbers of `data.cell_maps` as labels."""
        del folder
        data = load_slices(config, intensity=intensity, classes=CELLS)
        train, held = (
            hold_slices(with_cell_maps(slices, boundary_px=config.cells.boundary_px))
            for slices in (data.train, data.validation)
        )
        return check_together(TrainingData(train, held, CODES, data.intensity))

    def network_fields(self, n_classes: int) -> Mapping[str, Any]:
        """None: there are two maps."""
        return {}

    def objectives(self, config: Any, model: nn.Module, data: TrainingData) -> list[Objective]:
        """One: both maps."""
        stream = make_stream(config, data.train, n_classes=len(CODES))
        return [make_objective(config, 'supervised', stream, cell_map_loss())]

    def validator(
        self, config: Any, model: nn.Module, data: TrainingData, device_mesh: Mesh
    ) -> Callable[[Any], Mapping[str, float]]:
        """Dice of both maps on whole slices."""
        apply_fn = make_apply_fn(model)

        def validate(variables: Any) -> dict[str, float]:
            return cell_map_scores(
                apply_fn,
                variables,
                data.validation,
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
        """Maps have conventions in place of classes."""
        heads = {
            'mask': 'probability that a pixel is of a cell',
            'boundary': 'probability that the id changes within '
            f'{config.cells.boundary_px} pixels (of the network) along y and x',
        }
        conventions = {'intensity': data.intensity.to_dict(), 'heads': heads}
        return {'classes': None, 'conventions': conventions, **slice_facts(config)}

    def what(self, config: Any) -> str:
        return 'slices'
