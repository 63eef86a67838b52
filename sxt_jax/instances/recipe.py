"""How instances are made of foreground and flows: all that can be chosen."""

from __future__ import annotations

import dataclasses
import math
from typing import Any


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How instances are made.

    Attributes:
      threshold: foreground above it.
      everywhere: all voxels move and are labelled, not only those of the foreground.
      normalise: flows are divided by their one largest absolute component.
      smoothing: standard deviation in voxels of the Gaussian that smooths the flows; within the
        foreground only, unless `everywhere`.
      n_steps: steps along the flows; None: 32 times the cell radius in voxels.
      method, lookup, step_size, n_direct: see `tracking.track`.
      closing_radius: of the ball that joins the ends of a cell; None: half the cell radius.
      min_diameter, max_diameter: instances smaller or larger than a ball (2-D: disk) of this
        diameter are removed; None: the cell radius, and no upper limit.
      min_foreground_share: instances with a smaller share of foreground, widened by the closing's
        ball, are removed; 0: none.
      max_flow_error: instances whose flows differ more from those that their shape should have
        ('tanh') are removed; None: none. Mean absolute difference of components.
      min_axis_ratio: instances whose shortest axis is a smaller share of the longest are removed.
      split: instances in several pieces become several instances.
    """

    threshold: float = 0.5
    everywhere: bool = False
    normalise: bool = False
    smoothing: float = 1.0
    n_steps: int | None = None
    method: str = 'doubling'
    lookup: str = 'linear'
    step_size: float = 1.0
    n_direct: int = 8
    closing_radius: float | None = None
    min_diameter: float | None = None
    max_diameter: float | None = None
    min_foreground_share: float = 0.0
    max_flow_error: float | None = None
    min_axis_ratio: float = 0.0
    split: bool = False

    @classmethod
    def published(cls, *, min_diameter: float, max_diameter: float, **changes: Any) -> Recipe:
        """The one of Cellpose3D's released code, with its parameters."""
        recipe = cls(
            everywhere=True,
            normalise=True,
            n_steps=100,
            method='euler',
            lookup='floor',
            closing_radius=min_diameter // 2,
            min_diameter=min_diameter,
            max_diameter=max_diameter,
            min_foreground_share=0.5,
            max_flow_error=0.8,
            min_axis_ratio=0.1,
            split=True,
        )
        return dataclasses.replace(recipe, **changes)

    def filled_in(self, cell_radius: float, voxel_size: tuple[float, ...] | None) -> Recipe:
        """With what it leaves to the cell radius, which is in the unit of `voxel_size`."""
        in_voxels = cell_radius / min(voxel_size or (1.0,))
        filled: dict[str, Any] = {
            'n_steps': math.ceil(32 * in_voxels),
            'closing_radius': cell_radius / 2,
            'min_diameter': cell_radius,
        }
        missing = {name: value for name, value in filled.items() if getattr(self, name) is None}
        return dataclasses.replace(self, **missing)

    def of_finding(self) -> Recipe:
        """Without what removes or splits instances: one program finds them for all such choices."""
        return dataclasses.replace(
            self,
            min_diameter=None,
            max_diameter=None,
            min_foreground_share=0.0,
            max_flow_error=None,
            min_axis_ratio=0.0,
            split=False,
        )
