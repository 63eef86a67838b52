"""How fast are the measures of many objects?

    python -m benchmarks.shape_features [--smoke]

300 cells in 256³ voxels. Against scikit-image's regionprops with volume, centroid, axes and
solidity, which has neither a surface, a sphericity nor cavities; ours with all of that, and with
the textures of an image on top.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import ndimage
from skimage import measure as skimage_measure

from benchmarks.harness import Case, main
from benchmarks.scenes import make_cells
from sxt_jax.measure import Texture, objects

SHAPE, SMOKE_SHAPE = (256, 256, 256), (40, 48, 48)
N_CELLS, N_SMOKE = 300, 3
VOXEL_SIZE_NM = (20.0, 20.0, 20.0)
_THEIRS = ('label', 'area', 'centroid', 'axis_major_length', 'axis_minor_length', 'solidity')


def make_image(shape: tuple[int, int, int]) -> np.ndarray:
    """Smooth noise, float32."""
    noise = np.random.default_rng(0).standard_normal(shape, np.float32)
    return ndimage.gaussian_filter(noise, 1.5)


def checked(cells: np.ndarray, solidity: str = 'solidity', volume: str = 'n_voxels') -> Callable:
    """A check of a table: every object is there with all its voxels, and cells are quite convex."""
    n_voxels = np.bincount(cells.ravel())[1:]

    def check(table: dict[str, np.ndarray]) -> None:
        np.testing.assert_array_equal(table[volume], n_voxels[n_voxels > 0])
        assert len({len(column) for column in table.values()}) == 1
        assert 0.85 < np.median(table[solidity]) <= 1
        assert all(np.isfinite(column).all() for column in table.values())

    return check


def make_cases(smoke: bool) -> list[Case]:
    """The baseline, ours, and ours with textures."""
    shape, n_cells = (SMOKE_SHAPE, N_SMOKE) if smoke else (SHAPE, N_CELLS)
    cells, image = make_cells(shape, n_cells), make_image(shape)

    def theirs() -> dict[str, np.ndarray]:
        return skimage_measure.regionprops_table(cells, properties=_THEIRS, spacing=VOXEL_SIZE_NM)

    def ours(**options: Any) -> dict[str, np.ndarray]:
        return objects(cells, voxel_size_nm=VOXEL_SIZE_NM, **options)

    def case(name: str, run: Callable[[], Any], check: Callable[[Any], None]) -> Case:
        return Case(name, run, check, n_cells, 'objects/s', shape, str(cells.dtype), compiles=False)

    voxel = float(np.prod(VOXEL_SIZE_NM))

    def check_theirs(table: dict[str, np.ndarray]) -> None:
        checked(cells, volume='area')({**table, 'area': np.rint(table['area'] / voxel)})

    return [
        case('regionprops of scikit-image', theirs, check_theirs),
        case('measure.objects', ours, checked(cells)),
        case(
            'measure.objects, textures',
            lambda: ours(image=image, texture=Texture()),
            checked(cells),
        ),
    ]


if __name__ == '__main__':
    main('shape_features', make_cases)
