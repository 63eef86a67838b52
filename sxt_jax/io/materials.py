"""Names of label values, where the files of the labels do not tell them: YAML files beside these.

`X.labels.yaml` or `X.yaml` beside `X.labels.tif` tells of this volume, and wins over what the
volume itself says. `materials.yaml` in the folder of the labels, or in one above it, tells of all
volumes there that say nothing themselves. Every key may be left out:

    materials:                   # label value of each name, or several
      nucleus: 1
      mitochondria: [2, 5]
    ignore: 255                  # label value of voxels that nobody labelled, or several
    voxel_size_nm: [30, 30, 30]  # z, y, x; one number for cubes
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import VoxelSize
from sxt_jax.io.files import split_dataset
from sxt_jax.io.pairing import label_stem

FOLDER_FILE = 'materials.yaml'
_KEYS = ('materials', 'ignore', 'voxel_size_nm')
_RESERVED = re.compile('[,+=]|^rest$')  # what stands between names where classes are made of them


@dataclasses.dataclass(frozen=True)
class MaterialFile:
    """What a YAML file tells of label volumes; None is what it does not tell.

    Attributes:
      file: its path.
      names: of label values.
      ignored: label values of voxels nobody labelled.
      voxel_size_nm: (z, y, x).
    """

    file: Path
    names: Mapping[int, str] | None = None
    ignored: frozenset[int] | None = None
    voxel_size_nm: VoxelSize | None = None


def find_material_file(labels: str | Path) -> Path | None:
    """The YAML file of one label volume, beside it; the one with the longest name of several."""
    path, _ = split_dataset(labels)
    stem = path.stem.removesuffix('.ome')
    stems = dict.fromkeys((path.name, stem, label_stem(path) or stem))
    return next((f for s in stems if (f := path.with_name(f'{s}.yaml')).is_file()), None)


def find_folder_file(labels: str | Path, top: str | Path) -> Path | None:
    """`materials.yaml` of the folder of a label volume, or of the nearest above it, up to `top`."""
    path, top = split_dataset(labels)[0], Path(top)
    folders = [f for f in path.parents if f == top or top in f.parents]
    return next((f for folder in folders if (f := folder / FOLDER_FILE).is_file()), None)


def read_material_file(file: Path) -> MaterialFile:
    """What a YAML file tells (see above).

    Raises:
      InputError: it is no YAML, has other keys or a key twice, or values that make no sense.
    """
    try:
        fields = yaml.load(file.read_text(encoding='utf-8'), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(file, f'cannot be read: {error}', 'a YAML file') from error
    if not isinstance(fields, dict) or not set(fields) <= set(_KEYS):
        found = ', '.join(map(str, fields)) if isinstance(fields, dict) else repr(fields)
        raise InputError(file, f'holds {found}', f'keys among {", ".join(_KEYS)}')
    names = _read_names(file, fields['materials']) if 'materials' in fields else None
    ignored = _read_values(file, 'ignore', fields['ignore']) if 'ignore' in fields else None
    if both := set(names or ()).intersection(ignored or ()):
        found = f'value {min(both)} is {(names or {})[min(both)]} and ignored'
        raise InputError(file, found, 'one of them')
    size = _read_size(file, fields['voxel_size_nm']) if 'voxel_size_nm' in fields else None
    return MaterialFile(file, names, None if ignored is None else frozenset(ignored), size)


class _Loader(yaml.SafeLoader):
    """Refuses keys that are given twice, of which YAML would take the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f'{key!r} is given twice')
        return super().construct_mapping(node, deep=deep)


def _read_names(file: Path, materials: Any) -> dict[int, str]:
    if not isinstance(materials, dict) or not materials:
        found = f'materials {materials!r}'
        raise InputError(file, found, "names and label values like 'nucleus: 1'")
    names: dict[int, str] = {}
    for name, values in materials.items():
        if not isinstance(name, str) or not name.strip() or _RESERVED.search(name.strip()):
            raise InputError(file, f'material {name!r}', 'a name, without + , and =; not "rest"')
        for value in _read_values(file, name, values):
            if value in names:
                found = f'value {value} is {names[value]} and {name}'
                raise InputError(file, found, 'one material a value')
            names[value] = name.strip()
    return names


def _read_values(file: Path, name: str, values: Any) -> list[int]:
    """One label value, or a list of them."""
    listed = values if isinstance(values, list) else [values]
    if not listed or not all(type(v) is int for v in listed):
        raise InputError(file, f'{name}: {values!r}', 'a label value such as 1, or [1, 2]')
    return listed


def _read_size(file: Path, size: Any) -> VoxelSize:
    sides = size if isinstance(size, list) else [size] * 3
    if len(sides) == 3 and all(type(s) in (int, float) and 0 < s < np.inf for s in sides):
        z, y, x = (float(s) for s in sides)
        return z, y, x
    raise InputError(file, f'voxel_size_nm: {size!r}', 'sides in nm such as [30, 20, 20], or one')
