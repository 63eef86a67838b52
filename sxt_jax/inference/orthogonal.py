"""Flows of a volume from a network of slices, which sees it in three orientations.

As in Cellpose (Stringer et al. 2021; `_run_3D` of cellpose/core.py and cellpose/models.py, version
2.2.3): the network takes the xy, xz and yz slices, each component of the flows comes from the two
orientations whose slices hold it, and the logits of the foreground from all three. Published are
sums; these are means, which point the same way and have the same sign.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh
from scipy.special import expit

from sxt_jax.core.errors import InputError
from sxt_jax.core.slicing import planes, turn
from sxt_jax.core.volume import ArrayLike
from sxt_jax.inference.apply import ApplyFn, Heads, side_multiple
from sxt_jax.inference.mirrored import mirrored
from sxt_jax.inference.tiled import predict_slabs
from sxt_jax.inference.windows import Blend
from sxt_jax.ops.resample import resize

HEADS = ('foreground_logit', 'flows')  # what a network of slices must give


def predict_orthogonal(
    apply_fn: ApplyFn,
    variables: Any,
    image: ArrayLike,
    *,
    tile: Sequence[int],
    overlap: Sequence[int],
    blend: Blend = 'cosine',
    batch_size: int | None = None,
    device_mesh: Mesh | None = None,
    scale: Sequence[float] = (1.0, 1.0, 1.0),
    mirror: str = '',
    on_slices: Callable[[int], Any] | None = None,
) -> dict[str, np.ndarray]:
    """Foreground and flows of a volume from its xy, xz and yz slices, in host memory.

    An image of one slice is seen in that slice alone. Slices across z are read as often as there
    are slices of a tile: a file should be in memory.

    Args:
      apply_fn: (variables, tiles [b, n, rows, columns, c]) → 'foreground_logit' [b, n, rows,
        columns, 1] and 'flows' [b, n, rows, columns, 2], from `make_apply_fn` of a 2-D network.
      variables: what the network has learnt.
      image: [z, y, x] or [z, y, x, c], normalised.
      tile: (slices, rows, columns) in each orientation; along an axis that is shorter, no more than
        it needs.
      overlap: of neighbouring tiles, likewise.
      blend, batch_size, device_mesh: see `predict_slabs`.
      scale: pixels of the network's slices in a voxel, along z, y and x: slices are resized to them
        (linearly), and what is found in them back. For voxels that are not cubes, and for cells
        larger or smaller than those that the network knows.
      mirror: axes of the volume ('zyx') over whose mirror images each slice is averaged.
      on_slices: called with the number of slices done.

    Returns:
      'foreground' [z, y, x, 1], the sigmoid of the mean logit, and 'flows' [z, y, x, 3] in voxels;
      of one slice [1, y, x, 2]. float32.

    Raises:
      InputError: see `predict_slabs`; a network without these heads.
    """
    _check(image, tile, overlap, scale)
    mirrored(apply_fn, axes=mirror)  # tells if these are no axes
    shape, orders = tuple(image.shape[:3]), planes(image.shape).values()
    logit, flows = np.zeros(shape, np.float32), np.zeros((*shape, 3), np.float32)
    flow_share = 1 / min(2, len(orders))  # one slice is seen once, else two planes hold each axis
    for order in orders:
        view = _Resized(turn(image, order), [scale[axis] for axis in order[1:]])
        axes = ''.join('zyx'[i] for i in (1, 2) if 'zyx'[order[i]] in mirror)
        seen = mirrored(apply_fn, axes=axes) if axes else apply_fn
        sides = _fit_tiles(tile, overlap, view.shape, side_multiple(seen))
        logit_view, flow_view = logit.transpose(order), flows.transpose(*order, 3)
        for slab in predict_slabs(
            seen, variables, view,
            tile=sides[0], overlap=sides[1], blend=blend,
            batch_size=batch_size, device_mesh=device_mesh, finish=_keep,
        ):  # fmt: skip
            rows, heads = slice(slab.z_start, slab.z_stop), view.resize_back(slab.heads)
            logit_view[rows] += heads['foreground_logit'][..., 0] / len(orders)
            for i, axis in enumerate(order[1:]):
                flow_view[rows, ..., axis] += flow_share * heads['flows'][..., i]
            if on_slices is not None:
                on_slices(slab.z_stop - slab.z_start)
    foreground = expit(logit, out=logit)[..., None]
    return {'foreground': foreground, 'flows': flows if len(orders) > 1 else flows[..., 1:]}


def _check(
    image: ArrayLike, tile: Sequence[int], overlap: Sequence[int], scale: Sequence[float]
) -> None:
    if len(image.shape) not in (3, 4):
        raise InputError('image', f'shape {tuple(image.shape)}', '[z, y, x] or [z, y, x, c]')
    for name, sizes in (('tile', tile), ('overlap', overlap), ('scale', scale)):
        if len(sizes) != 3:
            raise InputError(name, f'{sizes}', 'three numbers')
    if not all(0 < factor < np.inf for factor in scale):
        raise InputError('scale', f'{tuple(scale)}', 'positive numbers')


def _keep(heads: Heads) -> Heads:
    if missing := [name for name in HEADS if name not in heads]:
        raise InputError('network', f'no {missing[0]}', f'the heads {", ".join(HEADS)}')
    if heads['flows'].shape[-1] != 2:
        found = f'flows of {heads["flows"].shape[-1]} components'
        raise InputError('network', found, 'a 2-D network, whose flows lie in the slice')
    return {name: heads[name] for name in HEADS}


def _fit_tiles(
    tile: Sequence[int], overlap: Sequence[int], shape: Sequence[int], multiple: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Tile and overlap that do not reach further beyond the volume than the network needs."""
    sides = [min(t, -(-n // m) * m) for t, n, m in zip(tile, shape, multiple, strict=False)]
    room = [s - m for s, m in zip(sides, multiple, strict=True)]
    return sides, [min(o, r) for o, r in zip(overlap, room, strict=True)]


class _Resized:
    """Slices with another number of rows and columns (an `ArrayLike`); the slices stay."""

    def __init__(self, slices: ArrayLike, scale: Sequence[float]) -> None:
        self._slices, self._sides = slices, slices.shape[1:3]
        sides = [max(1, round(n * s)) for n, s in zip(self._sides, scale, strict=True)]
        # Of whole pixels: what is read is resized by this, and flows come back by the same.
        self._factors = np.array([m / n for n, m in zip(self._sides, sides, strict=True)])
        self.shape = (slices.shape[0], *sides, *slices.shape[3:])
        self.dtype = slices.dtype

    def __getitem__(self, index: Any) -> np.ndarray:
        rows = index[0] if isinstance(index, tuple) else index
        part = np.asarray(self._slices[(rows, *(slice(None),) * (len(self.shape) - 1))])
        return _resize(part, self.shape[1:3])

    def resize_back(self, heads: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Heads on the grid of the volume; flows in its voxels, as long as they were."""
        if (self._factors == 1).all():
            return heads
        flows = _resize(heads['flows'], self._sides)
        in_voxels = flows / self._factors.astype(np.float32)
        length = np.linalg.norm(in_voxels, axis=-1, keepdims=True)
        in_voxels *= np.linalg.norm(flows, axis=-1, keepdims=True) / np.maximum(length, 1e-12)
        logit = _resize(heads['foreground_logit'], self._sides)
        return {'foreground_logit': logit, 'flows': in_voxels}


def _resize(slices: np.ndarray, sides: Sequence[int]) -> np.ndarray:
    if slices.shape[1:3] == tuple(sides):
        return slices
    return np.asarray(resize(slices, (len(slices), *sides)))
