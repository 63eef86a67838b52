"""Scores of a network that is trained on ever more tomograms."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from absl import logging

from sxt_jax.core.atomic import check_writable
from sxt_jax.core.errors import InputError
from sxt_jax.io import Pair, write_table
from sxt_jax.pipelines.check_config import check_config
from sxt_jax.pipelines.evaluation import Columns
from sxt_jax.pipelines.learning_curve_fit import join_tables
from sxt_jax.pipelines.scored_trainings import (
    check_enough_for_folds,
    check_same_experiment,
    check_scorable,
    check_tests_apart,
    do_once,
    draw_pairs,
    find_pairs_of,
    find_tests_of,
    label_rows,
    score_on,
    train_on,
    with_classes,
)


def measure_scores(
    config: Any,
    test: str | Path,
    output: str | Path,
    *,
    sizes: Sequence[int],
    repeats: int = 1,
    method: str = 'network',
) -> Columns:
    """Train on ever more of the config's pairs, and score each network on the same tomograms.

    Every repeat puts the pairs in an order of its own, which the config's seed and its number
    decide; the first n are trained on, so that larger sets contain the smaller ones. What is held
    out for validation counts: it was labelled too. A training that is finished is not done again,
    and an interrupted one goes on; sizes and repeats may be added later.

    Args:
      config: an experiment that segments classes.
      test: folder of tomograms with labels, none of them the config's training data.
      output: folder; each training has one of its own in it, and `scores.csv` has all scores.
      sizes: numbers of tomograms, two or more different ones.
      repeats: trainings of each size, by different orders of the pairs and seeds.
      method: name of what is trained, in the table.

    Returns:
      One row a training, class and test tomogram: method, class, n_tomograms, repeat, name, dice.

    Raises:
      InputError: sizes that make no curve or are too large, data that make no training or no
        test, or another experiment's results in the folder.
    """
    output = Path(output)
    check_config(config)
    check_scorable(config)
    pairs = find_pairs_of(config, config.data.train, config.data.labels)
    sizes = _check_sizes(sizes, repeats, n_pairs=len(pairs), folder=config.data.train)
    check_enough_for_folds(config, sizes[0])
    cases = find_tests_of(config, test)
    check_tests_apart(pairs, cases)
    check_writable(output)
    config = with_classes(config, pairs, cases)
    names = [p.name for p in pairs], [case.name for case in cases]
    check_same_experiment(output, config, train=names[0], test=names[1])
    tables: list[Columns] = []
    for repeat, size in itertools.product(range(repeats), sizes):
        chosen = draw_pairs(pairs, size, seed=config.seed, repeat=repeat)
        folder = output / f'{size:03d}_tomograms_repeat_{repeat}'
        found = {'method': method, 'n_tomograms': size, 'repeat': repeat}
        make = partial(_score_run, config, chosen, test, folder, found)
        tables.append(do_once(folder / 'scores.csv', make))
        write_table(output / 'scores.csv', join_tables(tables))
    return join_tables(tables)


def _check_sizes(
    sizes: Sequence[int], repeats: int, *, n_pairs: int, folder: str
) -> tuple[int, ...]:
    chosen = tuple(sorted(set(sizes)))
    if len(chosen) < 2 or chosen[0] < 1:
        raise InputError('sizes', ', '.join(map(str, sizes)) or 'none', 'two or more, from 1 on')
    if chosen[-1] > n_pairs:
        raise InputError('sizes', f'{chosen[-1]}', f'at most the {n_pairs} pairs of {folder}')
    if repeats < 1:
        raise InputError('repeats', f'{repeats}', '1 or more')
    return chosen


def _score_run(
    config: Any, pairs: Sequence[Pair], test: str | Path, folder: Path, found: dict[str, Any]
) -> Columns:
    """Train on the pairs, segment and score the test tomograms."""
    logging.info('Training on %d tomograms, repeat %d', len(pairs), found['repeat'])
    checkpoint = train_on(config, pairs, folder, repeat=found['repeat'])
    return label_rows(found, score_on(config, checkpoint, test, folder / 'labels'))
