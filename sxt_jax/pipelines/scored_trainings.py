"""Trainings on chosen tomograms, each done once, and scored on others, as studies of data need."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sxt_jax.core.atomic import write_text
from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import Volume
from sxt_jax.data.classes import count_labels
from sxt_jax.data.datasets import check_value_names, detect_classes, open_pairs
from sxt_jax.io import Pair, open_volume, pair, split_dataset, write_table
from sxt_jax.models import build_model
from sxt_jax.models.slicewise import takes_slices
from sxt_jax.pipelines.evaluate_volumes import Options, evaluate_volumes
from sxt_jax.pipelines.evaluation import Case, Columns, find_cases, predict_with_checkpoint
from sxt_jax.pipelines.learning_curve_fit import read_scores
from sxt_jax.pipelines.train_network import train_network

TRAINING = 'training'  # folder of the checkpoints, in that of a training


def draw_pairs(pairs: Sequence[Pair], size: int, *, seed: int, repeat: int) -> list[Pair]:
    """The first pairs of an order that seed and repeat decide."""
    order = np.random.default_rng((seed, repeat)).permutation(len(pairs))
    return [pairs[i] for i in order[:size]]


def link_pairs(pairs: Sequence[Pair], folder: str | Path, *, marks: Sequence[str] = ()) -> None:
    """A folder that `io.pair` finds exactly these pairs in: links to the files, no copies.

    Images and labels go to one folder where they share one, else to `images` and `labels`.

    Args:
      pairs: the files.
      folder: for the links.
      marks: before the names of each pair's links, where pairs of one name would meet.

    Raises:
      InputError: the folder holds other files, or cannot be written to.
    """
    folder = Path(folder)
    files = [tuple(split_dataset(path)[0] for path in (p.image, p.labels)) for p in pairs]
    together = all(image.parent == labels.parent for image, labels in files)
    images, labels = (folder, folder) if together else (folder / 'images', folder / 'labels')
    links: dict[Path, Path] = {}
    for (image, label), mark in zip(files, marks or [''] * len(files), strict=True):
        links |= {images / f'{mark}{image.name}': image, labels / f'{mark}{label.name}': label}
    others = [path for sub in {images, labels} if sub.exists() for path in sub.iterdir()]
    if any(path not in links for path in others):
        raise InputError(folder, 'holds other files', 'an empty folder, or none')
    for link, file in links.items():
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(file.resolve())


def check_scorable(config: Any) -> None:
    """Whether the config's networks can be scored by the Dice of classes that all data share.

    Tomograms in a validation folder are labelled too, and would be in no number of tomograms; some
    might be scored on, so that the best checkpoint would be the best of the test.

    Raises:
      InputError: naming the field.
    """
    if config.flows.kind:
        expected = 'a config of classes; scores of cells are fitted with --scores'
        raise InputError('config.flows.kind', repr(config.flows.kind), expected)
    if config.data.task:
        expected = (
            'config.data.classes: trainings see links to some of the tomograms, without the YAML '
            'files that name materials'
        )
        raise InputError('config.data.task', repr(config.data.task), expected)
    if config.data.validation:
        expected = 'none: config.data.validation_fraction holds out a part of each training'
        raise InputError('config.data.validation', repr(config.data.validation), expected)


def check_enough_for_folds(config: Any, n_pairs: int) -> None:
    """Whether the smallest training has a tomogram for every fold, before a larger one is done.

    Folds of a network of slices may be parts of one tomogram.

    Args:
      config: an experiment.
      n_pairs: tomograms of the smallest training.

    Raises:
      InputError: it has fewer.
    """
    n_folds = config.data.folds
    if n_pairs < n_folds and not takes_slices(build_model(config.model)):
        found = f'{n_folds}, with a smallest training of {n_pairs}'
        raise InputError('config.data.folds', found, f'at most {n_pairs}, or larger trainings')


def find_pairs_of(config: Any, images: str | Path, labels: str | Path = '') -> Sequence[Pair]:
    """Tomograms with labels, of the config's data sets."""
    return pair(images, labels or None, **_datasets(config))


def find_tests_of(config: Any, folder: str | Path) -> list[Case]:
    """Tomograms with labels to score on, likewise."""
    return find_cases(folder, **_datasets(config))


def _datasets(config: Any) -> dict[str, Any]:
    fields = config.data
    return {'dataset': fields.dataset or None, 'label_dataset': fields.label_dataset or None}


