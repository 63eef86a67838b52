"""Cells of a slice: the predicted interior of all cells, split by boundaries and seeds.

Machireddy et al. (2023), section 3.3. A network predicts where cells are (mask) and where they end
(boundary), but no boundary between neighbours that look alike. There, the boundaries of a labelled
slice help, moved along the optical flow. Cells then grow from seeds by watershed; parts of the mask
without a seed, such as filopodia that were cut across, are islands with numbers of their own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from scipy import ndimage
from skimage.measure import label as label_equal
from skimage.segmentation import watershed

from sxt_jax.core.errors import InputError
from sxt_jax.data.id_borders import id_borders
from sxt_jax.metrics import contingency_table

METHODS = {
    'mask': 'watershed of the mask',
    'boundary': 'with the predicted boundary',
    'flow': 'labels moved along the optical flow',
    'overlay': 'moved boundaries laid over the mask',
    'selective': 'predicted boundary, and moved boundaries where it does not part cells',
    'frames': 'likewise, and what is found is moved on from slice to slice',
}
SEEDS = ('regions', 'centroids')
_HALF = 128  # of maps from 0 to 255


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How the mask is split into cells.

    Attributes:
      method: one of `METHODS`; the last three are the published combinations.
      seeds: 'regions': cells grow from where the moved labels put them; 'centroids': from the
        centroids of the nearest labelled slice, as published, and always so without moved labels.
      margin_px: how far moved boundaries are trusted, in pixels.
      min_island_px: smaller parts of the mask that touch no cell are left out.
    """

    method: str = 'frames'
    seeds: str = 'regions'
    margin_px: int = 2
    min_island_px: int = 3

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError('method', repr(self.method), f'one of {tuple(METHODS)}')
        if self.seeds not in SEEDS:
            raise InputError('seeds', repr(self.seeds), f'one of {SEEDS}')
        if self.margin_px < 1 or self.min_island_px < 0:
            found = f'margin_px {self.margin_px}, min_island_px {self.min_island_px}'
            raise InputError('recipe', found, 'at least 1, and at least 0')

    @property
    def needs_maps(self) -> bool:
        """Whether mask and boundary are read."""
        return self.method != 'flow'

    @property
    def needs_flow(self) -> bool:
        """Whether labels are moved."""
        return self.method not in ('mask', 'boundary')

    @property
    def uses_boundary(self) -> bool:
        """Whether the predicted boundary counts."""
        return self.method in ('boundary', 'selective', 'frames')


def centroids(labels: np.ndarray) -> dict[int, tuple[int, int]]:
    """Of each cell the pixel nearest to its centroid, by id.

    Args:
      labels: [y, x] whole numbers, 0 is background.
    """
    found = {}
    ids, dense = np.unique(labels, return_inverse=True)  # boxes are listed up to the largest id
    dense = dense.reshape(labels.shape) + int(ids[0] != 0)
    numbers = ids[ids != 0]
    for k, box in enumerate(ndimage.find_objects(dense), start=1):
        assert box is not None
        places = np.argwhere(dense[box] == k)
        nearest = ((places - places.mean(0)) ** 2).sum(1).argmin()
        found[int(numbers[k - 1])] = (
            int(places[nearest, 0] + box[0].start),
            int(places[nearest, 1] + box[1].start),
        )
    return found


def split_cells(
    maps: np.ndarray | None,
    moved: np.ndarray | None,
    points: Mapping[int, tuple[int, int]],
    *,
    first_island: int,
    recipe: Recipe,
) -> np.ndarray:
    """Cells and islands of a slice.

    With seeds 'regions', a connected part of the mask, between predicted boundaries, is of the cell
    of which the moved labels say so. Where they put several cells, each grows from where it lies
    further from the others than a margin, over the predicted boundary last.

    Args:
      maps: [y, x, 2] uint8, mask and boundary, 255 is certain; None where the recipe needs none.
      moved: [y, x] int32 labels brought here by the optical flow, 0 is background; None where the
        recipe needs none.
      points: seeds of the cells, `centroids` of the nearest labelled slice.
      first_island: number of the first island, above those of cells.
      recipe: how.

    Returns:
      [y, x] int32.
    """
    if recipe.method == 'flow':
        assert moved is not None
        return moved
    assert maps is not None
    mask, boundary = maps[..., 0] >= _HALF, maps[..., 1] >= _HALF
    parts, n_parts = ndimage.label(mask & ~boundary if recipe.uses_boundary else mask)
    if moved is not None and recipe.seeds == 'regions':
        seen = boundary & recipe.uses_boundary
        markers = _region_markers(parts, n_parts, moved, seen, first_island, recipe)
        height = maps[..., 1] if recipe.uses_boundary else np.zeros_like(maps[..., 1])
    else:
        markers = _point_markers(parts, n_parts, points, first_island, recipe)
        lines = _lines(parts, boundary, moved, recipe)
        height = -ndimage.distance_transform_edt(mask & ~lines).astype(np.float32)
    _mark_whole(markers, mask, first_island, recipe.min_island_px)
    large = np.bincount(parts.ravel(), minlength=n_parts + 1) >= recipe.min_island_px
    _mark_thin(markers, mask, large[parts] & (parts > 0), first_island, recipe.min_island_px)
    return _grow(height, markers, mask)


