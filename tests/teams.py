"""The processes of a job as threads of one: what they tell each other stays in memory."""

from __future__ import annotations

import threading
import types
from collections.abc import Callable
from typing import Any

import jax  # noqa: F401 - where nobody has imported it, a process is by itself
import pytest

from sxt_jax.core import processes
from sxt_jax.core.processes import Team, everyone

_WAIT_S = 60.0  # for one that will not come


class _Store:
    """What `Team` asks of the client of JAX's coordination service."""

    def __init__(self, size: int) -> None:
        self._values: dict[str, str] = {}
        self._lock, self._barrier = threading.Lock(), threading.Barrier(size, timeout=_WAIT_S)

    def key_value_set(self, key: str, value: str) -> None:
        with self._lock:
            assert key not in self._values
            self._values[key] = value

    def wait_at_barrier(self, name: str, timeout_ms: int) -> None:
        self._barrier.wait()

    def key_value_dir_get(self, folder: str) -> list[tuple[str, str]]:
        with self._lock:
            return [(k, v) for k, v in self._values.items() if k.startswith(folder)]

    def key_value_delete(self, folder: str) -> None:
        with self._lock:
            self._values = {k: v for k, v in self._values.items() if not k.startswith(folder)}


class _Counter(threading.local):
    """A count for each thread."""

    def __init__(self) -> None:
        self._next = 0

    def __next__(self) -> int:
        self._next += 1
        return self._next - 1


def in_processes(
    monkeypatch: pytest.MonkeyPatch, function: Callable[[Team], Any], size: int = 2
) -> list[Any]:
    """What a function gives in each process of a job, or what it raises there."""
    own, store, found = threading.local(), _Store(size), [None] * size

    def state() -> Any:
        index = getattr(own, 'index', None)
        client = None if index is None else store  # other threads are of no job
        return types.SimpleNamespace(client=client, process_id=index, num_processes=size)

    def work(index: int) -> None:
        own.index = index
        try:
            found[index] = function(everyone())
        except BaseException as error:
            found[index] = error

    with monkeypatch.context() as patch:
        patch.setattr(processes, '_state', state)
        patch.setattr(processes, '_rounds', _Counter())
        threads = [threading.Thread(target=work, args=(i,)) for i in range(size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return found
