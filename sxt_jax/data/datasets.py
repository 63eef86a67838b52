"""Labelled volumes made ready for training: one grid, one intensity scale, class indices."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from sxt_jax.core.box import Box
from sxt_jax.core.errors import InputError
from sxt_jax.core.memory import fits_in_memory
from sxt_jax.core.volume import ArrayLike, Volume, VoxelSize, load, slabs
from sxt_jax.data.binning import (
    NO_BINNING,
    Binning,
    bin_image,
    bin_labels,
    binned_shape,
    binned_voxel_size,
)
from sxt_jax.data.classes import IGNORE_INDEX, Classes, find_classes, unnamed_class
from sxt_jax.data.intensity import Intensity, NormalisedArray, fit_intensity, measure_affine
from sxt_jax.data.surface_band import Band
from sxt_jax.data.value_names import join_names
from sxt_jax.io import Pair, open_volume
from sxt_jax.ops.resample import resize_slabs

_POSITIONS_PER_CLASS = 20_000
_SAMPLED = 16  # slices of a volume


@dataclasses.dataclass(frozen=True)
class Example:
    """A labelled volume.

    Attributes:
      name: of its file.
      image: [z, y, x, c] float32 normalised gray values, in memory or lazily read.
      labels: [z, y, x] int16 class indices, `IGNORE_INDEX` where there is no label.
      voxel_size_nm: of the grid of `image`; None if the file does not say.
      flows: [z, y, x, 3] float vectors (z, y, x) towards the centres of cells; None where classes
        are learnt.
      instances: [z, y, x] int32 ids that foreground and flows were made of, `IGNORE_INDEX` where
        there is no label; None where classes are learnt.
      checksum: of what the flows were made of, whose own depends on the device that made them, or
        of the networks whose probabilities are among the channels.
      file_shape: (z, y, x) voxels of its file.
      band: where patches are drawn and networks run; None: everywhere.
      stack: name of the volume that it is a slice of; None: it is no slice of one.
    """

    name: str
    image: ArrayLike
    labels: ArrayLike
    voxel_size_nm: VoxelSize | None = None
    flows: ArrayLike | None = None
    instances: ArrayLike | None = None
    checksum: int = 0
    file_shape: tuple[int, int, int] | None = None
    band: Band | None = None
    stack: str | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        z, y, x = self.labels.shape
        return z, y, x


class LabelMap(Protocol):
    """What label values of files mean: `Classes`, or ids of objects."""

    @property
    def dtype(self) -> Any:
        """Of the indices."""
        ...

    def indices(self, labels: np.ndarray, *, name: str) -> np.ndarray:
        """Class indices or ids of label values; raises `InputError` on other values."""
        ...


class _View:
    """A lazily read array seen through a function of its voxels (an `ArrayLike`)."""

    def __init__(self, data: ArrayLike, function: Callable, dtype: Any, *, channel: bool) -> None:
        self._data, self._function, self.dtype = data, function, np.dtype(dtype)
        self._add_channel = channel and len(data.shape) == 3
        self.shape = (*data.shape, 1) if self._add_channel else tuple(data.shape)

    def __getitem__(self, index: Any) -> np.ndarray:
        index = index if isinstance(index, tuple) else (index,)
        voxels = self._function(np.asarray(self._data[index[: len(self._data.shape)]]))
        return voxels[..., None] if self._add_channel else voxels


class _Part:
    """A box of an array (an `ArrayLike`)."""

    def __init__(self, data: ArrayLike, box: Box) -> None:
        self._data, self._box, self.dtype = data, box, data.dtype
        self.shape = (*box.shape, *data.shape[3:])

    def __getitem__(self, index: Any) -> np.ndarray:
        moved = []
        for axis, part in enumerate(index if isinstance(index, tuple) else (index,)):
            if axis < 3:
                start, stop, _ = part.indices(self.shape[axis])
                part = slice(start + self._box.start[axis], stop + self._box.start[axis])
            moved.append(part)
        moved += [slice(a, b) for a, b in zip(self._box.start, self._box.stop, strict=True)][
            len(moved) :
        ]
        return np.asarray(self._data[tuple(moved)])


def crop_example(example: Example, box: Box) -> Example:
    """The part of a labelled volume inside a box (zyx), without copying it."""
    arrays = {name: getattr(example, name) for name in ('image', 'labels', 'flows', 'instances')}
    parts: dict[str, Any] = {k: _Part(data, box) for k, data in arrays.items() if data is not None}
    band = example.band.moved(box.start) if example.band is not None else None
    return dataclasses.replace(example, **parts, band=band)


def open_pairs(pairs: Sequence[Pair]) -> list[tuple[Volume, Volume]]:
    """Image and labels of each pair, not yet read.

    Raises:
      InputError: a file is no volume, or image and labels differ in shape.
    """
    volumes = []
    for pair in pairs:
        image, labels = open_volume(pair.image), open_volume(pair.labels)
        if image.shape != labels.shape or labels.n_channels > 1:
            raise InputError(
                pair.labels,
                f'labels of shape {labels.data.shape}',
                f'{image.shape} as {pair.image}',
            )
        volumes.append((image, labels))
    return volumes


def detect_classes(
    labels: Sequence[Volume],
    counts: Sequence[Mapping[int, int]],
    *,
    files: Sequence[str | Path],
    ignore_value: int | None = None,
) -> Classes:
    """The classes that occur in label volumes, named as the files name them.

    Args:
      labels: the volumes, of which nothing is read.
      counts: voxels of each value, one mapping a volume (`count_labels`).
      files: they are from, for errors.
      ignore_value: a value that is no class.

    Raises:
      InputError: no label volume holds anything but background, or files contradict each other
        (`join_names`).
    """
    told = [volume.class_names or {} for volume in labels]
    names = join_names(told, counts, files=files, ignore_value=ignore_value)
    classes = find_classes(counts, value_names=names, ignore_value=ignore_value)
    if len(classes) < 2:
        raise InputError('training labels', 'nothing but background', 'labelled voxels')
    return classes


def check_value_names(
    classes: Classes,
    labels: Sequence[Volume],
    counts: Sequence[Mapping[int, int]],
    *,
    files: Sequence[str | Path],
) -> None:
    """Whether other label volumes name their values as those do whose classes were detected.

    Args:
      classes: of `detect_classes`.
      labels, counts, files: as of `detect_classes`.

    Raises:
      InputError: naming the file that contradicts them (`join_names`).
    """
    known = {v: n for v, n in classes.value_names.items() if n != unnamed_class(v)}
    names = [known, *(volume.class_names or {} for volume in labels)]
    join_names(
        names,
        [dict.fromkeys(known, 1), *counts],
        files=['the training data', *files],
        ignore_value=classes.ignore_value,
    )


def prepare_examples(
    pairs: Sequence[Pair],
    volumes: Sequence[tuple[Volume, Volume]],
    *,
    label_maps: Sequence[LabelMap],
    intensity: str | Intensity,
    clip: bool = False,
    working_shape: tuple[int, int, int] | None = None,
    binning: Binning = NO_BINNING,
    lazy: bool = False,
    on_volume: Callable[[], Any] | None = None,
) -> tuple[list[Example], Intensity]:
    """Volumes as a network sees them.

    Args:
      pairs: files; for names.
      volumes: image and labels of each pair (`open_pairs`).
      label_maps: for each pair, which label value is which class, or that they are ids
        (`targets.ObjectIds`).
      intensity: a kind, fitted to the first volume, or a normalisation fitted before.
      clip: whether the fitted one cuts normalised values to 0 … 1.
      working_shape: grid to which every volume is resized, trilinearly (labels: nearest);
        None keeps each volume's own grid, read patch by patch if memory is short.
      binning: (z, y, x) voxels that are seen as one, see `data.binning`; of no `working_shape`.
      lazy: whether volumes are left in their files even if they fit in memory.
      on_volume: called after each.

    Returns:
      The examples, and the normalisation.

    Raises:
      InputError: NaN voxels, constant images, labels outside the class list.
    """
    n_bytes = sum(
        int(np.prod(binned_shape(v.shape, binning))) * (4 * v.n_channels + 2) for v, _ in volumes
    )
    in_memory = working_shape is not None or (not lazy and fits_in_memory(n_bytes))
    examples = []
    for pair, (image, labels), label_map in zip(pairs, volumes, label_maps, strict=True):
        gray, name = bin_image(image.data, binning), str(pair.image)
        voxel_size_nm = binned_voxel_size(image.voxel_size_nm, binning)
        found = bin_labels(labels.data, binning, _is_unlabelled(label_map, str(pair.labels)))
        indices: ArrayLike = _to_indices(found, label_map, str(pair.labels))
        if working_shape is not None:
            measure_affine(Intensity(), gray, name=name)  # NaNs must not spread by resizing
            gray, indices, voxel_size_nm = _resize(image, indices, working_shape)
        if isinstance(intensity, str):
            intensity = fit_intensity(intensity, gray, clip=clip, name=name)
        normalised = NormalisedArray(gray, measure_affine(intensity, gray, name=name))
        seen: Any = _View(normalised, lambda voxels: voxels, np.float32, channel=True)
        if in_memory:
            seen, indices = load(seen), load(indices)
        examples.append(Example(pair.name, seen, indices, voxel_size_nm, file_shape=image.shape))
        if on_volume is not None:
            on_volume()
    assert isinstance(intensity, Intensity)
    return examples, intensity


def split_examples(
    examples: Sequence[Example], *, fraction: float, seed: int
) -> tuple[list[Example], list[Example]]:
    """Training and validation examples.

    Of several volumes some are held out, at least one and not all. Of a single one the last part
    along its longest axis is; the two parts do not overlap.

    Args:
      examples: all examples.
      fraction: share that is held out; 0 for none.
      seed: decides which.
    """
    if fraction <= 0:
        return list(examples), []
    if len(examples) > 1:
        n_held = min(len(examples) - 1, max(1, round(fraction * len(examples))))
        order = np.random.default_rng(seed).permutation(len(examples))
        held = set(order[:n_held].tolist())
        return (
            [e for i, e in enumerate(examples) if i not in held],
            [e for i, e in enumerate(examples) if i in held],
        )
    (example,) = examples
    axis = int(np.argmax(example.shape))
    cut = example.shape[axis] - max(1, round(fraction * example.shape[axis]))
    whole = Box.of_shape(example.shape)
    stop, start = list(whole.stop), list(whole.start)
    stop[axis] = start[axis] = cut
    train = crop_example(example, Box(whole.start, tuple(stop)))
    return [train], [crop_example(example, Box(tuple(start), whole.stop))]


def fingerprint(example: Example) -> str:
    """Name, shape and a checksum of the targets: whether two runs learn from the same."""
    checksum = compute_checksum(example.labels, start=example.checksum)
    return f'{example.name} {"×".join(map(str, example.shape))} {checksum:08x}'


def compute_checksum(data: ArrayLike, *, start: int = 0) -> int:
    """CRC-32 of a volume's voxels, after those whose checksum is `start`."""
    for slab in slabs(data):
        start = zlib.crc32(slab.tobytes(), start)
    return start