def _grow(height: np.ndarray, markers: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Watershed from the markers over the rest of the mask.

    Of markers only the rim takes part, which gives the same: scikit-image orders all of their
    pixels, which takes most of the time where nearly all of the mask is marked.
    """
    unmarked = mask & (markers == 0)
    band = ndimage.binary_dilation(unmarked) & mask
    grown = watershed(height, markers * band, mask=band)
    return np.where(unmarked, grown, markers * mask).astype(np.int32, copy=False)


def outlines(labels: np.ndarray, *, between_cells: bool = False) -> np.ndarray:
    """Pixels of cells beside a pixel that is not of the cell.

    Args:
      labels: [y, x] whole numbers, 0 is background.
      between_cells: only beside another cell.

    Returns:
      [y, x] bool.
    """
    return id_borders(labels, between_objects=between_cells) & (labels > 0)


def _lines(
    parts: np.ndarray, boundary: np.ndarray, moved: np.ndarray | None, recipe: Recipe
) -> np.ndarray:
    """[y, x] bool, all that is laid over the mask."""
    if recipe.method == 'mask':
        return np.zeros_like(boundary)
    if recipe.method == 'boundary':
        return boundary
    assert moved is not None
    if recipe.method == 'overlay':
        return outlines(moved)
    shared = _shared(parts, _pairs(parts, moved))
    unseen = ~ndimage.binary_dilation(boundary, iterations=recipe.margin_px)
    return boundary | (outlines(moved, between_cells=True) & shared & unseen)


def _pairs(parts: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """[k, 2] parts of the mask and cells in them: half of one of both at least is of the other."""
    table = contingency_table(parts, moved)
    both = (table.true_index >= 0) & (table.pred_index >= 0)
    cell, part = table.true_index[both], table.pred_index[both]
    least = np.minimum(table.true_sizes[cell], table.pred_sizes[part])
    large = 2 * table.voxels[both] >= least
    return np.stack([table.pred_ids[part[large]], table.true_ids[cell[large]]], 1).astype(int)


def _shared(parts: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """[y, x] bool, parts of the mask with several cells."""
    return (np.bincount(pairs[:, 0], minlength=parts.max(initial=0) + 1) > 1)[parts]


def _region_markers(
    parts: np.ndarray,
    n_parts: int,
    moved: np.ndarray,
    boundary: np.ndarray,
    first_island: int,
    recipe: Recipe,
) -> np.ndarray:
    """[y, x] int32 cells and islands where there is no doubt, 0 elsewhere."""
    pairs = _pairs(parts, moved)
    n_cells = np.bincount(pairs[:, 0], minlength=n_parts + 1)
    owner = _number_islands(parts, n_cells == 0, first_island, recipe.min_island_px)
    single = n_cells[pairs[:, 0]] == 1
    owner[pairs[single, 0]] = pairs[single, 1]
    markers = owner[parts]
    shared = (n_cells > 1)[parts]
    if shared.any():
        far = ~ndimage.binary_dilation(boundary, iterations=recipe.margin_px)
        core = far & _off_others(moved, recipe.margin_px)
        _mark_shared(markers, parts, shared, moved, core, pairs[~single])
    return markers


def _mark_shared(
    markers: np.ndarray,
    parts: np.ndarray,
    shared: np.ndarray,
    moved: np.ndarray,
    core: np.ndarray,
    pairs: np.ndarray,
) -> None:
    """Mark, in parts with several cells, the largest piece of the core of each.

    What a predicted boundary cuts off, even one with gaps, is not marked: there moved labels are
    beyond the boundary.
    """
    for candidates in (np.where(shared & core, moved, 0), np.where(shared, moved, 0)):
        pieces, n_pieces = label_equal(candidates, connectivity=1, return_num=True)
        inside = np.flatnonzero(pieces)
        piece = pieces.ravel()[inside]
        keys = np.zeros((n_pieces + 1, 2), int)
        keys[piece, 0], keys[piece, 1] = parts.ravel()[inside], moved.ravel()[inside]
        sizes = np.bincount(piece, minlength=n_pieces + 1)
        chosen = _largest_of_each(keys, sizes, pairs)
        markers += np.where(chosen, keys[:, 1], 0).astype(markers.dtype)[pieces]
        done = {(part, cell) for part, cell in keys[chosen].tolist()}
        # Cells that are too thin for a core are marked as they are.
        pairs = np.array([p for p in pairs.tolist() if tuple(p) not in done], int).reshape(-1, 2)
        if not len(pairs):
            break


def _off_others(moved: np.ndarray, margin_px: int) -> np.ndarray:
    """[y, x] bool, pixels of cells with no border to another cell within a margin."""
    close = outlines(moved, between_cells=True)
    if margin_px > 1:
        square = np.ones((3, 3), bool)
        close = ndimage.binary_dilation(close, square, iterations=margin_px - 1)
    return (moved > 0) & ~close


def _largest_of_each(keys: np.ndarray, sizes: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """[n] bool, which piece is the largest of its pair; pieces of no pair are none."""
    chosen = np.zeros(len(keys), bool)
    wanted = {(part, cell) for part, cell in pairs.tolist()}
    taken = set()
    for piece in np.argsort(-sizes, kind='stable').tolist():
        pair = int(keys[piece, 0]), int(keys[piece, 1])
        if piece and pair in wanted and pair not in taken:
            chosen[piece] = True
            taken.add(pair)
    return chosen


def _mark_whole(
    markers: np.ndarray, mask: np.ndarray, first_island: int, min_island_px: int
) -> None:
    """Mark as islands what of the mask has no marker, being so thin that it is all boundary."""
    whole, n_whole = ndimage.label(mask)
    marked = np.zeros(n_whole + 1, bool)
    marked[whole[markers > 0]] = True
    _add_islands(markers, whole, ~marked, first_island, min_island_px)


def _mark_thin(
    markers: np.ndarray,
    mask: np.ndarray,
    interior: np.ndarray,
    first_island: int,
    min_island_px: int,
) -> None:
    """Mark as islands what is all boundary and hangs on to a cell by its rim.

    Filopodia that lie against another cell do, and would grow out of it. Around the interiors, rim
    is as far as a layer of pixels has half as many as the first one has, and a pixel more; what of
    the mask is further from any interior is of none of them.
    """
    near, n_first, n_layer = interior | (markers > 0), 0, 1
    while 2 * n_layer > n_first:
        grown = ndimage.binary_dilation(near, mask=mask)
        n_layer = int(np.count_nonzero(grown & ~near))
        near, n_first = grown, n_first or n_layer
    thin, n_thin = ndimage.label(mask & ~near)
    _add_islands(markers, thin, np.ones(n_thin + 1, bool), first_island, min_island_px)


def _number_islands(
    pieces: np.ndarray, wanted: np.ndarray, first: int, min_island_px: int
) -> np.ndarray:
    """[n + 1] int32 numbers, from the first on, of wanted pieces 1 … n; 0 of small and others."""
    is_island = wanted & (np.bincount(pieces.ravel(), minlength=len(wanted)) >= min_island_px)
    is_island[0] = False
    return np.where(is_island, first - 1 + np.cumsum(is_island), 0).astype(np.int32)


def _add_islands(
    markers: np.ndarray,
    pieces: np.ndarray,
    wanted: np.ndarray,
    first_island: int,
    min_island_px: int,
) -> None:
    """Mark pieces, numbered from 1, that are wanted and not too small, with new numbers."""
    first = max(int(markers.max(initial=0)) + 1, first_island)
    markers += _number_islands(pieces, wanted, first, min_island_px)[pieces]


def _point_markers(
    parts: np.ndarray,
    n_parts: int,
    points: Mapping[int, tuple[int, int]],
    first_island: int,
    recipe: Recipe,
) -> np.ndarray:
    """[y, x] int32, a pixel for each cell and all of each island."""
    seeded = np.zeros(n_parts + 1, bool)
    for place in points.values():
        seeded[parts[place]] = True
    markers = _number_islands(parts, ~seeded, first_island, recipe.min_island_px)[parts]
    for cell, place in points.items():
        markers[place] = cell
    return markers
