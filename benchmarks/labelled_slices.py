"""How many labelled slices does a network need to segment organelles in the rest of a stack?

    python -m benchmarks.labelled_slices --output=DIR [--size=small] [--draws=10]
        [--organelles=nuclei,nucleoli] [--choice=random]

The protocol of Machireddy et al. (2023, figure 2B): `configs/fibsem.py` is trained from scratch on
k slices of a stack, drawn at random (or evenly spread: then draws differ by their initial weights
and patches only), and segments all of it; Dice, precision and recall count the slices that were not
trained on. Ten draws of each k. The stack is simulated (`data.phantom.tissue`): touching cells with
nuclei, nucleoli and mitochondria, one network for each of the three, as published.

Nothing is held out for validation, and the last weights are used. Everything goes through the
pipelines of the launch scripts. DIR gets the stack, the runs, their scores, `scores.csv` and
`scores.png`; a training that is done is not done again, and the same command goes on where it was
stopped. Published, of real stacks: Dice of nuclei 0.95–0.99 with 7 slices and 0.97–0.99 with 50, of
nucleoli 0.70–0.98 and 0.80–0.99.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from benchmarks.harness import Record, keep_records, machine
from configs import fibsem
from sxt_jax.core.atomic import write_text
from sxt_jax.data.labelled_slices import choose_slices
from sxt_jax.data.phantom import tissue
from sxt_jax.inference import keep_classes
from sxt_jax.io import open_volume, read_volume, write_table, write_volume
from sxt_jax.metrics.overlap import confusion, scores
from sxt_jax.pipelines.evaluation import Columns, groups, statistics, to_columns
from sxt_jax.pipelines.segmenter import load_segmenter, predict_image
from sxt_jax.pipelines.train_network import train_network
from sxt_jax.plots.figures import colour, new_figure, save_figure, tidy

QUESTION = 'labelled_slices'
MEASURES = ('dice', 'precision', 'recall')
# Label values of the simulation; nucleoli lie in nuclei and are part of them.
ORGANELLES: Mapping[str, str] = {
    'nuclei': 'background=rest,nucleus=2+3',
    'nucleoli': 'background=rest,nucleolus=3',
    'mitochondria': 'background=rest,mitochondrion=4',
}


@dataclasses.dataclass(frozen=True)
class Size:
    """How large the experiment is.

    Attributes:
      shape: (z, y, x) of the stack.
      counts: numbers of labelled slices.
      steps: of each training.
      organelles: what is segmented.
      fields: of the config.
    """

    shape: tuple[int, int, int]
    counts: tuple[int, ...]
    steps: int
    organelles: tuple[str, ...]
    fields: Mapping[str, Any]


SIZES = {
    'full': Size((256, 1024, 1024), (7, 10, 15, 25, 50), 5000, tuple(ORGANELLES), {}),
    'small': Size(
        (48, 160, 160), (2, 4, 8), 300, ('nuclei', 'nucleoli'),
        {'model.width': 8, 'model.norm_momentum': 0.95, 'data.patch': (1, 96, 96),
         'data.min_foreground': 30, 'inference.tile': (1, 160, 160),
         'inference.overlap': (0, 0, 0), 'optimizer.learning_rate': 1e-3},
    ),
    'smoke': Size(
        (12, 64, 64), (2, 3), 4, ('nuclei',),
        {'model.width': 2, 'model.norm_momentum': 0.9, 'batch_size': 2, 'data.patch': (1, 32, 32),
         'data.min_foreground': 5, 'inference.tile': (1, 64, 64),
         'inference.overlap': (0, 0, 0), 'optimizer.learning_rate': 1e-3},
    ),
}  # fmt: skip


def make_stack(folder: Path, size: Size, seed: int) -> None:
    """Write the stack and its labels, all slices of them, unless they are there."""
    done = folder / 'stack.json'
    if done.exists():
        return
    stack = tissue(seed, shape=size.shape)
    write_volume(folder / 'stack.tif', stack.image)
    write_volume(folder / 'stack.labels.tif', stack.labels)
    write_text(done, json.dumps({'seed': seed, 'shape': size.shape}))


def make_config(
    folder: Path, size: Size, organelle: str, n_slices: int, draw: int, *, choice: str = 'random'
) -> ConfigDict:
    """The training of a draw."""
    config = fibsem.get_config()
    config.update_from_flattened_dict({
        'seed': draw,
        'epochs': 1,
        'data.train': str(folder),
        'data.classes': ORGANELLES[organelle],
        'data.labelled_slices': n_slices,
        'data.labelled_choice': choice,
        'data.validation_fraction': 0.0,
        'data.steps_per_epoch': size.steps,
        'checkpoint.evaluate_every': 1,
        **size.fields,
    })  # fmt: skip
    return config


def score_rest(found: np.ndarray, truth: np.ndarray, trained_on: Sequence[int]) -> Record:
    """Scores of a class over the slices that were not trained on.

    Args:
      found: [z, y, x] 1 where the class is, else 0.
      truth: the same shape.
      trained_on: numbers of slices.
    """
    rest = np.setdiff1d(np.arange(len(truth)), trained_on)
    total = sum(np.asarray(confusion(found[z], truth[z], n_classes=2)) for z in rest.tolist())
    columns = scores(total)
    return {name: float(columns[name][1]) for name in MEASURES}


def segment(workdir: Path, source: Path) -> np.ndarray:
    """[z, y, x] class indices of a stack."""
    segmenter = load_segmenter(workdir)
    slabs = predict_image(segmenter, open_volume(source), name=str(source), finish=keep_classes)
    return np.concatenate([heads['classes'] for _, heads in slabs])


def run_draw(
    output: Path, size: Size, organelle: str, n_slices: int, draw: int, *, choice: str
) -> Record:
    """Train, segment and score; what was found before, if it was done before."""
    workdir = output / choice / organelle / f'{n_slices}_{draw}'
    done = workdir / 'scores.json'
    if not done.exists():
        data = output / 'stack'
        config = make_config(data, size, organelle, n_slices, draw, choice=choice)
        start = time.perf_counter()
        train_network(config, workdir)
        training_s = time.perf_counter() - start
        found = segment(workdir, data / 'stack.tif')
        labels = read_volume(data / 'stack.labels.tif').data
        values = [int(v) for v in ORGANELLES[organelle].rpartition('=')[2].split('+')]
        trained_on = choose_slices(len(labels), n_slices, choice=choice, seed=draw).tolist()
        row = {
            'organelle': organelle,
            'n_slices': n_slices,
            'draw': draw,
            **score_rest(found, np.isin(labels, values).astype(np.uint8), trained_on),
            'training_s': round(training_s, 1),
            'trained_on': trained_on,
        }
        write_text(done, json.dumps(row, indent=1))
    row = json.loads(done.read_text(encoding='utf-8'))
    return dict(row)


def run(
    output: Path, size: Size, *, draws: int, organelles: Sequence[str], choice: str, seed: int = 0
) -> tuple[Columns, list[Record]]:
    """All trainings: one row each; and mean ± SD of every organelle and number of slices.

    The first draws of all numbers come first, so that a run that is stopped has whole curves.
    """
    make_stack(output / 'stack', size, seed)
    rows = [
        run_draw(output, size, organelle, n_slices, draw, choice=choice)
        for draw in range(draws)
        for organelle in organelles
        for n_slices in size.counts
    ]
    points = to_columns([{k: v for k, v in r.items() if k != 'trained_on'} for r in rows])
    records = []
    for which, chosen in groups(points, ('organelle', 'n_slices')):
        record: Record = {'benchmark': QUESTION, **which, 'choice': choice, 'steps': size.steps}
        for name in MEASURES:
            found = statistics(points[name][chosen])
            record[f'mean_{name}'] = round(float(found['mean']), 4)
            record[f'sd_{name}'] = round(float(found['sd']), 4) if found['n'] > 1 else None
        records.append({**record, 'n': int(chosen.sum()), 'shape': list(size.shape)})
    return points, records


def table_rows(records: Sequence[Record]) -> list[tuple[str, ...]]:
    """Heads and rows of a table: mean ± SD by organelle and number of labelled slices."""
    newest = {
        (tuple(r['shape']), r['organelle'], r['choice'], r['n_slices']): r
        for r in records
        if r['benchmark'] == QUESTION and not r.get('smoke')
    }
    heads = ('organelle', 'labelled slices', 'draws', *MEASURES)
    rows = [
        (r['organelle'], f'{r["n_slices"]} of {r["shape"][0]}, {r["choice"]}', str(r['n']),
         *(_cell(r, name) for name in MEASURES))
        for r in newest.values()
    ]  # fmt: skip
    return [heads, *rows]


def _cell(record: Record, name: str) -> str:
    spread = record[f'sd_{name}']
    mean = f'{record[f"mean_{name}"]:.3f}'
    return mean if spread is None else f'{mean} ± {spread:.3f}'


def draw_figure(points: Columns) -> Figure:
    """Rows of organelles, columns of measures: every draw, and mean ± SD of each number."""
    names = list(dict.fromkeys(points['organelle'].tolist()))
    figure = new_figure(1 + 2.4 * len(MEASURES), 0.5 + 2.1 * len(names))
    panels = figure.subplots(len(names), len(MEASURES), squeeze=False, sharex=True)
    for row, organelle in zip(panels, names, strict=True):
        of_it = points['organelle'] == organelle
        for i, (axes, name) in enumerate(zip(row, MEASURES, strict=True)):
            x, y = points['n_slices'][of_it].astype(float), points[name][of_it].astype(float)
            sizes = np.unique(x)
            found = [statistics(y[x == n]) for n in sizes]
            bars = np.nan_to_num([f['sd'] for f in found])
            axes.plot(x, y, 'o', ms=2.5, color=colour(i), alpha=0.5, mew=0)
            axes.errorbar(sizes, [f['mean'] for f in found], bars, color=colour(i), lw=1, capsize=2)
            axes.set_title(f'{organelle}: {name}', fontsize=9)
            tidy(axes)
    for axes in panels[-1]:
        axes.set_xlabel('labelled slices')
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--output', type=Path, required=True)
    parser.add_argument('--size', choices=SIZES, default='small')
    parser.add_argument('--draws', type=int, default=10)
    parser.add_argument('--organelles', default='', help='some of those of the size')
    parser.add_argument('--choice', choices=('random', 'even'), default='random')
    parser.add_argument('--results', type=Path, default=None, help='folder to append results to')
    args = parser.parse_args()
    logging.set_verbosity(logging.WARNING)
    output, size = args.output / args.size, SIZES[args.size]
    if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:  # one program serves all draws
        jax.config.update('jax_compilation_cache_dir', str(args.output / 'compiled'))
    organelles = tuple(args.organelles.split(',')) if args.organelles else size.organelles
    points, records = run(output, size, draws=args.draws, organelles=organelles, choice=args.choice)
    write_table(output / 'scores.csv', points)
    save_figure(output / 'scores.png', draw_figure(points))
    for row in table_rows(records):
        print(' | '.join(row))
    smoke = args.size == 'smoke'
    whole = {**machine(), 'smoke': smoke, 'size': args.size}
    keep_records([{**record, **whole} for record in records], args.results, smoke=smoke)


if __name__ == '__main__':
    main()
