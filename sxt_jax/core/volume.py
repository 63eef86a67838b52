"""A volume: voxels with the facts that must travel with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

VoxelSize = tuple[float, float, float]
_EQUAL_RATIO = 1.01
_SIZE_TOLERANCE = 1e-3  # relative; headers round voxel sizes to about four digits
SLAB_BYTES = 2**23  # small enough for the caches, large against the overhead of a call


@runtime_checkable
class ArrayLike(Protocol):
    """What `Volume.data` must offer: numpy arrays do, and so do lazily read files.

    Indexing takes a tuple of slices (step 1) and returns a numpy array.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> Any: ...

    def __getitem__(self, index: Any) -> Any: ...


@dataclasses.dataclass(frozen=True)
class Volume:
    """Voxels in [z, y, x] order with their size.

    Attributes:
      data: [z, y, x] voxels, in memory (numpy) or lazily read (any `ArrayLike`); with channels
        [z, y, x, c].
      voxel_size_nm: edge lengths (z, y, x) of a voxel in nm; None where the file does not say.
      axes: the axes of `data`, 'zyx' or 'zyxc'.
      class_names: names of label values, where the file tells them (Amira materials, OME-Zarr).
      metadata: anything else worth keeping, as JSON-able values (source format, level, …).
    """

    data: Any
    voxel_size_nm: VoxelSize | None = None
    axes: str = 'zyx'
    class_names: Mapping[int, str] | None = None
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.data.shape) != len(self.axes):
            raise ValueError(f'data of shape {self.data.shape} does not have axes {self.axes!r}')
        if self.voxel_size_nm is not None:
            size = tuple(float(s) for s in self.voxel_size_nm)
            if len(size) != 3 or not all(np.isfinite(s) and s > 0 for s in size):
                raise ValueError(f'voxel_size_nm {self.voxel_size_nm} is not three positive sizes')
            object.__setattr__(self, 'voxel_size_nm', size)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Spatial shape (z, y, x)."""
        z, y, x = self.data.shape[:3]
        return int(z), int(y), int(x)

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.data.dtype)

    @property
    def n_channels(self) -> int:
        return int(self.data.shape[3]) if 'c' in self.axes else 1

    def load(self) -> Volume:
        """The same volume with its voxels in host memory."""
        return dataclasses.replace(self, data=load(self.data))

    def with_data(self, data: Any, *, axes: str | None = None) -> Volume:
        """This volume's facts with other voxels on the same grid."""
        return dataclasses.replace(self, data=data, axes=axes or self.axes[: len(data.shape)])


def load(data: ArrayLike) -> np.ndarray:
    """All voxels, in host memory; an array stays as it is."""
    if isinstance(data, np.ndarray):
        return data
    return np.asarray(data[(slice(None),) * len(data.shape)])


def equal_sides(sizes: Sequence[float]) -> bool:
    """Whether edge lengths of a voxel are alike within 1 %, as headers round them."""
    return max(sizes) <= _EQUAL_RATIO * min(sizes)


def equal_voxel_sizes(a: VoxelSize | None, b: VoxelSize | None) -> bool:
    """Whether two sizes agree, as headers round them; an unknown one contradicts nothing."""
    return a is None or b is None or np.allclose(a, b, rtol=_SIZE_TOLERANCE, atol=0)


def relative_sides(voxel_size_nm: VoxelSize | None) -> tuple[float, ...] | None:
    """Sides of a voxel in those along x; None for cubes, and where nothing is known.

    Rounded, since headers of cubes differ in late digits.
    """
    if voxel_size_nm is None:
        return None
    z, y, x = voxel_size_nm
    sides = round(z / x, 3), round(y / x, 3), 1.0
    return None if set(sides) == {1.0} else sides


def slabs(data: ArrayLike, *, max_bytes: int = SLAB_BYTES) -> Iterator[np.ndarray]:
    """Consecutive z-slabs of a volume, each at most `max_bytes` as float64 (one slice at least)."""
    for rows in slab_rows(data, max_bytes=max_bytes):
        yield read_rows(data, rows)


def slab_rows(data: ArrayLike, *, max_bytes: int = SLAB_BYTES) -> list[slice]:
    """Which slices make the slabs of `slabs`."""
    slice_bytes = 8 * int(np.prod(data.shape[1:]))
    depth = max(1, max_bytes // max(1, slice_bytes))
    return [slice(z, min(z + depth, data.shape[0])) for z in range(0, data.shape[0], depth)]


def read_rows(data: ArrayLike, rows: slice) -> np.ndarray:
    """Whole slices of a volume."""
    return np.asarray(data[(rows, *(slice(None),) * (len(data.shape) - 1))])
