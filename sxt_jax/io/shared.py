"""One OME-Zarr written by all processes of a job, each its own chunks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from sxt_jax.core.atomic import atomic_path
from sxt_jax.core.processes import Team, see_path
from sxt_jax.io.layout import Layout
from sxt_jax.io.writer import VolumeWriter
from sxt_jax.io.zarr import SLAB_DEPTH, append_to_zarr, begin_zarr, finish_zarr


@contextlib.contextmanager
def open_shared_zarr(layout: Layout, team: Team) -> Iterator[VolumeWriter]:
    """Write an OME-Zarr in several processes; it appears once all slices of all are written.

    The first process makes the folder under a temporary name, and renames it when all are done. In
    between each writes the slices `writer.slices`, which begin and end between chunks (one may have
    none), and flushes them to the disk, which none could do for another machine.

    Args:
      layout: of the whole volume, the same in all processes.
      team: the processes.

    Raises:
      Exception: something went wrong in a process; in all of them, and nothing is left behind.
        Where a process is killed, an unfinished folder stays, as of one process that is killed
        (`core.atomic.remove_abandoned`).
    """
    with contextlib.ExitStack() as stack:

        def begin() -> str:
            temporary = stack.enter_context(atomic_path(layout.path))
            begin_zarr(temporary, layout)
            return str(temporary)

        temporary = Path(team.first(begin, name=f'begin {layout.path}'))
        slices = share_of_slices(layout.shape[0], team)

        def open_own() -> Callable[[np.ndarray], None]:
            see_path(temporary)
            return append_to_zarr(temporary, layout, z_start=slices[0], synced=True)

        append = team.each(open_own, name=f'open {layout.path}')
        writer = VolumeWriter(layout, append, slab_depth=SLAB_DEPTH, slices=slices)
        error: Exception | None = None
        try:
            yield writer
            writer.finish()
        except Exception as caught:
            error = caught
        team.settle(error, name=f'write {layout.path}')

        def finish() -> None:
            finish_zarr(temporary, layout)
            stack.close()

        team.first(finish, name=f'finish {layout.path}')


def share_of_slices(n_slices: int, team: Team) -> tuple[int, int]:
    """First and one past the last slice of this process's share: whole chunks, as even as can be.

    Args:
      n_slices: of the volume.
      team: the processes.
    """
    n_chunks = -(-n_slices // SLAB_DEPTH)
    bounds = (n_chunks * i // team.size * SLAB_DEPTH for i in (team.index, team.index + 1))
    start, stop = (min(bound, n_slices) for bound in bounds)
    return start, stop
