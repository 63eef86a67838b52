"""A library of cells: labelled volumes with the names that each gives its label values.

Cells that were labelled by different people have different values for the same material, and
different materials. What a volume calls its values comes, in this order, from a YAML file beside
it, from the volume itself (AmiraMesh, OME-Zarr, what this package writes), and from the
`materials.yaml` of its folder (see `io.materials`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sxt_jax import io
from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import Volume, VoxelSize
from sxt_jax.data.classes import count_labels
from sxt_jax.data.datasets import open_pairs
from sxt_jax.data.value_names import material_key
from sxt_jax.io import MaterialFile, Pair, Unpaired

UNLABELLED = frozenset({'ignore', 'ignored', 'unlabeled', 'unlabelled'})  # materials that are none


@dataclasses.dataclass(frozen=True)
class Cell:
    """A labelled volume of a library.

    Attributes:
      pair: its files, and its name.
      shape: (z, y, x).
      voxel_size_nm: (z, y, x); None if nothing tells it.
      names: of label values, but of those that are ignored.
      named_by: where the names come from: a YAML file or a format; '' if there are none.
      ignored: label values of voxels nobody labelled.
      counts: voxels of each label value that occurs.
    """

    pair: Pair
    shape: tuple[int, int, int]
    voxel_size_nm: VoxelSize | None
    names: Mapping[int, str]
    named_by: str
    ignored: frozenset[int]
    counts: Mapping[int, int]

    @property
    def name(self) -> str:
        return self.pair.name

    @property
    def values(self) -> dict[str, tuple[int, ...]]:
        """Label values of each material, by `material_key`, whether or not they occur."""
        found: dict[str, tuple[int, ...]] = {}
        for value, name in sorted(self.names.items()):
            key = material_key(name)
            found[key] = (*found.get(key, ()), value)
        return found

    @property
    def materials(self) -> frozenset[str]:
        """Materials of which there are voxels: Amira lists some that nobody used."""
        return frozenset(k for k, values in self.values.items() if self.occur(values))

    @property
    def unnamed(self) -> tuple[int, ...]:
        """Label values that occur and have no name; 0 needs none."""
        return tuple(sorted(set(self.counts) - {0, *self.names, *self.ignored}))

    def occur(self, values: tuple[int, ...]) -> bool:
        """Whether there are voxels of one of these values."""
        return any(self.counts.get(value) for value in values)


@dataclasses.dataclass(frozen=True)
class Library:
    """The labelled volumes of a folder.

    Attributes:
      root: the folder.
      cells: one a volume with labels.
      faults: errors of volumes that cannot be read.
      unpaired: files without image or labels.
    """

    root: Path
    cells: tuple[Cell, ...]
    faults: tuple[InputError, ...] = ()
    unpaired: tuple[Unpaired, ...] = ()

    @property
    def spellings(self) -> dict[str, str]:
        """Each material, by `material_key`, as the first cell that has it writes it."""
        found: dict[str, str] = {}
        for cell in self.cells:
            for _, name in sorted(cell.names.items()):
                found.setdefault(material_key(name), name)
        return found

    def __str__(self) -> str:
        """Which materials it has, in how many cells."""
        n_cells = {k: sum(k in cell.materials for cell in self.cells) for k in self.spellings}
        told = [f'{name} (in {n_cells[key]})' for key, name in self.spellings.items()]
        return ', '.join(told) or 'no material has a name'


def read_library(
    images: str | Path,
    labels: str | Path | None = None,
    *,
    dataset: str | None = None,
    label_dataset: str | None = None,
    on_cell: Callable[[Path], Any] | None = None,
) -> Library:
    """Index the labelled volumes of a folder and the folders within it.

    Labels are read once, slab by slab; of images the header.

    Args:
      images, labels, dataset, label_dataset: as `io.pair` takes them.
      on_cell: called with the labels of each cell before they are read.

    Raises:
      InputError: there is nothing to pair.
    """
    datasets = {'dataset': dataset, 'label_dataset': label_dataset}
    if labels:
        pairs, unpaired = io.find_pairs(images, labels, **datasets)
    else:
        pairs, unpaired = io.find_pairs_below(images, **datasets)
    top = library_folder(labels or images)
    cells, faults = [], []
    for pair in pairs:
        if on_cell is not None:
            on_cell(pair.labels)
        try:
            cells.append(read_cell(pair, top))
        except InputError as error:
            faults.append(error)
    return Library(Path(images), tuple(cells), tuple(faults), tuple(unpaired))


def library_folder(path: str | Path) -> Path:
    """Up to which folder `materials.yaml` is looked for: that of a volume, or a folder of some."""
    file, _ = io.split_dataset(path)
    return file.parent if io.is_volume(path) else file


def read_cell(pair: Pair, top: Path) -> Cell:
    """A row of the table; what a YAML file tells of one volume wins over what it tells of many.

    Args:
      pair: image and labels, of which the labels are read once, slab by slab.
      top: the folder up to which `materials.yaml` is looked for.

    Raises:
      InputError: a file cannot be read, shapes differ, or a value is named and ignored.
    """
    ((image, labels),) = open_pairs([pair])
    own, shared = _material_files(pair, top)
    names, named_by = _names(labels, own, shared)
    ignored = own.ignored
    if ignored is None:
        ignored = shared.ignored or frozenset()
        if both := ignored & names.keys():
            found = f'{min(both)} is {names[min(both)]}, which {shared.file} ignores'
            raise InputError(pair.labels, found, f'{pair.labels.stem}.yaml beside it that tells')
    ignored |= {value for value, name in names.items() if material_key(name) in UNLABELLED}
    sizes = (own.voxel_size_nm, image.voxel_size_nm, labels.voxel_size_nm, shared.voxel_size_nm)
    return Cell(
        pair=pair,
        shape=labels.shape,
        voxel_size_nm=next((size for size in sizes if size is not None), None),
        names={value: name for value, name in names.items() if value not in ignored},
        named_by=named_by,
        ignored=ignored,
        counts=count_labels(labels.data, name=str(pair.labels)),
    )


def _material_files(pair: Pair, top: Path) -> tuple[MaterialFile, MaterialFile]:
    """What YAML files tell of one volume alone, and of all volumes of its folder."""
    files = io.find_material_file(pair.labels), io.find_folder_file(pair.labels, top)
    own, shared = (io.read_material_file(f) if f else MaterialFile(pair.labels) for f in files)
    return own, shared


def _names(labels: Volume, own: MaterialFile, shared: MaterialFile) -> tuple[dict[int, str], str]:
    """Names of label values, and what told them."""
    if own.names:
        return dict(own.names), own.file.name
    if labels.class_names:
        return dict(labels.class_names), str(labels.metadata.get('format', 'labels'))
    return (dict(shared.names), shared.file.name) if shared.names else ({}, '')
