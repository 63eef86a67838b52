"""Joining the processes of a job, and ending together: none waits for one that has failed."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import threading
import time
from typing import Any, NoReturn

import jax
from jax._src import distributed

from sxt_jax.core.atomic import remove_unfinished, stop_renaming
from sxt_jax.core.errors import InputError
from sxt_jax.core.processes import everyone

HEARTBEAT_TIMEOUT_S = 100
_FAILED, _ENDED = 'sxt_jax/failed', 'sxt_jax/ended'
_POLL_S = 1.0
_GRACE_S = 3.0  # what was interrupted at the same time ends by itself, and tidies up
_END_MS = 10_000


def join_job(
    *,
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    heartbeat_timeout_s: int = HEARTBEAT_TIMEOUT_S,
) -> Job:
    """Join the processes of a job by `jax.distributed`; before anything is computed.

    Args:
      coordinator_address: HOST:PORT of the first process, with a port that is free there.
      num_processes: how many there are.
      process_id: which one this is, from 0. What is None is asked of the scheduler: SLURM (under
        `srun`), Open MPI, Kubernetes, Cloud TPU.
      heartbeat_timeout_s: without a sign of life for that long, a process counts as dead.

    Raises:
      InputError: no scheduler tells, or the others were not found.
    """
    logging.getLogger('jax._src.distributed').setLevel(logging.WARNING)  # not each step of it
    on_terminate = signal.getsignal(signal.SIGTERM)
    try:
        jax.distributed.initialize(
            coordinator_address,
            num_processes,
            process_id,
            heartbeat_timeout_seconds=heartbeat_timeout_s,
        )
    except (ValueError, RuntimeError) as error:
        found = ' '.join(str(error).split()).partition('Additional GRPC')[0]
        expected = (
            'a step of SLURM (srun), Open MPI, Kubernetes or Cloud TPU, or --coordinator_address, '
            '--num_processes and --process_id'
        )
        raise InputError('processes', found, expected) from error
    if on_terminate is not None and threading.current_thread() is threading.main_thread():
        # JAX's preemption service takes the signal away from Python, and tells nobody who does not
        # ask it; `training.loop` agrees on a step to end at by itself.
        signal.signal(signal.SIGTERM, on_terminate)
    return Job()


class Job:
    """This process's tie to the others, as long as it works."""

    def __init__(self) -> None:
        self._team, self._ending = everyone(), threading.Event()
        self._watch = threading.Thread(target=self._end_with_others, daemon=True)
        self._watch.start()

    def finish(self) -> None:
        """Leave the job with all others, who must have come to their end as well."""
        self._team.wait(name='the end of the job')
        self._ending.set()
        self._watch.join()
        jax.distributed.shutdown()

    def fail(self, message: str, status: int) -> NoReturn:
        """Tell all that this process has failed, and end it.

        The message goes to stderr, of others than the first process unless one has said the same.
        """
        self._ending.set()
        told = [self._team.index, status, message]
        try:
            _client().key_value_set(_FAILED, json.dumps(told))
            is_news = True
        except Exception:  # another was first, or is gone
            before = _failure()
            is_news = before is None or before[2] != message
        if is_news or self._team.is_first:
            sys.stderr.write(f'{message}\n')
        self._leave(status)

    def _end_with_others(self) -> None:
        while not self._ending.wait(_POLL_S):
            told = _failure()
            if told is None:
                continue
            if not self._ending.wait(_GRACE_S):
                index, status, message = told
                whose = f'process {index} of {self._team.size} failed'
                sys.stderr.write(f'process {self._team.index} ends: {whose}: {message}\n')
                self._leave(status)
            return

    def _leave(self, status: int) -> NoReturn:
        """End at once: other threads may wait for processes that are gone."""
        sys.stdout.flush()
        sys.stderr.flush()
        stop_renaming()
        if not self._team.is_first:
            remove_unfinished()
        with contextlib.suppress(Exception):  # those who cannot come any more
            _client().wait_at_barrier(_ENDED, _END_MS)
        if self._team.is_first:  # whose end would end others in their last moment
            time.sleep(0.5)
            remove_unfinished()  # into which others may have written until now
        os._exit(status)


def _client() -> Any:
    return distributed.global_state.client


def _failure() -> tuple[int, int, str] | None:
    """Which process failed, with what status, and what it told; None: none."""
    try:
        index, status, message = json.loads(_client().key_value_try_get(_FAILED))
    except Exception:  # nothing there
        return None
    return index, status, message
