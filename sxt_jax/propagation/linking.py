"""Regions of successive slices become cells: tracking by overlap, islands joined to cells.

Regions are linked to those that fit them best in the slices before and after. The links become
joins in the order in which they can be trusted, and two cells that are told apart in the labelled
slices are never joined. All that is kept of a slice are a few numbers for each region, so stacks
may be of any depth.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from sxt_jax.core.errors import InputError
from sxt_jax.propagation.overlaps import Links, find_links, overlap_table
from sxt_jax.propagation.tracks import Tracks


def link(
    labels_by_slice: Iterable[Any],
    *,
    cells: Mapping[int, Any] | None = None,
    keep_islands: bool = True,
) -> Tracks:
    """Which regions of the slices of a stack are of one cell.

    Machireddy et al. (2023), section 3.3: a region takes the label of the region in the next slice
    with which it shares the highest IoU, and a new one where it overlaps none; cells start from
    their numbers in the labelled slices; an island that meets a cell takes its number in all
    slices, also back in those before, and what breaks off a cell keeps it. IoUs come from the joint
    histogram of two slices, which holds all overlaps and nothing else: no neighbourhood is to be
    chosen. The paper goes slice by slice; here a link that is the best of both its regions counts
    before one that is the best of one only, that before one that is the best of none, and then the
    greater overlap before the smaller, so that the answer does not depend on the direction, and an
    island between two cells goes to the one that it touches more.

    Slices are read once, and two are in memory at a time.

    Args:
      labels_by_slice: slices [y, x] of whole numbers in the order of the stack, or [z, y, x]: ids
        of the regions, their own in every slice, 0 is background.
      cells: by its place in the stack, each labelled slice, [y, x] numbers of cells, 0 where there
        is none. Regions of these slices are of the cell that has most of their pixels. None: there
        are no cells to join; regions go on from the slice before, with new numbers.
      keep_islands: whether islands that meet no cell get numbers, above those of the cells.

    Returns:
      The number of every region. Ties go to smaller ids.

    Raises:
      InputError: no slices, slices that are no label images or differ in shape, or a labelled
        slice that is not in the stack.
    """
    stack = _read(labels_by_slice, cells or {})
    order = _most_trusted_first(stack.links)
    if not cells:
        order = order[stack.links.is_predecessor[order]]
    roots = _join(stack, order)
    owner = np.zeros(len(stack.region), np.int64)
    np.maximum.at(owner, roots, stack.cell)
    return _number(stack, roots, owner[roots], keep_islands=keep_islands)


class _Stack(NamedTuple):
    """The regions of all slices, numbered through, and the links between them.

    Attributes:
      slice_index, region, n_pixels: [n] of each region, see `Tracks`.
      cell: [n] its cell by a labelled slice, else 0.
      links: [k] rows of places in these columns.
      cell_ids: all cells of the labelled slices.
      n_slices: with or without regions.
    """

    slice_index: np.ndarray
    region: np.ndarray
    n_pixels: np.ndarray
    cell: np.ndarray
    links: Links
    cell_ids: np.ndarray
    n_slices: int


def _read(labels_by_slice: Iterable[Any], cells: Mapping[int, Any]) -> _Stack:
    """All that is needed of the slices, two of which are held at a time."""
    ids, sizes, owners, links, cell_ids = [], [], [], [], [np.zeros(0, np.int64)]
    before, n_before, index = None, 0, -1
    for index, labels in enumerate(labels_by_slice):
        _check(labels, before, f'slice {index}')
        table = overlap_table(labels if before is None else before, labels)
        if before is not None:
            links.append(_numbered_through(find_links(table), n_before - len(ids[-1]), n_before))
        ids.append(table.pred_ids.astype(np.int64))
        sizes.append(table.pred_sizes)
        owner, present = _cells_of(labels, cells.get(index), len(ids[-1]), index)
        owners.append(owner)
        cell_ids.append(present)
        before, n_before = labels, n_before + len(ids[-1])
    if index < 0:
        raise InputError('labels_by_slice', 'no slices', 'one at least')
    unknown = [place for place in cells if not 0 <= place <= index]
    if unknown:
        raise InputError('cells', f'labelled slice {unknown[0]}', f'slices 0 to {index}')
    return _Stack(
        slice_index=np.repeat(np.arange(index + 1), [len(part) for part in ids]),
        region=_column(ids),
        n_pixels=_column(sizes),
        cell=_column(owners),
        links=_concatenated(links),
        cell_ids=np.unique(np.concatenate(cell_ids)),
        n_slices=index + 1,
    )


def _check(labels: Any, before: Any, where: str) -> None:
    if getattr(labels, 'ndim', None) != 2:
        raise InputError(where, f'shape {np.shape(labels)}', 'an array [y, x]')
    if before is not None and labels.shape != before.shape:
        raise InputError(where, f'shape {labels.shape}', f'that of the slice before {before.shape}')


def _cells_of(labels: Any, cells: Any, n_regions: int, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each region the cell with most of its pixels, 0 for none; and all cells of the slice."""
    if cells is None:
        return np.zeros(n_regions, np.int64), np.zeros(0, np.int64)
    if np.shape(cells) != labels.shape:
        found = f'labelled slice {index} of shape {np.shape(cells)}'
        raise InputError('cells', found, f'that of the slice {labels.shape}')
    table = overlap_table(cells, labels)
    ids = np.concatenate([[0], table.true_ids.astype(np.int64)])  # 0 is at −1 + 1
    inside = table.pred_index >= 0
    region, cell = table.pred_index[inside], table.true_index[inside] + 1
    order = np.lexsort((cell, -table.voxels[inside], region))
    first = order[np.diff(region[order], prepend=-1) > 0]
    return ids[cell[first]], ids[1:]


