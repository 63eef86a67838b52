"""How well are touching cells told apart from a few labelled slices? Table 2 of the FIB-SEM paper.

    python -m benchmarks.cell_propagation [--maps=simulated|network] [--seeds=3] [--smoke]

Simulated tissues of touching cells with filopodia, 64 slices of 256×256 pixels (55 nm), of which
four are labelled. Half of the contacts between cells show no membrane (`faint`), or all do, as in
the paper's PDAC. The six published rows are computed with published seeds, centroids of the nearest
labelled slice, and the combinations also with ours, moved regions. Everything goes through
`split_stack`, `link` and `relabel`, as in `launch.propagate`.

Scores are of the slices without labels: the Dice of each cell of the labelled slices with the
voxels that have its number, of which the mean; and of the islands of these cells that the mask
shows (at least half of their pixels) the share of which most of what it shows has their cell's
number.

Maps of mask and boundary are simulated: the truth, shifted at random (SD 0.7 pixels), blurred, with
noise; between two cells the boundary fades where the image's own line does. Or a network gives
them: a small ResUNet (configs/fibsem.py:cells, an eighth of its width) learns each stack's labelled
slices in 1000 steps. Simulated, a stack takes about 3 minutes on two cores; with the network, more.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage

from benchmarks.harness import RESULTS, Record, append_records, machine
from benchmarks.linking import regions_of as true_regions_of
from configs import fibsem
from sxt_jax.data.cell_maps import BOUNDARY, MASK, cell_codes
from sxt_jax.data.phantom import MicroscopeParameters, SimulatedStack, tissue
from sxt_jax.io import read_volume, write_volume
from sxt_jax.metrics import contingency_table
from sxt_jax.pipelines.segment_volume import Options, probability_path, segment_files
from sxt_jax.pipelines.train_network import train_network
from sxt_jax.propagation import Recipe, link, regions_of, relabel, split_stack

QUESTION = 'cell_propagation'
SHAPE, SMOKE_SHAPE = (64, 256, 256), (16, 64, 64)
N_LABELLED = 4
FAINT = (0.5, 0.0)
ROWS = {
    ('mask', 'centroids'): 'mask',
    ('boundary', 'centroids'): 'mask + boundary',
    ('flow', 'regions'): 'optical flow',
    ('overlay', 'centroids'): 'mask + flow',
    ('selective', 'centroids'): 'mask + boundary + flow, selective',
    ('frames', 'centroids'): 'mask + boundary + flow, through frames',
    ('overlay', 'regions'): 'mask + flow, our seeds',
    ('selective', 'regions'): 'selective, our seeds',
    ('frames', 'regions'): 'through frames, our seeds (the default)',
}
PAPER = {  # Bx1, Bx2, PDAC
    'mask': (0.900, 0.704, 0.889),
    'mask + boundary': (0.927, 0.841, 0.888),
    'optical flow': (0.936, 0.881, 0.888),
    'mask + flow': (0.952, 0.902, 0.888),
    'mask + boundary + flow, selective': (0.950, 0.900, 0.888),
    'mask + boundary + flow, through frames': (0.952, 0.894, 0.888),
}
_MEMBRANE = 0.22  # brightness of a line that is seen
_NEAR_PX = 3.0


def labelled_places(n_slices: int, n_labelled: int = N_LABELLED) -> list[int]:
    """In the middles of equal parts of the stack."""
    return [(2 * i + 1) * n_slices // (2 * n_labelled) for i in range(n_labelled)]


def simulate_maps(
    image: np.ndarray,
    ids: np.ndarray,
    *,
    seed: int,
    shift_px: float = 0.7,
    noise: float = 0.15,
) -> np.ndarray:
    """Mask and boundary as a network may see them; what it cannot know of is faint.

    Args:
      image: [z, y, x] uint8.
      ids: [z, y, x] true cells.
      seed: of shifts and noise, which are other ones in each slice.
      shift_px: standard deviation of the shift of outlines; it goes on over some 4 pixels.
      noise: standard deviation of the noise; it goes on over some 2 pixels.

    Returns:
      [z, y, x, 2] uint8, 255 is certain.
    """
    rng = np.random.default_rng(seed)
    maps = np.empty((*ids.shape, 2), np.uint8)
    for z, codes in enumerate(cell_codes(ids.astype(np.int32), boundary_px=1)):
        outside = ndimage.maximum_filter(ids[z] == 0, 3)
        seen = np.where(outside, 1.0, _line_seen(image[z] / 255.0, ids[z]))
        shifts = np.stack([shift_px * _field(rng, codes.shape, 4) for _ in 'yx'])
        places = np.indices(codes.shape) + shifts
        for i, one in enumerate(((codes & MASK) > 0, ((codes & BOUNDARY) > 0) * seen)):
            shifted = ndimage.map_coordinates(
                np.asarray(one, np.float32), places, order=1, mode='nearest'
            )
            probs = ndimage.gaussian_filter(shifted, 0.7) + noise * _field(rng, codes.shape, 2)
            maps[z, ..., i] = np.rint(255 * np.clip(probs, 0, 1))
    return maps


def _line_seen(brightness: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """[y, x] from 0 to 1: how well the line of the contact nearby is seen; 1 far from contacts."""
    beyond = np.iinfo(ids.dtype).max
    lowest = ndimage.minimum_filter(np.where(ids > 0, ids, beyond), 3)
    contact = (ndimage.maximum_filter(ids, 3) != lowest) & (lowest < beyond) & (ids > 0)
    weight = ndimage.gaussian_filter(contact.astype(np.float32), _NEAR_PX)
    line = ndimage.gaussian_filter(np.where(contact, brightness, 0), _NEAR_PX)
    inside = np.median(brightness[ids > 0]) if ids.any() else 1.0
    contrast = (inside - line / np.maximum(weight, 1e-6)) / (inside - _MEMBRANE)
    return np.where(weight > 0.02, 1 / (1 + np.exp(-12 * (contrast - 0.5))), 1.0)


def _field(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> np.ndarray:
    field = ndimage.gaussian_filter(rng.standard_normal(shape), sigma)
    return field / field.std()


def predict_maps(
    stack: SimulatedStack, places: Sequence[int], *, seed: int, smoke: bool
) -> np.ndarray:
    """Mask and boundary of a small network that has learnt the labelled slices of the stack."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sparse = np.zeros_like(stack.instances.data)
        sparse[list(places)] = stack.instances.data[list(places)]
        write_volume(folder / 'data' / 'a.tif', stack.image)
        write_volume(folder / 'data' / 'a.labels.tif', stack.instances.with_data(sparse))
        train_network(make_config(folder / 'data', seed=seed, smoke=smoke), folder / 'run')
        source, options = folder / 'data' / 'a.tif', Options(probabilities=True)
        (outcome,) = segment_files(folder / 'run', source, folder / 'out', options=options)
        assert not outcome.error, outcome.error
        return np.asarray(read_volume(probability_path(outcome.labels)).data)


