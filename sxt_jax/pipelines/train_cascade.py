"""Train the stages of a cascade in turn, each on what the stage before found.

    W/<stage>/                       the run of a stage: checkpoints, metrics, as of any network
    W/<stage>/fold_<i>/              that of a network which did not see a part of the volumes
    W/<stage>/probabilities/<made>/  what the next stage sees: Zarr, uint8, on the stage's own grid
    W/checkpoints/                   all stages in one checkpoint

What is there already is not done again: the same command goes on where an earlier one ended.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import logging

from sxt_jax.core.atomic import remove_abandoned
from sxt_jax.core.devices import make_device_mesh
from sxt_jax.core.errors import InputError
from sxt_jax.core.processes import everyone
from sxt_jax.core.progress import progress_bar
from sxt_jax.data.datasets import Example
from sxt_jax.data.folds import split_folds
from sxt_jax.data.intensity import Intensity
from sxt_jax.inference import predict_slabs
from sxt_jax.inference.selection import EarlierProbs, Selection, to_maps
from sxt_jax.io import open_writer
from sxt_jax.pipelines.cascade_data import Place, StageData, StageMap, Volumes, common_multiple
from sxt_jax.pipelines.check_config import check_same_fields
from sxt_jax.pipelines.stage_config import check_cascade, is_cascade, stage_config, stage_names
from sxt_jax.pipelines.train_network import Load, check_initial, train_network, write_records
from sxt_jax.pipelines.trained_network import STAGES, TrainedNetwork, load_network, stage_name
from sxt_jax.pipelines.training_data import TrainingData
from sxt_jax.training.checkpoint import (
    Checkpoint,
    best_checkpoint,
    latest_checkpoint,
    list_checkpoints,
    remove_leftovers,
    remove_old_checkpoints,
    save_checkpoint,
)
from sxt_jax.training.logbook import METRICS_FILE, locked
from sxt_jax.training.loop import SCORE

_MAPS, _FOLD = 'probabilities', 'fold_{}'
Maps = dict[Place, StageMap]


def train_experiment(config: Any, workdir: str | Path) -> Checkpoint:
    """Train a cascade, or the one network of any other experiment; see there."""
    return (train_cascade if is_cascade(config) else train_network)(config, workdir)


def list_runs(workdir: str | Path) -> list[Path]:
    """The folders of the trainings in a workdir: itself, or those of its stages."""
    workdir = Path(workdir)
    if (workdir / METRICS_FILE).is_file():
        return [workdir]
    return sorted(path.parent for path in workdir.glob(f'*/{METRICS_FILE}'))


def train_cascade(config: Any, workdir: str | Path) -> Checkpoint:
    """Train all stages as `config` says (see `configs/cascade.py`); goes on where a run ended.

    Args:
      config: an experiment with stages.
      workdir: folder for the runs of the stages, and the checkpoint of all.

    Returns:
      The checkpoint that holds all stages.

    Raises:
      InputError: anything wrong with the config or the data; a loss that is not finite; an
        interruption.
    """
    workdir = Path(workdir)
    check_cascade(config)
    if (n := everyone().size) > 1:
        raise InputError('config.stages', f'a cascade in {n} processes', 'one process')
    stages = {name: stage_config(config, name) for name in stage_names(config)}
    multiple = common_multiple(list(stages.values()))
    with locked(workdir):
        remove_leftovers(workdir)
        _check_begun(workdir, stages)
        maps: Maps | None = None
        for number, (name, stage) in enumerate(stages.items(), start=1):
            logging.info('Stage %d of %d: %s', number, len(stages), name)
            is_last = number == len(stages)
            n_folds = 0 if is_last else config.out_of_fold.folds
            data = StageData(stage, maps, multiple=multiple, n_folds=n_folds)
            later = [workdir / other for other in list(stages)[number:]]
            load = data.load
            if maps is None:
                others = [StageData(stages[path.name], None, multiple=multiple) for path in later]
                load = _load_first(data, others)
            started = _when_started(config, workdir, maps, later)
            best = train_network(stage, workdir / name, load=load, on_start=started)
            if not is_last:
                maps = _predict_all(data, workdir / name, best, later)
        return _save_together(config, workdir, list(stages))


def _check_begun(workdir: Path, stages: Mapping[str, Any]) -> None:
    """Raise where stages cannot go on with their configs, or the folder is of something else."""
    joined = latest_checkpoint(workdir)
    if joined is not None and STAGES not in joined.description:
        raise InputError(workdir, 'the run of a single network', 'another --workdir: a cascade')
    for name, stage in stages.items():
        before = latest_checkpoint(workdir / name)
        if before is not None:
            now = json.loads(stage.to_json_best_effort())
            check_same_fields(before.description['config'], now, workdir=workdir / name)
        else:
            check_initial(stage)


def _load_first(data: StageData, others: Sequence[StageData]) -> Load:
    """What gives the first stage's data, and tells of the other stages what can be told by them."""

    def load(config: Any, *, intensity: str | Intensity, folder: str | Path) -> TrainingData:
        loaded = data.load(config, intensity=intensity, folder=folder)
        n_classes = len(loaded.classes)
        for other in others:
            other.foresee(data, loaded)
            if not list_checkpoints(Path(folder).parent / other.config.stage['name']):
                n_channels = loaded.n_channels + n_classes
                check_initial(other.config, n_classes=n_classes, n_channels=n_channels)
        return loaded

    return load