def sample_checksum(data: ArrayLike) -> int:
    """CRC-32 of a few slices, spread over a volume: it is another where it was made anew.

    Args:
      data: [z, y, x] or [z, y, x, c], in memory or lazily read.
    """
    checksum, depth = 0, data.shape[0]
    for z in sorted({(2 * i + 1) * depth // (2 * _SAMPLED) for i in range(_SAMPLED)}):
        rest = [slice(None)] * (len(data.shape) - 1)
        checksum = zlib.crc32(np.asarray(data[(slice(z, z + 1), *rest)]).tobytes(), checksum)
    return checksum


def class_frequencies(examples: Sequence[Example], n_classes: int) -> np.ndarray:
    """[n_classes] share of each class among the labelled voxels."""
    counts = np.zeros(n_classes)
    for example in examples:
        for slab in slabs(example.labels):
            labelled = slab[slab != IGNORE_INDEX]
            counts += np.bincount(labelled.ravel(), minlength=n_classes)
    return counts / max(1.0, counts.sum())


def foreground_positions(example: Example, n_classes: int, *, seed: int) -> list[np.ndarray]:
    """For each foreground class, [n, 3] zyx positions of a random few of its voxels.

    Slabs give as many as they have of the class, so that every voxel is as likely as another.
    """
    rng = np.random.default_rng(seed)
    counts = np.array(
        [np.bincount(slab[slab > 0], minlength=n_classes)[1:] for slab in slabs(example.labels)]
    )
    shares = np.minimum(1, _POSITIONS_PER_CLASS / np.maximum(counts.sum(0), 1))
    wanted = np.ceil(shares * counts).astype(int)  # [slab, class]
    found: list[list[np.ndarray]] = [[] for _ in range(1, n_classes)]
    z = 0
    for slab, n_wanted in zip(slabs(example.labels), wanted, strict=True):
        for k, (positions, n) in enumerate(zip(found, n_wanted, strict=True), start=1):
            flat = np.flatnonzero(slab == k)
            if len(flat) > n:
                flat = np.sort(rng.choice(flat, n, replace=False))
            positions.append(np.stack(np.unravel_index(flat, slab.shape), 1) + np.array((z, 0, 0)))
        z += len(slab)
    return [np.concatenate(positions) for positions in found]


def _is_unlabelled(classes: LabelMap, name: str) -> Callable[[np.ndarray], np.ndarray]:
    return lambda values: classes.indices(values, name=name) == IGNORE_INDEX


def _to_indices(labels: ArrayLike, label_map: LabelMap, name: str) -> _View:
    return _View(labels, lambda v: label_map.indices(v, name=name), label_map.dtype, channel=False)


def _resize(
    image: Volume, labels: ArrayLike, shape: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray, VoxelSize | None]:
    """Image, class indices and voxel size on a grid of another shape."""
    gray = resize_slabs(image.data, shape)
    indices = resize_slabs(labels, shape, method='nearest')
    if image.voxel_size_nm is None:
        return gray, indices, None
    z, y, x = (s * n / m for s, n, m in zip(image.voxel_size_nm, image.shape, shape, strict=True))
    return gray, indices, (z, y, x)
