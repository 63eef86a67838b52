"""Benchmarks of stacks: many labelled slices or few, and more voxels than memory."""

import dataclasses
import json

import numpy as np
import pytest

from benchmarks import labelled_slices, large_stack, real_micrographs
from sxt_jax.core.volume import Volume
from sxt_jax.data.phantom import SimulatedStack
from sxt_jax.io import open_volume, read_volume, write_volume
from sxt_jax.models import NETWORKS
from sxt_jax.pipelines.check_config import check_config
from sxt_jax.pipelines.segmenter import load_segmenter
from tests.training.stacks import TinyResUNet, make_cells

TINY = dataclasses.replace(labelled_slices.SIZES['smoke'], shape=(12, 46, 38))


@pytest.fixture
def tiny_network(monkeypatch):
    monkeypatch.setitem(NETWORKS, 'resunet', TinyResUNet)


def _tissue(seed, *, shape):
    image, ids, nuclei = make_cells(shape)
    nucleoli = nuclei * (np.arange(shape[0]) % 2)[:, None, None].astype(np.uint8)
    labels = Volume(2 * nuclei + nucleoli)
    instances = Volume(ids)
    return SimulatedStack(Volume(image), labels, instances, instances, instances, {})


def test_scores_are_of_the_slices_that_were_not_trained_on():
    truth = np.zeros((3, 1, 4), np.uint8)
    truth[1, 0, :2] = 1
    found = np.ones_like(truth)
    found[1, 0] = 1, 0, 1, 0
    assert labelled_slices.score_rest(found, truth, [0, 2]) == {
        'dice': 0.5, 'precision': 0.5, 'recall': 0.5,
    }  # fmt: skip


@pytest.mark.usefixtures('tiny_network')
def test_draws_are_trained_scored_and_not_done_again(tmp_path, monkeypatch):
    monkeypatch.setattr(labelled_slices, 'tissue', _tissue)
    monkeypatch.setitem(labelled_slices.SIZES, 'smoke', TINY)
    command = ['labelled_slices', '--size=smoke', '--draws=2', '--output', str(tmp_path / 'out')]
    monkeypatch.setattr('sys.argv', [*command, '--results', str(tmp_path)])
    trained = []
    plain = labelled_slices.train_network

    def train(config, workdir):
        trained.append(workdir.name)
        return plain(config, workdir)

    monkeypatch.setattr(labelled_slices, 'train_network', train)
    for _ in range(2):
        labelled_slices.main()
    assert trained == ['2_0', '3_0', '2_1', '3_1']
    run = tmp_path / 'out' / 'smoke'
    rows = [json.loads(p.read_text()) for p in sorted(run.glob('random/nuclei/*/scores.json'))]
    assert [(r['n_slices'], r['draw']) for r in rows] == [(2, 0), (2, 1), (3, 0), (3, 1)]
    assert rows[0]['trained_on'] != rows[1]['trained_on']
    facts = load_segmenter(run / 'random' / 'nuclei' / '3_0')
    assert facts.classes.names == ('background', 'nucleus')
    assert (run / 'scores.png').stat().st_size > 1000
    assert len((run / 'scores.csv').read_text().splitlines()) == 5
    lines = (tmp_path / 'labelled_slices.jsonl').read_text().splitlines()
    records = [{**json.loads(line), 'smoke': False} for line in lines]
    heads, *table = labelled_slices.table_rows(records)
    assert heads[3:] == ('dice', 'precision', 'recall')
    assert [row[1:3] for row in table] == [('2 of 12, random', '2'), ('3 of 12, random', '2')]
    dice = [r['dice'] for r in rows[:2]]
    mean, sd = (float(text) for text in table[0][3].split(' ± '))
    assert (mean, sd) == pytest.approx((np.mean(dice), np.std(dice, ddof=1)), abs=1e-3)


@pytest.mark.parametrize('size', labelled_slices.SIZES)
def test_all_sizes_make_configs(size, tmp_path):
    chosen = labelled_slices.SIZES[size]
    for organelle in chosen.organelles:
        config = labelled_slices.make_config(tmp_path, chosen, organelle, 2, 0)
        check_config(config)
        assert config.epochs * config.data.steps_per_epoch == chosen.steps


