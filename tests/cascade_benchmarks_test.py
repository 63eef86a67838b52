"""Benchmarks of the cascade system: two stages or one, and tomograms of another cell type."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import cascade, transfer
from sxt_jax.core.volume import Volume
from sxt_jax.models import NETWORKS
from sxt_jax.pipelines.check_config import check_config
from sxt_jax.pipelines.stage_config import check_cascade
from sxt_jax.pipelines.trained_network import load_stages
from tests.pipelines.train_cascade_test import TinyUNet

VOXEL = (100.0, 100.0, 100.0)


@pytest.fixture
def tiny_network(monkeypatch):
    monkeypatch.setitem(NETWORKS, 'unet3d', TinyUNet)


def _cell(seed, side):
    """Absorption and labels 0 … 4 of shells around a centre."""
    centre = side / 2 + np.random.default_rng(seed).uniform(-1, 1, 3)
    distance = np.linalg.norm(np.indices((side,) * 3).T - centre, axis=-1)
    labels = (distance[..., None] < side * np.array([0.45, 0.35, 0.25, 0.15])).sum(-1)
    return (0.1 + 0.1 * labels).astype(np.float32), labels.astype(np.uint8)


def _tomogram(seed, size, question):
    del question
    lac, labels = _cell(seed, size.side)
    return Volume(lac, VOXEL), Volume(labels, VOXEL), Volume(lac, VOXEL)


@pytest.mark.usefixtures('tiny_network')
def test_stages_are_trained_scored_and_not_done_again(tmp_path, monkeypatch):
    monkeypatch.setattr(cascade, 'make_tomogram', _tomogram)
    asked = cascade.QUESTIONS['organelles']
    asked = dataclasses.replace(asked, ways=asked.ways[:3])
    monkeypatch.setitem(cascade.QUESTIONS, 'organelles', asked)
    tiny = cascade.SIZES['smoke']
    tiny = dataclasses.replace(tiny, fields={**tiny.fields, 'out_of_fold.folds': 0})
    monkeypatch.setitem(cascade.SIZES, 'smoke', tiny)
    output = tmp_path / 'out'
    command = ['cascade', '--size=smoke', '--seeds=1', '--only=organelles', '--output']
    monkeypatch.setattr('sys.argv', [*command, str(output), '--results', str(tmp_path)])
    cascade.main()
    run = output / 'smoke' / 'organelles' / '0'
    assert len(load_stages(run / 'cascade')) == 2  # the first was trained before
    assert len(load_stages(run / 'single')) == 1
    images = {p.read_bytes() for p in run.glob('found/*/0.tif')}
    assert len(images) == len(asked.ways)
    monkeypatch.setattr(cascade, 'train_experiment', None)
    cascade.main()
    first, again = map(json.loads, (tmp_path / 'cascade.jsonl').read_text().splitlines())
    assert first['rows'] == again['rows']
    assert [row['way'] for row in first['rows']] == list(asked.ways)
    heads, *rows = cascade.table_rows([{**first, 'smoke': False}])
    assert heads == ('cells', 'size', 'way', *cascade.SHOWN)
    dice = first['rows'][0]['cytoplasm']
    assert rows[0][:4] == ('organelles', 'smoke', 'single', f'{dice:.3f}')


def test_scores_are_of_classes_cells_and_surfaces():
    lac, labels = _cell(0, 24)
    found = np.where(labels == 4, 3, labels)
    classes = tuple(cascade.QUESTIONS['organelles'].task)
    scores = cascade.score(*(Volume(data, VOXEL) for data in (found, labels, lac)), classes)
    n_3, n_4 = ((labels == k).sum() for k in (3, 4))
    assert scores['mitochondria'] == pytest.approx(2 * n_3 / (2 * n_3 + n_4))
    assert scores['lipid droplets'] == 0
    assert scores[cascade.MEAN] == pytest.approx((2 + scores['mitochondria']) / 4)
    assert (scores[cascade.CELL], scores[cascade.RATIO]) == (1, 0)
    shift = (0.4 * n_3 + 0.5 * n_4) / (n_3 + n_4) / 0.4 - 1
    assert scores[cascade.LAC] == pytest.approx(shift / 3, rel=1e-4)  # of the three found
    larger = np.pad(labels[2:, 2:, 2:], (0, 2))
    moved = cascade.score(*(Volume(d, VOXEL) for d in (larger, labels, lac)), classes)
    assert moved[cascade.CELL] < 1


def test_ways_are_compared_seed_by_seed():
    rows = [
        {'way': way, 'seed': seed, **dict.fromkeys(cascade.SHOWN, value + seed / 10)}
        for way, value in (('single', 0.4), ('coarse', 0.5))
        for seed in (0, 1)
    ]
    record = {
        'benchmark': 'cascade',
        'question': 'a',
        'smoke': False,
        'size': 'small',
        'rows': rows,
    }
    _, single, coarse = cascade.table_rows([record, {**record, 'size': 'a', 'smoke': True}])
    assert single[3] == '0.450 ± 0.071'
    assert coarse[3:] == ('0.550 ± 0.071 (2 of 2)',) * 6 + ('0.550 ± 0.071 (0 of 2)',) * 2


@pytest.mark.parametrize('question', cascade.QUESTIONS)
@pytest.mark.parametrize('size', cascade.SIZES)
def test_all_sizes_of_the_cascade_make_configs(size, question, tmp_path):
    asked = cascade.QUESTIONS[question]
    configs = {
        way: cascade.make_config(tmp_path, way, 0, cascade.SIZES[size], asked) for way in asked.ways
    }
    for way, config in configs.items():
        (check_config if way == 'single' else check_cascade)(config)
    single, last = configs['single'], configs[asked.ways[-1]]
    assert ', '.join(last.stages.order) == asked.ways[-1]
    assert single.data.steps_per_epoch == 2 * last.data.steps_per_epoch
    assert single.model == last.model


@pytest.mark.usefixtures('tiny_network')
def test_transfer_from_simulated_cells_to_a_row_of_the_table(tmp_path, monkeypatch):
    def simulate(seed, *, scene, imaging):
        lac, labels = _cell(seed, scene.shape[0])
        return SimpleNamespace(image=Volume(lac, VOXEL), labels=Volume(labels, VOXEL))

    monkeypatch.setattr(transfer, 'simulate', simulate)
    command = ['transfer', '--size=smoke', '--repeats=1', '--output', str(tmp_path / 'out')]
    monkeypatch.setattr('sys.argv', [*command, '--results', str(tmp_path)])
    transfer.main()
    lines = (tmp_path / 'transfer.jsonl').read_text().splitlines()
    records = [{**json.loads(line), 'smoke': False} for line in lines]
    assert [(r['start'], r['n_other']) for r in records] == [('base', 0), ('scratch', 1)]
    heads, base, scratch = transfer.table_rows([*records, {**records[1], 'smoke': True}])
    assert len(heads) == len(base) == 8
    assert base[:5] == ('smoke', 'base', '0', '1', f'{records[0]["base_dice"]:.3f}')
    change = records[1]['other_dice'] - records[0]['other_dice']
    assert float(scratch[7]) == pytest.approx(change, abs=1e-3)


def test_all_sizes_of_the_transfer_make_configs(tmp_path):
    for size in transfer.SIZES.values():
        config = transfer.make_config(size)
        config.data.train = str(tmp_path)
        check_config(config)
        assert max(size.n_other) <= size.n_train['other']
