"""How well are islands joined to their cells, and how fast is a pair of slices tracked?

    python -m benchmarks.linking [--smoke] [--only=linking]

Accuracy (linking_accuracy): simulated tissues of touching cells with filopodia, cut into slices. In
each slice the true cells fall into connected regions, of which one a cell is its body and the
others are islands; their ids are mixed, and their borders may be shifted at random. Some slices are
labelled, in the others it is asked which islands get the number of their cell. About 10 minutes on
two cores.

Speed (linking): two slices of 6000×4000 pixels with 300 regions. The baseline searches a
neighbourhood of 512² pixels around each region, as published, with NumPy.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from benchmarks.harness import (
    Case,
    Record,
    add_result_options,
    describe,
    keep_records,
    machine,
    run_cases,
)
from sxt_jax.data.phantom import tissue
from sxt_jax.propagation import Tracks, link
from sxt_jax.propagation.overlaps import find_links, overlap_table

QUESTIONS = ('linking', 'linking_accuracy')
SHAPE, SMOKE_SHAPE = (64, 256, 256), (16, 64, 64)
SHIFTS = (0.0, 0.25, 0.5)  # pixels
WAYS = ('published', 'ours')
_SEEDS = range(3)
_N_LABELLED = (1, 3)
_WINDOW = 512
_KEYS = ('way', 'n_labelled', 'shift_px', 'shape', 'seed')


def regions_of(
    instances: np.ndarray, *, shift_px: float, seed: int
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Regions of each slice, ids mixed; and per slice the true cell of each id, 0 of id 0.

    Args:
      instances: [z, y, x] true cells.
      shift_px: standard deviation by which borders are moved, anew in each slice; it goes on
        over some 4 pixels.
      seed: of both.
    """
    rng = np.random.default_rng(seed)
    regions, owners = np.zeros(instances.shape, np.int32), []
    for labels, cells in zip(regions, instances, strict=True):
        moved = _moved(rng, cells, shift_px) if shift_px else cells
        n = 0
        for cell in np.unique(moved[moved > 0]):
            pieces, n_pieces = ndimage.label(moved == cell)
            labels[pieces > 0] = n + pieces[pieces > 0]
            n += n_pieces
        labels[:] = np.concatenate([[0], rng.permutation(n) + 1])[labels]
        owner = np.zeros(n + 1, np.int64)
        owner[labels] = moved
        owners.append(owner)
    return regions, owners


def _moved(rng: np.random.Generator, cells: np.ndarray, shift_px: float) -> np.ndarray:
    places = []
    for axis, size in enumerate(cells.shape):
        field = ndimage.gaussian_filter(rng.standard_normal(cells.shape), 2.0)
        place = np.indices(cells.shape)[axis] + field * shift_px / field.std()
        places.append(np.clip(np.rint(place).astype(int), 0, size - 1))
    return cells[tuple(places)]


def scores(
    tracks: Tracks, owners: Sequence[np.ndarray], labelled: Sequence[int]
) -> dict[str, float]:
    """What became of the islands of known cells in slices without labels.

    Returns:
      `islands`, their number; `joined` to their cell, `joined_area` weighted by pixels; `astray`,
      joined to another cell; and of all pixels of known cells, bodies too, the share that has the
      right number, `pixels`.
    """
    rows = ~np.isin(tracks.slice_index, labelled)
    z, region, size, found = (
        column[rows]
        for column in (tracks.slice_index, tracks.region, tracks.n_pixels, tracks.track)
    )
    cell = np.array([owners[i][j] for i, j in zip(z, region, strict=True)], np.int64)
    known = np.isin(cell, tracks.cell_ids)
    island = known & ~_largest_of_each(z * (cell.max(initial=0) + 1) + cell, size)
    right = found == cell
    return {
        'islands': int(island.sum()),
        'joined': float(right[island].mean()),
        'joined_area': float(np.average(right[island], weights=size[island])),
        'astray': float((~right & np.isin(found, tracks.cell_ids))[island].mean()),
        'pixels': float(np.average(right[known], weights=size[known])),
    }


def _largest_of_each(group: np.ndarray, size: np.ndarray) -> np.ndarray:
    order = np.lexsort((-size, group))
    largest = np.zeros(len(group), bool)
    largest[order[np.diff(group[order], prepend=-1) > 0]] = True
    return largest


