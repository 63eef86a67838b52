"""NumPy files: `.npy` with its facts in a side file `X.npy.json`, and self-contained `.npz`."""

from __future__ import annotations

import contextlib
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sxt_jax.core.atomic import write_text
from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import Volume
from sxt_jax.io.layout import FLOATS, INTEGERS, Layout, names_from_json, names_to_json
from sxt_jax.io.lazy import MappedFile, OneSlice, lazy_view, reading

SUFFIXES = ('.npy',)
ARCHIVE_SUFFIXES = ('.npz',)
_MAGIC = {'.npy': b'\x93NUMPY', '.npz': b'PK'}
DTYPES = (*INTEGERS, np.dtype('f2'), *FLOATS)
SLAB_DEPTH = 1


def open_npy(path: Path, *, dataset: str | None = None, level: int = 0) -> Volume:
    """Open a NumPy file: `.npy` as a memory map, `.npz` loaded.

    Args:
      dataset: name of the array in an `.npz`; default `data`, or the only array with ≥ 2 axes.

    Raises:
      InputError: broken file, or axes that are not told.
    """
    del level
    if path.suffix.lower() in ARCHIVE_SUFFIXES:
        return _open_npz(path, dataset)
    with _loading(path, 'NumPy file'):
        mapped: Any = np.load(path, mmap_mode='r', allow_pickle=False)
        order = 'C' if mapped.flags.c_contiguous else 'F'
        array = MappedFile(path, mapped.dtype, mapped.offset, mapped.shape, order)
    return _to_volume(path, array, _read_side_file(path, array))


@contextlib.contextmanager
def _loading(path: Path, kind: str) -> Iterator[None]:
    """As `reading`; NumPy's advice to unpickle what it cannot read is kept from users."""
    with reading(path, kind):
        magic = _MAGIC[path.suffix.lower()]
        with path.open('rb') as file:
            if file.read(len(magic)) != magic:
                raise InputError(path, f'is no {kind} ({path.stat().st_size} bytes)', f'a {kind}')
        try:
            yield
        except ValueError as error:
            if isinstance(error, InputError) or not re.search('pickle|Python objects', str(error)):
                raise
            found = 'cannot be read (it holds Python objects)'
            raise InputError(path, found, 'real numbers') from error


def side_file(path: Path) -> Path:
    """Where the voxel size of a `.npy` file is kept."""
    return path.with_name(path.name + '.json')


def _read_side_file(path: Path, array: MappedFile) -> dict[str, Any]:
    side = side_file(path)
    if not side.exists():
        return {}
    with reading(side, 'side file'):
        facts = dict(json.loads(side.read_text(encoding='utf-8')))
    if facts.get('shape', list(array.shape)) != list(array.shape):
        raise InputError(side, f'is of an array of shape {facts["shape"]}', f'{array.shape}')
    return facts


def _open_npz(path: Path, dataset: str | None) -> Volume:
    with _loading(path, 'NumPy archive'), np.load(path, allow_pickle=False) as archive:
        names = [k for k in archive.files if k not in ('voxel_size_nm', 'axes', 'class_names')]
        name = dataset or ('data' if 'data' in names else _only_volume(archive, names))
        if name not in names:
            raise InputError(path, f'no array {name or "data"!r}', f'one of {names}')
        facts: dict[str, Any] = {}
        if 'voxel_size_nm' in archive:
            facts['voxel_size_nm'] = archive['voxel_size_nm'].tolist()
        if 'axes' in archive:
            facts['axes'] = str(archive['axes'])
        if 'class_names' in archive:
            facts['class_names'] = json.loads(str(archive['class_names']))
        array = archive[name]
        array.flags.writeable = False  # windows of it are copied, so that readers share nothing
        return _to_volume(path, array, facts)


def _only_volume(archive: Any, names: list[str]) -> str | None:
    """The only array with at least two axes; None if there are none or several."""
    volumes = [k for k in names if archive[k].ndim >= 2]
    return volumes[0] if len(volumes) == 1 else None


def _to_volume(path: Path, array: Any, facts: dict[str, Any]) -> Volume:
    axes = facts.get('axes') or {2: 'yx', 3: 'zyx'}.get(len(array.shape), '')
    if axes not in ('yx', 'zyx', 'zyxc') or len(axes) != len(array.shape):
        raise InputError(
            path, f'array of shape {array.shape} with axes {axes!r}',
            'a [z, y, x] array, or axes "zyxc" in the file beside it',
        )  # fmt: skip
    if array.dtype.kind not in 'biuf':
        raise InputError(path, f'dtype {array.dtype}', 'real numbers')
    if axes == 'yx':
        array, axes = OneSlice(array), 'zyx'
    data = lazy_view(array, order=tuple(range(len(axes))), where=path, kind='NumPy file')
    names = facts.get('class_names')
    return Volume(
        data, facts.get('voxel_size_nm'), axes,
        names_from_json(json.dumps(names)) if names else None, {'format': 'NumPy'},
    )  # fmt: skip


@contextlib.contextmanager
def create_npy(path: Path, layout: Layout) -> Iterator[Callable[[np.ndarray], None]]:
    """Write a `.npy` or `.npz` slab by slab; a `.npy` gets its side file if there are facts."""
    if path.suffix.lower() in ARCHIVE_SUFFIXES:
        with _create_npz(path, layout) as append:
            yield append
        return
    with path.open('wb') as file:
        _write_header(file, layout)
        yield lambda slab: _write_slab(file, slab, layout)
    facts = _facts(layout)
    if facts:
        write_text(side_file(layout.path), json.dumps({**facts, 'shape': layout.shape}) + '\n')
    else:
        side_file(layout.path).unlink(missing_ok=True)


@contextlib.contextmanager
def _create_npz(path: Path, layout: Layout) -> Iterator[Callable[[np.ndarray], None]]:
    method = zipfile.ZIP_DEFLATED if layout.compression else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, 'w', method, allowZip64=True) as archive:
        with archive.open('data.npy', 'w', force_zip64=True) as file:
            _write_header(file, layout)
            yield lambda slab: _write_slab(file, slab, layout)
        for key, value in _facts(layout).items():
            value = json.dumps(value) if isinstance(value, dict) else value
            with archive.open(f'{key}.npy', 'w') as file:
                np.lib.format.write_array(file, np.asarray(value), allow_pickle=False)


def _facts(layout: Layout) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    if layout.voxel_size_nm is not None:
        facts['voxel_size_nm'] = list(layout.voxel_size_nm)
    if layout.axes != 'zyx':
        facts['axes'] = layout.axes
    if layout.class_names:
        facts['class_names'] = json.loads(names_to_json(layout.class_names))
    return facts


def _write_header(file: Any, layout: Layout) -> None:
    header = {
        'descr': np.lib.format.dtype_to_descr(layout.dtype),
        'fortran_order': False,
        'shape': tuple(layout.shape),
    }
    np.lib.format.write_array_header_1_0(file, header)


def _write_slab(file: Any, slab: np.ndarray, layout: Layout) -> None:
    file.write(np.ascontiguousarray(slab, layout.dtype).tobytes())
