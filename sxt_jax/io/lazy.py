"""Arrays that stay in their file until a window of them is asked for."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sxt_jax.core.errors import InputError


@contextlib.contextmanager
def reading(path: str | Path, kind: str) -> Iterator[None]:
    """Tell whatever a reader raises on a broken file as one `InputError` naming the file."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # third-party readers raise anything on broken files
        reason = str(error) or type(error).__name__
        raise InputError(path, f'cannot be read ({reason[:300]})', f'an intact {kind}') from error


def check_size(path: str | Path, found: int, needed: int, kind: str) -> None:
    """Raise where a file has fewer bytes than its header promises."""
    if found < needed:
        raise InputError(
            path,
            f'is truncated: {found} bytes',
            f'{needed} bytes, which its {kind} header promises',
        )


class LazyArray:
    """An array read window by window.

    Args:
      shape: shape of the whole array.
      dtype: dtype of what is read, in native byte order.
      read: gives the window for one slice (step 1, within the array) an axis.
      where: file, and `kind` of file, that errors name.

    Attributes:
      reopen: gives the same array anew, for pickling.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: Any,
        read: Callable[[tuple[slice, ...]], np.ndarray],
        *,
        where: str | Path,
        kind: str,
    ) -> None:
        self.shape = tuple(int(n) for n in shape)
        self.dtype = np.dtype(dtype).newbyteorder('=')
        self._read, self._where, self._kind = read, where, kind
        self.reopen: Callable[[], LazyArray] | None = None

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __repr__(self) -> str:
        return f'LazyArray({self.shape}, {self.dtype}, {self._where})'

    def __getitem__(self, index: Any) -> np.ndarray:
        slices, dropped = self._normalise(index)
        shape = tuple(s.stop - s.start for s in slices)
        if not math.prod(shape):
            return np.empty(shape, self.dtype)[dropped]
        with reading(self._where, self._kind):
            window = np.ascontiguousarray(self._read(slices), dtype=self.dtype)
        if not window.flags.writeable:  # still the memory map, or bytes that others see too
            window = window.copy()
        if window.shape != shape:
            raise InputError(self._where, f'gave voxels of shape {window.shape}', f'{shape}')
        return window[dropped]

    def __reduce__(self) -> Any:
        """Other processes open the file anew."""
        if self.reopen is None:
            raise TypeError(f'{self!r} does not know how to be opened anew')
        return self.reopen, ()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        del copy  # what is read is always a copy
        data = self[(slice(None),) * self.ndim]
        return data if dtype is None else data.astype(dtype)

    def _normalise(self, index: Any) -> tuple[tuple[slice, ...], tuple[Any, ...]]:
        """One in-range slice an axis, and the index that drops axes asked for by an integer."""
        index = list(index) if isinstance(index, tuple) else [index]
        if Ellipsis in index:
            at = index.index(Ellipsis)
            index[at : at + 1] = [slice(None)] * (self.ndim - len(index) + 1)
        if len(index) > self.ndim:
            raise IndexError(f'{len(index)} indices for an array of shape {self.shape}')
        index += [slice(None)] * (self.ndim - len(index))
        slices: list[slice] = []
        dropped: list[Any] = []
        for i, n in zip(index, self.shape, strict=True):
            if isinstance(i, slice):
                start, stop, step = i.indices(n)
                if step != 1:
                    raise IndexError(f'step {step}: windows are read with step 1')
                slices.append(slice(start, max(start, stop)))
                dropped.append(slice(None))
            else:
                i = int(i)
                if not -n <= i < n:
                    raise IndexError(f'index {i} is outside an axis of {n}')
                slices.append(slice(i % n, i % n + 1))
                dropped.append(0)
        return tuple(slices), tuple(dropped)


class MappedFile:
    """Uncompressed voxels in one run of a file, mapped for as long as a window is copied.

    A map kept open would count all pages ever read as memory of this process.
    """

    def __init__(
        self, path: Path, dtype: np.dtype, offset: int, shape: tuple[int, ...], order: Any = 'C'
    ) -> None:
        self.shape, self.dtype = tuple(shape), np.dtype(dtype)
        self._path, self._offset, self._order = path, offset, order

    def __getitem__(self, index: Any) -> np.ndarray:
        mapped = np.memmap(self._path, self.dtype, 'r', self._offset, self.shape, self._order)
        return np.array(mapped[index])


class OneSlice:
    """An array with a z axis of 1 put before its others."""

    def __init__(self, array: Any) -> None:
        self.shape, self.dtype, self._array = (1, *array.shape), array.dtype, array

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        return np.asarray(self._array[index[1:]])[None]


def lazy_view(array: Any, *, order: tuple[int, ...], where: str | Path, kind: str) -> LazyArray:
    """A sliceable array (memory map, HDF5 or Zarr array) with its axes permuted.

    Args:
      array: anything with shape and dtype that a tuple of slices indexes.
      order: axis of `array` that becomes axis i; axes left out must have size 1.
    """
    left_out = [a for a in range(len(array.shape)) if a not in order]

    def read(slices: tuple[slice, ...]) -> np.ndarray:
        index: list[Any] = [slice(0, 1)] * len(array.shape)
        for axis, one in zip(order, slices, strict=True):
            index[axis] = one
        window = np.asarray(array[tuple(index)])
        kept = sorted(order)
        window = window.reshape([n for a, n in enumerate(window.shape) if a not in left_out])
        return window.transpose([kept.index(a) for a in order])

    dtype = np.uint8 if array.dtype.kind == 'b' else array.dtype
    return LazyArray(tuple(array.shape[a] for a in order), dtype, read, where=where, kind=kind)
