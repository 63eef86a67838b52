"""The processes of a job, and what they tell each other.

A job may be one process per node or per accelerator, joined by `jax.distributed`
(`core.job.join_job`). What they tell each other here is small (names of files, scores, errors) and
goes through the key-value store of JAX's coordination service, not through the devices: one may
wait for another for hours, and a process that died ends the others after the time without a sign of
life that `join_job` was given. JAX has no public face for the store, so this takes the client that
Orbax takes.

All processes of a team call the same functions in the same order, each from one thread. Every call
has a name, which goes along with what is told: where the names differ, processes are out of step
and what one says answers another question. Then all of them end.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from sxt_jax.core.atomic import TEMPORARY_MARK
from sxt_jax.core.errors import InputError

T = TypeVar('T')
U = TypeVar('U')
_FOREVER_MS = 30 * 24 * 3600 * 1000
_SEEN_AFTER_S = 30.0  # files of another machine; NFS remembers for a while what is not there
_rounds = itertools.count()


class FailedElsewhere(InputError):
    """What was raised in another process, in its words."""

    def __init__(self, message: str) -> None:
        super().__init__('', '')
        self.args = (message,)


class OutOfStep(BaseException):
    """Processes did not do the same, so what they told each other is worth nothing.

    It is no `Exception`: what goes on after those, with another file, must not go on after this.
    """

    exit_status = 1


@dataclasses.dataclass(frozen=True)
class Team:
    """Processes that do something together: all of the job, or this one by itself.

    Attributes:
      index: of this process.
      size: how many there are.
    """

    index: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes what is written once."""
        return self.index == 0

    def own(self, items: Sequence[T]) -> Sequence[T]:
        """This process's share of some items: every `size`-th."""
        return items[self.index :: self.size]

    def gather(self, value: Any, *, name: str) -> list[Any]:
        """The values of all processes, in their order; waits for all.

        Args:
          value: JSON-able.
          name: what this is about, the same in all processes.

        Raises:
          OutOfStep: other processes gather something else; in all of them.
        """
        if self.size == 1:
            return [value]
        told = json.dumps([name, value])
        client, number = _state().client, next(_rounds)
        folder = f'sxt_jax/{number}/'
        client.key_value_set(f'{folder}{self.index}', told)
        client.wait_at_barrier(folder, _FOREVER_MS)
        found = {key.rpartition('/')[2]: text for key, text in client.key_value_dir_get(folder)}
        if self.is_first and number:  # all have read what they were told before this
            client.key_value_delete(f'sxt_jax/{number - 1}/')
        names, values = zip(*(json.loads(found[str(i)]) for i in range(self.size)), strict=True)
        for i, other in enumerate(names):
            if other != names[0]:
                whose = f'process 0 at {names[0]!r}, process {i} at {other!r}'
                raise OutOfStep(f'processes are out of step: {whose}')
        return list(values)

    def wait(self, *, name: str) -> None:
        """Until all processes are here."""
        self.gather(None, name=name)

    def settle(self, error: Exception | None, value: Any = None, *, name: str) -> list[Any]:
        """The values of all processes (see `gather`), unless one of them has failed.

        Raises:
          Exception: `error`; without one, what another process told, as `FailedElsewhere`.
          OutOfStep: see `gather`.
        """
        told = None if error is None else str(error) or repr(error)
        try:
            found = self.gather([told, value], name=name)
        except OutOfStep as out:
            if told is not None:
                raise OutOfStep(f'{out}; before that {told}') from error
            raise
        if error is not None:
            raise error
        for message, _ in found:
            if message is not None:
                raise FailedElsewhere(message)
        return [value for _, value in found]

    def each(self, function: Callable[[], T], *, name: str) -> T:
        """What `function` gives in this process, once it has given something in all.

        Raises:
          Exception: it failed in a process; in all of them.
        """
        found, error = _attempt(function)
        self.settle(error, name=name)
        return found  # type: ignore[return-value]

    def first(self, function: Callable[[], Any], *, name: str) -> Any:
        """What `function` gives in the first process (JSON-able), which alone calls it.

        Raises:
          Exception: it failed; in all processes.
        """
        found, error = _attempt(function) if self.is_first else (None, None)
        return self.settle(error, found, name=name)[0]

    def share(self, function: Callable[[T], U], items: Sequence[T], *, name: str) -> list[U]:
        """[function(item) for item in items], each item worked on by one process.

        Args:
          function: gives something JSON-able; where there is but one process, anything.
          items: the same in all processes.
          name: see `gather`.

        Raises:
          Exception: it failed in a process; in all of them.
        """
        found, error = _attempt(lambda: [function(item) for item in self.own(items)])
        if self.size == 1 and error is None:
            assert found is not None
            return found
        shares = self.settle(error, found, name=f'{name}, {len(items)} parts')
        return [shares[i % self.size][i // self.size] for i in range(len(items))]


ALONE = Team()


def everyone() -> Team:
    """All processes of the job; this one by itself where no other was joined."""
    if 'jax' not in sys.modules:  # files are read and written without it
        return ALONE
    state = _state()
    return ALONE if state.client is None else Team(state.process_id, state.num_processes)


def _state() -> Any:
    from jax._src import distributed

    return distributed.global_state


def check_shared(folder: str | Path, team: Team) -> None:
    """Whether all processes see one folder, which is there.

    Raises:
      InputError: they do not, as where each machine has a disk of its own; in all processes.
    """
    if team.size == 1:
        return
    mark, name = f'{TEMPORARY_MARK}{uuid.uuid4().hex[:8]}-shared', f'see {folder}'
    probe = Path(folder) / team.first(lambda: mark, name=name)
    team.first(probe.touch, name=name)
    try:
        team.each(lambda: see_path(probe), name=name)
    finally:
        if team.is_first:
            probe.unlink()


def check_same(told: Mapping[str, Any], team: Team, *, where: str | Path) -> None:
    """Whether all processes have the same, of which they could have their own.

    Args:
      told: what (JSON-able) by its name; floats may differ in their last digits, as on machines
        of different kinds.
      team: the processes.
      where: to tell in errors.

    Raises:
      InputError: naming what differs; in all processes.
    """
    digests = {what: _digest(value) for what, value in told.items()}
    found = team.gather(digests, name=f'compare for {where}')
    for i, other in enumerate(found):
        names = dict.fromkeys([*found[0], *other])
        if differing := [what for what in names if other.get(what) != found[0].get(what)]:
            message = f'process {i} has other {", ".join(differing)} than process 0'
            raise InputError(where, message, 'the same flags, and files on a disk that all share')


def _digest(value: Any) -> str:
    rounded = json.loads(json.dumps(value), parse_float=lambda text: f'{float(text):.6g}')
    return hashlib.sha256(json.dumps(rounded, sort_keys=True).encode()).hexdigest()


def see_path(path: Path) -> None:
    """Wait for a path that another process has made.

    Raises:
      InputError: it does not appear.
    """
    deadline = time.monotonic() + _SEEN_AFTER_S
    while not path.exists():
        if time.monotonic() > deadline:
            expected = 'a folder on a disk that all processes share'
            raise InputError(path.parent, 'another folder in another process', expected)
        time.sleep(0.2)


def _attempt(function: Callable[[], T]) -> tuple[T | None, Exception | None]:
    try:
        return function(), None
    except Exception as error:
        return None, error
