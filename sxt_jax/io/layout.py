"""What is to be written, and which dtypes a format keeps exactly."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import VoxelSize

INTEGERS = tuple(np.dtype(t) for t in ('u1', 'i1', 'u2', 'i2', 'u4', 'i4', 'u8', 'i8'))
FLOATS = tuple(np.dtype(t) for t in ('f4', 'f8'))


@dataclasses.dataclass(frozen=True)
class Layout:
    """Everything about a volume but its voxels.

    Attributes:
      path: the file it becomes (for errors; writing goes to a temporary one).
      shape: [z, y, x] or [z, y, x, c], as `axes` says.
      dtype: dtype in the file.
      compression: whether voxels are compressed where the format can.
      version: OME-Zarr version, '0.5' or '0.4'.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype
    axes: str = 'zyx'
    voxel_size_nm: VoxelSize | None = None
    class_names: Mapping[int, str] | None = None
    dataset: str | None = None
    compression: bool = True
    version: str = '0.5'

    @property
    def n_channels(self) -> int:
        return self.shape[3] if 'c' in self.axes else 1

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


def storable_dtype(
    dtype: np.dtype,
    allowed: Sequence[np.dtype],
    path: Path,
    *,
    extent: tuple[int, int] | None = None,
) -> np.dtype:
    """The dtype that holds these values in a file that only knows the `allowed` ones.

    Args:
      extent: least and greatest value of an integer volume, where known.

    Raises:
      InputError: voxels of this dtype are no numbers, or nothing allowed can hold the values.
    """
    dtype = np.dtype(dtype).newbyteorder('=')
    if dtype.kind == 'b':
        dtype = np.dtype(np.uint8)
    if dtype.kind not in 'iuf':
        raise InputError(path, f'voxels of dtype {dtype} cannot be written', 'real numbers')
    if dtype in allowed:
        return dtype
    widening = [d for d in allowed if _is_wider(d, dtype)]
    if widening:
        return min(widening, key=lambda d: (d.kind != dtype.kind, d.itemsize))
    if extent is not None and dtype.kind in 'iu':
        for d in sorted((d for d in allowed if d.kind in 'iu'), key=lambda d: d.itemsize):
            if np.iinfo(d).min <= extent[0] and extent[1] <= np.iinfo(d).max:
                return d
    alike = [d for d in allowed if d.kind == dtype.kind and d.itemsize >= 4]
    floating = [d for d in allowed if d.kind == 'f']
    return max(alike or floating, key=lambda d: d.itemsize)


def _is_wider(wide: np.dtype, dtype: np.dtype) -> bool:
    """Whether every value of `dtype` is one of `wide`, integers staying integers."""
    # NumPy alone calls int64 → float64 safe, which rounds.
    return (wide.kind == 'f') == (dtype.kind == 'f') and np.can_cast(dtype, wide, 'safe')


def cast_exact(slab: np.ndarray, dtype: np.dtype, path: Path) -> np.ndarray:
    """`slab` in another dtype, refused unless every value is kept.

    Raises:
      InputError: a value changes.
    """
    if slab.dtype == dtype:
        return slab
    with np.errstate(all='ignore'):
        result = slab.astype(dtype)
    if not _is_wider(dtype, slab.dtype) and not _same(slab, result):
        raise InputError(
            path,
            f'{slab.dtype} values up to {slab.max()} cannot be kept exactly as {dtype}, the widest '
            'fitting dtype of this format',
            'another format (.h5 and .zarr hold every dtype) or another dtype',
        )
    return result


def _same(slab: np.ndarray, result: np.ndarray) -> bool:
    if slab.dtype.kind == 'f':
        return bool(np.all((slab == result) | (np.isnan(slab) & np.isnan(result))))
    if result.dtype.kind == 'f':
        if np.abs(result).max(initial=0) >= 2.0**62:  # beyond it the way back may overflow
            return False
        return bool(np.all(result.astype(slab.dtype) == slab))
    low, high = int(slab.min(initial=0)), int(slab.max(initial=0))
    limits = np.iinfo(result.dtype)
    return limits.min <= low and high <= limits.max


def names_to_json(class_names: Mapping[int, str]) -> str:
    """Class names as one line of ASCII, as headers hold them."""
    return json.dumps({str(k): v for k, v in class_names.items()})


def names_from_json(text: str | bytes | None) -> dict[int, str] | None:
    """The inverse of `names_to_json`; None of nothing."""
    if not text:
        return None
    return {int(k): str(v) for k, v in json.loads(text).items()}
