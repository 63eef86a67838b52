"""What a 2-D network learns of a labelled volume: its slices in three orientations."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from skimage import measure

from sxt_jax.core.slicing import planes, turn
from sxt_jax.data.datasets import Example
from sxt_jax.data.targets import with_flows

PlaneFlows = Callable[[np.ndarray], Any]
_PIXELS = 2**21  # of the slices that are worked on together
_WIDTH = 64  # of the image in which they are is a multiple of it


def slice_examples(
    example: Example, flows_of: PlaneFlows, *, folder: Path | None = None
) -> list[Example]:
    """A volume of object ids as stacks of slices: xy, xz and yz; of one slice, that alone.

    Every slice has the flows of its own 2-D labels, as networks of slices are trained (Stringer et
    al. 2021): they point to the centre of what is seen in the slice.

    Args:
      example: its labels are ids (`targets.ObjectIds`).
      flows_of: makes [y, x, 2] flows of [y, x] int32 labels, of cells that do not depend on each
        other.
      folder: where the targets are kept, and looked for, for one `flows_of`; None: in memory.

    Returns:
      Examples whose first axis is that of the slices, with foreground as labels and flows
      [n, rows, columns, 3], of which the first component, that across slices, is 0.
    """
    made = []
    for plane, order in planes(example.shape).items():
        size = example.voxel_size_nm
        stack = dataclasses.replace(
            example,
            name=f'{example.name} ({plane})',
            image=turn(example.image, order),
            labels=turn(example.labels, order),
            voxel_size_nm=size and (size[order[0]], size[order[1]], size[order[2]]),
        )
        made.append(with_flows(stack, lambda ids: slice_flows(ids, flows_of), folder=folder))
    return made


def slice_flows(ids: np.ndarray, flows_of: PlaneFlows) -> np.ndarray:
    """Flows within the slices of a volume, many slices at a time.

    The slices are put below each other with a row of background between them, as one image: pieces
    of a slice touch no other slice, and each piece is a cell of its own. Pieces are joined by
    corners, through which heat flows in 2-D. So a few calls serve all slices; for heat this means
    as many iterations in all slices of a call as the largest cell among them takes.

    Args:
      ids: [n, rows, columns] int32 ≥ 0, 0 background.
      flows_of: see `slice_examples`.

    Returns:
      [n, rows, columns, 3] float16, components as the axes, the first 0.
    """
    n, rows, columns = ids.shape
    flows = np.zeros((*ids.shape, 3), np.float16)
    height, width = _image_shape(ids.shape)
    step = height // (rows + 1)
    for start in range(0, n, step):
        part = ids[start : start + step]
        image = np.zeros((height, width), np.int32)
        _rows_of_slices(image, len(part), rows)[..., :columns] = part
        cells = measure.label(image, background=0, connectivity=2)
        found = _rows_of_slices(np.asarray(flows_of(cells)), len(part), rows)
        flows[start : start + step, ..., 1:] = found[:, :, :columns]
    return flows


def _image_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Of the image for slices of such a volume; of few sizes, as each is compiled for."""
    n, rows, columns = shape
    width = -(-columns // _WIDTH) * _WIDTH
    height = min(_PIXELS // width, 2 ** (n * (rows + 1) - 1).bit_length())
    return max(height, rows + 1), width


def _rows_of_slices(image: np.ndarray, n: int, rows: int) -> np.ndarray:
    """View [n, rows, …] of the slices that lie below each other in an image."""
    return image[: n * (rows + 1)].reshape(n, rows + 1, *image.shape[1:])[:, :rows]
