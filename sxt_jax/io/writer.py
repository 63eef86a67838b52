"""Slab by slab into a file that appears only when it is complete."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sxt_jax.core.errors import InputError
from sxt_jax.io.layout import Layout, cast_exact


class VolumeWriter:
    """Takes consecutive z-slabs of a volume; made by `open_writer`.

    At most one chunk of slices is held back, so memory does not grow with the volume.

    Attributes:
      slices: the first and one past the last slice that it takes: all, or this process's share.
    """

    def __init__(
        self,
        layout: Layout,
        append: Callable[[np.ndarray], None],
        *,
        slab_depth: int,
        slices: tuple[int, int] | None = None,
    ) -> None:
        self._layout, self._append, self._depth = layout, append, slab_depth
        self.slices = slices or (0, layout.shape[0])
        self._held: list[np.ndarray] = []
        self._n_held, self._n_written = 0, self.slices[0]

    @property
    def shape(self) -> tuple[int, ...]:
        return self._layout.shape

    @property
    def n_slices(self) -> int:
        """One past the last slice taken so far: the next slab starts here."""
        return self._n_written + self._n_held

    def write(self, z_start: int, slab: np.ndarray) -> None:
        """Append slices z_start, z_start + 1, …

        Args:
          z_start: the number of slices written before.
          slab: [z, y, x] or [z, y, x, c] of the dtype announced, or one whose values fit it.

        Raises:
          ValueError: the slab is out of turn or has another shape.
          InputError: a value cannot be kept exactly, or the disk is full.
        """
        slab = np.asarray(slab)
        if z_start != self.n_slices:
            raise ValueError(f'slab at slice {z_start}, expected {self.n_slices}')
        fits = z_start + len(slab) <= self.slices[1] if slab.ndim else False
        if slab.ndim != len(self.shape) or slab.shape[1:] != self.shape[1:] or not fits:
            raise ValueError(f'slab of shape {slab.shape} at {z_start} of a volume {self.shape}')
        if slab.dtype.kind not in 'biuf':
            raise InputError(self._layout.path, f'voxels of dtype {slab.dtype}', 'real numbers')
        self._held.append(cast_exact(slab, self._layout.dtype, self._layout.path).copy())
        self._n_held += len(slab)
        while self._n_held >= self._depth:
            self._flush(self._n_held - self._n_held % self._depth)

    def finish(self) -> None:
        """Write what is held back.

        Raises:
          ValueError: slices are missing.
        """
        if self.n_slices != self.slices[1]:
            raise ValueError(f'{self.n_slices} of {self.slices[1]} slices were written')
        if self._n_held:
            self._flush(self._n_held)

    def _flush(self, n: int) -> None:
        held = self._held[0] if len(self._held) == 1 else np.concatenate(self._held)
        self._append(held[:n])
        self._held = [held[n:].copy()] if n < len(held) else []
        self._n_held -= n
        self._n_written += n