@pytest.mark.usefixtures('tiny_network')
def test_micrographs_are_learnt_scored_and_not_done_again(tmp_path, monkeypatch):
    output = tmp_path / 'out'
    command = ['real_micrographs', '--smoke', '--output', str(output), '--results', str(tmp_path)]
    monkeypatch.setattr('sys.argv', command)
    real_micrographs.main()
    monkeypatch.setattr(real_micrographs, 'train_network', None)
    real_micrographs.main()
    lines = (tmp_path / 'real_micrographs.jsonl').read_text().splitlines()
    rest, other = (json.loads(line) for line in lines)
    assert (rest['scored'], other['scored']) == ([0, 2, 3, 5, 6], list(range(8)))
    truth = real_micrographs.real_slices.simulate().truth
    for record, part in ((rest, 'train'), (other, 'test')):
        index = real_micrographs.real_data.cut(truth.shape)[part]
        true = truth[index][record['scored']]
        found = read_volume(output / 'simulated_2_4' / 'segmented' / f'{part}.tif').data
        found = found[record['scored']] == 1
        assert 0 < found.mean() < 1
        dice = 2 * (found & true).sum() / (found.sum() + true.sum())
        assert record['dice'] == pytest.approx(dice, abs=1e-4)
        assert (output / 'simulated_2_4' / f'{part}.png').stat().st_size > 1000
    heads, first, second = real_micrographs.table_rows(
        [{**r, 'smoke': smoke} for smoke in (False, True) for r in (rest, other)]
    )
    assert heads[4:7] == ('dice', 'precision', 'recall')
    assert first[:4] == ('membranes', '2 × 2', '3 of 8', 'unlabelled slices')
    assert (first[4], second[3]) == (f'{rest["dice"]:.3f}', 'other part')


def test_organelles_of_the_micrographs(tmp_path):
    classes = np.zeros((10, 16, 12), np.uint8)
    classes[:, :, 1:] = (32, 64, 96, 128, 159, 191, 191, 223, 255, 255, 255)
    (tmp_path / 'vnc').mkdir()
    write_volume(tmp_path / 'vnc' / 'classes.tif', Volume(classes))
    write_volume(tmp_path / 'vnc' / 'raw.tif', Volume(classes + 1))
    for organelle, share in (('mitochondria', 2 / 12), ('membranes', 5 / 12)):
        stack = real_micrographs.read_stack(organelle, tmp_path)
        assert stack.class_name == organelle
        assert stack.image.voxel_size_nm == (50, 4.6, 4.6)
        assert stack.truth.mean() == pytest.approx(share)
        for binning in (1, 2, 4):
            config = real_micrographs.make_config(stack, tmp_path, steps=120, binning=binning)
            check_config(config)
            assert config.data.patch[1] * binning == 512
        assert config.epochs * config.data.steps_per_epoch == 150
        assert config.data.ignore_value not in classes


def test_a_stack_of_which_little_is_stored(tmp_path):
    shape = (150, 300, 1100)
    large_stack.make_stack(tmp_path / 'a.zarr', shape)
    stored = sum(f.stat().st_size for f in (tmp_path / 'a.zarr').rglob('*') if f.is_file())
    assert stored < 0.3 * np.prod(shape)
    volume = open_volume(tmp_path / 'a.zarr')
    assert (volume.shape, volume.voxel_size_nm) == (shape, (4, 4, 4))
    first, *again = (volume.data[z] for z in (7, 71, 135))
    for other in again:
        np.testing.assert_array_equal(other, first)
    assert (first[:, 1024:] == 120).all()
    assert first[:256].std() > 10
    assert not np.array_equal(volume.data[8], first)


@pytest.mark.usefixtures('tiny_network')
@pytest.mark.parametrize('variant', ['full', 'cells'])
def test_checkpoints_of_random_weights_are_usable(variant, tmp_path):
    large_stack.make_checkpoint(tmp_path, large_stack.make_config(variant, 2))
    segmenter = load_segmenter(tmp_path)
    assert segmenter.binning == ((1, 1, 1) if variant == 'full' else (1, 4, 4))
    assert segmenter.has_maps == (variant == 'cells')
    assert segmenter.tiling['tile'] == [1, 512, 512]
    assert segmenter.intensity.kind == 'slice'
