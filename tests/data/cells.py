"""A small library of cells, whose labels have the same materials under different values."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sxt_jax.core.volume import Volume
from sxt_jax.io import write_volume
from tests.io.samples import amira_header

SHAPE = (6, 8, 10)
SIZE = (30.0, 30.0, 30.0)


def put_cell(folder: Path, name: str, values: tuple[int, ...], *, size=SIZE, names=None) -> None:
    """An image, and labels in which each value fills some planes."""
    labels = np.array(values, 'u1')[np.indices(SHAPE)[2] % len(values)]
    image = np.random.default_rng(len(name)).random(SHAPE, 'f4')
    write_volume(folder / f'{name}.tif', Volume(image, size))
    write_volume(folder / f'{name}.labels.tif', Volume(labels, size, class_names=names))


def write_library(root: Path) -> Path:
    """Four cells of two laboratories: named by a folder's file, a file, the labels, and Amira."""
    put_cell(root / 'a', 'c1', (0, 1, 2, 255))
    (root / 'a' / 'materials.yaml').write_text(
        'materials: {nucleus: 1, Lipid_Body: 2}\nignore: 255'
    )
    put_cell(root / 'a', 'c2', (0, 1, 2, 3))
    (root / 'a' / 'c2.labels.yaml').write_text(
        'materials: {lipid body: 1, euchromatin: 2, heterochromatin: 3}'
    )
    put_cell(root / 'b', 'c3', (0, 5, 7, 8), names={0: 'Exterior', 5: 'Nucleus', 7: 'lipid_body',
                                                    8: 'vesicle', 9: 'starch'})  # fmt: skip
    labels = (np.indices((5, 6, 7)).sum(0) // 4 % 3).astype('u1')
    (root / 'c').mkdir()
    (root / 'c' / 'c4.labels').write_bytes(amira_header((5, 6, 7)) + labels.tobytes())
    image = np.random.default_rng(4).random(labels.shape, 'f4')
    write_volume(root / 'c' / 'c4.mrc', Volume(image, (100.0, 50.0, 100.0)))
    return root
