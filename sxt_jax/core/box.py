"""Axis-aligned boxes of voxels: geometry without arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True, order=True)
class Box:
    """The voxels start ≤ i < stop, per axis (any number of axes, usually z, y, x)."""

    start: tuple[int, ...]
    stop: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.start) != len(self.stop):
            raise ValueError(f'start {self.start} and stop {self.stop} differ in rank')

    @classmethod
    def of_shape(cls, shape: Sequence[int], start: Sequence[int] | None = None) -> Box:
        """The box of that shape at `start` (default: the origin)."""
        start = tuple(start) if start is not None else (0,) * len(shape)
        return cls(start, tuple(a + n for a, n in zip(start, shape, strict=True)))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(max(0, b - a) for a, b in zip(self.start, self.stop, strict=True))

    @property
    def size(self) -> int:
        """Number of voxels."""
        size = 1
        for n in self.shape:
            size *= n
        return size

    @property
    def slices(self) -> tuple[slice, ...]:
        return tuple(slice(a, b) for a, b in zip(self.start, self.stop, strict=True))

    def intersect(self, other: Box) -> Box:
        """The common voxels; of size 0 where there are none."""
        start = tuple(max(a, b) for a, b in zip(self.start, other.start, strict=True))
        stop = tuple(min(a, b) for a, b in zip(self.stop, other.stop, strict=True))
        return Box(start, tuple(max(a, b) for a, b in zip(start, stop, strict=True)))

    def grow(self, n: int) -> Box:
        """With n voxels more on all sides."""
        return Box(tuple(a - n for a in self.start), tuple(b + n for b in self.stop))

    def shift(self, offset: Sequence[int]) -> Box:
        return Box(
            tuple(a + o for a, o in zip(self.start, offset, strict=True)),
            tuple(b + o for b, o in zip(self.stop, offset, strict=True)),
        )