def link_as_published(regions: np.ndarray, cells: Mapping[int, np.ndarray]) -> Tracks:
    """Slice by slice, as Machireddy et al. (2023) tell: bodies first, then islands.

    From the nearest labelled slice on, either way, regions of which one of a cell is the best match
    are of that cell. Then every other region takes the label of its best match in the slice before,
    from the first slice to the last; where an island meets a cell in the next slice, its track
    takes the cell's number.
    """
    matches = [
        find_links(overlap_table(before, after)) for before, after in itertools.pairwise(regions)
    ]
    ids = [np.unique(labels[labels > 0]) for labels in regions]
    bodies = _bodies(regions, ids, matches, cells)
    label: list[dict[int, int]] = []
    joined: dict[int, int] = {}
    largest = max(int(labelled.max(initial=0)) for labelled in cells.values())
    n_tracks = largest
    for z in range(len(regions)):
        here = dict(bodies[z])
        if z:
            match = matches[z - 1]
            chosen = match.is_predecessor
            for before, after in zip(match.before[chosen], match.after[chosen], strict=True):
                here.setdefault(int(after), label[-1][int(before)])
            best = chosen | match.is_successor
            pairs = zip(match.before[best].tolist(), match.after[best].tolist(), strict=True)
            for before, after in pairs:
                track = label[-1][before]
                if after in bodies[z] and track > largest:
                    joined.setdefault(track, bodies[z][after])
        for place in range(len(ids[z])):
            if place not in here:
                n_tracks += 1
                here[place] = n_tracks
        label.append(here)
    found = [joined.get(here[i], here[i]) for here in label for i in range(len(here))]
    return Tracks(
        slice_index=np.repeat(np.arange(len(regions)), [len(here) for here in label]),
        region=np.concatenate(ids),
        n_pixels=np.concatenate(
            [np.bincount(labels.ravel())[own] for labels, own in zip(regions, ids, strict=True)]
        ),
        track=np.array(found, np.int64),
        cell_ids=np.unique(np.concatenate([np.unique(c[c > 0]) for c in cells.values()])),
        n_slices=len(regions),
    )


def _bodies(
    regions: np.ndarray,
    ids: list[np.ndarray],
    matches: Sequence[Any],
    cells: Mapping[int, np.ndarray],
) -> list[dict[int, int]]:
    """Of each slice, by place among its ids, the cell of what the labelled slices lead to."""
    found: list[dict[int, int]] = [{} for _ in regions]
    labelled = sorted(cells)
    for z in range(len(regions)):
        if z in cells:
            for place, number in enumerate(ids[z].tolist()):
                cell = int(np.bincount(cells[z][regions[z] == number]).argmax())
                if cell:
                    found[z][place] = cell
    for z in sorted(range(len(regions)), key=lambda z: min(abs(z - own) for own in labelled)):
        nearest = min(labelled, key=lambda own: abs(z - own))
        if z == nearest:
            continue
        step = 1 if z > nearest else -1
        match = matches[min(z, z - step)]
        source, target, chosen = (
            (match.before, match.after, match.is_predecessor)
            if step == 1
            else (match.after, match.before, match.is_successor)
        )
        for before, after in zip(source[chosen].tolist(), target[chosen].tolist(), strict=True):
            if before in found[z - step]:
                found[z][after] = found[z - step][before]
    return found


