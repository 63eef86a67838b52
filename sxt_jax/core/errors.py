"""The error that bad input raises, told to the user in one line."""

from __future__ import annotations

from typing import Any


class InputError(ValueError):
    """Input that cannot be used: which, what is wrong with it, and what was expected.

    Launch scripts print it as one line and exit with `exit_status`.

    Args:
      where: file, or file and field, or config field that is at fault.
      found: what is there.
      expected: what would have been accepted.
    """

    exit_status = 2

    def __init__(self, where: Any, found: str, expected: str = '') -> None:
        self.where, self.found, self.expected = str(where), found, expected
        message = f'{where}: {found}'
        if expected:
            message += f'; expected {expected}'
        super().__init__(' '.join(message.split()))
