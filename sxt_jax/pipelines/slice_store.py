"""Slices put aside on disk, compressed, in a file without a name that goes with the process."""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

_LEVEL = 1  # labels shrink by a hundred already


class SliceStore:
    """Slices of one shape and type, put in any order and read in any order.

    Args:
      folder: on the disk that has room for them.
      n_slices: how many there will be.
    """

    def __init__(self, folder: str | Path, n_slices: int) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed by __exit__)
        self._places: list[tuple[int, int] | None] = [None] * n_slices
        self._shape: tuple[int, ...] = ()
        self._dtype = np.dtype(np.uint8)

    def __enter__(self) -> SliceStore:
        return self

    def __exit__(self, *error: Any) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[np.ndarray]:
        """The slices in their order."""
        for index in range(len(self._places)):
            yield self[index]

    def put(self, index: int, array: np.ndarray) -> None:
        """Keep a slice."""
        self._shape, self._dtype = array.shape, array.dtype
        packed = zlib.compress(array.tobytes(), _LEVEL)
        self._places[index] = self._file.seek(0, 2), len(packed)
        self._file.write(packed)

    def __getitem__(self, index: int) -> np.ndarray:
        """A slice, read-only.

        Raises:
          ValueError: it was not put.
        """
        place = self._places[index]
        if place is None:
            raise ValueError(f'slice {index} was not put')
        self._file.seek(place[0])
        values = np.frombuffer(zlib.decompress(self._file.read(place[1])), self._dtype)
        return values.reshape(self._shape)