def check_apart(
    pairs: Sequence[Pair | Case], others: Sequence[Pair | Case], *, found: str, expected: str
) -> None:
    """No tomogram is in both, as one that is trained on and scored on would be.

    Args:
      pairs, others: with images.
      found, expected: what to say of one of the others that is a pair too.

    Raises:
      InputError: naming the tomogram.
    """
    files = {_image_file(p) for p in pairs}
    for other in others:
        if _image_file(other) in files:
            raise InputError(other.image, found, expected)


def check_tests_apart(pairs: Sequence[Pair], cases: Sequence[Case]) -> None:
    """No network is scored on what it was trained on; see `check_apart`."""
    told = {'found': 'is a training tomogram too', 'expected': 'others to test with'}
    check_apart(pairs, cases, **told)


def _image_file(pair_or_case: Pair | Case) -> Path:
    assert pair_or_case.image is not None
    return split_dataset(pair_or_case.image)[0].resolve()


def with_classes(config: Any, pairs: Sequence[Pair], cases: Sequence[Case] = ()) -> Any:
    """The config with the classes of all pairs, of which the first few may not have all.

    Raises:
      InputError: two files of labels, some perhaps of cases to test with, contradict each other.
    """
    config = copy.deepcopy(config)
    if not config.data.classes:
        labels = {p.labels: volume for p, (_, volume) in zip(pairs, open_pairs(pairs), strict=True)}
        classes = detect_classes(**_counted(labels), ignore_value=config.data.ignore_value)
        check_value_names(classes, **_counted({c.truth: open_volume(c.truth) for c in cases}))
        config.data.classes = str(classes)
    return config


def _counted(labels: Mapping[Path, Volume]) -> dict[str, Any]:
    """Label volumes, what occurs in them and their files, as `detect_classes` takes them."""
    counts = [count_labels(volume.data, name=str(file)) for file, volume in labels.items()]
    return {'labels': [*labels.values()], 'counts': counts, 'files': [*labels]}


def check_same_experiment(
    output: Path, config: Any, *, train: Sequence[str], test: Sequence[str], **facts: Any
) -> None:
    """Results that are there already are of this config and these data.

    Fields that there were not when they were made are not compared.

    Args:
      output: folder of the results.
      config: the experiment.
      train, test: names of the tomograms.
      facts: what else decides the results, JSON-able.

    Raises:
      InputError: they are not.
    """
    fields = json.loads(config.to_json_best_effort())
    fields['data'] |= {'train': list(train), 'labels': ''}
    note = output / 'experiment.json'
    now = json.dumps({'config': fields, 'test': list(test), **facts}, indent=1)
    if note.exists() and not _agree(json.loads(note.read_text('utf-8')), json.loads(now)):
        found = 'has results of another config or of other data in it'
        raise InputError(output, found, 'another --output')
    write_text(note, now)


def _agree(before: Any, now: Any) -> bool:
    if isinstance(before, dict) and isinstance(now, dict):
        return all(_agree(before[name], now[name]) for name in before.keys() & now.keys())
    return bool(before == now)


def train_on(
    config: Any,
    pairs: Sequence[Pair],
    folder: Path,
    *,
    repeat: int,
    marks: Sequence[str] = (),
) -> Path:
    """Train the config's network on these pairs, or go on; the workdir of the training.

    Args:
      config: an experiment, whose own data and seed are not used but changed by the repeat.
      pairs: what to train on; a part is held out as the config says.
      folder: for links to the pairs and for the training.
      repeat: added to the config's seed.
      marks: of `link_pairs`.
    """
    link_pairs(pairs, folder / 'train', marks=marks)
    config = copy.deepcopy(config)
    config.data.train, config.data.labels = str(folder / 'train'), ''
    config.seed += repeat
    train_network(config, folder / TRAINING)
    return folder / TRAINING


def score_on(config: Any, checkpoint: Path, test: str | Path, output: Path) -> Columns:
    """Segment and score the test tomograms: one row a class and tomogram, class, name and dice."""
    cases, classes = predict_with_checkpoint(checkpoint, test, None, output, **_datasets(config))
    options = Options(classes=classes, ignore_label=config.data.ignore_value)
    scores = evaluate_volumes(cases, options=options).scores
    return {name: scores[name] for name in ('class', 'name', 'dice')}


def label_rows(found: Mapping[str, Any], table: Columns) -> Columns:
    """The table with columns of one value in front."""
    n = len(table['dice'])
    return {**{name: np.array([value] * n) for name, value in found.items()}, **table}


def do_once(path: Path, make: Callable[[], Columns]) -> Columns:
    """The table of scores at `path`; it is made if it is not there."""
    if not path.exists():
        write_table(path, make())
    return read_scores(path)
