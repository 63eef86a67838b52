"""What a run leaves to be read: metrics as JSON lines and TensorBoard events, and a lock."""

from __future__ import annotations

import contextlib
import fcntl
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from tensorboardX import SummaryWriter

from sxt_jax.core.atomic import check_writable, write_text
from sxt_jax.core.errors import InputError
from sxt_jax.core.processes import ALONE, Team, check_shared

METRICS_FILE = 'metrics.jsonl'
_LOCK = '.lock'


class NoLogbook:
    """What a process has that writes none, since another does."""

    def write(self, row: Mapping[str, Any]) -> None:
        """Nothing."""

    def draw(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing."""


class Logbook(NoLogbook):
    """Appends rows of metrics to `metrics.jsonl` and to TensorBoard event files.

    Args:
      workdir: of the run.
      first_step: rows of later steps are forgotten; they belong to a run that was cut off after
        the checkpoint from which this one goes on.
    """

    def __init__(self, workdir: str | Path, *, first_step: int) -> None:
        self._path = Path(workdir) / METRICS_FILE
        rows = [row for row in read_metrics(workdir) if row['step'] <= first_step]
        write_text(self._path, ''.join(json.dumps(row) + '\n' for row in rows))
        self._file = self._path.open('a', encoding='utf-8')
        self._events = SummaryWriter(str(Path(workdir) / 'tensorboard'), purge_step=first_step + 1)

    def write(self, row: Mapping[str, Any]) -> None:
        """One row; 'step' is among its columns."""
        self._file.write(json.dumps(row) + '\n')
        self._file.flush()
        for name, value in row.items():
            if name != 'step':
                # TensorBoard takes no spaces.
                self._events.add_scalar(re.sub(r'[^\w./-]', '_', name), value, row['step'])
        self._events.flush()

    def draw(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Pictures [y, x] uint8 by name, to TensorBoard only."""
        for name, picture in pictures.items():
            self._events.add_image(name, picture, step, dataformats='HW')
        self._events.flush()

    def __exit__(self, *error: object) -> None:
        self._file.close()
        self._events.close()


def read_metrics(workdir: str | Path) -> list[dict[str, Any]]:
    """All rows of a run's metrics; a last line cut off by a kill is left out."""
    path = Path(workdir) / METRICS_FILE
    rows = []
    for line in path.read_text(encoding='utf-8').splitlines() if path.is_file() else ():
        with contextlib.suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return rows


@contextlib.contextmanager
def locked(workdir: str | Path, team: Team = ALONE) -> Iterator[None]:
    """Hold the run's folder; the lock ends with the process, however that ends.

    Args:
      workdir: of the run.
      team: the processes that train together; the first one holds the folder for all.

    Raises:
      InputError: another job trains in this folder, it cannot be written to, or not all processes
        see it.
    """
    with contextlib.ExitStack() as stack:
        team.first(lambda: stack.enter_context(_lock(workdir)), name=f'lock {workdir}')
        check_shared(workdir, team)
        yield


@contextlib.contextmanager
def _lock(workdir: str | Path) -> Iterator[None]:
    workdir = Path(workdir)
    check_writable(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    with (workdir / _LOCK).open('w') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(
                workdir, 'another process trains here', 'a folder of its own'
            ) from error
        try:
            yield
        finally:
            if [path.name for path in workdir.iterdir()] == [_LOCK]:  # nothing came of it
                (workdir / _LOCK).unlink()
                workdir.rmdir()