def _when_started(
    config: Any, workdir: Path, maps: Maps | None, later: Sequence[Path]
) -> Callable[[int], None]:
    """What is done when the data of a stage are accepted; `maps` are those it sees."""

    def start(n_left: int) -> None:
        _check_later(n_left, later)
        if maps is None:
            write_records(config, workdir)
        else:
            _remove_others(maps)

    return start


def _check_later(n_left: int, later: Sequence[Path]) -> None:
    """Raise where a network would be trained further from which later stages have learnt."""
    begun = [str(path) for path in later if list_checkpoints(path)]
    if n_left and begun:
        found = f'learnt from a network before it, which has {n_left} steps left to train'
        expected = 'no more epochs than it had, or ' + ' and '.join(begun) + ' removed'
        raise InputError(begun[0], found, f'{expected}: trained anew')


def _predict_all(data: StageData, folder: Path, best: Checkpoint, later: Sequence[Path]) -> Maps:
    """What the next stage sees of every volume."""
    volumes = data.volumes(Intensity.from_dict(best.description['intensity']))
    maps = _predict_out_of_fold(data, folder, volumes, later) if data.n_folds else {}
    others = [place for place in volumes.found if place not in maps]
    return maps | _predict(data, folder, volumes, others)


def _predict_out_of_fold(
    data: StageData, folder: Path, volumes: Volumes, later: Sequence[Path]
) -> Maps:
    """Of each volume to train on, by a network that was trained on the others, but for a fold."""
    train, _ = data.split(volumes)
    n_folds = min(data.n_folds, len(train))
    places = {id(example): place for place, example in train.items()}
    maps: Maps = {}
    for fold in range(n_folds):
        _, left_out = split_folds(
            list(train.values()), n_folds=n_folds, fold=fold, seed=data.config.seed
        )
        chosen = [places[id(example)] for example in left_out]
        logging.info(
            'Fold %d of %d: without %s', fold + 1, n_folds, ', '.join(e.name for e in left_out)
        )
        workdir = folder / _FOLD.format(fold)
        train_network(
            data.config,
            workdir,
            load=data.without(chosen),
            on_start=lambda n_left: _check_later(n_left, later),
        )
        maps |= _predict(data, workdir, volumes, chosen)
    return maps


