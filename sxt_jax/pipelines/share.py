"""What one process does of an image that several work on."""

from __future__ import annotations

import dataclasses

from sxt_jax.core.processes import ALONE, Team


@dataclasses.dataclass(frozen=True)
class Share:
    """A part of the slices of an image.

    Attributes:
      team: the processes that work on the image.
      slices: first and one past the last slice that this one predicts; None: all.
    """

    team: Team = ALONE
    slices: tuple[int, int] | None = None


ALL = Share()
