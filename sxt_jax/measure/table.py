"""One row an object, or one row a class: the table of measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import VoxelSize
from sxt_jax.measure import shape
from sxt_jax.measure.absorption import lac_per_um
from sxt_jax.measure.boxes import Window, bounding_box, bounding_boxes, check_labels, map_boxes
from sxt_jax.measure.surface import Surface, check_voxel_size, surface_mesh
from sxt_jax.measure.texture import TEXTURES, Texture, check_texture, measure_texture

Columns = dict[str, np.ndarray]


def objects(
    instances: Any,
    *,
    voxel_size_nm: Sequence[float],
    image: Any = None,
    quantity: str = 'lac_per_um',
    texture: Texture | None = None,
) -> Columns:
    """Measures of every object, each from the crop of its bounding box.

    Columns, each with one entry an object in order of label: `label`, `n_voxels`, `volume_um3`,
    `surface_um2` and `surface_to_volume_per_um` (sub-voxel surface, see `surface_mesh`),
    `z_start` … `x_stop` (bounding box in voxels, stop excluded), `centroid_z_nm` … (from the
    centre of voxel 0), `major_axis_nm`, `middle_axis_nm`, `minor_axis_nm` (full axes of the
    ellipsoid with the same second moments), `sphericity`, `solidity`, `solidity_filled` (cavities
    filled), `circular_variance`, `fenestrated_percent` (volume of cavities),
    `fenestrated_in_slices_percent` (see `shape`), `touches_border` (cut by the field of view: its
    cut face counts as surface), with an image `mean_lac_per_um` and `sd_lac_per_um` (or of another
    `quantity`), and with options for textures those of `texture.TEXTURES`.

    Args:
      instances: [z, y, x] integer object ids, 0 is background.
      voxel_size_nm: edge lengths (z, y, x) in nm, may differ.
      image: [z, y, x] linear absorption coefficients in µm⁻¹, or gray values.
      quantity: what the image tells, by which the columns of its mean and SD are named, such as
        'gray' of electron micrographs.
      texture: how textures are measured; None: not at all.

    Raises:
      InputError: shapes differ, ids are not whole numbers ≥ 0, the voxel size is none, or there is
        no image for textures.
    """
    instances = check_labels(instances, image)
    size = check_voxel_size(voxel_size_nm)
    if texture is not None:
        check_texture(texture)
        if image is None:
            raise InputError('texture', 'no image', 'the gray values of the objects')

    def measure(label: int, box: Window) -> dict[str, Any]:
        mask = instances[box] == label
        row = {'label': label, **_measure(mask, box, instances.shape, size, image, quantity)}
        if texture is not None:
            gray = np.asarray(image[box])
            row |= measure_texture(gray, mask, voxel_size_nm=size, options=texture)
        return row

    told = quantity if image is not None else None
    names = ['label', *_names(told), *(TEXTURES if texture is not None else ())]
    return _columns(map_boxes(measure, bounding_boxes(instances)), names)


def classes(
    labels: Any,
    *,
    voxel_size_nm: Sequence[float],
    class_names: Mapping[int, str],
    image: Any = None,
    quantity: str = 'lac_per_um',
) -> Columns:
    """Measures of every class, all its voxels taken as one object.

    Columns as in `objects`, with `class` (its name) after `label`. A class without a voxel has
    volume and surface 0 and NaN for the rest.

    Args:
      labels: [z, y, x] integer class ids.
      voxel_size_nm: edge lengths (z, y, x) in nm, may differ.
      class_names: name of each class to be measured, by id (leave the background out).
      image: [z, y, x] linear absorption coefficients in µm⁻¹, or gray values.
      quantity: as for `objects`.

    Raises:
      InputError: as for `objects`.
    """
    labels = check_labels(labels, image)
    size = check_voxel_size(voxel_size_nm)
    rows = []
    for label, name in class_names.items():
        mask = labels == label
        row = {'label': label, 'class': name, 'n_voxels': 0, 'volume_um3': 0.0, 'surface_um2': 0.0}
        box = bounding_box(mask)
        if box is not None:
            row |= _measure(mask[box], box, labels.shape, size, image, quantity)
        rows.append(row)
    told = quantity if image is not None else None
    return _columns(rows, ['label', 'class', *_names(told)])


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
    mask = check_labels(mask).astype(bool)
    size = check_voxel_size(voxel_size_nm)
    box = bounding_box(mask)
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


def _names(quantity: str | None) -> list[str]:
    names = ['n_voxels', 'volume_um3', 'surface_um2', 'surface_to_volume_per_um']
    names += [f'{axis}_{end}' for axis in 'zyx' for end in ('start', 'stop')]
    names += [f'centroid_{axis}_nm' for axis in 'zyx']
    names += ['major_axis_nm', 'middle_axis_nm', 'minor_axis_nm']
    names += ['sphericity', 'solidity', 'solidity_filled', 'circular_variance']
    names += ['fenestrated_percent', 'fenestrated_in_slices_percent', 'touches_border']
    return names + ([f'mean_{quantity}', f'sd_{quantity}'] if quantity else [])


def _measure(
    mask: np.ndarray,
    box: Window,
    full_shape: tuple[int, ...],
    size: VoxelSize,
    image: Any,
    quantity: str,
) -> dict[str, Any]:
    start = [s.start for s in box]
    n_voxels = int(np.count_nonzero(mask))
    surface = surface_mesh(mask, voxel_size_nm=size, origin=start)
    centroid, covariance = shape.centroid_and_covariance(mask, voxel_size_nm=size)
    centroid = centroid + np.multiply(start, size)
    sizes = _sizes(n_voxels, surface, size)
    solidity, fenestrated = shape.solidity(surface), shape.fenestrated_percent(mask)
    row: dict[str, Any] = sizes | {
        'n_voxels': n_voxels,
        'sphericity': shape.sphericity(sizes['volume_um3'], sizes['surface_um2']),
        'solidity': solidity,
        'solidity_filled': min(1.0, solidity / (1 - fenestrated / 100)),
        'circular_variance': shape.circular_variance(surface, centroid_nm=centroid),
        'fenestrated_percent': fenestrated,
        'fenestrated_in_slices_percent': shape.fenestrated_in_slices_percent(mask),
        'touches_border': any(
            s.start == 0 or s.stop == n for s, n in zip(box, full_shape, strict=True)
        ),
    }
    for axis, s, c in zip('zyx', box, centroid, strict=True):
        row |= {f'{axis}_start': s.start, f'{axis}_stop': s.stop, f'centroid_{axis}_nm': c}
    axes = shape.ellipsoid_axes_nm(covariance)
    row |= dict(zip(('major_axis_nm', 'middle_axis_nm', 'minor_axis_nm'), axes, strict=True))
    if image is not None:
        mean_and_sd = lac_per_um(np.asarray(image[box]), mask)
        row |= dict(zip((f'mean_{quantity}', f'sd_{quantity}'), mean_and_sd, strict=True))
    return row


def _columns(rows: list[dict[str, Any]], names: list[str]) -> Columns:
    return {name: np.array([row.get(name, np.nan) for row in rows]) for name in names}
