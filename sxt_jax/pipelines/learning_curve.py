"""Scores of a network that is trained on ever more tomograms."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from sxt_jax.core.atomic import check_writable, write_text
from sxt_jax.core.errors import InputError
from sxt_jax.data.classes import count_labels
from sxt_jax.data.datasets import detect_classes, open_pairs
from sxt_jax.io import Pair, pair, split_dataset, write_table
from sxt_jax.pipelines.check_config import check_config
from sxt_jax.pipelines.evaluate_volumes import Options, evaluate_volumes
from sxt_jax.pipelines.evaluation import Case, Columns, find_cases, predict_with_checkpoint
from sxt_jax.pipelines.learning_curve_fit import join_tables, read_scores
from sxt_jax.pipelines.train_network import train_network


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
    if config.flows.kind:
        expected = 'a config of classes; scores of cells are fitted with --scores'
        raise InputError('config.flows.kind', repr(config.flows.kind), expected)
    datasets = _datasets(config)
    pairs = pair(config.data.train, config.data.labels or None, **datasets)
    sizes = _check_sizes(sizes, repeats, n_pairs=len(pairs), folder=config.data.train)
    cases = find_cases(test, **datasets)
    _check_apart(pairs, cases)
    check_writable(output)
    config = _with_classes(config, pairs)
    _check_same_experiment(output, config, pairs, cases)
    tables: list[Columns] = []
    for repeat, size in itertools.product(range(repeats), sizes):
        chosen = draw_pairs(pairs, size, seed=config.seed, repeat=repeat)
        folder = output / f'{size:03d}_tomograms_repeat_{repeat}'
        if not (folder / 'scores.csv').exists():
            logging.info('Training on %d tomograms, repeat %d', size, repeat)
            found = {'method': method, 'n_tomograms': size, 'repeat': repeat}
            write_table(
                folder / 'scores.csv', _score_run(config, chosen, test, folder, repeat, found)
            )
        tables.append(read_scores(folder / 'scores.csv'))
        write_table(output / 'scores.csv', join_tables(tables))
    return join_tables(tables)


def draw_pairs(pairs: Sequence[Pair], size: int, *, seed: int, repeat: int) -> list[Pair]:
    """The first pairs of an order that seed and repeat decide."""
    order = np.random.default_rng((seed, repeat)).permutation(len(pairs))
    return [pairs[i] for i in order[:size]]


def link_pairs(pairs: Sequence[Pair], folder: str | Path) -> None:
    """A folder that `io.pair` finds exactly these pairs in: links to the files, no copies.

    Images and labels go to one folder where they share one, else to `images` and `labels`.

    Raises:
      InputError: the folder holds other files, or cannot be written to.
    """
    folder = Path(folder)
    files = [tuple(split_dataset(path)[0] for path in (p.image, p.labels)) for p in pairs]
    together = all(image.parent == labels.parent for image, labels in files)
    images, labels = (folder, folder) if together else (folder / 'images', folder / 'labels')
    links = {images / image.name: image for image, _ in files}
    links |= {labels / label.name: label for _, label in files}
    others = [path for sub in {images, labels} if sub.exists() for path in sub.iterdir()]
    if any(path not in links for path in others):
        raise InputError(folder, 'holds other files', 'an empty folder, or none')
    for link, file in links.items():
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(file.resolve())


def _datasets(config: Any) -> dict[str, Any]:
    fields = config.data
    return {'dataset': fields.dataset or None, 'label_dataset': fields.label_dataset or None}


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


def _check_apart(pairs: Sequence[Pair], cases: Sequence[Case]) -> None:
    """No network is scored on what it was trained on."""
    trained = {split_dataset(p.image)[0].resolve() for p in pairs}
    for case in cases:
        assert case.image is not None
        if split_dataset(case.image)[0].resolve() in trained:
            raise InputError(case.image, 'is a training tomogram too', 'others to test with')


def _with_classes(config: Any, pairs: Sequence[Pair]) -> Any:
    """The config with the classes of all pairs, of which the first few may not have all."""
    config = copy.deepcopy(config)
    if not config.data.classes:
        labels = [volume for _, volume in open_pairs(pairs)]
        counts = [
            count_labels(v.data, name=str(p.labels)) for p, v in zip(pairs, labels, strict=True)
        ]
        ignored = config.data.ignore_value
        config.data.classes = str(detect_classes(labels, counts, ignore_value=ignored))
    return config


def _check_same_experiment(
    output: Path, config: Any, pairs: Sequence[Pair], cases: Sequence[Case]
) -> None:
    """Results that are there already are of this config and these data."""
    fields = json.loads(config.to_json_best_effort())
    fields['data'] |= {'train': [p.name for p in pairs], 'labels': ''}
    note = output / 'experiment.json'
    now = json.dumps({'config': fields, 'test': [case.name for case in cases]}, indent=1)
    if note.exists() and note.read_text(encoding='utf-8') != now:
        found = 'has a learning curve of another config or of other data in it'
        raise InputError(output, found, 'another --output')
    write_text(note, now)


def _score_run(
    config: Any,
    pairs: Sequence[Pair],
    test: str | Path,
    folder: Path,
    repeat: int,
    found: Mapping[str, Any],
) -> Columns:
    """Train on the pairs, segment and score the test tomograms."""
    link_pairs(pairs, folder / 'train')
    config = copy.deepcopy(config)
    config.data.train, config.data.labels = str(folder / 'train'), ''
    config.seed += repeat
    train_network(config, folder / 'training')
    cases, classes = predict_with_checkpoint(
        folder / 'training', test, None, folder / 'labels', **_datasets(config)
    )
    options = Options(classes=classes, ignore_label=config.data.ignore_value)
    scores = evaluate_volumes(cases, options=options).scores
    n = len(scores['dice'])
    columns = {name: np.array([value] * n) for name, value in found.items()}
    return {**columns, **{name: scores[name] for name in ('class', 'name', 'dice')}}
