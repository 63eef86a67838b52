"""Running launch scripts as a user does: real processes, real files."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import resource
import runpy
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from absl import app
from absl import flags as absl_flags
from absl import logging as absl_logging
from absl.testing import flagsaver

from sxt_jax.core.volume import Volume
from sxt_jax.io import write_volume

ROOT = Path(__file__).parents[2]
TINY = (
    '--config=configs/acseg.py:smoke',
    '--config.model.filters=(4, 8)',
    '--config.data.working_shape=(16, 16, 16)',
    '--config.data.patch=(8, 8, 8)',
    '--config.data.stride=(8, 8, 8)',
    '--config.inference.tile=(8, 8, 8)',
    '--config.inference.overlap=(4, 4, 4)',
    '--config.batch_size=4',
)


def tiny(*flags: str) -> tuple[str, ...]:
    """The flags of a run of seconds, changed by others (a tuple given twice would be joined)."""
    changed = {flag.partition('=')[0] for flag in flags}
    return (*(flag for flag in TINY if flag.partition('=')[0] not in changed), *flags)


def start(script: str, *flags: str, file_limit_kib: int | None = None) -> subprocess.Popen:
    """A launch script, running, on one CPU device; its files may be kept from growing."""
    command = [sys.executable, '-m', f'launch.{script}', *flags]
    if file_limit_kib is not None:
        command = ['bash', '-c', f'ulimit -f {file_limit_kib} && exec "$@"', 'limited', *command]
    environment = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'}
    environment |= {'JAX_PLATFORMS': 'cpu'}
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(script: str, *flags: str, status: int = 0, **options: Any) -> str:
    """Output and log of a launch script that ends with that status."""
    process = start(script, *flags, **options)
    out, log = process.communicate(timeout=600)
    assert process.returncode == status, f'status {process.returncode}\n{out}\n{log}'
    return out + log


def call(script: str, *flags: str, status: int = 0) -> str:
    """Like `run`, within this process: for what ends before much is computed.

    A process of its own takes five seconds to import what this one has imported already.
    """
    told, found = io.StringIO(), None
    with (
        _as_before(),
        contextlib.redirect_stdout(told),
        contextlib.redirect_stderr(told),
        mock.patch.object(sys, 'argv', [script, *flags]),
    ):
        try:
            runpy.run_module(f'launch.{script}', run_name='__main__', alter_sys=True)
        except SystemExit as end:
            found = end.code or 0
    assert found == status, f'status {found}\n{told.getvalue()}'
    return told.getvalue()


@contextlib.contextmanager
def _as_before() -> Iterator[None]:
    """All that `launch.common` changes in a process is changed back: flags, signals, logging."""
    import launch.common  # noqa: F401 - its flags stay, and those of absl

    app.define_help_flags()
    folder, parsed = os.getcwd(), absl_flags.FLAGS.is_parsed()
    hook, on_terminate = sys.unraisablehook, signal.getsignal(signal.SIGTERM)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    handlers, handler = list(logging.root.handlers), absl_logging.get_absl_handler()
    writer, verbosity = handler.python_handler, absl_logging.get_verbosity()
    stream, style, filters = writer.stream, writer.formatter, list(handler.filters)
    level = absl_logging.get_absl_logger().level  # unset, it is that of the root, as caplog has it
    os.chdir(ROOT)
    absl_logging.use_absl_handler()
    try:
        with flagsaver.flagsaver():
            yield
    finally:
        os.chdir(folder)
        if not parsed:
            absl_flags.FLAGS.unparse_flags()
        sys.unraisablehook = hook
        signal.signal(signal.SIGTERM, on_terminate)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        logging.root.handlers[:] = handlers
        absl_logging.set_verbosity(verbosity)
        absl_logging.get_absl_logger().setLevel(level)
        writer.stream, handler.filters = stream, filters
        handler.setFormatter(style)


def write_balls(folder: Path, n: int = 3, side: int = 16, *, suffix: str = '.tif') -> None:
    """`n` images of a bright ball in `folder`/images, with labels in `folder`/labels."""
    for i in range(n):
        rng = np.random.default_rng(i)
        centre = rng.uniform(0.4, 0.6, 3)[:, None, None, None] * side
        ball = ((np.indices((side,) * 3) - centre) ** 2).sum(0) < (0.3 * side) ** 2
        image = (ball + 0.2 * rng.standard_normal(ball.shape)).astype(np.float32)
        size = (30.0, 20.0, 20.0)
        write_volume(folder / 'images' / f'ball_{i}{suffix}', Volume(image, size))
        write_volume(folder / 'labels' / f'ball_{i}{suffix}', Volume(ball.astype(np.uint8), size))
