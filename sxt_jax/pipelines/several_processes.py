"""How tomograms are shared out between the processes of a job."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from absl import logging

from sxt_jax.core.atomic import check_writable
from sxt_jax.core.errors import InputError
from sxt_jax.core.processes import Team, check_shared
from sxt_jax.data.binning import NO_BINNING
from sxt_jax.io.zarr import SUFFIXES
from sxt_jax.pipelines.segmenter import Segmenter


def make_shared_folder(folder: str | Path, team: Team) -> None:
    """Whether results can be written to a folder; where there are several processes, by all.

    These make it, since only of a folder that is there can be seen whether all have the same.

    Raises:
      InputError: it cannot be made or written to, or each process would have its own; in all.
    """
    folder = Path(folder)
    # Whoever makes the folder on trial removes it: it is made for good when all have tried.
    team.each(lambda: check_writable(folder), name=f'try to write to {folder}')
    if team.size == 1:
        return
    team.first(lambda: folder.mkdir(parents=True, exist_ok=True), name=f'make {folder}')
    check_shared(folder, team)


def is_done_together(
    sources: Sequence[Path], targets: Sequence[Path], team: Team, *, in_pieces: bool
) -> bool:
    """Whether all processes work on each tomogram, or each process on some of the tomograms.

    Where there are as many tomograms as processes, or more, these are shared out, the i-th to
    process i and so on. Where there are fewer, all processes work on each, one tomogram after the
    other, if its result is an OME-Zarr: other formats have one writer.

    Args:
      sources: the tomograms.
      targets: their results.
      team: the processes.
      in_pieces: whether a result can be written before all of it is known.

    Raises:
      InputError: a single tomogram that one process would work on, the others having nothing to do.
    """
    if len(sources) >= team.size:
        return False
    writable = all(path.suffix.lower() in SUFFIXES for path in targets)
    if writable and in_pieces:
        logging.info('%d processes work on each of %d files', team.size, len(sources))
        return True
    if len(sources) == 1:
        found = f'one file for {team.size} processes, and its result is '
        found += f'one {targets[0].suffix} file' if in_pieces else 'made of the whole volume'
        expected = (
            'one process, more files, or an OME-Zarr (.zarr) of which classes are segmented, '
            'without cleaning and filling'
        )
        raise InputError(sources[0], found, expected)
    idle = team.size - len(sources)
    logging.warning('%d of %d processes have nothing to do: each takes a file', idle, team.size)
    return False


def check_shareable(segmenter: Segmenter, name: str | Path) -> None:
    """Whether several processes can predict a share of the slices of an image each.

    Args:
      segmenter: the network.
      name: what to call the image in errors.

    Raises:
      InputError: they cannot.
    """
    found = ''
    if segmenter.working_shape is not None:
        found = f'is resized to {segmenter.working_shape} voxels and segmented in one piece'
    elif segmenter.binning != NO_BINNING or segmenter.earlier is not None:
        found = 'is segmented by a network of bins, or a cascade, which several processes cannot'
    if found:
        raise InputError(name, found, 'one process, or as many files as processes')
