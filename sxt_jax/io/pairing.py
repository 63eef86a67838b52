"""Which label file belongs to which image."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from sxt_jax.core.errors import InputError
from sxt_jax.io import hdf5, zarr
from sxt_jax.io.files import PAIR_FOLDERS, is_volume, mark_dataset, split_dataset, with_dataset
from sxt_jax.io.tiff import natural_order

LABEL_MARKS = ('.labels', '_labels', '-labels', '.label', '_label', '-label', '.mask', '_mask')
_CHANNEL = re.compile(r'_0000$')


@dataclasses.dataclass(frozen=True)
class Pair:
    """An image with its labels; `name` is the stem they share."""

    image: Path
    labels: Path
    name: str


@dataclasses.dataclass(frozen=True)
class Unpaired:
    """A file whose partner is missing, and what was looked for."""

    file: Path
    looked_for: str


def pair(
    images: str | Path,
    labels: str | Path | None = None,
    *,
    dataset: str | None = None,
    label_dataset: str | None = None,
) -> list[Pair]:
    """Pair images with labels; formats may differ.

    Understood are: two folders with the same stems (`_0000` of nnU-Net and label marks such as
    `.labels` are ignored); one folder that holds `images` and `labels` or `imagesTr` and
    `labelsTr`; one folder with `X.tif` and `X.labels.tif` (also `_labels`, `_label`, `_mask`, …);
    HDF5 files with data sets `raw` and `label`; OME-Zarr images with one label image; two files.

    Args:
      images: a folder or a volume.
      labels: a folder or a volume; None: with the images.
      dataset: of the images, in those that are HDF5 files or OME-Zarr.
      label_dataset: of the labels, likewise.

    Raises:
      InputError: nothing to pair, or a file without partner.
    """
    pairs, unpaired = find_pairs(images, labels, dataset=dataset, label_dataset=label_dataset)
    if unpaired:
        more = f' ({len(unpaired) - 1} more files have none)' if len(unpaired) > 1 else ''
        raise InputError(unpaired[0].file, f'has no partner{more}', unpaired[0].looked_for)
    return pairs


def find_pairs(
    images: str | Path,
    labels: str | Path | None = None,
    *,
    dataset: str | None = None,
    label_dataset: str | None = None,
) -> tuple[list[Pair], list[Unpaired]]:
    """As `pair`, with the files that have no partner beside the pairs that were found.

    Raises:
      InputError: a folder is missing, or there is nothing to pair.
    """
    image_path = Path(images)
    for path in (image_path, *([Path(labels)] if labels else [])):
        if not split_dataset(path)[0].exists():
            raise InputError(path, 'does not exist', 'a folder of volumes, or a volume')
    if labels is not None:
        pairs, unpaired = _pair_two(image_path, Path(labels), dataset, label_dataset)
    else:
        pairs, unpaired = _pair_folder(image_path, dataset, label_dataset)
    named = [
        Pair(with_dataset(p.image, dataset), with_dataset(p.labels, label_dataset), p.name)
        for p in pairs
    ]
    return named, unpaired


def find_pairs_below(
    folder: str | Path, *, dataset: str | None = None, label_dataset: str | None = None
) -> tuple[list[Pair], list[Unpaired]]:
    """As `find_pairs`, of a folder and all folders within it.

    Names of pairs tell the folder, as 'laboratory/cell_1'. Folders of images alone are passed over.

    Args:
      folder: one, or a volume that holds its labels.
      dataset, label_dataset: as `find_pairs` takes them.

    Raises:
      InputError: it is missing, or there is nothing to pair.
    """
    datasets = {'dataset': dataset, 'label_dataset': label_dataset}
    pairs: list[Pair] = []
    unpaired: list[Unpaired] = []
    for place in _folders(Path(folder), set()):
        if holds_pairs(place, **datasets) or any(map(label_stem, _volumes(place))):
            found, missing = find_pairs(place, **datasets)
            prefix = place.relative_to(folder).as_posix() if place != Path(folder) else '.'
            pairs += [dataclasses.replace(p, name=str(Path(prefix, p.name))) for p in found]
            unpaired += missing
    return (pairs, unpaired) if pairs else find_pairs(folder, **datasets)


def _folders(path: Path, seen: set[Path]) -> Iterator[Path]:
    """A folder and those within that are no volumes, each once; a path that is none by itself."""
    yield path
    seen.add(path.resolve())
    if not _holds_volumes(path):
        return
    used = _pair_subfolders(path) or ()
    for sub in sorted(path.iterdir(), key=natural_order):
        hidden = sub.name.startswith('.') or sub in used
        if sub.is_dir() and not hidden and not is_volume(sub) and sub.resolve() not in seen:
            yield from _folders(sub, seen)


def holds_pairs(
    path: str | Path, *, dataset: str | None = None, label_dataset: str | None = None
) -> bool:
    """Whether a path is meant to hold images with their labels, whatever is wrong with them.

    Args:
      path, dataset, label_dataset: as `find_pairs` takes them.
    """
    path = Path(path)
    if _pair_subfolders(path):
        return True
    files = _volumes(path)
    marked = len(without_labels(files)) < len(files)
    return marked or any(_own_labels(p, dataset, label_dataset) for p in files)


def _pair_subfolders(path: Path) -> tuple[Path, Path] | None:
    """The folders of images and of labels within a folder, where it has both."""
    for images, labels in PAIR_FOLDERS:
        if (path / images).is_dir() and (path / labels).is_dir():
            return path / images, path / labels
    return None


def _pair_folder(
    path: Path, dataset: str | None, label_dataset: str | None
) -> tuple[list[Pair], list[Unpaired]]:
    folders = _pair_subfolders(path)
    return _pair_folders(*folders) if folders else _pair_within(path, dataset, label_dataset)


def _pair_two(
    images: Path, labels: Path, dataset: str | None, label_dataset: str | None
) -> tuple[list[Pair], list[Unpaired]]:
    """Two folders by their stems; two volumes, of which one may be a folder of slices, at once."""
    if _holds_volumes(images) and _holds_volumes(labels):
        return _pair_folders(images, labels)
    for path in (images, labels):
        if _holds_volumes(path) and not is_volume(path):
            raise InputError(path, 'is a folder of volumes', 'two volumes, or two folders')
    image, label = mark_dataset(images, dataset), mark_dataset(labels, label_dataset)
    return [Pair(image, label, _stem(images))], []


def _holds_volumes(path: Path) -> bool:
    """Whether a path is a folder whose files are taken one by one."""
    return path.is_dir() and path.suffix.lower() not in zarr.SUFFIXES


def _volumes(folder: Path) -> list[Path]:
    """Every volume of a folder by itself, single slices too."""
    if not _holds_volumes(folder):
        return [folder]
    return sorted((p for p in folder.iterdir() if is_volume(p)), key=natural_order)


def _stem(path: Path) -> str:
    """Name without its suffix, nor the `.ome` before it."""
    return split_dataset(path)[0].stem.removesuffix('.ome')


def label_stem(path: Path) -> str | None:
    """Stem of the image that a file with a label mark belongs to; None without mark."""
    stem = _stem(path)
    if path.suffix.lower() == '.labels':  # the mark is Amira's suffix itself
        return stem
    for mark in LABEL_MARKS:
        if stem.lower().endswith(mark) and len(stem) > len(mark):
            return stem[: -len(mark)]
    return None


def without_labels(files: Sequence[Path]) -> list[Path]:
    """The files but for labels that lie beside their images."""
    images = {_stem(path) for path in files if label_stem(path) is None}
    return [path for path in files if label_stem(path) not in images]


def _by_stem(files: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    result: dict[str, Path] = {}
    for stem, path in files:
        if stem in result:
            raise InputError(path, f'has the same stem as {result[stem].name}', 'one file a stem')
        result[stem] = path
    return result


def _match(
    images: Mapping[str, Path], labels: Mapping[str, Path], *, hint: tuple[str, str]
) -> tuple[list[Pair], list[Unpaired]]:
    pairs = [Pair(images[k], labels[k], k) for k in images if k in labels]
    missing = [Unpaired(p, hint[0].format(k)) for k, p in images.items() if k not in labels]
    missing += [Unpaired(p, hint[1].format(k)) for k, p in labels.items() if k not in images]
    return pairs, missing


def _pair_folders(image_folder: Path, label_folder: Path) -> tuple[list[Pair], list[Unpaired]]:
    images = _by_stem((_CHANNEL.sub('', _stem(p)), p) for p in _volumes(image_folder))
    files = [(_stem(p), p) for p in _volumes(label_folder)]
    labels = _by_stem((k if k in images else label_stem(p) or k, p) for k, p in files)
    if not images and not labels:
        raise InputError(image_folder, 'no volumes here', f'images with labels in {label_folder}')
    hint = (f'labels named {{}}.* in {label_folder}', f'an image named {{}}.* in {image_folder}')
    return _match(images, labels, hint=hint)


def _pair_within(
    path: Path, dataset: str | None, label_dataset: str | None
) -> tuple[list[Pair], list[Unpaired]]:
    files = _volumes(path)
    own = {p: datasets for p in files if (datasets := _own_labels(p, dataset, label_dataset))}
    pairs = [Pair(*datasets, _stem(p)) for p, datasets in own.items()]
    rest = [p for p in files if p not in own]
    labels = _by_stem((stem, p) for p in rest if (stem := label_stem(p)) is not None)
    images = _by_stem((_stem(p), p) for p in rest if p not in labels.values())
    if not files:
        names = ' or '.join('+'.join(f) for f in PAIR_FOLDERS)
        raise InputError(path, 'no volumes here', f'pairs X.tif, X.labels.tif, or folders {names}')
    hint = ('labels named {0}.labels.* or {0}_labels.* beside it', 'an image named {}.* beside it')
    matched, missing = _match(images, labels, hint=hint)
    return [*pairs, *matched], missing


def _own_labels(
    path: Path, dataset: str | None, label_dataset: str | None
) -> tuple[Path, Path] | None:
    """Image and labels that one file holds both."""
    suffix = path.suffix.lower()
    if suffix in hdf5.SUFFIXES:
        try:
            names = hdf5.list_datasets(path)
        except InputError:
            return None  # told when it is opened
        image, wanted = dataset or 'raw', (label_dataset,) if label_dataset else ('label', 'labels')
        label = next((n for n in wanted if n in names), None)
        if image in names and label:
            return with_dataset(path, image), with_dataset(path, label)
    if suffix in zarr.SUFFIXES:
        try:
            names = zarr.list_labels(path)
        except InputError:
            return None
        label = label_dataset or (names[0] if len(names) == 1 else None)
        if label in names:
            return path, with_dataset(path, label)
    return None
