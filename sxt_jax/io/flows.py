"""Flow volumes (gradient maps of cells) that this library or others have saved."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import Volume
from sxt_jax.io import tiff
from sxt_jax.io.files import open_volume


@dataclasses.dataclass(frozen=True)
class Flows:
    """Flows toward the centre of the cell.

    Attributes:
      flows: axes 'zyxc', components (z, y, x), or (y, x) for an image of one slice; float32.
      foreground: [z, y, x] float32, where the same file holds it.
    """

    flows: Volume
    foreground: np.ndarray | None


def read_flows(
    paths: Sequence[str | Path],
    *,
    components: str = 'zyx',
    away: bool = False,
    dataset: str | None = None,
) -> Flows:
    """Flows from one file with all components, or from a file per component.

    In one file the last three channels (of an image of one slice: two) are the flows, and the
    channel before them, if there is one, the foreground. So [foreground, z, y, x] can be read as
    well as what Cellpose writes: `_dP…tif` with [z, y, x] and `_flows.tif` with [labels,
    foreground, y, x], channels first and without names in both.

    Args:
      paths: one file, or one for each of `components`.
      components: order of the components in the files, such as 'zyx' or 'xyz'; of one slice, 'z' is
        left out.
      away: the flows point away from the centre, as those of Cellpose3D; they are turned.
      dataset: name of the data set in HDF5 and OME-Zarr files.

    Raises:
      InputError: a file is no such volume, or the files do not fit each other.
    """
    if sorted(components) != ['x', 'y', 'z']:
        raise InputError('components', repr(components), "the letters of 'zyx' in any order")
    if len(paths) == 1:
        volume, data = _read_channels(Path(paths[0]), dataset)
    elif len(paths) in (2, 3):
        volume, data = _read_components([Path(path) for path in paths], dataset)
    else:
        raise InputError('flows', f'{len(paths)} files', 'one, or one for each component')
    n_dims = 3 if data.shape[0] > 1 else 2
    if data.shape[-1] < n_dims:
        found = f'{data.shape[-1]} channels of {data.shape[:3]} voxels'
        raise InputError(paths[0], found, f'at least {n_dims}, the components of the flows')
    stored = components.replace('z', '') if n_dims == 2 else components
    order = [data.shape[-1] - n_dims + stored.index(axis) for axis in 'zyx'[-n_dims:]]
    flows = np.ascontiguousarray(data[..., order], np.float32)
    foreground = None
    if data.shape[-1] > n_dims:
        foreground = np.asarray(data[..., -n_dims - 1], np.float32)
    return Flows(volume.with_data(-flows if away else flows, axes='zyxc'), foreground)


def _read_channels(path: Path, dataset: str | None) -> tuple[Volume, np.ndarray]:
    if path.suffix.lower() in tiff.SUFFIXES and path.exists():
        volume = tiff.open_tiff(path, dataset=dataset, channels_first=True).load()
    else:
        volume = open_volume(path, dataset=dataset).load()
    if 'c' not in volume.axes:
        raise InputError(path, 'one channel', 'one for each component of the flows')
    return volume, volume.data


def _read_components(paths: Sequence[Path], dataset: str | None) -> tuple[Volume, np.ndarray]:
    volumes = [open_volume(path, dataset=dataset).load() for path in paths]
    for path, volume in zip(paths, volumes, strict=True):
        if volume.axes != 'zyx' or volume.shape != volumes[0].shape:
            found = f'{volume.data.shape} with axes {volume.axes}'
            raise InputError(path, found, f'{volumes[0].shape}, one component')
    return volumes[0], np.stack([volume.data for volume in volumes], -1)
