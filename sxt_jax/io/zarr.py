"""OME-Zarr 0.4 (Zarr 2) and 0.5 (Zarr 3), and plain Zarr arrays, through tensorstore.

The specification (ngff.openmicroscopy.org) reads a missing chunk as fill value. So that a lost
chunk is noticed all the same, every chunk is written and their number kept in the attributes of
the array (`sxt_jax.n_chunks`); in version 0.5 each chunk ends in a checksum.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from sxt_jax.core.box import Box
from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import Volume, VoxelSize
from sxt_jax.io.layout import FLOATS, INTEGERS, Layout
from sxt_jax.io.lazy import LazyArray, OneSlice, lazy_view, reading
from sxt_jax.io.units import to_voxel_size

SUFFIXES = ('.zarr',)
DTYPES = (*INTEGERS, np.dtype('f2'), *FLOATS)
SLAB_DEPTH = 16
_CHUNK = {'z': SLAB_DEPTH, 'y': 256, 'x': 256, 'c': 1}
_KIND = 'Zarr folder'
_CACHE_BYTES = 2**30  # the chunks of 16 slices of 6000 × 4000 uint16
_AXIS_TYPES = {'z': 'space', 'y': 'space', 'x': 'space', 'c': 'channel'}


def open_zarr(path: Path, *, dataset: str | None = None, level: int = 0) -> Volume:
    """Open one level of an OME-Zarr image, or a plain Zarr array.

    Args:
      dataset: group or array within, e.g. 'labels/cells'.
      level: 0 is full resolution.

    Raises:
      InputError: broken or incomplete folder, several images, axes that make no volume.
    """
    with reading(path, _KIND):
        group = _inside(path, path / dataset) if dataset else path
        attributes = _attributes(path, group)
        multiscales = attributes.get('multiscales')
        if multiscales:
            return _open_level(path, group, attributes, multiscales[0], level)
        if _is_array(group):
            return _open_plain(path, group, attributes)
        found = _children(group)
        if len(found) == 1 and not dataset:
            if 'sxt_jax' in _attributes(path, path / found[0]):
                raise InputError(path, 'its OME-Zarr metadata are missing', 'a whole folder')
            return open_zarr(path, dataset=found[0], level=level)
        raise InputError(path, f'no image in group {dataset or "/"!r}', f'dataset= one of {found}')


def list_labels(path: Path) -> list[str]:
    """Names of the label images of an OME-Zarr, as `labels/<name>`."""
    with reading(path, _KIND):
        group = path / 'labels'
        names = _attributes(path, group).get('labels', []) if group.is_dir() else []
        return [f'labels/{name}' for name in names]


def list_images(path: Path) -> list[str]:
    """Names of all images of an OME-Zarr: '/' for its own, then its labels."""
    with reading(path, _KIND):
        own = ['/'] if 'multiscales' in _attributes(path, path) else []
    return own + list_labels(path)


def _inside(path: Path, group: Path) -> Path:
    if path.resolve() not in group.resolve().parents or not group.is_dir():
        raise InputError(path, f'no group {group.name!r}', f'one of {_children(path)}')
    return group


def _children(group: Path) -> list[str]:
    marks = ('zarr.json', '.zarray', '.zgroup')
    folders = sorted(p for p in group.iterdir() if p.is_dir())
    return [p.name for p in folders if any((p / m).exists() for m in marks)]


def _read_json(path: Path, file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding='utf-8')))
    except ValueError as error:
        raise InputError(path, f'{file.name} is broken ({error})', 'intact metadata') from error


def _is_array(group: Path) -> bool:
    if (group / 'zarr.json').exists():
        return _read_json(group, group / 'zarr.json').get('node_type') == 'array'
    return (group / '.zarray').exists()


def _attributes(path: Path, group: Path) -> dict[str, Any]:
    """Attributes of a group or array of either Zarr version; those of `ome` lifted up."""
    if (group / 'zarr.json').exists():
        attributes = dict(_read_json(path, group / 'zarr.json').get('attributes', {}))
        return {**attributes, **attributes.get('ome', {})}
    node = next((group / m for m in ('.zgroup', '.zarray') if (group / m).exists()), None)
    if node is None:
        raise InputError(path, 'no Zarr metadata', 'a file zarr.json, .zgroup or .zarray')
    _read_json(path, node)
    if (group / '.zattrs').exists():
        return _read_json(path, group / '.zattrs')
    return {}


def _open_level(
    path: Path, group: Path, attributes: Mapping[str, Any], image: Mapping[str, Any], level: int
) -> Volume:
    datasets = image['datasets']
    if not 0 <= level < len(datasets):
        raise InputError(path, f'no level {level}', f'0 to {len(datasets) - 1}')
    array_path = _inside(path, group / datasets[level]['path'])
    axes = [a if isinstance(a, str) else a['name'] for a in image.get('axes', 'tczyx')]
    units = [None if isinstance(a, str) else a.get('unit') for a in image.get('axes', 'tczyx')]
    scale = np.ones(len(axes))
    steps = [*datasets[level].get('coordinateTransformations', [])]
    for step in [*steps, *image.get('coordinateTransformations', [])]:
        if step.get('type') == 'scale':
            scale = scale * np.asarray(step['scale'], float)
    names, data = _open_array(path, array_path, axes)
    size = _voxel_size(axes, scale, units)
    metadata = {'format': 'OME-Zarr', 'level': level, 'n_levels': len(datasets)}
    return Volume(data, size, names, _class_names(attributes), metadata)


def _voxel_size(
    axes: Sequence[str], scale: np.ndarray, units: Sequence[str | None]
) -> VoxelSize | None:
    """Size of a voxel; unknown without units. A missing z axis counts as thick as y."""
    order = [axes.index(a if a in axes else 'y') for a in 'zyx']
    return to_voxel_size([scale[i] for i in order], [units[i] for i in order])


def _open_plain(path: Path, group: Path, attributes: Mapping[str, Any]) -> Volume:
    names: list[str] = []
    if (group / 'zarr.json').exists():
        names = _read_json(path, group / 'zarr.json').get('dimension_names') or []
    n = len(_open_tensorstore(group).shape)
    axes = list(names or attributes.get('axes') or {2: 'yx', 3: 'zyx'}.get(n, ''))
    if len(axes) != n or None in axes:
        raise InputError(path, f'a Zarr array with {n} axes that are not told', 'OME-Zarr metadata')
    axes_found, data = _open_array(path, group, axes)
    size = attributes.get('voxel_size_nm')
    return Volume(data, size, axes_found, metadata={'format': 'Zarr'})


def _open_tensorstore(array_path: Path) -> Any:
    driver = 'zarr3' if (array_path / 'zarr.json').exists() else 'zarr'
    store = {'driver': 'file', 'path': f'{array_path.resolve()}/'}
    spec = {'driver': driver, 'kvstore': store}
    return ts.open(spec, read=True, open=True, context=_read_context()).result()


@functools.lru_cache(maxsize=1)
def _read_context() -> Any:
    """One cache of decoded chunks for all arrays.

    Large volumes are read slice by slice, of which a chunk has many: 32 slices of 1024 × 1536 took
    15 times as long as in whole chunks (2026-11-22). A chunk that changed in its file is read anew.
    """
    return ts.Context({'cache_pool': {'total_bytes_limit': _CACHE_BYTES}})


def _open_array(path: Path, array_path: Path, axes: Sequence[str]) -> tuple[str, LazyArray]:
    """The array as [z, y, x] or [z, y, x, c]."""
    array = _open_tensorstore(array_path)
    _check_chunks(path, array_path)
    shape = tuple(array.shape)
    if array.dtype.numpy_dtype.kind not in 'biuf':
        raise InputError(path, f'dtype {array.dtype}', 'real numbers')
    spare = [n for a, n in zip(axes, shape, strict=True) if a not in 'zyxc']
    if max(spare, default=1) > 1 or not {'y', 'x'} <= set(axes):
        raise InputError(
            path, f'axes {"".join(axes)} of shape {shape}',
            'a volume: z, y, x and at most a channel axis',
        )  # fmt: skip
    wrapped: Any = _Array(array) if 'z' in axes else OneSlice(_Array(array))
    axes = ['z', *axes] if 'z' not in axes else list(axes)
    channels = 'c' in axes and wrapped.shape[axes.index('c')] > 1
    names = 'zyxc' if channels else 'zyx'
    order = tuple(axes.index(a) for a in names)
    return names, lazy_view(wrapped, order=order, where=path, kind=_KIND)


class _Array:
    """A tensorstore array that reads when indexed."""

    def __init__(self, array: Any) -> None:
        self.shape, self._array = tuple(array.shape), array
        self.dtype = np.dtype(array.dtype.numpy_dtype)

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        return self._array[index].read().result()


def _class_names(attributes: Mapping[str, Any]) -> dict[int, str] | None:
    properties = attributes.get('image-label', {}).get('properties', [])
    named = {int(p['label-value']): str(p['name']) for p in properties if 'name' in p}
    return named or None


def _count_chunks(array_path: Path) -> int:
    marks = ('zarr.json', '.zarray', '.zattrs')
    return sum(
        sum(f not in marks and '__lock' not in f for f in files)
        for _, _, files in os.walk(array_path)
    )


def _check_chunks(path: Path, array_path: Path) -> None:
    """Raise if chunks are missing of an array that says how many it has."""
    promised = _attributes(path, array_path).get('sxt_jax', {}).get('n_chunks')
    if promised is not None and (found := _count_chunks(array_path)) < promised:
        raise InputError(path, f'is incomplete: {found} chunks', f'{promised} chunks')


@contextlib.contextmanager
def create_zarr(path: Path, layout: Layout) -> Iterator[Callable[[np.ndarray], None]]:
    """Write an OME-Zarr image of one level slab by slab.

    With `dataset` 'labels/<name>' it becomes a label image within a group that has no image.

    Raises:
      InputError: the data set is another path.
    """
    begin_zarr(path, layout)
    yield append_to_zarr(path, layout)
    finish_zarr(path, layout)


def begin_zarr(path: Path, layout: Layout) -> None:
    """Groups and an array without chunks; see `create_zarr`."""
    group = _image_group(path, layout)
    if group != path:
        _write_group(path, {}, layout)
        _write_group(path / 'labels', {'labels': [group.name]}, layout)
    _write_group(group, _image_attributes(layout, _stored_axes(layout)), layout)
    _write_array(group / '0', layout, create=True)


def append_to_zarr(
    path: Path, layout: Layout, *, z_start: int = 0, synced: bool = False
) -> Callable[[np.ndarray], None]:
    """A function that writes consecutive slabs of whole chunks, as others may write others.

    Args:
      path: what `begin_zarr` has made.
      layout: of it.
      z_start: where the first slab begins, a multiple of `SLAB_DEPTH`.
      synced: whether what is written is flushed to the disk, chunk by chunk.
    """
    array = _write_array(_image_group(path, layout) / '0', layout, create=False, synced=synced)

    def append(slab: np.ndarray) -> None:
        nonlocal z_start
        values = slab if len(layout.shape) == 3 else np.moveaxis(slab, 3, 0)
        _write_chunks(array, values, z_start, _chunk_shape(layout))
        z_start += len(slab)

    return append


def finish_zarr(path: Path, layout: Layout) -> None:
    """Tell in the attributes how many chunks there must be, once all are written."""
    _write_chunk_number(_image_group(path, layout) / '0', layout)


def _image_group(path: Path, layout: Layout) -> Path:
    if not layout.dataset:
        return path
    parts = layout.dataset.strip('/').split('/')
    if len(parts) != 2 or parts[0] != 'labels':
        raise InputError(layout.path, f'data set {layout.dataset!r}', "'labels/<name>'")
    return path / 'labels' / parts[1]


def _stored_axes(layout: Layout) -> str:
    return 'czyx' if 'c' in layout.axes else 'zyx'


def _stored_shape(layout: Layout) -> tuple[int, ...]:
    return tuple(layout.shape['zyxc'.index(a)] for a in _stored_axes(layout))


def _chunk_shape(layout: Layout) -> tuple[int, ...]:
    sides = zip(_stored_axes(layout), _stored_shape(layout), strict=True)
    return tuple(min(_CHUNK[a], n) for a, n in sides)


def _write_chunks(array: Any, values: np.ndarray, z_start: int, chunk: tuple[int, ...]) -> None:
    """Write whole chunks of which the first begin at slice `z_start`.

    One write a chunk, and all awaited: a failed one must not leave others writing behind it.
    """
    offset = (0,) * (values.ndim - 3) + (z_start, 0, 0)
    grid = (range(0, n, c) for n, c in zip(values.shape, chunk, strict=True))
    writes: list[Any] = []
    try:
        for corner in itertools.product(*grid):
            stops = [min(i + c, n) for i, c, n in zip(corner, chunk, values.shape, strict=True)]
            box = Box(corner, tuple(stops))
            writes.append(array[box.shift(offset).slices].write(values[box.slices]))
    finally:
        _await(writes)


def _await(futures: Sequence[Any]) -> list[Any]:
    """What tensorstore does in the background, waited for even when interrupted.

    It would go on writing into what is being removed.

    Raises:
      Exception: the first that one of them ended with, after all have ended.
    """
    try:
        for future in futures:
            future.exception()
    except BaseException:
        for future in futures:
            future.exception()
        raise
    return [future.result() for future in futures]


def _write_group(group: Path, attributes: dict[str, Any], layout: Layout) -> None:
    group.mkdir(parents=True, exist_ok=True)
    if layout.version == '0.5':
        ome = {'ome': {'version': '0.5', **attributes}} if attributes else {}
        document = {'zarr_format': 3, 'node_type': 'group', 'attributes': ome}
        (group / 'zarr.json').write_text(json.dumps(document, indent=1))
    else:
        (group / '.zgroup').write_text(json.dumps({'zarr_format': 2}))
        (group / '.zattrs').write_text(json.dumps(attributes, indent=1))


def _image_attributes(layout: Layout, axes: str) -> dict[str, Any]:
    named = [{'name': a, 'type': _AXIS_TYPES[a]} for a in axes]
    scale = dict.fromkeys(axes, 1.0)
    if layout.voxel_size_nm is not None:
        scale |= dict(zip('zyx', layout.voxel_size_nm, strict=True))
        named = [{**a, 'unit': 'nanometer'} if a['type'] == 'space' else a for a in named]
    step = {'type': 'scale', 'scale': [scale[a] for a in axes]}
    image: dict[str, Any] = {
        'name': layout.path.stem,
        'axes': named,
        'datasets': [{'path': '0', 'coordinateTransformations': [step]}],
    }
    if layout.version != '0.5':
        image['version'] = layout.version
    attributes: dict[str, Any] = {'multiscales': [image]}
    if layout.class_names or (layout.dataset or '').startswith('labels/'):
        names = (layout.class_names or {}).items()
        properties = [{'label-value': int(k), 'name': v} for k, v in names]
        attributes['image-label'] = {'properties': properties} if properties else {}
    return attributes


def _write_array(path: Path, layout: Layout, *, create: bool, synced: bool = False) -> Any:
    """The array of a layout to be written: a new one, or one that is there."""
    axes, shape, chunk = _stored_axes(layout), _stored_shape(layout), _chunk_shape(layout)
    spec: dict[str, Any] = {
        'kvstore': {'driver': 'file', 'path': f'{path.resolve()}/'},
        'store_data_equal_to_fill_value': True,
        # The finished folder of one writer is flushed as a whole.
        'context': {'file_io_sync': synced},
    }
    if layout.version == '0.5':
        codecs: list[Any] = [{'name': 'bytes', 'configuration': {'endian': 'little'}}]
        if layout.compression:
            codecs += [{'name': 'zstd', 'configuration': {'level': 3}}]
        spec |= {
            'driver': 'zarr3',
            'metadata': {
                'shape': shape,
                'data_type': layout.dtype.name,
                'dimension_names': list(axes),
                'chunk_grid': {'name': 'regular', 'configuration': {'chunk_shape': chunk}},
                'codecs': [*codecs, {'name': 'crc32c'}],
            },
        }
    else:
        spec |= {
            'driver': 'zarr',
            'metadata': {
                'shape': shape,
                'chunks': chunk,
                'dtype': layout.dtype.newbyteorder('<').str,
                'compressor': {'id': 'zstd', 'level': 3} if layout.compression else None,
                'dimension_separator': '/',
            },
        }
    (array,) = _await([ts.open(spec, create=create, open=not create)])
    return array


def _write_chunk_number(array_path: Path, layout: Layout) -> None:
    sides = zip(_stored_shape(layout), _chunk_shape(layout), strict=True)
    attributes = {'sxt_jax': {'n_chunks': math.prod(-(-n // c) for n, c in sides)}}
    if layout.version == '0.5':
        document = json.loads((array_path / 'zarr.json').read_text())
        document['attributes'] = {**document.get('attributes', {}), **attributes}
        (array_path / 'zarr.json').write_text(json.dumps(document))
    else:
        (array_path / '.zattrs').write_text(json.dumps(attributes))
