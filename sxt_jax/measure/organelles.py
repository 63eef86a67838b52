"""Where objects lie in the objects that contain them: nucleoli in nuclei, organelles in cells."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import VoxelSize
from sxt_jax.measure import shape
from sxt_jax.measure.boxes import Window, bounding_boxes, check_labels, map_boxes
from sxt_jax.measure.surface import check_voxel_size, surface_mesh

Columns = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Within:
    """Objects and what contains them.

    Attributes:
      objects: one row an object.
      containers: one row a container.
    """

    objects: Columns
    containers: Columns


def within(instances: Any, containers: Any, *, voxel_size_nm: Sequence[float]) -> Within:
    """How close objects are to the membrane of what contains them, and how much they fill of it.

    Machireddy et al. 2023, eq. 9: d_cc is the distance between the centroids of object and
    container, d_s that from the object's centroid to the nearest point of the container's surface
    (`surface_mesh`; the nearest vertex of it); the proximity d_cc/(d_cc + d_s) is 0 in the middle
    and 1 on the membrane. An object belongs to the container that has most of its voxels, of those
    with as many to the one with the lowest id. What a container encloses is taken for part of it.

    `objects` has `label`, `inside` (id of the container, 0 for none), `inside_percent` (of the
    object's voxels), `centre_distance_nm` (d_cc), `membrane_distance_nm` (d_s) and `proximity`,
    NaN without a container. `containers` has `label`, `volume_um3`, `n_objects` (that belong to
    it), `objects_volume_um3` and `objects_percent` (of its volume; all voxels of objects in it).

    Args:
      instances: [z, y, x] integer object ids, 0 is background.
      containers: [z, y, x] integer ids of what contains them, 0 is background.
      voxel_size_nm: edge lengths (z, y, x) in nm, may differ.

    Raises:
      InputError: shapes differ, ids are not whole numbers ≥ 0, or the voxel size is none.
    """
    instances, containers = check_labels(instances), check_labels(containers)
    if instances.shape != containers.shape:
        found = f'shape {containers.shape}'
        raise InputError('containers', found, f'that of the objects {instances.shape}')
    size = check_voxel_size(voxel_size_nm)
    boxes = bounding_boxes(containers)
    filled = _filled(containers, boxes)
    rows = map_boxes(
        lambda label, box: _place(instances, filled, label, box, size), bounding_boxes(instances)
    )
    belonging: dict[int, list[dict[str, Any]]] = {label: [] for label in [0, *boxes]}
    for row in rows:
        belonging[row['inside']].append(row)

    def measure(label: int, box: Window) -> dict[str, float]:
        return _measure(filled, label, box, belonging[label], instances, size)

    measured = map_boxes(measure, boxes)
    return Within(_columns(rows, _OBJECT_NAMES), _columns(measured, _CONTAINER_NAMES))


_CONTAINER_NAMES = ('label', 'volume_um3', 'n_objects', 'objects_volume_um3', 'objects_percent')
_OBJECT_NAMES = (
    'label',
    'inside',
    'inside_percent',
    'centre_distance_nm',
    'membrane_distance_nm',
    'proximity',
)


def _columns(rows: list[dict[str, Any]], names: Sequence[str]) -> Columns:
    return {name: np.array([row[name] for row in rows]) for name in names}


def _filled(containers: np.ndarray, boxes: Mapping[int, Window]) -> np.ndarray:
    """Containers with the background that they enclose."""
    result = containers
    for label, box in boxes.items():
        mask = containers[box] == label
        new = shape.filled(mask) & (containers[box] == 0)
        if new.any():
            result = containers.copy() if result is containers else result
            result[box][new] = label
    return result


def _place(
    instances: np.ndarray, containers: np.ndarray, label: int, box: Window, size: VoxelSize
) -> dict[str, Any]:
    """What an object belongs to, and its centroid in nm; the distances are for later."""
    mask = instances[box] == label
    ids, counts = np.unique(containers[box][mask], return_counts=True)
    inside, most = 0, 0
    if ids[-1]:
        counts[ids == 0] = 0
        inside, most = int(ids[np.argmax(counts)]), int(counts.max())
    row: dict[str, Any] = dict.fromkeys(_OBJECT_NAMES, np.nan)
    centroid = _centroid(mask, box, size)
    share = 100 * most / np.count_nonzero(mask)
    return row | {'label': label, 'inside': inside, 'inside_percent': share, 'centroid': centroid}


def _centroid(mask: np.ndarray, box: Window, size: VoxelSize) -> np.ndarray:
    centroid, _ = shape.centroid_and_covariance(mask, voxel_size_nm=size)
    return centroid + np.multiply([s.start for s in box], size)


def _measure(
    containers: np.ndarray,
    label: int,
    box: Window,
    rows: list[dict[str, Any]],
    instances: np.ndarray,
    size: VoxelSize,
) -> dict[str, float]:
    """The row of a container; distances are put into the rows of its objects."""
    mask = containers[box] == label
    unit = float(np.prod(size)) * 1e-9
    n_voxels, n_taken = np.count_nonzero(mask), np.count_nonzero(mask & (instances[box] != 0))
    if rows:
        centre = _centroid(mask, box, size)
        surface = surface_mesh(mask, voxel_size_nm=size, origin=[s.start for s in box])
    for row in rows:
        to_centre = float(np.linalg.norm(row['centroid'] - centre))
        steps = surface.vertices_nm - row['centroid'].astype(np.float32)
        to_membrane = float(np.sqrt(np.einsum('ij,ij->i', steps, steps).min()))
        row['centre_distance_nm'], row['membrane_distance_nm'] = to_centre, to_membrane
        row['proximity'] = to_centre / (to_centre + to_membrane)
    return {
        'label': label,
        'volume_um3': n_voxels * unit,
        'n_objects': len(rows),
        'objects_volume_um3': n_taken * unit,
        'objects_percent': 100 * n_taken / n_voxels,
    }
