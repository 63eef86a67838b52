"""Checkpoints that explain and check themselves.

    W/checkpoints/<step>/state/            arrays, written by Orbax
    W/checkpoints/<step>/checkpoint.json   the description: model, classes, conventions, metrics
    W/checkpoints/<step>/manifest.json     size and SHA-256 of every file, and of the list itself

A checkpoint is written under a temporary name and renamed when all of it is on the disk. Orbax
restores a flipped bit of an array without a word, so nothing is restored unless every digest is
right; a broken checkpoint is passed over for the newest intact one, with a warning.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from jax.sharding import Mesh

from sxt_jax.core.atomic import TEMPORARY_MARK, atomic_path
from sxt_jax.core.devices import place, replicated
from sxt_jax.core.errors import InputError
from sxt_jax.core.processes import everyone
from sxt_jax.training.objectives import parameter_path

_DESCRIPTION, _MANIFEST, _STATE = 'checkpoint.json', 'manifest.json', 'state'
_FOLDER = 'checkpoints'
_OVERHEAD_BYTES = 1 << 16  # metadata of Orbax, description, manifest


class BrokenCheckpoint(InputError):
    """A checkpoint whose files are not those that were written."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """An intact checkpoint: where it is, its step, and its description."""

    path: Path
    step: int
    description: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """SHA-256 of its files, weights among them, as its manifest has it."""
        manifest = json.loads((self.path / _MANIFEST).read_text(encoding='utf-8'))
        return str(manifest['sha256'])

    def restore(self) -> Any:
        """The saved tree, as numpy arrays in nested dictionaries.

        Raises:
          BrokenCheckpoint: files changed since they were written.
        """
        _verify(self.path)
        with _checkpointer() as checkpointer:
            state = (self.path / _STATE).absolute()  # Orbax finds nothing at relative paths
            saved = checkpointer.metadata(state).item_metadata.tree
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), saved)
            return checkpointer.restore(state, restore_args=as_numpy)


def save_checkpoint(
    workdir: str | Path, step: int, tree: Any, description: Mapping[str, Any]
) -> Path:
    """Write the checkpoint of a step; an existing one of that step is replaced.

    Of several processes one calls this, where arrays are on all devices.

    Args:
      workdir: of the run.
      step: steps done.
      tree: pytree of arrays.
      description: JSON-able; all that the use of the arrays needs.

    Raises:
      InputError: the disk is full, or the folder cannot be written to.
    """
    path = Path(workdir) / _FOLDER / str(step)
    with atomic_path(path) as temporary:
        temporary.mkdir()
        _check_space(temporary, tree)
        with _checkpointer() as checkpointer:
            checkpointer.save((temporary / _STATE).absolute(), jax.tree.map(np.asarray, tree))
        text = json.dumps({**description, 'step': step}, indent=1, allow_nan=True)
        (temporary / _DESCRIPTION).write_text(text, encoding='utf-8')
        _write_manifest(temporary)
    return path


def list_checkpoints(workdir: str | Path) -> list[Path]:
    """Checkpoint folders, oldest step first; whether they are intact is not looked at."""
    folder = Path(workdir) / _FOLDER
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted((p for p in found if p.name.isdigit()), key=lambda p: int(p.name))


def open_checkpoint(path: str | Path) -> Checkpoint:
    """The checkpoint in a folder, every file verified.

    Raises:
      BrokenCheckpoint: it is not intact.
    """
    path = Path(path)
    _verify(path)
    description = json.loads((path / _DESCRIPTION).read_text(encoding='utf-8'))
    return Checkpoint(path, int(description['step']), description)


def latest_checkpoint(workdir: str | Path) -> Checkpoint | None:
    """The newest intact checkpoint; None if there is no checkpoint at all.

    Raises:
      InputError: there are checkpoints, and every one is broken.
    """
    return _newest_intact(list_checkpoints(workdir), workdir)


def best_checkpoint(workdir: str | Path, *, metric: str) -> Checkpoint:
    """The intact checkpoint with the highest `metric`; without the metric, the newest.

    Each checkpoint tells the best step so far by the metrics of its own history, and the newest
    intact one is asked. If the best step's own checkpoint is broken or gone, the newest is taken.

    Args:
      workdir: of a run, or the folder of one checkpoint.
      metric: name in the descriptions' 'metrics'.

    Raises:
      InputError: no checkpoint, or none that is intact.
    """
    workdir = Path(workdir)
    if (workdir / _MANIFEST).is_file() or (workdir / _DESCRIPTION).is_file():
        return open_checkpoint(workdir)
    newest = latest_checkpoint(workdir)
    if newest is None:
        raise InputError(
            workdir, 'no checkpoint', 'the workdir of a training run or of launch.import_weights'
        )
    best = best_step(newest.description.get('history', ()), metric=metric)
    if best is None or best == newest.step:
        return newest
    try:
        return open_checkpoint(workdir / _FOLDER / str(best))
    except BrokenCheckpoint as error:
        logging.warning('%s — using step %d, the newest intact one', error, newest.step)
        return newest


def best_step(history: Any, *, metric: str) -> int | None:
    """The first step of the highest value of a metric in a history of evaluations.

    None if it was never measured, or never above 0: then no step is better than another.
    """
    scored = [
        (row[metric], -row['step'])
        for row in history
        if row.get(metric) is not None and np.isfinite(row[metric]) and row[metric] > 0
    ]
    return -max(scored)[1] if scored else None


def remove_old_checkpoints(workdir: str | Path, *, keep: int, always: int | None) -> None:
    """Delete all but the newest `keep` checkpoints and the one of the step `always`."""
    for path in list_checkpoints(workdir)[: -max(1, keep)]:
        if int(path.name) != always:
            # Renamed first: a kill must not leave half a checkpoint under its name.
            doomed = path.with_name(f'{TEMPORARY_MARK}removed-{path.name}')
            shutil.rmtree(doomed, ignore_errors=True)
            path.rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)


def remove_leftovers(workdir: str | Path) -> None:
    """Delete what a killed run left unfinished; only for who holds the lock of the folder."""
    for path in (Path(workdir) / _FOLDER).glob(f'{TEMPORARY_MARK}*'):
        shutil.rmtree(path, ignore_errors=True)


def restore_into(checkpoint: Checkpoint, template: Any, *, device_mesh: Mesh) -> Any:
    """The saved tree in the structure of `template`, on every device of the mesh.

    Args:
      checkpoint: an intact checkpoint.
      template: pytree with the shapes and dtypes that are expected.
      device_mesh: the devices.

    Raises:
      InputError: the checkpoint is of another network or optimizer.
    """
    saved = checkpoint.restore()
    flat = {parameter_path(p): a for p, a in jax.tree_util.tree_leaves_with_path(saved)}

    def find(path: Any, leaf: Any) -> Any:
        name = parameter_path(path)
        array = flat.pop(name, None)
        if array is None or array.shape != leaf.shape or array.dtype != leaf.dtype:
            found = 'nothing' if array is None else f'{array.dtype}{list(array.shape)}'
            expected = f'{leaf.dtype}{list(leaf.shape)}'
            raise InputError(f'{checkpoint.path}: {name}', found, expected)
        return array

    tree = jax.tree_util.tree_map_with_path(find, template)
    if flat:
        raise InputError(checkpoint.path, f'{sorted(flat)[:3]} too many', 'the same network')
    return jax.tree.map(lambda array: place(array, replicated(device_mesh)), tree)


def _checkpointer() -> ocp.Checkpointer:
    """Orbax for this process by itself: else it would wait for the others."""
    index = everyone().index
    options = ocp.options.MultiprocessingOptions(
        primary_host=index, active_processes={index}, barrier_sync_key_prefix=f'process_{index}'
    )
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=options)
    return ocp.Checkpointer(handler, multiprocessing_options=options)


def _check_space(folder: Path, tree: Any) -> None:
    """Raise `OSError` where the arrays would not fit: Orbax retries for a minute, then floods."""
    n_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) + _OVERHEAD_BYTES
    with (folder / 'space').open('wb') as file:
        os.posix_fallocate(file.fileno(), 0, n_bytes)
    (folder / 'space').unlink()


def _newest_intact(paths: list[Path], workdir: str | Path) -> Checkpoint | None:
    broken: list[BrokenCheckpoint] = []
    for path in reversed(paths):
        try:
            checkpoint = open_checkpoint(path)
        except BrokenCheckpoint as error:
            broken.append(error)
            continue
        for reason in broken:
            logging.warning('%s — falling back to step %d', reason, checkpoint.step)
        return checkpoint
    if broken:
        raise InputError(workdir, f'every checkpoint is broken; the newest: {broken[0]}')
    return None


def _digest(path: Path) -> str:
    with path.open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def _files(folder: Path) -> dict[str, Path]:
    return {
        str(p.relative_to(folder)): p
        for p in sorted(folder.rglob('*'))
        if p.is_file() and p.name != _MANIFEST
    }


def _digest_of_list(files: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _write_manifest(folder: Path) -> None:
    files = {
        name: {'bytes': path.stat().st_size, 'sha256': _digest(path)}
        for name, path in _files(folder).items()
    }
    manifest = {'files': files, 'sha256': _digest_of_list(files)}
    (folder / _MANIFEST).write_text(json.dumps(manifest, indent=1), encoding='utf-8')


def _verify(folder: Path) -> None:
    """Raise `BrokenCheckpoint` unless every file is what the manifest says."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding='utf-8'))
        files = manifest['files']
        intact = manifest['sha256'] == _digest_of_list(files)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BrokenCheckpoint(folder, 'no readable manifest', 'an intact checkpoint') from error
    if not intact:
        raise BrokenCheckpoint(folder / _MANIFEST, 'changed since it was written', 'its SHA-256')
    for name, entry in files.items():
        path = folder / name
        if not path.is_file():
            raise BrokenCheckpoint(path, 'missing', 'every file of the checkpoint')
        if path.stat().st_size != entry['bytes'] or _digest(path) != entry['sha256']:
            raise BrokenCheckpoint(path, 'changed since it was written', 'its SHA-256')