def make_config(data: Path, *, seed: int, smoke: bool) -> fibsem.ConfigDict:
    """The published training of maps of cells, but small."""
    side = 32 if smoke else 128
    config = fibsem.get_config('cells')
    config.update_from_flattened_dict({
        'seed': seed,
        'epochs': 1 if smoke else 10,
        'model.width': 2 if smoke else 8,
        'model.norm_momentum': 0.95,
        'optimizer.learning_rate': 1e-3,
        'data.train': str(data),
        'data.empty_slices': 'unlabelled',
        'data.validation_fraction': 0.0,
        'data.steps_per_epoch': 2 if smoke else 100,
        'data.patch': (1, side, side),
        'inference.tile': (1, side, side),
        'inference.overlap': (0, side // 4, side // 4),
        'cells.boundary_px': 1,
        'checkpoint.evaluate_every': 10,
    })  # fmt: skip
    return config


def split(
    image: np.ndarray,
    labelled: dict[int, np.ndarray],
    maps: np.ndarray,
    recipe: Recipe,
) -> np.ndarray:
    """[z, y, x] cells and islands, as `launch.propagate` writes them."""
    first = 1 + max(int(labels.max()) for labels in labelled.values())
    regions = np.zeros(image.shape, np.int32)
    for z, found in split_stack(image, labelled, maps, first_island=first, recipe=recipe):
        regions[z] = regions_of(found)
    return np.stack([np.asarray(s) for s in relabel(regions, link(regions, cells=labelled))])


def score(
    found: np.ndarray, truth: np.ndarray, mask: np.ndarray, places: Sequence[int]
) -> dict[str, float]:
    """Dice of the cells by number, and what became of their islands; labelled slices do not count.

    Args:
      found: [z, y, x] numbers.
      truth: [z, y, x] true cells.
      mask: [z, y, x] bool, where the maps show cells.
      places: labelled slices, of which the cells are known.
    """
    known = np.setdiff1d(truth[list(places)], 0)
    rest = np.setdiff1d(np.arange(len(truth)), places)
    table = contingency_table(found[rest], truth[rest])
    dice = [_dice(table, cell) for cell in known.tolist()]
    shown, joined = [], []
    for z in rest:
        for right, is_shown in _islands(found[z], truth[z], mask[z], known):
            shown.append(is_shown)
            joined.append(right)
    seen = np.array(shown, bool)
    return {
        'dice': float(np.mean(dice)),
        'dice_worst': float(np.min(dice)),
        'islands': len(shown),
        'islands_shown': int(seen.sum()),
        'joined': float(np.array(joined)[seen].mean()) if seen.any() else float('nan'),
    }


def _dice(table, cell: int) -> float:  # type: ignore[no-untyped-def]
    """Of the voxels of a number with those of the cell of that number."""
    true, pred = table.true_ids == cell, table.pred_ids == cell
    pairs = np.zeros(len(table.voxels), bool)
    if true.any() and pred.any():
        pairs = (table.true_index == true.argmax()) & (table.pred_index == pred.argmax())
    total = table.true_sizes[true].sum() + table.pred_sizes[pred].sum()
    return float(2 * table.voxels[pairs].sum() / total) if total else 1.0


def _islands(
    found: np.ndarray, truth: np.ndarray, mask: np.ndarray, known: np.ndarray
) -> Iterator[tuple[bool, bool]]:
    """Of each island of a slice: is most of what the mask shows of its cell, and is that half?"""
    regions, (owners,) = true_regions_of(truth[None], shift_px=0, seed=0)
    places, sizes = ndimage.find_objects(regions[0]), np.bincount(regions[0].ravel())
    for cell in np.intersect1d(owners, known):
        own = np.flatnonzero(owners == cell)
        for region in own[own != own[sizes[own].argmax()]]:
            box = places[region - 1]
            inside = regions[0][box] == region
            shown = inside & mask[box]
            numbers = np.bincount(found[box][shown], minlength=1)
            yield bool(numbers.argmax() == cell), 2 * shown.sum() >= inside.sum()


def measure(seed: int, faint: float, kind: str, *, smoke: bool) -> Iterator[Record]:
    """A record for each row of the table, of one stack."""
    microscope = MicroscopeParameters(faint_contacts=faint)
    stack = tissue(seed, shape=SMOKE_SHAPE if smoke else SHAPE, microscope=microscope)
    image, truth = np.asarray(stack.image.data), np.asarray(stack.instances.data)
    places = labelled_places(len(truth), 2 if smoke else N_LABELLED)
    if kind == 'network':
        maps = predict_maps(stack, places, seed=seed, smoke=smoke)
    else:
        maps = simulate_maps(image, truth, seed=seed)
    labelled = {z: truth[z] for z in places}
    assert stack.image.voxel_size_nm is not None
    for method, seeds in ROWS:
        begun = time.perf_counter()
        found = split(image, labelled, maps, Recipe(method, seeds))
        facts = {
            'method': method, 'seeds': seeds, 'maps': kind, 'faint': faint, 'seed': seed,
            'shape': list(truth.shape), 'voxel_nm': stack.image.voxel_size_nm[0],
            'n_labelled': len(places), 'seconds': time.perf_counter() - begun,
            **score(found, truth, maps[..., 0] >= 128, places),
        }  # fmt: skip
        yield {'benchmark': QUESTION, 'facts': facts, 'smoke': smoke, **machine()}


def table_rows(records: Sequence[Record]) -> list[tuple[str, ...]]:
    """Heads and rows: a way a row; Dice ± SD of stacks and islands joined, by maps and contacts."""
    newest = {
        (f['maps'], f['faint'], f['method'], f['seeds'], f['seed']): f
        for f in (r['facts'] for r in records if r['benchmark'] == QUESTION and not r['smoke'])
    }
    columns = list(dict.fromkeys(key[:2] for key in newest))
    heads = ['way']
    for kind, faint in columns:
        contacts = f'{100 * faint:.0f} % of contacts faint' if faint else 'all contacts seen'
        heads += [f'{kind} maps, {contacts}: Dice', 'islands joined']
    heads.append('paper: Bx1 / Bx2 / PDAC')
    rows = [tuple(heads)]
    for (method, seeds), name in ROWS.items():
        row = [name]
        for column in columns:
            facts = [f for key, f in newest.items() if key[:4] == (*column, method, seeds)]
            row += _cells_of_table(facts)
        row.append(' / '.join(f'{value:.3f}' for value in PAPER.get(name, ())))
        rows.append(tuple(row))
    return rows


def _cells_of_table(facts: Sequence[dict[str, float]]) -> tuple[str, str]:
    if not facts:
        return '', ''
    dice = np.array([f['dice'] for f in facts])
    spread = f' ± {dice.std(ddof=1):.3f}' if len(dice) > 1 else ''
    joined = np.average([f['joined'] for f in facts], weights=[f['islands_shown'] for f in facts])
    return f'{dice.mean():.3f}{spread}', f'{100 * joined:.1f} %'


def main() -> None:
    parser = argparse.ArgumentParser(prog=f'python -m benchmarks.{QUESTION}')
    parser.add_argument('--maps', choices=('simulated', 'network'), default='simulated')
    parser.add_argument('--seeds', type=int, default=3, help='how many stacks')
    parser.add_argument('--faint', type=float, nargs='+', default=FAINT, help='shares of contacts')
    parser.add_argument('--smoke', action='store_true', help='one tiny stack, nothing kept')
    options = parser.parse_args()
    for seed in range(1 if options.smoke else options.seeds):
        for faint in options.faint:
            records = []
            for record in measure(seed, faint, options.maps, smoke=options.smoke):
                facts = record['facts']
                print(
                    f'stack {seed}, {faint:g} faint, {ROWS[facts["method"], facts["seeds"]]}: '
                    f'Dice {facts["dice"]:.4f}, islands joined {facts["joined"]:.3f} of '
                    f'{facts["islands_shown"]}, {facts["seconds"]:.0f} s',
                    flush=True,
                )
                records.append(record)
            if not options.smoke:
                append_records(records, RESULTS)


if __name__ == '__main__':
    main()