def _numbered_through(links: Links, first_before: int, first_after: int) -> Links:
    return links._replace(before=links.before + first_before, after=links.after + first_after)


def _concatenated(links: list[Links]) -> Links:
    none = np.zeros(0, np.int64)
    empty = Links(none, none, none, none.astype(float), none.astype(bool), none.astype(bool))
    return Links(*(np.concatenate(column) for column in zip(empty, *links, strict=True)))


def _column(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.int64), *parts])


def _most_trusted_first(links: Links) -> np.ndarray:
    """Order of the links: those that are best both ways by IoU, then the others by overlap.

    Links that are best for neither come last: they join islands that meet a cell nowhere else.

    Of links that merge or split, the overlap in pixels tells best which one is of the cell itself
    and not of a neighbour that has moved: with it fewer islands go astray than by IoU or by the
    share of the smaller region.
    """
    rank = links.is_predecessor.astype(int) + links.is_successor
    strength = np.where(rank == 2, links.iou, links.n_pixels)
    return np.lexsort((links.after, links.before, -links.iou, -strength, -rank))


def _join(stack: _Stack, order: np.ndarray) -> np.ndarray:
    """[n] for each region one that stands for all it is joined with; no two cells are joined."""
    parent, cell = list(range(len(stack.region))), stack.cell.tolist()
    pairs = zip(stack.links.before[order].tolist(), stack.links.after[order].tolist(), strict=True)
    for before, after in pairs:
        one, other = _root(parent, before), _root(parent, after)
        if one != other and (not cell[one] or not cell[other] or cell[one] == cell[other]):
            low, high = min(one, other), max(one, other)
            parent[high], cell[low] = low, cell[low] or cell[high]
    return np.array([_root(parent, i) for i in range(len(parent))], np.int64)


def _root(parent: list[int], i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


def _number(stack: _Stack, roots: np.ndarray, owner: np.ndarray, *, keep_islands: bool) -> Tracks:
    """Cells keep their numbers; islands are numbered after them, by first slice, then by id."""
    track, island = owner.copy(), owner == 0
    if keep_islands and island.any():
        _, number = np.unique(roots[island], return_inverse=True)
        track[island] = number + 1 + int(stack.cell_ids.max(initial=0))
    if track.max(initial=0) >= 1 << 31:
        raise InputError('cells', f'number {int(track.max())}', 'below 2³¹')
    return Tracks(
        slice_index=stack.slice_index,
        region=stack.region,
        n_pixels=stack.n_pixels,
        track=track,
        cell_ids=stack.cell_ids,
        n_slices=stack.n_slices,
    )
