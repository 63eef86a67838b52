"""Running launch scripts as a user does: real processes, real files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

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
