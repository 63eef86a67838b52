"""How much does labelling a suggested slice help, against any other one?

    python -m benchmarks.suggested_slices [--smoke]

Simulated T cells, a few labelled slices at even or at random distances; the true labels of one more
slice are added, for every second slice in turn. Told is by how much the mean Dice of the classes
rises: with the first suggested slice, with the best of all, and on average over all slices.
About 20 minutes on two cores.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence

import jax
import numpy as np

from benchmarks.harness import RESULTS, append_records, machine
from sxt_jax.data.phantom import merge_labels, t_cell
from sxt_jax.labelling import Interpolation, interpolate, labelled_slices, suggest_slices
from sxt_jax.metrics import dice

TASKS = ('acseg', 'cells', 'organelles')
_WALKS = 4


def measure(seed: int, *, side: int, spacing: int, every: int) -> dict[str, float]:
    """Gains in mean Dice by one more slice, in one scene; odd seeds have random distances."""
    tomogram = t_cell(seed, shape=(side,) * 3)
    truth, names = merge_labels(tomogram.labels.data, TASKS[seed % len(TASKS)])
    given = _given(truth, np.random.default_rng(seed), spacing, even=seed % 2 == 0)
    image = np.asarray(tomogram.image.data)

    def label(numbers: Sequence[int]) -> tuple[Interpolation, np.ndarray]:
        sparse = np.zeros_like(truth)
        sparse[list(numbers)] = truth[list(numbers)]
        found = interpolate(
            image, sparse, key=jax.random.key(0), n_walks=_WALKS, keep_slices=True, keep_hits=False
        )
        return found, sparse

    found, sparse = label(given)
    start = _score(found.labels, truth, sorted(names))

    def gain(number: int) -> float:
        return _score(label([*given, number])[0].labels, truth, sorted(names)) - start

    (first,) = suggest_slices(found.uncertainty, labelled_slices(sparse), n=1)
    gains = [gain(z) for z in range(1, side, every) if z not in given]
    best = max(*gains, suggested := gain(first.number))
    return {'seed': seed, 'start': start, 'suggested': suggested, 'best': best,
            'mean': statistics.mean(gains)}  # fmt: skip


def _given(truth: np.ndarray, rng: np.random.Generator, spacing: int, *, even: bool) -> list[int]:
    """Slices that show a cell, four of them or as many as fit."""
    shown = np.flatnonzero((truth > 0).any((1, 2)))
    first, last = int(shown[0]), int(shown[-1])
    if even:
        numbers = list(range(first + spacing // 4, last, spacing))
    else:
        inner = np.arange(first + 2, last - 1)
        numbers = sorted(rng.choice(inner, min(4, len(inner)), replace=False).tolist())
    return [z for z in numbers if truth[z].any()]


def _score(labels: np.ndarray, truth: np.ndarray, values: Sequence[int]) -> float:
    """Mean Dice of the classes that the truth has."""
    return float(np.nanmean([dice(labels == v, truth == v) for v in values if v]))


def main() -> None:
    parser = argparse.ArgumentParser(prog='python -m benchmarks.suggested_slices')
    parser.add_argument('--smoke', action='store_true', help='one small scene, nothing kept')
    options = parser.parse_args()
    sizes = {'side': 32, 'spacing': 8, 'every': 8} if options.smoke else (
        {'side': 80, 'spacing': 20, 'every': 2}
    )  # fmt: skip
    rows = []
    for seed in range(1 if options.smoke else 6):
        rows.append(measure(seed, **sizes))
        print('  '.join(f'{name} {value:.4g}' for name, value in rows[-1].items()), flush=True)
    shares = {
        name: statistics.mean(row[name] / row['best'] for row in rows if row['best'] > 0)
        for name in ('suggested', 'mean')
    }
    print(f'share of the best gain: suggested {shares["suggested"]:.2f}, any {shares["mean"]:.2f}')
    if not options.smoke:
        facts = {'scenes': rows, **{f'share_{name}': share for name, share in shares.items()}}
        append_records(
            [{'benchmark': 'suggested_slices', 'smoke': False, 'facts': facts, **machine()}],
            RESULTS,
        )


if __name__ == '__main__':
    main()