def _predict(data: StageData, folder: Path, volumes: Volumes, places: Sequence[Place]) -> Maps:
    """What the best network of a run finds in some volumes, written beside the run."""
    best = best_checkpoint(folder, metric=SCORE)
    inference = dict(data.config.inference)
    maps: Maps = {}
    network = None
    for place in places:
        example = volumes.found[place]
        source = _source(best, example, data.gray_checksums[place])
        target = folder / _MAPS / source[:16] / f'{place[0]}_{place[1]}_{_plain(example.name)}.zarr'
        maps[place] = StageMap(target, data.steps(example), source)
        if not target.exists():
            network = network or load_network(best.path)
            _write_maps(target, network, example, inference, n_classes=len(volumes.classes))
    return maps


def _source(checkpoint: Checkpoint, example: Example, gray: int) -> str:
    """Digest of what decides probabilities: weights, gray values, and the channels behind them.

    Tiles are left out: a run may go on with others, and those that are made stay.
    """
    facts = {'weights': checkpoint.digest, 'gray': gray, 'earlier': example.checksum}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _plain(name: str) -> str:
    return re.sub(r'[^\w.-]', '_', name)


def _write_maps(
    target: Path,
    network: TrainedNetwork,
    example: Example,
    inference: Mapping[str, Any],
    *,
    n_classes: int,
) -> None:
    selection = None
    if example.band is not None:
        selection = Selection(example.band.choose_tiles, EarlierProbs(n_classes))
    remove_abandoned(target.parent)
    with open_writer(
        target,
        shape=(*example.shape, n_classes),
        dtype='uint8',
        voxel_size_nm=example.voxel_size_nm,
        axes='zyxc',
    ) as writer:
        slabs = predict_slabs(
            network.apply_fn,
            network.variables,
            example.image,
            device_mesh=make_device_mesh(jax.local_devices()),
            finish=to_maps,
            selection=selection,
            **inference,
        )
        title = f'{example.name}, probabilities'
        with progress_bar(total=example.shape[0], unit='slice', desc=title, inner=True) as bar:
            for slab in slabs:
                writer.write(slab.z_start, slab.heads['maps'])
                bar.update(slab.z_stop - slab.z_start)


def _remove_others(maps: Maps) -> None:
    """Probabilities beside those, of networks that have been trained further since."""
    kept = {one.path.parent for one in maps.values()}
    for folder in {path.parent for path in kept}:
        for path in folder.iterdir():
            if path not in kept:
                shutil.rmtree(path, ignore_errors=True)


def _save_together(config: Any, workdir: Path, names: Sequence[str]) -> Checkpoint:
    """One checkpoint of the best networks of all stages; one that is there already stays.

    It is the newest, and the only one: that of other stages may have more steps.
    """
    found = [best_checkpoint(workdir / name, metric=SCORE) for name in names]
    stages = [_without(one.description, ('history', 'pending')) for one in found]
    steps = [_last_step(workdir / name) for name in names]
    sources = [one.digest for one in found]
    before = latest_checkpoint(workdir)
    if before is not None and before.description['sources'] == sources:
        return before
    first = stages[0]
    description = {
        'description': config.description,
        **{name: first[name] for name in ('n_channels', 'classes', 'volumes', 'version')},
        'intensity': None,
        STAGES: stages,
        'sources': sources,
        'config': json.loads(config.to_json_best_effort()),
    }
    tree = {}
    for one in found:
        saved = one.restore()
        kept = {name: saved[name] for name in ('params', 'batch_stats') if saved.get(name)}
        tree[stage_name(one.description)] = kept
    others = [int(path.name) for path in list_checkpoints(workdir)]
    save_checkpoint(workdir, max([sum(steps), *(step + 1 for step in others)]), tree, description)
    remove_old_checkpoints(workdir, keep=1, always=None)
    return best_checkpoint(workdir, metric=SCORE)


def _last_step(workdir: Path) -> int:
    latest = latest_checkpoint(workdir)
    assert latest is not None
    return latest.step


def _without(facts: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if name not in names}
