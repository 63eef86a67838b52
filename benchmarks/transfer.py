"""What do six tomograms of another cell type bring on that type, and cost on the first?

    python -m benchmarks.transfer --output=DIR [--repeats=3] [--size=small]
    python -m benchmarks.transfer --output=DIR --size=full     # on an accelerator

Simulated tomograms (`data.phantom`) of two kinds of cells: round ones with a large nucleus, as T
cells are, of which there are more, and ones with a small nucleus and vacuoles up to 2.8 µm wide,
which absorb as little as the ice around the cell, as in yeast. The same network is trained for the
same number of steps on the first kind alone (`base`), or with n of the other: with the base set
from fresh weights (`scratch`) or from those of the base net (`finetune_all`), or those n alone from
the weights of the base net (`finetune`), and scored on tomograms of both kinds that no training
saw. Repeats draw other tomograms, weights and patches. It is `pipelines.transfer`, as
`launch.transfer` runs it. DIR gets data, trainings and the figure; the same command goes on where
it was stopped. Published for real tomograms: Erozan et al. 2024, Table 2.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from benchmarks.harness import Record, keep_records, machine
from configs import demo
from sxt_jax.core.atomic import write_text
from sxt_jax.core.progress import progress_bar
from sxt_jax.core.volume import Volume
from sxt_jax.data.phantom import Absorption, merge_labels, simulate, t_cell_parameters
from sxt_jax.io import write_volume
from sxt_jax.pipelines.evaluation_report import records as rows_of
from sxt_jax.pipelines.transfer import BASE, TYPES, Choices, Folders, measure_transfer
from sxt_jax.pipelines.transfer_report import report_transfer, save_transfer, tabulate_transfer

QUESTION = 'transfer'
KINDS: Mapping[str, Mapping[str, Any]] = {
    'base': {'n_cells': (1, 1)},
    'other': {
        'n_cells': (1, 1),
        'cell_semi_axes_nm': ((2600, 3400),) * 3,
        'cell_deformation': 0.1,
        'nucleus_fraction': (0.3, 0.36),
        'n_lipid_droplets': (5, 15),
        'n_vacuoles': (3, 5),
        'vacuole_radius_nm': (800, 1400),
        'absorption': Absorption(cytoplasm=0.24, nucleus=0.25, membrane=0.3, vacuoles=0.125),
    },
}
MEASURES = ('dice', 'sd', 'change', 'change_sd')


@dataclasses.dataclass(frozen=True)
class Size:
    """How large the experiment is.

    Attributes:
      side: of the tomograms, in voxels.
      voxel_size_nm: of them.
      n_train: tomograms of either kind to train on; of the other, the most that are drawn from.
      n_test: of either kind.
      n_other: numbers of the other kind.
      starts: of `pipelines.transfer`.
      steps: of each training.
      fields: of the config, that differ.
    """

    side: int
    voxel_size_nm: float
    n_train: Mapping[str, int]
    n_test: int
    n_other: tuple[int, ...]
    starts: tuple[str, ...]
    steps: int
    fields: Mapping[str, Any]


SIZES = {
    'full': Size(
        192, 40.0, {'base': 30, 'other': 12}, 8, (2, 4, 6), ('scratch', 'finetune', 'finetune_all'),
        5000, {'model.filters': (32, 64, 128, 256), 'data.patch': (64, 64, 64), 'batch_size': 8,
               'inference.tile': (64, 64, 64), 'inference.overlap': (32, 32, 32)},
    ),
    'small': Size(
        64, 120.0, {'base': 10, 'other': 8}, 4, (6,),
        ('scratch', 'finetune', 'finetune_all'), 600,
        {'batch_size': 8, 'data.patch': (16, 16, 16), 'inference.tile': (64, 64, 64),
         'inference.overlap': (8, 8, 8)},
    ),
    'smoke': Size(
        24, 320.0, {'base': 1, 'other': 1}, 1, (1,), ('scratch',), 2,
        {'model.filters': (2, 4), 'batch_size': 1, 'data.patch': (12, 12, 12),
         'inference.tile': (12, 12, 12), 'inference.overlap': (4, 4, 4)},
    ),
}  # fmt: skip


def make_data(folder: Path, size: Size) -> None:
    """Write the tomograms of both kinds: BASE, OTHER, TEST_BASE and TEST_OTHER."""
    done = folder / 'done'
    if done.exists():
        return
    shape = (size.side,) * 3
    for number, (kind, cells) in enumerate(KINDS.items()):
        scene, imaging = t_cell_parameters(shape, voxel_size_nm=size.voxel_size_nm)
        scene = dataclasses.replace(scene, **cells)
        n = size.n_test + size.n_train[kind]
        for i in progress_bar(range(n), unit='tomogram', desc=f'simulating, {kind}'):
            made = simulate(1000 * number + i, scene=scene, imaging=imaging)
            labels, names = merge_labels(np.asarray(made.labels.data), 'cells')
            named = Volume(labels, made.image.voxel_size_nm, class_names=names)
            place = folder / (f'test_{kind}' if i < size.n_test else kind)
            write_volume(place / 'images' / f'{i:02d}.tif', made.image)
            write_volume(place / 'labels' / f'{i:02d}.tif', named)
    write_text(done, '')


def make_config(size: Size) -> ConfigDict:
    """The demo's network, for a given number of steps."""
    config = demo.get_config()
    config.update_from_flattened_dict({
        'epochs': 1,
        'data.classes': 'cell=1',
        'data.validation_fraction': 0.0,  # n tomograms are n tomograms; the last weights are taken
        'data.steps_per_epoch': size.steps,
        **size.fields,
    })  # fmt: skip
    return config


