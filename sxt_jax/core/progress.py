"""Progress bars on stderr: live on a terminal, a line now and then in a log file.

Of several processes the first one draws them.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable
from typing import Any

from tqdm import tqdm

from sxt_jax.core.processes import everyone

_LOG_PERIOD_S = 30.0


def progress_bar(
    iterable: Iterable[Any] | None = None, *, inner: bool = False, **options: Any
) -> tqdm:
    """A tqdm bar.

    Args:
      iterable: what to go through; None: the caller calls `update`.
      inner: part of a longer job with a bar of its own: goes away when done, and is left out of
        log files.
      options: of `tqdm.tqdm`: total, unit, desc, …
    """
    options = {'leave': not inner, 'dynamic_ncols': True, **options}
    if not sys.stderr.isatty():
        # A batch job's log: bars drawn ten times a second would be megabytes of it.
        options = {**options, 'mininterval': _LOG_PERIOD_S, 'maxinterval': _LOG_PERIOD_S}
        options['disable'] = options.get('disable') or inner
    if not everyone().is_first:
        options['disable'] = True
    return tqdm(iterable, **options)


def late_bar(stack: contextlib.ExitStack, **options: Any) -> Callable[[int, int], Any]:
    """A function of how much was done just now and of the total, which only then is known.

    Args:
      stack: closes the bar, which appears with the first call.
      options: of `progress_bar`.
    """
    bars: list[tqdm] = []

    def advance(n: int, total: int) -> None:
        if not bars:
            bars.append(stack.enter_context(progress_bar(total=total, **options)))
        bars[0].update(n)

    return advance