def measure(seed: int, shape: tuple[int, int, int], shifts: Sequence[float]) -> Iterator[Record]:
    """A record for each shift, number of labelled slices and way, in one tissue."""
    stack = tissue(seed, shape=shape)
    instances, size = np.asarray(stack.instances.data), stack.image.voxel_size_nm
    assert size is not None
    for shift_px in shifts:
        regions, owners = regions_of(instances, shift_px=shift_px, seed=seed)
        for n_labelled in _N_LABELLED:
            places = [(2 * i + 1) * len(instances) // (2 * n_labelled) for i in range(n_labelled)]
            cells = {z: instances[z] for z in places}
            for way in WAYS:
                tracks = (link_as_published if way == 'published' else _link)(regions, cells)
                facts = {
                    'way': way, 'n_labelled': n_labelled, 'shift_px': shift_px,
                    'shape': list(shape), 'voxel_nm': size[0], 'seed': seed,
                    **scores(tracks, owners, places),
                }  # fmt: skip
                yield {'benchmark': 'linking_accuracy', 'facts': facts}


def _link(regions: np.ndarray, cells: Mapping[int, np.ndarray]) -> Tracks:
    return link(regions, cells=cells)


def table_rows(records: Sequence[Record]) -> list[tuple[str, ...]]:
    """Heads and rows: a setting a row, means over tissues; the newest record of each."""
    newest = {
        tuple(str(record['facts'][name]) for name in _KEYS): record['facts']
        for record in records
        if record['benchmark'] == 'linking_accuracy' and not record['smoke']
    }
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for key, facts in newest.items():
        groups.setdefault(key[:-1], []).append(facts)
    rows = [
        (
            f'{facts[0]["voxel_nm"]:.0f} nm',
            f'{facts[0]["shift_px"]:g} px',
            f'{facts[0]["n_labelled"]} of {facts[0]["shape"][0]}',
            facts[0]['way'],
            f'{sum(f["islands"] for f in facts):,}',
            *(
                f'{100 * np.mean([f[name] for f in facts]):.1f} %'
                for name in ('joined', 'joined_area', 'astray', 'pixels')
            ),
        )
        for facts in groups.values()
    ]
    heads = ('voxels', 'borders moved', 'labelled', 'way', 'islands')
    return [(*heads, 'joined', 'by area', 'to another cell', 'pixels of cells right'), *rows]


def make_slices(shape: tuple[int, int], n_regions: int) -> tuple[np.ndarray, np.ndarray]:
    """Two slices of discs from 20 to 200 pixels wide in 4000 rows, a little apart."""
    rng = np.random.default_rng(0)
    centres = rng.uniform(0, 1, (n_regions, 2)) * shape
    radii = rng.uniform(10, 100, n_regions) * shape[0] / 4000 * (1 + 3 * (rng.random() < 0.1))
    steps = rng.normal(0, 2, (n_regions, 2))
    slices = np.zeros((2, *shape), np.int32)
    for labels, moved, mixed in zip(
        slices, (centres, centres + steps), (np.arange(n_regions), rng.permutation(n_regions)),
        strict=True,
    ):  # fmt: skip
        for number, centre, radius in zip(mixed + 1, moved, radii, strict=True):
            box = tuple(
                slice(max(0, int(c - radius)), max(0, min(n, int(c + radius) + 2)))
                for c, n in zip(centre, shape, strict=True)
            )
            y, x = np.ogrid[box]
            disc = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2
            labels[box][disc] = number
    return slices[0], slices[1]


def search_windows(before: np.ndarray, after: np.ndarray) -> dict[int, int]:
    """By id of each region after the id of its best match before, searched around it."""
    sizes = np.bincount(before.ravel())
    found = {}
    for number, box in enumerate(ndimage.find_objects(after), start=1):
        if box is None:
            continue
        window = tuple(
            slice(min(s.start, max(0, (s.start + s.stop - _WINDOW) // 2)),
                  max(s.stop, (s.start + s.stop + _WINDOW) // 2))
            for s in box
        )  # fmt: skip
        mask, near = after[window] == number, before[window]
        best = (0.0, 0)
        for other in np.unique(near[near > 0]):
            shared = int((mask & (near == other)).sum())
            best = max(best, (shared / (mask.sum() + sizes[other] - shared), -int(other)))
        if best[0]:
            found[number] = -best[1]
    return found


def track_pair(before: Any, after: Any) -> dict[int, int]:
    """The same by the joint histogram."""
    table = overlap_table(before, after)
    links = find_links(table)
    chosen = links.is_predecessor
    after_ids, before_ids = table.pred_ids[links.after], table.true_ids[links.before]
    return dict(zip(after_ids[chosen].tolist(), before_ids[chosen].tolist(), strict=True))


def make_cases(smoke: bool) -> list[Case]:
    """Tracking of a pair of slices: around each region, and by the joint histogram."""
    shape, n_regions = ((400, 600), 60) if smoke else ((4000, 6000), 300)
    before, after = make_slices(shape, n_regions)
    placed = jnp.asarray(before), jnp.asarray(after)
    expected = search_windows(before, after)
    assert len(expected) > 0.5 * n_regions

    def check(found: dict[int, int]) -> None:
        assert found == expected

    mpixels = before.size / 1e6
    facts = {'regions': n_regions}
    common: dict[str, Any] = {'work': mpixels, 'unit': 'Mpixel/s', 'shape': shape, 'facts': facts}
    return [
        Case('around each region (baseline)', lambda: search_windows(before, after), check,
             dtype='int32', compiles=False, **common),
        Case('joint histogram', lambda: track_pair(*placed), check, dtype='int32', **common),
    ]  # fmt: skip


def measure_all(smoke: bool) -> Iterator[Record]:
    """Which islands are joined, of all tissues; printed as they come."""
    for shape in [SMOKE_SHAPE] if smoke else [SHAPE, (32, 128, 128)]:
        for seed in _SEEDS[:1] if smoke else _SEEDS:
            for record in measure(seed, shape, SHIFTS):
                told = {k: v for k, v in record['facts'].items() if k != 'shape'}
                print('  '.join(f'{k} {v:.4g}' if isinstance(v, float) else f'{k} {v}'
                                for k, v in told.items()), flush=True)  # fmt: skip
                yield {**record, 'smoke': smoke, **machine()}


def main() -> None:
    parser = argparse.ArgumentParser(prog='python -m benchmarks.linking')
    add_result_options(parser, smoke='one small tissue, nothing kept')
    parser.add_argument('--only', choices=QUESTIONS, help='one question')
    options = parser.parse_args()
    asked = [options.only] if options.only else QUESTIONS
    records: list[Record] = []
    if 'linking' in asked:
        records += run_cases('linking', make_cases(options.smoke), smoke=options.smoke)
        for record in records:
            print(describe(record), flush=True)
    if 'linking_accuracy' in asked:
        records += measure_all(options.smoke)
    keep_records(records, options.results, smoke=options.smoke)


if __name__ == '__main__':
    main()