def run(size: Size, output: Path, *, repeats: int) -> list[Record]:
    """Simulate, train, segment and score: a record of each start and number of tomograms."""
    make_data(output / 'data', size)
    places = [str(output / 'data' / name) for name in (*TYPES, *(f'test_{k}' for k in TYPES))]
    choices = Choices(n_other=size.n_other, starts=size.starts, repeats=repeats)
    runs = output / 'trainings'
    scores = measure_transfer(make_config(size), Folders(*places), runs, choices=choices)
    table = tabulate_transfer(scores)
    print(report_transfer(table))
    save_transfer(scores, table, runs)
    told = {name: getattr(size, name) for name in ('side', 'n_train', 'n_test', 'steps')}
    return [
        {
            'benchmark': QUESTION,
            'start': row['method'],
            'n_other': int(row['n_tomograms']),
            'repeats': int(row['n_trainings']),
            **{f'{k}_{m}': _plain(row[f'{k}_{m}']) for k in TYPES for m in MEASURES},
            **told,
        }
        for row in rows_of(table)
    ]


def _plain(value: float) -> float | None:
    return round(float(value), 5) if np.isfinite(value) else None


def table_rows(records: Sequence[Record]) -> list[tuple[str, ...]]:
    """Heading and rows of the newest record of each size, start and number of tomograms."""
    newest = {
        (r['size'], r['start'], r['n_other']): r
        for r in records
        if r['benchmark'] == QUESTION and not r['smoke']
    }
    rows = []
    for key, record in newest.items():
        cells = [_spread(record, kind, 'dice', 'sd') for kind in TYPES]
        cells += [
            '' if key[1] == BASE else _spread(record, kind, 'change', 'change_sd', sign='+')
            for kind in TYPES
        ]
        rows.append((*map(str, key), str(record['repeats']), *cells))
    heads = ('Dice on base type', 'on other type', 'change on base', 'change on other')
    return [('size', 'training', 'of the other type', 'repeats', *heads), *rows]


def _spread(record: Record, kind: str, mean: str, sd: str, *, sign: str = '') -> str:
    value, spread = record[f'{kind}_{mean}'], record[f'{kind}_{sd}']
    return f'{value:{sign}.3f}' + ('' if spread is None else f' ± {spread:.3f}')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--output', type=Path, required=True, help='folder for data and trainings')
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--size', choices=SIZES, default='small')
    parser.add_argument('--results', type=Path, default=None, help='folder to append results to')
    args = parser.parse_args()
    logging.set_verbosity(logging.INFO)
    if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:  # many trainings, one program
        jax.config.update('jax_compilation_cache_dir', str(args.output / 'compiled'))
    records = run(SIZES[args.size], args.output / args.size, repeats=args.repeats)
    whole = {'smoke': args.size == 'smoke', 'size': args.size, **machine()}
    keep_records([{**record, **whole} for record in records], args.results, smoke=whole['smoke'])


if __name__ == '__main__':
    main()
