"""One row an object, or one row a class: the table of measures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import VoxelSize
from sxt_jax.measure import shape
from sxt_jax.measure.absorption import lac_per_um
from sxt_jax.measure.surface import Surface, check_voxel_size, surface_mesh

Columns = dict[str, np.ndarray]
_LARGEST_LISTED_ID = 10_000_000  # find_objects keeps a list this long


def objects(instances: Any, *, voxel_size_nm: Sequence[float], image: Any = None) -> Columns:
    """Measures of every object, each from the crop of its bounding box.

    Columns, each with one entry an object in order of label: `label`, `n_voxels`, `volume_um3`,
    `surface_um2` and `surface_to_volume_per_um` (sub-voxel surface, see `surface_mesh`),
    `z_start` … `x_stop` (bounding box in voxels, stop excluded), `centroid_z_nm` … (from the
    centre of voxel 0), `major_axis_nm`, `middle_axis_nm`, `minor_axis_nm` (full axes of the
    ellipsoid with the same second moments), `sphericity`, `solidity`, `circular_variance`,
    `touches_border` (cut by the field of view: its cut face counts as surface), and with an
    image `mean_lac_per_um` and `sd_lac_per_um`.

    Args:
      instances: [z, y, x] integer object ids, 0 is background.
      voxel_size_nm: edge lengths (z, y, x) in nm, may differ.
      image: [z, y, x] linear absorption coefficients in µm⁻¹.

    Raises:
      InputError: shapes differ, ids are not whole numbers ≥ 0, or the voxel size is none.
    """
    instances = _check_labels(instances, image)
    size = check_voxel_size(voxel_size_nm)
    rows = [
        {'label': label, **_measure(mask, box, instances.shape, size, image)}
        for label, box, mask in _crops(instances)
    ]
    return _columns(rows, ['label', *_names(image is not None)])


def classes(
    labels: Any,
    *,
    voxel_size_nm: Sequence[float],
    class_names: Mapping[int, str],
    image: Any = None,
) -> Columns:
    """Measures of every class, all its voxels taken as one object.

    Columns as in `objects`, with `class` (its name) after `label`. A class without a voxel has
    volume and surface 0 and NaN for the rest.

    Args:
      labels: [z, y, x] integer class ids.
      voxel_size_nm: edge lengths (z, y, x) in nm, may differ.
      class_names: name of each class to be measured, by id (leave the background out).
      image: [z, y, x] linear absorption coefficients in µm⁻¹.

    Raises:
      InputError: as for `objects`.
    """
    labels = _check_labels(labels, image)
    size = check_voxel_size(voxel_size_nm)
    rows = []
    for label, name in class_names.items():
        mask = labels == label
        row = {'label': label, 'class': name, 'n_voxels': 0, 'volume_um3': 0.0, 'surface_um2': 0.0}
        box = _bounding_box(mask)
        if box is not None:
            row |= _measure(mask[box], box, labels.shape, size, image)
        rows.append(row)
    return _columns(rows, ['label', 'class', *_names(image is not None)])


def volume_and_surface(mask: Any, *, voxel_size_nm: Sequence[float]) -> dict[str, float]:
    """Volume and surface of one mask: the columns of `objects` that make a report short.

    Args:
      mask: [z, y, x] bool; without a voxel set volume and surface are 0 and their ratio is NaN.
      voxel_size_nm: edge lengths (z, y, x) in nm, may differ.

    Returns:
      `volume_um3`, `surface_um2`, `surface_to_volume_per_um`.

    Raises:
      InputError: the mask is not three-dimensional, or the voxel size is none.
    """
    mask = _check_labels(mask, None).astype(bool)
    size = check_voxel_size(voxel_size_nm)
    box = _bounding_box(mask)
    if box is None:
        return {'volume_um3': 0.0, 'surface_um2': 0.0, 'surface_to_volume_per_um': np.nan}
    return _sizes(int(mask.sum()), surface_mesh(mask[box], voxel_size_nm=size), size)


def _sizes(n_voxels: int, surface: Surface, size: VoxelSize) -> dict[str, float]:
    volume = n_voxels * float(np.prod(size)) * 1e-9
    return {
        'volume_um3': volume,
        'surface_um2': surface.area_um2,
        'surface_to_volume_per_um': surface.area_um2 / volume,
    }


def _names(with_image: bool) -> list[str]:
    names = ['n_voxels', 'volume_um3', 'surface_um2', 'surface_to_volume_per_um']
    names += [f'{axis}_{end}' for axis in 'zyx' for end in ('start', 'stop')]
    names += [f'centroid_{axis}_nm' for axis in 'zyx']
    names += ['major_axis_nm', 'middle_axis_nm', 'minor_axis_nm']
    names += ['sphericity', 'solidity', 'circular_variance', 'touches_border']
    return names + (['mean_lac_per_um', 'sd_lac_per_um'] if with_image else [])


def _measure(
    mask: np.ndarray,
    box: tuple[slice, ...],
    full_shape: tuple[int, ...],
    size: VoxelSize,
    image: Any,
) -> dict[str, Any]:
    start = [s.start for s in box]
    n_voxels = int(np.count_nonzero(mask))
    surface = surface_mesh(mask, voxel_size_nm=size, origin=start)
    centroid, covariance = shape.centroid_and_covariance(mask, voxel_size_nm=size)
    centroid = centroid + np.multiply(start, size)
    sizes = _sizes(n_voxels, surface, size)
    row: dict[str, Any] = sizes | {
        'n_voxels': n_voxels,
        'sphericity': shape.sphericity(sizes['volume_um3'], sizes['surface_um2']),
        'solidity': shape.solidity(surface),
        'circular_variance': shape.circular_variance(surface, centroid_nm=centroid),
        'touches_border': any(
            s.start == 0 or s.stop == n for s, n in zip(box, full_shape, strict=True)
        ),
    }
    for axis, s, c in zip('zyx', box, centroid, strict=True):
        row |= {f'{axis}_start': s.start, f'{axis}_stop': s.stop, f'centroid_{axis}_nm': c}
    axes = shape.ellipsoid_axes_nm(covariance)
    row |= dict(zip(('major_axis_nm', 'middle_axis_nm', 'minor_axis_nm'), axes, strict=True))
    if image is not None:
        row['mean_lac_per_um'], row['sd_lac_per_um'] = lac_per_um(np.asarray(image[box]), mask)
    return row


def _crops(instances: np.ndarray) -> Iterator[tuple[int, tuple[slice, ...], np.ndarray]]:
    """Label, bounding box and mask within it of every object, in order of label."""
    names = None
    if instances.size and instances.max() > _LARGEST_LISTED_ID:
        names, instances = np.unique(instances, return_inverse=True)
        instances = instances.reshape(instances.shape) + int(names[0] != 0)
        names = names if names[0] == 0 else np.concatenate([[0], names])
    for i, box in enumerate(ndimage.find_objects(instances.astype(_index_type(instances))), 1):
        if box is not None:
            yield int(names[i]) if names is not None else i, box, instances[box] == i


def _index_type(instances: np.ndarray) -> Any:
    # find_objects takes signed integers up to the machine word only.
    return instances.dtype if instances.dtype.kind == 'i' else np.int64


def _bounding_box(mask: np.ndarray) -> tuple[slice, ...] | None:
    box = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        there = np.flatnonzero(mask.any(axis=others))
        if not len(there):
            return None
        box.append(slice(int(there[0]), int(there[-1]) + 1))
    return tuple(box)


def _check_labels(labels: Any, image: Any) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.ndim != 3:
        raise InputError('labels', f'shape {labels.shape}', 'three axes [z, y, x]')
    if labels.dtype.kind not in 'iub':
        raise InputError('labels', f'voxels of type {labels.dtype}', 'whole numbers')
    if labels.dtype.kind == 'i' and labels.size and labels.min() < 0:
        raise InputError('labels', f'a value of {labels.min()}', 'values from 0')
    if image is not None and tuple(image.shape) != labels.shape:
        raise InputError('image', f'shape {tuple(image.shape)}', f'that of labels {labels.shape}')
    return labels.astype(np.uint8) if labels.dtype.kind == 'b' else labels


def _columns(rows: list[dict[str, Any]], names: list[str]) -> Columns:
    return {name: np.array([row.get(name, np.nan) for row in rows]) for name in names}
