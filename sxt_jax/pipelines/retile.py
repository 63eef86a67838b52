"""A trained network applied in another way than its checkpoint says."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from sxt_jax.core.errors import InputError
from sxt_jax.data.targets import CELLS
from sxt_jax.inference.apply import side_multiple
from sxt_jax.inference.rotated import rotated
from sxt_jax.inference.windows import BLENDS
from sxt_jax.pipelines.segmenter import Segmenter


def retile(
    segmenter: Segmenter,
    *,
    tile: Sequence[int] | None = None,
    overlap: Sequence[int] | None = None,
    blend: str | None = None,
    rotate: bool = False,
) -> Segmenter:
    """The same network, applied in another way.

    Of a cascade all stages are turned and blended so; tiles are those of the last, since each stage
    has a grid of its own.

    Args:
      segmenter: as the checkpoint has it.
      tile: (z, y, x) sides of the tiles that images are cut into, whole slices included.
      overlap: of neighbouring tiles; None: as large a part of the tile as before.
      blend: weights where tiles overlap, one of `BLENDS`.
      rotate: whether to average over the four quarter turns about z.

    Raises:
      InputError: sides that the network does not take, an unknown blend, or flows to be turned.
    """
    tiling, before = dict(segmenter.tiling), segmenter.tiling
    if tile is not None or overlap is not None:
        tiling['tile'] = tuple(before['tile'] if tile is None else tile)
        old = zip(tiling['tile'], before['overlap'], before['tile'], strict=False)
        tiling['overlap'] = tuple(n * o // t for n, o, t in old) if overlap is None else overlap
        _check_tiling(tiling, side_multiple(segmenter.apply_fn))
    if blend is not None:
        if blend not in BLENDS:
            raise InputError('blend', repr(blend), f'one of {", ".join(BLENDS)}')
        tiling['blend'] = blend
    if rotate and (segmenter.classes is CELLS or segmenter.slices):
        raise InputError('rotate', 'with instances', 'labels of classes: flows are not turned')
    earlier = segmenter.earlier
    return dataclasses.replace(
        segmenter,
        earlier=retile(earlier, blend=blend, rotate=rotate) if earlier is not None else None,
        tiling=tiling,
        apply_fn=rotated(segmenter.apply_fn) if rotate else segmenter.apply_fn,
        whole_slices=segmenter.whole_slices and tile is None,
    )


def _check_tiling(tiling: Mapping[str, Any], multiple: Sequence[int]) -> None:
    tile, overlap = tiling['tile'], tiling['overlap']
    if len(tile) != 3 or any(t < 1 or t % m for t, m in zip(tile, multiple, strict=True)):
        raise InputError('tile', f'{tuple(tile)}', f'multiples of {multiple} (z, y, x)')
    room = tuple(t - m for t, m in zip(tile, multiple, strict=True))  # tiles start at multiples
    if len(overlap) != 3 or any(not 0 <= o <= r for o, r in zip(overlap, room, strict=True)):
        raise InputError('overlap', f'{tuple(overlap)}', f'at most {room} with tiles of {tile}')
