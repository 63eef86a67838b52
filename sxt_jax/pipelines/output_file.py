"""Whether a result can be written, told before the work is done."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sxt_jax.core.atomic import check_writable
from sxt_jax.core.errors import InputError
from sxt_jax.io import WRITABLE_SUFFIXES, split_dataset


def check_output_file(output: Path, sources: Sequence[str | Path]) -> None:
    """Whether a volume can be written there.

    Raises:
      InputError: it has no suffix of a format that is written, is one of the sources, or its folder
        cannot be written to.
    """
    if output.suffix.lower() not in WRITABLE_SUFFIXES:
        raise InputError(output, 'the suffix', f'one of {sorted(WRITABLE_SUFFIXES)}')
    if output.resolve() in {split_dataset(source)[0].resolve() for source in sources}:
        raise InputError(output, 'a file of the input', 'another file for the result')
    check_writable(output.parent)
