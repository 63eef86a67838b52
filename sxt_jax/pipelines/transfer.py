"""Scores of a network of one cell type after training with a few tomograms of another.

As Erozan et al. 2024, Table 2: T cells and six tomograms of another type.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from absl import logging

from sxt_jax.core.atomic import check_writable
from sxt_jax.core.errors import InputError
from sxt_jax.io import Pair, write_table
from sxt_jax.pipelines.check_config import check_config
from sxt_jax.pipelines.evaluation import Case, Columns
from sxt_jax.pipelines.learning_curve_fit import join_tables
from sxt_jax.pipelines.scored_trainings import (
    TRAINING,
    check_apart,
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

BASE, ALONE = 'base', 'alone'
TYPES = ('base', 'other')


@dataclasses.dataclass(frozen=True)
class _Start:
    """Whether weights are those of the base net, and whether the base set is trained on."""

    from_base_net: bool
    with_base_set: bool


STARTS = {
    'scratch': _Start(from_base_net=False, with_base_set=True),
    'finetune': _Start(from_base_net=True, with_base_set=False),
    'finetune_all': _Start(from_base_net=True, with_base_set=True),
    ALONE: _Start(from_base_net=False, with_base_set=False),
}


@dataclasses.dataclass(frozen=True)
class Folders:
    """Where tomograms with labels are, none in two of the folders.

    Attributes:
      base, other: of either type, to train on.
      test_base, test_other: of either type, to score on.
    """

    base: str | Path
    other: str | Path
    test_base: str | Path
    test_other: str | Path


@dataclasses.dataclass(frozen=True)
class Choices:
    """The grid of trainings.

    Attributes:
      n_other: numbers of tomograms of the other type; the base net (0) is always there.
      starts: of `STARTS`: 'scratch', base set and others from fresh weights; 'finetune', the others
        from the weights of the base net; 'finetune_all', base set and others from these; 'alone',
        the others from fresh weights.
      repeats: trainings of each, by different draws of the others and seeds.
      finetune_epochs: where weights are those of the base net; 0: as many as the config says.
      finetune_learning_rate: likewise.
    """

    n_other: Sequence[int] = (0, 2, 4, 6)
    starts: Sequence[str] = ('scratch', 'finetune')
    repeats: int = 1
    finetune_epochs: int = 0
    finetune_learning_rate: float = 0.0


@dataclasses.dataclass(frozen=True)
class _Run:
    start: str
    n_other: int
    repeat: int

    @property
    def name(self) -> str:
        return f'{self.start}_{self.n_other:03d}_others_repeat_{self.repeat}'


def measure_transfer(
    config: Any, folders: Folders, output: str | Path, *, choices: Choices | None = None
) -> Columns:
    """Train for every choice, and score each network on test tomograms of both types.

    Every repeat draws an order of the other type's tomograms; the first n are trained on, so that
    larger sets contain the smaller ones. Each repeat has a base net of its own, of the base set
    alone, from which fine-tuning starts: every weight of the same name and shape is taken over. A
    training that is finished is not done again, and an interrupted one goes on; choices and repeats
    may be added later.

    Args:
      config: an experiment that segments classes; what it says of data to train on is not used.
      folders: the tomograms.
      output: folder; each training has one of its own in it, and `scores.csv` has all scores.
      choices: which trainings.

    Returns:
      One row a training, type, class and test tomogram: method (its start, or 'base'), type, class,
      n_tomograms (of the other type), repeat, name, dice.

    Raises:
      InputError: choices that there are not, data that make no training or no test, or another
        experiment's results in the folder.
    """
    choices, output = choices or Choices(), Path(output)
    config = copy.deepcopy(config)
    config.data.train, config.data.labels = str(folders.base), ''
    check_config(config)
    check_scorable(config)
    pairs = {kind: find_pairs_of(config, getattr(folders, kind)) for kind in TYPES}
    _check_choices(choices, n_pairs=len(pairs['other']), folder=folders.other)
    check_enough_for_folds(config, _smallest(choices, pairs))
    tests = _find_tests(config, folders)
    _check_tests(pairs, tests)
    check_writable(output)
    config = with_classes(
        config, [*pairs['base'], *pairs['other']], [*tests['base'], *tests['other']]
    )
    _check_same(output, config, tests, pairs, choices)
    tables: list[Columns] = []
    for run in _plan(choices):
        make = partial(_score_run, run, config, folders, pairs, output, choices)
        tables.append(do_once(output / run.name / 'scores.csv', make))
        write_table(output / 'scores.csv', join_tables(tables))
    return join_tables(tables)


def _check_choices(choices: Choices, *, n_pairs: int, folder: str | Path) -> None:
    numbers = choices.n_other
    if not numbers or min(numbers) < 0 or max(numbers) < 1:
        found = ', '.join(map(str, numbers)) or 'none'
        raise InputError('n', found, 'numbers of tomograms of the other type, one above 0')
    if max(numbers) > n_pairs:
        raise InputError('n', f'{max(numbers)}', f'at most the {n_pairs} pairs of {folder}')
    unknown = [start for start in choices.starts if start not in STARTS]
    if unknown or not choices.starts:
        raise InputError('start', unknown[0] if unknown else 'none', f'of {", ".join(STARTS)}')
    if choices.repeats < 1:
        raise InputError('repeats', f'{choices.repeats}', '1 or more')
    if choices.finetune_epochs < 0:
        raise InputError('finetune_epochs', f'{choices.finetune_epochs}', '0 or more')
    if not 0 <= choices.finetune_learning_rate < float('inf'):
        found = f'{choices.finetune_learning_rate}'
        raise InputError('finetune_learning_rate', found, '0 or more')


def _find_tests(config: Any, folders: Folders) -> dict[str, list[Case]]:
    return {kind: find_tests_of(config, getattr(folders, f'test_{kind}')) for kind in TYPES}


def _check_tests(pairs: dict[str, Sequence[Pair]], cases: dict[str, list[Case]]) -> None:
    """The four folders share no tomogram."""
    told = {'found': 'is of the base type too', 'expected': 'tomograms of another type'}
    check_apart(pairs['base'], pairs['other'], **told)
    for kind in TYPES:
        check_tests_apart([*pairs['base'], *pairs['other']], cases[kind])
    check_apart(cases['base'], cases['other'], **told)


def _check_same(
    output: Path,
    config: Any,
    tests: dict[str, list[Case]],
    pairs: dict[str, Sequence[Pair]],
    choices: Choices,
) -> None:
    finetune = {'epochs': choices.finetune_epochs, 'rate': choices.finetune_learning_rate}
    check_same_experiment(
        output,
        config,
        train=[f'{kind}/{p.name}' for kind in TYPES for p in pairs[kind]],
        test=[f'{kind}/{case.name}' for kind in TYPES for case in tests[kind]],
        finetune=finetune,
    )


def _plan(choices: Choices) -> Iterator[_Run]:
    """Base nets first in every repeat, for fine-tuning starts from them."""
    numbers = sorted(set(choices.n_other) - {0})
    for repeat in range(choices.repeats):
        yield _Run(BASE, 0, repeat)
        for n, start in itertools.product(numbers, dict.fromkeys(choices.starts)):
            yield _Run(start, n, repeat)


def _smallest(choices: Choices, pairs: dict[str, Sequence[Pair]]) -> int:
    """Tomograms of the smallest training."""
    n_base = len(pairs['base'])
    return min(
        run.n_other + n_base * (run.start not in STARTS or STARTS[run.start].with_base_set)
        for run in _plan(choices)
    )


def _score_run(
    run: _Run,
    config: Any,
    folders: Folders,
    pairs: dict[str, Sequence[Pair]],
    output: Path,
    choices: Choices,
) -> Columns:
    """Train as the run says, segment and score the test tomograms of both types."""
    logging.info('Training: %s, %d of the other type, repeat %d', *dataclasses.astuple(run))
    start = STARTS.get(run.start, _Start(from_base_net=False, with_base_set=True))
    others = draw_pairs(pairs['other'], run.n_other, seed=config.seed, repeat=run.repeat)
    base = pairs['base'] if start.with_base_set else []
    if start.from_base_net:
        config = _fine_tuned(config, output / _Run(BASE, 0, run.repeat).name / TRAINING, choices)
    checkpoint = train_on(
        config,
        [*base, *others],
        output / run.name,
        repeat=run.repeat,
        marks=['base_'] * len(base) + ['other_'] * len(others),  # both may have a cell_1.tif
    )
    tables = []
    for kind in TYPES:
        test, labels = getattr(folders, f'test_{kind}'), output / run.name / f'labels_{kind}'
        found = {'method': run.start, 'type': kind, 'n_tomograms': run.n_other}
        found |= {'repeat': run.repeat}
        tables.append(label_rows(found, score_on(config, checkpoint, test, labels)))
    return join_tables(tables)


def _fine_tuned(config: Any, base_net: Path, choices: Choices) -> Any:
    """The config with the weights of the base net to start from."""
    config = copy.deepcopy(config)
    config.initial.checkpoint, config.initial.scope = str(base_net), 'matching'
    config.epochs = choices.finetune_epochs or config.epochs
    rate = choices.finetune_learning_rate
    config.optimizer.learning_rate = rate or config.optimizer.learning_rate
    return config
