"""The papers' scores, and beside them those of the small reproductions in this folder.

    python -m benchmarks.report --readme benchmarks/README.md

Nothing is measured here: other benchmarks left the records, each line names which. Networks are
small, tomograms are simulated (the last two lines: real) and the papers' are not, so numbers side
by side are not to be compared: what a line is for is whether what the paper found shows here, too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.harness import Record

Rows = Sequence[Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Claim:
    """A line of the table.

    Attributes:
      what: was compared.
      paper: system, and its numbers.
      benchmark: whose records are asked.
      ours: of its records the numbers, and whether what the paper found shows; None: there are
        no such records.
    """

    what: str
    paper: str
    benchmark: str
    ours: Callable[[Sequence[Record]], tuple[str, bool] | None]


def _newest(records: Sequence[Record], **fields: Any) -> Record | None:
    found = [r for r in records if all(r.get(k) == v for k, v in fields.items())]
    return found[-1] if found else None


def _two(first: float, second: float, *, words: str = '') -> str:
    return f'{first:.3f} → {second:.3f}{words}'


def interpolated_labels(records: Sequence[Record]) -> tuple[str, bool] | None:
    """Dice of the cytoplasm, of sparse and of interpolated labels, by tomograms."""
    texts, gains = [], []
    for n in sorted({int(r['n_tomograms']) for r in records}):
        fields = {'class': 'cytoplasm', 'n_tomograms': n}
        pair = [_newest(records, method=m, **fields) for m in ('sparse', 'interpolated')]
        if pair[0] is None or pair[1] is None:
            continue
        sparse, dense = (float(r['mean_dice']) for r in pair if r)
        texts.append(f'{n}: {_two(sparse, dense)}')
        gains.append(dense - sparse)
    return (' · '.join(texts), min(gains) > 0) if texts else None


def other_cell_type(records: Sequence[Record]) -> tuple[str, bool] | None:
    """Dice on both types without and with six tomograms of the other."""
    base = _newest(records, start='base')
    if base is None:
        return None
    with_six = _newest(records, start='scratch', n_other=6, size=base['size'])
    if with_six is None:
        return None
    new, old = ((base[f'{k}_dice'], with_six[f'{k}_dice']) for k in ('other', 'base'))
    text = f'{_two(*new)}; on the first type {_two(*old)}'
    return text, new[1] > new[0] and old[1] > old[0] - 0.01


def _by_seed(record: Record, way: str, name: str) -> np.ndarray:
    found = {row['seed']: row[name] for row in record['rows'] if row['way'] == way}
    return np.array([found[seed] for seed in sorted(found)])


def _ways(
    records: Sequence[Record], question: str, name: str, ways: tuple[str, str], *, less: bool
) -> tuple[str, bool] | None:
    """Means of a score of two ways of `benchmarks.cascade`, and in how many seeds it is better."""
    record = _newest(records, question=question)
    if record is None:
        return None
    first, second = (_by_seed(record, way, name) for way in ways)
    better = int(((second < first) if less else (second > first)).sum())
    text = _two(first.mean(), second.mean(), words=f' ({better} of {len(first)} seeds)')
    return text, 2 * better > len(first)


def surface_stage(records: Sequence[Record]) -> tuple[str, bool] | None:
    """Dice of whole cells, and the error of their ratio of surface to volume."""
    ways = ('coarse', 'coarse, surface')
    dice = _ways(records, 'surface', 'cell', ways, less=False)
    ratio = _ways(records, 'surface', 'SA:V error', ways, less=True)
    if dice is None or ratio is None:
        return None
    return f'{dice[0]}; error of SA:V {ratio[0]}', dice[1] and ratio[1]


def two_stages(records: Sequence[Record]) -> tuple[str, bool] | None:
    """Mean Dice of the classes of one network and of two in turn."""
    return _ways(records, 'organelles', 'mean of classes', ('single', 'coarse, fine'), less=False)


def second_stage(records: Sequence[Record]) -> tuple[str, bool] | None:
    """Likewise, of the first of the two alone and of both."""
    ways = ('coarse', 'coarse, fine')
    return _ways(records, 'organelles', 'mean of classes', ways, less=False)


def unlabelled_tomograms(records: Sequence[Record]) -> tuple[str, bool] | None:
    """Median precision and Dice, supervised and semi-supervised."""
    record = _newest(records)
    if record is None:
        return None

    def median(kind: str, name: str) -> float:
        return float(np.median([r[name] for r in record['rows'] if r['kind'] == kind]))

    kinds = ('supervised only', 'semi-supervised')
    precision, dice = ([median(kind, name) for kind in kinds] for name in ('precision', 'dice'))
    text = f'precision {_two(*precision)}; Dice {_two(*dice)}'
    return text, precision[1] > precision[0]


def propagated_cells(records: Sequence[Record]) -> tuple[str, bool] | None:
    """Dice of mask and boundary, of the flow, and of both, half of the contacts being faint."""
    scores = []
    for way in (('boundary', 'centroids'), ('flow', 'regions'), ('frames', 'centroids')):
        wanted = (*way, 'simulated', 0.5)
        newest = {
            f['seed']: f['dice']
            for f in (r['facts'] for r in records)
            if (f['method'], f['seeds'], f['maps'], f['faint']) == wanted
        }
        if not newest:
            return None
        scores.append(float(np.mean(list(newest.values()))))
    return ' / '.join(f'{s:.3f}' for s in scores), scores[2] > max(scores[:2])


def few_slices(records: Sequence[Record]) -> tuple[str, bool] | None:
    """Dice of nuclei by labelled slices."""
    newest = {r['n_slices']: r['mean_dice'] for r in records if r['organelle'] == 'nuclei'}
    if len(newest) < 2:
        return None
    counts = sorted(newest)
    text = ' · '.join(f'{n}: {newest[n]:.3f}' for n in counts)
    return text, newest[counts[-1]] > newest[counts[0]]


def real_nuclei(records: Sequence[Record]) -> tuple[str, bool] | None:
    """Mean Dice of matched cells by kind of flows, on the real stack."""
    newest = {r['flows']: r['matched_dice'] for r in records}
    if set(newest) < {'heat', 'tanh'}:
        return None
    heat, tanh = newest['heat'], newest['tanh']
    return f'{heat:.3f} / {tanh:.3f}', abs(heat - tanh) < 0.02


def real_mitochondria(records: Sequence[Record]) -> tuple[str, bool] | None:
    """Dice of mitochondria of micrographs, three labelled slices."""
    found = {
        r['part']: r['dice']
        for r in records
        if r['class'] == 'mitochondria' and r['binning'] == [1, 2, 2]
    }
    if not found:
        return None
    return ' · '.join(f'{k}: {v:.3f}' for k, v in found.items()), min(found.values()) > 0.75


CLAIMS = (
    Claim(
        'interpolated labels against sparse ones (acseg, Table 1: against labels by hand), Dice '
        'of the cytoplasm by number of tomograms',
        '5: 0.868 → 0.900 · 43: 0.939 → 0.978', 'interpolated_training', interpolated_labels,
    ),
    Claim(
        'six tomograms of another cell type (acseg, Table 2), Dice on that type',
        '0.829 → about 0.93', 'transfer', other_cell_type,
    ),
    Claim(
        'a second level along the surface (acseg), Dice of whole cells', 'about +0.01',
        'cascade', surface_stage,
    ),
    Claim(
        'two networks in turn against one of as many steps (cascade), mean Dice of four classes',
        'no score given', 'cascade', two_stages,
    ),
    Claim(
        'two networks in turn against the first of them (cascade), mean Dice of four classes',
        'no score given', 'cascade', second_stage,
    ),
    Claim(
        'unlabelled tomograms under unseen conditions (deep_sxt), median precision',
        '+14 % and more', 'semi_supervised', unlabelled_tomograms,
    ),
    Claim(
        'cells of mask and boundary / optical flow / both through frames (fibsem, Table 2), Dice',
        'Bx1: 0.927 / 0.936 / 0.952 · Bx2: 0.841 / 0.881 / 0.894 · PDAC: 0.888 all',
        'cell_propagation', propagated_cells,
    ),
    Claim(
        'nuclei by number of labelled slices (fibsem), Dice', '7: 0.95–0.99 · 50: 0.97–0.99',
        'labelled_slices', few_slices,
    ),
    Claim(
        'flows by heat / by tanh (cellpose3d), Dice; here on a real stack of nuclei',
        '0.905 / 0.897', 'real_cells', real_nuclei,
    ),
    Claim(
        'mitochondria of few labelled slices (fibsem), Dice; here on real micrographs',
        '0.86 and 0.76', 'real_micrographs', real_mitochondria,
    ),
)  # fmt: skip


def table_rows(records: Sequence[Record]) -> list[tuple[str, ...]]:
    """Heads and rows: of every claim of which there are records."""
    rows = []
    for claim in CLAIMS:
        own = [r for r in records if r['benchmark'] == claim.benchmark and not r.get('smoke')]
        found = claim.ours(own)
        if found is not None:
            text, shown = found
            rows.append((claim.what, claim.paper, text, 'yes' if shown else '**no**',
                         f'`{claim.benchmark}`'))  # fmt: skip
    return [('what', 'paper', 'here', 'shows', 'benchmark'), *rows]
