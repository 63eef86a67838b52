"""How accurate is smart interpolation, by length of the walks, their number and the smoothing?

    python -m benchmarks.interpolation_accuracy [--smoke]

Simulated T cells of which every 16th slice has its true labels; scored is the Dice of each class
against the truth in the slices between. About 10 minutes on two cores.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np

from benchmarks.harness import RESULTS, Record, append_records, machine
from sxt_jax.data.phantom import merge_labels, t_cell
from sxt_jax.labelling import interpolate
from sxt_jax.labelling.smoothing import smooth_labels
from sxt_jax.metrics import dice

TASKS = ('acseg', 'organelles')
_BASE = {'n_walks': 10, 'n_steps': 400}
_STEPS = (50, 100, 200, 800, 1600)
_WALKS = (1, 2, 5, 20)
_SMOOTH = (0, 10, 30, 100, 300)
_KEYS = ('n_steps', 'n_walks', 'smooth', 'task', 'seed')


def scores(
    image: np.ndarray, truth: np.ndarray, names: Mapping[int, str], *, spacing: int, **walks: int
) -> Iterator[tuple[int, dict[str, float]]]:
    """Iterations of smoothing, and the Dice of each class between the labelled slices."""
    given = np.arange(len(truth)) % spacing == spacing // 2
    sparse = np.where(given[:, None, None], truth, 0)
    found = interpolate(
        image, sparse, key=jax.random.key(0), n_walks=walks['n_walks'], n_steps=walks['n_steps']
    )
    assert found.hits is not None
    ids = np.asarray(found.ids, found.labels.dtype)
    for smooth in _SMOOTH if walks['n_walks'] == _BASE['n_walks'] else (0,):
        labels = found.labels
        if smooth:
            labels = smooth_labels(found.hits, ids, n_iterations=smooth)
        yield (
            smooth,
            {
                name: float(dice(labels[~given] == value, truth[~given] == value))
                for value, name in names.items()
                if value
            },
        )


def measure(seed: int, task: str, settings: Sequence[Mapping[str, int]], side: int) -> list[Record]:
    """A record for each setting and smoothing, in one scene."""
    tomogram = t_cell(seed, shape=(side,) * 3)
    truth, names = merge_labels(tomogram.labels.data, task)
    records = []
    for walks in settings:
        start = time.perf_counter()
        for smooth, found in scores(
            np.asarray(tomogram.image.data), truth, names, spacing=side // 8, **walks
        ):
            facts = {'seed': seed, 'task': task, **walks, 'smooth': smooth, 'scores': found}
            told = '  '.join(f'{name} {value:.4f}' for name, value in found.items())
            print(f'{task} {seed}, {walks}, smooth {smooth}: {told}', flush=True)
            records.append({'benchmark': 'interpolation_accuracy', 'facts': facts})
        print(f'  {time.perf_counter() - start:.0f} s', flush=True)
    return records


def table_rows(records: Sequence[Record]) -> list[tuple[str, ...]]:
    """Heads and rows: mean Dice over scenes of each class, a row a setting."""
    newest = {
        tuple(record['facts'][name] for name in _KEYS): record['facts']['scores']
        for record in records
        if record['benchmark'] == 'interpolation_accuracy' and not record['smoke']
    }
    found: dict[tuple[int, int, int], dict[str, list[float]]] = {}
    for (*setting, task, _), scores_of in newest.items():
        row = found.setdefault((setting[0], setting[1], setting[2]), {})
        for name, score in scores_of.items():
            row.setdefault(f'{task}: {name}', []).append(score)
    names = list(dict.fromkeys(name for row in found.values() for name in row))
    rows = [
        (
            *(f'{number}' for number in key),
            *(f'{np.nanmean(row[name]):.3f}' if name in row else '' for name in names),
        )
        for key, row in sorted(found.items())
    ]
    return [('steps', 'walks', 'smoothing', *names), *rows]


def main() -> None:
    parser = argparse.ArgumentParser(prog='python -m benchmarks.interpolation_accuracy')
    parser.add_argument('--smoke', action='store_true', help='one small scene, nothing kept')
    options = parser.parse_args()
    settings = [_BASE, *({**_BASE, 'n_steps': n} for n in _STEPS)]
    settings += [{**_BASE, 'n_walks': n} for n in _WALKS]
    seeds, side = range(3), 128
    if options.smoke:
        settings, seeds, side = [{'n_walks': 2, 'n_steps': 50}], range(1), 32
    records = [
        {**record, 'smoke': options.smoke, **machine()}
        for seed in seeds
        for task in TASKS
        for record in measure(seed, task, settings, side)
    ]
    if not options.smoke:
        append_records(records, RESULTS)


if __name__ == '__main__':
    main()
