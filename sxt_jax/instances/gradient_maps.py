"""Gradient maps of cells: at each voxel of a cell a vector to the cell's centre."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from sxt_jax.core.errors import InputError
from sxt_jax.instances.cells import Cells, find_cells
from sxt_jax.instances.heat import SOURCE, spread_heat

KINDS = ('heat', 'tanh', 'span')

# Added to the norm, as published.
FADE = 1e-60 * SOURCE


def labels_to_flows(
    labels: ArrayLike, *, kind: str = 'heat', width: float | Sequence[float] = 5.0
) -> Array:
    """Gradient maps of the cells of a label image, pointing to the cells' centres.

    - 'heat' (Cellpose, Stringer et al. 2021): heat spreads from the centre and stays inside the
      cell (`heat.spread_heat`); its central difference, divided by its length. As published,
      the difference reads the neighbours whatever their label, 0 outside the image. Equal to
      cellpose/dynamics.py (MouseLand/cellpose, 849ca11f) in float64 up to 1e-3, where
      differences almost cancel, and to 1e-5 in 99.9 % of the voxels.
    - 'tanh' (Cellpose3D, Eschweiler & Stegmaier 2021, as published in utils/h5_converter.py of
      stegmaierj/Cellpose3D, e2f8cb49): per axis tanh((centroid − index) / width). It is not
      normalised; only the sign is turned, so that it points to the centre.
    - 'span' (the same paper, section 2 and figure 1: "a hyperbolic tangent spanning between cell
      boundaries in each spatial direction"): per axis tanh(2 u), where u runs linearly from 1 at
      the first face of the cell's bounding box over 0 at the centroid to −1 at the last face. So
      every cell reaches ± 0.96 at its boundary whatever its size, and a cell that reaches 10
      voxels from its centroid gets the values of 'tanh'. The bounding box, and not the chord
      through each voxel, because then all three components vanish at one point only.

    All voxels of an id are one cell. If it is in several pieces, 'tanh' and 'span' point to the
    common centroid; heat stays in the piece with the centre, and the others get zero, but where
    they touch other cells. A cell of one voxel gets zero. Boxes, centroids and the rooms for heat
    are found on the host (their sizes depend on the values), the rest is jitted: not for use
    inside jit.

    Args:
      labels: [z, y, x] or [y, x] integers ≥ 0, 0 background; any ids.
      kind: 'heat', 'tanh' or 'span'.
      width: for 'tanh', voxels per axis (one number: for all) in which it rises to 0.76. Smaller
        along axes with larger voxels.

    Returns:
      [z, y, x, 3] or [y, x, 2] float32, components in the order of the axes, zero in the
      background.

    Raises:
      InputError: unknown kind, widths not positive, or labels that `cells.find_cells` refuses.
    """
    if kind not in KINDS:
        raise InputError('kind', repr(kind), ' or '.join(map(repr, KINDS)))
    cells = find_cells(labels)
    if not len(cells):
        return jnp.zeros((*cells.labels.shape, cells.rank), jnp.float32)
    if kind == 'heat':
        return _unit_gradient(spread_heat(cells), cells.labels)
    if kind == 'tanh':
        steepness = np.broadcast_to(1 / _widths(width, cells.rank), (2, *cells.centroid.shape))
    else:
        before, behind = cells.centroid - (cells.start - 0.5), cells.stop - 0.5 - cells.centroid
        steepness = 2 / np.stack([before, behind])
    return _tanh_to_centroids(cells.labels, *_tables(cells, steepness))


@jax.jit
def _unit_gradient(heat: Array, labels: Array) -> Array:
    """Central differences with zeros around, of unit length in cells and zero elsewhere."""
    rank, shape = heat.ndim, labels.shape
    heat = jnp.pad(heat.reshape(-1, *shape[-2:]), 1)  # an image is a volume of one slice
    labels = labels.reshape(-1, *shape[-2:])

    def of_slice(z: Array) -> Array:
        before, here, after = lax.dynamic_slice_in_dim(heat, z, 3)
        parts = [
            (after - before)[1:-1, 1:-1],
            (here[2:] - here[:-2])[:, 1:-1],
            (here[:, 2:] - here[:, :-2])[1:-1],
        ][-rank:]
        inverse = jnp.where(labels[z] > 0, 1 / (_norm(parts) + FADE), 0)
        return jnp.stack([part * inverse for part in parts], axis=-1)

    # Slice by slice: of the whole volume at once, XLA would keep four copies.
    return lax.map(of_slice, jnp.arange(len(labels))).reshape(*shape, rank)


def _norm(parts: list[Array]) -> Array:
    """Length of vectors given by component; their squares may lie outside float32."""
    largest = functools.reduce(jnp.maximum, map(jnp.abs, parts))
    scale = 1 / jnp.where(largest > jnp.finfo(jnp.float32).tiny, largest, 1)
    return largest * jnp.sqrt(sum((part * scale) ** 2 for part in parts))


def _widths(width: float | Sequence[float], rank: int) -> np.ndarray:
    widths = np.asarray(width, np.float64)
    if widths.shape not in ((), (rank,)) or not (widths > 0).all():
        raise InputError('width', repr(width), f'a number > 0, or {rank} of them')
    return widths


def _tables(cells: Cells, steepness: np.ndarray) -> tuple[np.ndarray, ...]:
    """By label: whole and rest of the centroid, and steepness before and behind it, [rows, rank].

    The centroid in two parts: far from 0, float32 would round an index by more than 1e-6. Rows
    are a power of two, so that little is compiled anew for another number of cells.
    """
    n = len(cells)
    rows = np.zeros((4, 2 ** n.bit_length(), cells.rank))
    rows[0, 1 : n + 1] = np.floor(cells.centroid)
    rows[1, 1 : n + 1] = cells.centroid - rows[0, 1 : n + 1]
    rows[2:, 1 : n + 1] = steepness
    return rows[0].astype(np.int32), *rows[1:].astype(np.float32)


@jax.jit
def _tanh_to_centroids(
    labels: Array, whole: Array, rest: Array, before: Array, behind: Array
) -> Array:
    parts = []
    for axis in range(labels.ndim):
        index = lax.broadcasted_iota(jnp.int32, labels.shape, axis)
        ahead = (whole[:, axis][labels] - index) + rest[:, axis][labels]
        steepness = jnp.where(ahead > 0, before[:, axis][labels], behind[:, axis][labels])
        parts.append(jnp.tanh(ahead * steepness))
    return jnp.where(labels[..., None] > 0, jnp.stack(parts, axis=-1), 0)
