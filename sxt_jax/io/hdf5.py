"""HDF5 files, also NeXus and the `t0/channel0` layout of published soft X-ray tomograms."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import Volume, VoxelSize
from sxt_jax.io.layout import FLOATS, INTEGERS, Layout, names_from_json, names_to_json
from sxt_jax.io.lazy import OneSlice, lazy_view, reading

SUFFIXES = ('.h5', '.hdf5', '.hdf', '.nxs')
DTYPES = (*INTEGERS, np.dtype('f2'), *FLOATS)
SLAB_DEPTH = 16
DEFAULT_DATASETS = ('t0/channel0', 'data', 'processed/result/data', 'volume')
_CHUNK = (SLAB_DEPTH, 128, 128)
_KIND = 'HDF5 file'


def open_hdf5(path: Path, *, dataset: str | None = None, level: int = 0) -> Volume:
    """Open a dataset of an HDF5 file; windows of it are read on demand.

    The voxel size is looked for in the attributes `element_size_um` (z, y, x; ilastik) and
    `voxel_size_nm` of the dataset, then of the file; the axes of more than three in `axes`,
    `axistags` (vigra) and the dimension labels.

    Args:
      dataset: its name; default the first of `DEFAULT_DATASETS` there is, or the only dataset
        with at least three axes, else with two.

    Raises:
      InputError: broken file, no such dataset or several to choose from, axes that are not told.
    """
    del level
    with reading(path, _KIND):
        file = h5py.File(path, 'r')
        item = _choose(path, file, dataset)
        if item.dtype.kind not in 'biuf':
            raise InputError(f'{path}::{item.name}', f'dtype {item.dtype}', 'real numbers')
        axes, order = _axes(path, item)
        array = OneSlice(item) if item.ndim == 2 else item
        data = lazy_view(array, order=order, where=path, kind=_KIND)
        names = _attribute(item, 'class_names')
        return Volume(
            data, _voxel_size(item), axes, names_from_json(names),
            {'format': 'HDF5', 'dataset': item.name.strip('/')},
        )  # fmt: skip


def list_datasets(path: Path) -> list[str]:
    """Names of the datasets with at least two axes.

    Raises:
      InputError: broken file.
    """
    with reading(path, _KIND), h5py.File(path, 'r') as file:
        return _names(file)


def _names(file: Any) -> list[str]:
    names: list[str] = []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim >= 2:
            names.append(name)

    file.visititems(visit)
    return names


def _choose(path: Path, file: Any, dataset: str | None) -> Any:
    names = _names(file)
    if dataset is not None:
        if dataset.strip('/') not in names:
            raise InputError(path, f'no dataset {dataset!r}', f'one of {names}')
        return file[dataset]
    for name in DEFAULT_DATASETS:
        if name in names:
            return file[name]
    deep = [n for n in names if file[n].ndim >= 3] or names
    if len(deep) != 1:
        found = f'{len(deep)} datasets' if deep else 'no dataset with voxels'
        raise InputError(path, found, f'the name of one of {deep}' if deep else 'a volume')
    return file[deep[0]]


def _attribute(item: Any, name: str) -> Any:
    for holder in (item, item.file):
        if name in holder.attrs:
            value = holder.attrs[name]
            return value.decode() if isinstance(value, bytes) else value
    return None


def _voxel_size(item: Any) -> VoxelSize | None:
    for name, nm in (('voxel_size_nm', 1.0), ('element_size_um', 1e3)):
        value = _attribute(item, name)
        if value is not None:
            sizes = [float(v) * nm for v in np.ravel(value)]
            if len(sizes) == 3 and all(0 < s < float('inf') for s in sizes):
                return sizes[0], sizes[1], sizes[2]
    return None


def _axes(path: Path, item: Any) -> tuple[str, tuple[int, ...]]:
    """'zyx' or 'zyxc', and the dataset axis that holds each."""
    told = _told_axes(item)
    if item.ndim == 2:
        return 'zyx', (0, 1, 2)
    if not told and item.ndim == 3:
        told = 'zyx'
    if not told:  # axes of size 1 carry nothing, so three others can only be z, y, x
        kept = [i for i, n in enumerate(item.shape) if n > 1]
        if len(kept) == 3:
            return 'zyx', tuple(kept)
    spare = [n for a, n in zip(told, item.shape, strict=False) if a not in 'zyxc']
    if len(told) != item.ndim or not set('zyx') <= set(told) or max(spare, default=1) > 1:
        raise InputError(
            f'{path}::{item.name.strip("/")}',
            f'shape {item.shape} with axes {told or "that are not told"}',
            'a [z, y, x] dataset, or an attribute `axes` such as "zyxc" or "czyx"',
        )
    axes = 'zyxc' if 'c' in told else 'zyx'
    return axes, tuple(told.index(a) for a in axes)


def _told_axes(item: Any) -> str:
    axes = _attribute(item, 'axes')
    if isinstance(axes, str) and len(axes) == item.ndim:
        return axes.lower()
    tags = _attribute(item, 'axistags')
    if tags:
        return ''.join(axis['key'] for axis in json.loads(tags)['axes'])
    labels = [str(d.label).lower() for d in item.dims]
    return ''.join(labels) if all(len(label) == 1 for label in labels) else ''


@contextlib.contextmanager
def create_hdf5(path: Path, layout: Layout) -> Iterator[Callable[[np.ndarray], None]]:
    """Write one dataset (default `data`) slab by slab, in chunks with checksums."""
    chunk = tuple(
        min(c, n) for c, n in zip((*_CHUNK, layout.n_channels), layout.shape, strict=False)
    )
    with path.open('w+b') as raw:
        patient = _PatientFile(raw)
        with h5py.File(patient, 'w') as file:
            item = file.create_dataset(
                layout.dataset or 'data', layout.shape, layout.dtype, chunks=chunk, fletcher32=True,
                **({'compression': 'gzip', 'shuffle': True} if layout.compression else {}),
            )  # fmt: skip
            item.attrs.update(_facts(layout))
            start = 0

            def append(slab: np.ndarray) -> None:
                nonlocal start
                item[start : start + len(slab)] = slab
                start += len(slab)
                patient.check()

            yield append
        patient.check()


def _facts(layout: Layout) -> dict[str, Any]:
    facts: dict[str, Any] = {'axes': layout.axes}
    if layout.voxel_size_nm is not None:
        facts['voxel_size_nm'] = layout.voxel_size_nm
        facts['element_size_um'] = [s / 1e3 for s in layout.voxel_size_nm]
    if layout.class_names:
        facts['class_names'] = names_to_json(layout.class_names)
    return facts


class _PatientFile(io.RawIOBase):
    """A file that keeps its first error for later.

    HDF5 crashes the process when a write fails (segmentation fault on a full disk, h5py 3.16), so
    it must not notice; `check` raises what happened.
    """

    def __init__(self, file: Any) -> None:
        self._file = file
        self._error: OSError | None = None

    def check(self) -> None:
        if self._error is None:
            self.flush()
        if self._error is not None:
            raise self._error

    def write(self, data: Any) -> int:
        self._attempt(lambda: self._file.write(data))
        return len(data)

    def flush(self) -> None:
        if not self._file.closed:  # else this object is only being disposed of
            self._attempt(self._file.flush)

    def truncate(self, size: int | None = None) -> int:
        self._attempt(lambda: self._file.truncate(size))
        return size or 0

    def seek(self, offset: int, whence: int = 0) -> int:
        self._attempt(lambda: self._file.seek(offset, whence))
        return offset

    def tell(self) -> int:
        return int(self._file.tell())

    def readinto(self, buffer: Any) -> int:
        self._attempt(lambda: self._file.readinto(buffer))
        return len(buffer)

    def _attempt(self, act: Callable[[], Any]) -> None:
        try:
            if self._error is None:
                act()
        except OSError as error:
            self._error = error
