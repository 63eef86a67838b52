"""The objects of a file of labels: a class split by connectivity, or instances as they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage

from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import Volume, VoxelSize, slabs
from sxt_jax.data.classes import count_labels
from sxt_jax.io import open_volume
from sxt_jax.measure import smooth_along_z
from sxt_jax.measure.boxes import Window, bounding_boxes
from sxt_jax.measure.surface import check_voxel_size

_SHOWN_VALUES = 8
_LARGEST_ID = 10_000_000  # find_objects keeps a list this long
_TOUCHING = np.ones((3, 3, 3), bool)  # voxels with a corner in common belong together


@dataclasses.dataclass(frozen=True)
class Choice:
    """What of a file of labels is taken for objects, and what is tidied away first.

    Attributes:
      class_: name or value of the class whose connected parts are the objects; None: the only one.
      instances: labels are numbers of objects instead of classes.
      crop_border: voxels at each side of the volume that count as background.
      erode: radius in voxels of a ball by which the mask of the class is eroded.
      min_size: objects of fewer voxels are left out.
      voxel_size_nm: (z, y, x) instead of the file's own.
      dataset: data set in HDF5 and OME-Zarr files.
    """

    class_: str | None = None
    instances: bool = False
    crop_border: int = 0
    erode: float = 0.0
    min_size: int = 0
    voxel_size_nm: VoxelSize | None = None
    dataset: str | None = None


@dataclasses.dataclass(frozen=True)
class Objects:
    """Objects of one file.

    Attributes:
      instances: [z, y, x] integer ids, 0 is background.
      voxel_size_nm: (z, y, x).
      boxes: of every object that is left, by id.
    """

    instances: np.ndarray
    voxel_size_nm: VoxelSize
    boxes: Mapping[int, Window]

    def mask(self, label: int) -> np.ndarray:
        """[z, y, x] bool, the object within its box."""
        return self.instances[self.boxes[label]] == label

    def touches_border(self, label: int) -> bool:
        """Whether the object has voxels in an outermost slice, row or column of the volume."""
        box, shape = self.boxes[label], self.instances.shape
        return any(s.start == 0 or s.stop == n for s, n in zip(box, shape, strict=True))


def parse_voxel_size(words: Sequence[str] | None) -> VoxelSize | None:
    """The voxel size of a flag: 'z,y,x', or one number for cubes; None without the flag.

    Raises:
      InputError: not one or three positive numbers.
    """
    if words is None:
        return None
    return check_voxel_size(list(words) * 3 if len(words) == 1 else words)


def check_choice(choice: Choice) -> None:
    """Whether the options make sense.

    Raises:
      InputError: naming the one that does not.
    """
    for name, value in (('min_size', choice.min_size), ('crop_border', choice.crop_border)):
        if value < 0:
            raise InputError(f'--{name}', f'{value}', 'a number of voxels from 0')
    if not 0 <= choice.erode < np.inf:
        raise InputError('--erode', f'{choice.erode}', 'a radius in voxels from 0')
    if choice.instances and choice.class_ is not None:
        raise InputError('--class', f'{choice.class_!r}, with --instances', 'one of the two')
    if choice.instances and choice.erode:
        raise InputError('--erode', f'{choice.erode}, with --instances', 'a class')


def open_labels(path: str | Path, *, dataset: str | None = None) -> Volume:
    """Labels [z, y, x] of a file, not yet read.

    Raises:
      InputError: no such volume, or one with channels.
    """
    volume = open_volume(path, dataset=dataset)
    if volume.axes != 'zyx':
        raise InputError(path, f'{volume.n_channels} channels', 'labels [z, y, x]')
    return volume


def voxel_size_of(volume: Volume, path: str | Path, given: VoxelSize | None) -> VoxelSize:
    """The given voxel size, or the file's.

    Raises:
      InputError: neither is there.
    """
    size = given or volume.voxel_size_nm
    if size is None:
        raise InputError(path, 'no voxel size in the file', '--voxel_size_nm=z,y,x in nm')
    return size


def read_mask(
    path: str | Path, volume: Volume, *, class_: str | None = None
) -> tuple[np.ndarray, int]:
    """[z, y, x] bool mask of a class, read slab by slab, and the class's value.

    Args:
      path: for errors.
      volume: labels, not yet read.
      class_: name or value; None: the only value but 0.

    Raises:
      InputError: no such class, no voxel of it, or several classes and none is named.
    """
    counts = count_labels(volume.data, name=str(path))
    value = find_value(path, sorted(v for v in counts if v), volume.class_names or {}, class_)
    mask = np.empty(volume.shape, bool)
    z = 0
    for slab in slabs(volume.data):
        np.equal(slab, value, out=mask[z : z + len(slab)])
        z += len(slab)
    return mask, value


def find_value(
    path: str | Path, values: list[int], names: Mapping[int, str], class_: str | None
) -> int:
    """The value of a class.

    Args:
      path: for errors.
      values: label values but 0 that occur.
      names: of values, where the file tells them.
      class_: name or value; None: the only value.

    Raises:
      InputError: no such class, no voxel of it, or several classes and none is named.
    """
    told = ', '.join(_told(v, names) for v in values[:_SHOWN_VALUES])
    told += ', …' * (len(values) > _SHOWN_VALUES)
    if not values:
        raise InputError(path, 'no voxel with a label: all are 0', 'labels with objects')
    if class_ is None:
        if len(values) > 1:
            raise InputError(path, f'labels {told}', 'one of them as --class, or --instances')
        return values[0]
    named = [value for value, name in names.items() if name == class_]
    if not named and class_.strip().lstrip('-').isdigit():
        named = [int(class_)]
    if not named or named[0] not in values or named[0] == 0:
        raise InputError(path, f'no voxel of class {class_!r}', f'one of {told}')
    return named[0]


def _told(value: int, names: Mapping[int, str]) -> str:
    return f'{value} ({names[value]})' if value in names else f'{value}'


def tidy_mask(mask: np.ndarray, choice: Choice) -> np.ndarray:
    """A mask without its border and eroded, as chosen; `min_size` is for its objects later.

    Dyhr et al. 2023: a few voxels at the border hold most artefacts of the reconstruction, and
    erosion parts objects that touch.
    """
    if choice.crop_border:
        clear_border(mask, choice.crop_border)
    if choice.erode:
        import jax.numpy as jnp  # here: nothing else of these commands needs JAX

        from sxt_jax.ops.morphology import erode

        mask = np.asarray(erode(jnp.asarray(mask), float(choice.erode)))
    return mask


def clear_border(labels: np.ndarray, width: int) -> None:
    """Set the outermost voxels along each axis to 0, in place; of one slice, not the slice."""
    for axis in range(3):
        if labels.shape[axis] > 1:
            turned = np.moveaxis(labels, axis, 0)
            turned[:width] = 0
            turned[max(0, len(turned) - width) :] = 0


def without_small(mask: np.ndarray, min_size: int) -> np.ndarray:
    """The mask without connected parts of fewer voxels."""
    if min_size < 2:
        return mask
    parts, n = ndimage.label(mask, _TOUCHING)
    large = np.bincount(parts.ravel(), minlength=n + 1) >= min_size
    large[0] = False
    return large[parts]


def split_mask(mask: np.ndarray) -> np.ndarray:
    """[z, y, x] int32 connected parts of a mask, numbered in raster order.

    SciPy's, for on a CPU it takes half the time of `ops.components` and nothing is compiled:
    0.65 s against 1.2 s for 36 million voxels, and 9 s to compile for each shape (2 cores).
    """
    parts, _ = ndimage.label(mask, _TOUCHING)
    return parts


def objects_of(path: str | Path, instances: np.ndarray, size: VoxelSize, min_size: int) -> Objects:
    """Objects of ids, those of at least `min_size` voxels.

    Raises:
      InputError: none is left.
    """
    boxes = bounding_boxes(instances)
    found = len(boxes)
    if min_size > 1:
        counts = np.bincount(instances.ravel(), minlength=max(boxes, default=0) + 1)
        boxes = {label: box for label, box in boxes.items() if counts[label] >= min_size}
    if not boxes:
        told = f'none of {found} objects has {min_size} voxels' if found else 'no object is left'
        raise InputError(path, told, 'objects, or a smaller --min_size, --erode or --crop_border')
    return Objects(instances, size, boxes)


def read_objects(path: str | Path, choice: Choice, *, z_smoothing: int = 0) -> Objects:
    """The chosen objects of a file.

    Args:
      path: labels of classes, or of instances.
      choice: which.
      z_smoothing: depth of `measure.smooth_along_z` on the mask of a class, before it is split.

    Raises:
      InputError: nothing to choose, no voxel size, or options that make no sense.
    """
    check_choice(choice)
    volume = open_labels(path, dataset=choice.dataset)
    size = voxel_size_of(volume, path, choice.voxel_size_nm)
    if choice.instances:
        instances = _read_instances(path, volume)
        clear_border(instances, choice.crop_border)
    else:
        mask, _ = read_mask(path, volume, class_=choice.class_)
        mask = smooth_along_z(tidy_mask(mask, choice), depth=z_smoothing)
        instances = split_mask(mask)
    return objects_of(path, instances, size, choice.min_size)


def _read_instances(path: str | Path, volume: Volume) -> np.ndarray:
    """[z, y, x] int32 ids, read slab by slab."""
    instances = np.empty(volume.shape, np.int32)
    z = 0
    for slab in slabs(volume.data):
        part = instances[z : z + len(slab)]
        with np.errstate(invalid='ignore'):  # what does not fit is told below
            part[...] = slab
        if not np.array_equal(part, slab) or part.min() < 0:
            raise InputError(path, 'labels that are no ids', 'whole numbers from 0 to 2³¹ − 1')
        z += len(slab)
    largest = int(instances.max())
    if not 0 < largest <= _LARGEST_ID:
        found = f'ids up to {largest}' if largest else 'no voxel with a label: all are 0'
        raise InputError(path, found, f'objects with ids from 1 to {_LARGEST_ID}')
    return instances
