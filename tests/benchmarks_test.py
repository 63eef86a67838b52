"""The harness: wrong answers are not timed, records are complete, the table shows the newest."""

import dataclasses
import functools
import json
import mmap
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import (
    cell_propagation,
    harness,
    interpolation_accuracy,
    linking,
    optical_flow,
    random_walks,
    real_cells,
    real_slices,
    report,
    scenes,
    shape_features,
    slice_latency,
    streaming_memory,
    suggested_slices,
    tiled_inference,
    tracking_accuracy,
    training_steps,
)
from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import Volume
from sxt_jax.io import read_volume
from sxt_jax.metrics import contingency_table
from sxt_jax.models import NETWORKS
from sxt_jax.ops import warp
from sxt_jax.pipelines.check_config import check_config
from tests.training.cells import TinyFlowNet


def make_case(name='sum', *, expected=10.0, unit='Mvoxel/s', run=None):
    def check(answer):
        np.testing.assert_allclose(answer, expected)

    run = run or (lambda: jnp.arange(5.0).sum())
    return harness.Case(name, run, check, work=1.0, unit=unit, shape=(5,))


def test_a_wrong_answer_is_not_timed():
    runs = []

    def run():
        runs.append(1)
        return jnp.float32(9.0)

    with pytest.raises(AssertionError):
        harness.run_cases('q', [make_case(run=run)])
    assert len(runs) == 1


def test_records_tell_all_that_a_figure_depends_on():
    first, second = harness.run_cases('q', [make_case('a'), make_case('b')], repeats=2)
    assert first['ratio'] == 1.0
    assert second['ratio'] == second['rate'] / first['rate']
    assert second['baseline'] == 'a'
    assert first['rate'] == pytest.approx(1 / first['run_s'])
    assert first['n_devices'] == 8
    assert first['platform'] == 'cpu'
    assert first['peak_host_bytes'] > 2**20
    assert {'python', 'jax', 'flax', 'numpy'} <= first['versions'].keys()
    json.dumps([first, second])


@pytest.mark.parametrize(('in_a_row', 'turns'), [(False, 'ababab'), (True, 'aabbaabbaabb')])
def test_timed_runs_take_turns(in_a_row, turns):
    order = []

    def runner(name):
        return lambda: order.append(name) or jnp.float32(10)

    cases = [make_case('a', run=runner('a')), make_case('b', run=runner('b'))]
    records = harness.run_cases('q', cases, in_a_row=in_a_row)
    assert ''.join(order) == 'ab' + turns + 'ab'  # the last ones for their memory
    assert [record['repeats'] for record in records] == [3, 3]


def test_what_does_not_compile_is_timed_from_its_first_run():
    order = []

    def runner(name):
        return lambda: order.append(name) or jnp.float32(10)

    slow = dataclasses.replace(make_case('slow', run=runner('s')), compiles=False)
    records = harness.run_cases('q', [slow, make_case('ours', run=runner('o'))], repeats=2)
    assert ''.join(order) == 'soso' + 'o' + 'o'  # the last one for its memory
    assert [record['repeats'] for record in records] == [2, 2]
    assert records[0]['compile_s'] == 0


def test_answers_may_be_checked_and_nothing_timed():
    case = dataclasses.replace(make_case(), facts={'found': 3})
    (record,) = harness.run_cases('q', [case], repeats=0)
    assert record['facts'] == {'found': 3}
    assert 'rate' not in record
    assert harness.describe(record) == 'q · sum · 5: checked'
    assert len(report.make_table([record]).splitlines()) == 2
    with pytest.raises(AssertionError):
        harness.run_cases('q', [make_case(expected=9.0)], repeats=0)


def test_memory_of_a_device_is_its_peak_where_the_body_raises_it(monkeypatch):
    told = iter([(5, 100), (40, 100), (7, 100)])
    monkeypatch.setattr(harness, 'device_memory', lambda: next(told))
    memory = harness.PeakMemory()
    memory.sample()
    memory.sample()
    assert (memory.device_start, memory.device_peak, memory.device_added) == (5, 40, 35)
    told = iter([(5, 100), (8, 160)])
    memory = harness.PeakMemory()
    memory.sample()
    assert memory.device_peak == 160
    monkeypatch.setattr(harness, 'device_memory', lambda: None)
    memory = harness.PeakMemory()
    memory.sample()
    assert memory.device_peak is memory.device_added is None


def test_what_a_run_adds_to_memory_is_told():
    def run():  # straight from the system, as below
        n = 2**27
        with mmap.mmap(-1, n, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as block:
            block.write(bytes(n))
            time.sleep(0.2)
        return 10.0

    (record,) = harness.run_cases('q', [make_case(run=run)], repeats=2)
    assert 2**26 < record['added_host_bytes'] <= record['peak_host_bytes']
    assert 'of them by a run' in harness.describe(record)
    assert f'{record["added_host_bytes"] / 2**20:,.0f} MiB (host)' in report.make_table([record])


def test_cases_of_different_units_are_refused():
    with pytest.raises(ValueError, match='unit'):
        harness.run_cases('q', [make_case(), make_case(unit='steps/s')])


def test_records_are_appended_and_read_back(tmp_path):
    records = harness.run_cases('q', [make_case()], repeats=1)
    harness.append_records(records, tmp_path)
    harness.append_records(records, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ['q.jsonl']
    assert harness.read_records(tmp_path) == [*records, *records]


def test_memory_watch_sees_an_allocation_that_is_gone_by_the_end():
    # Straight from the system: an array may be given pages that the process already holds.
    n, private = 2**27, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    with harness.watch_memory(0.001) as memory, mmap.mmap(-1, n, flags=private) as block:
        block.write(bytes(n))
        end = time.monotonic() + 20  # the watching thread may be late on a busy machine
        while memory.peak - memory.start < n // 2 and time.monotonic() < end:
            time.sleep(0.001)
    assert memory.peak - memory.start >= n // 2


def test_table_shows_the_newest_record_and_no_smoke_run():
    (old,) = harness.run_cases('q', [make_case()], repeats=1)
    new = {**old, 'rate': 1234.0}
    smoke = {**old, 'rate': 5678.0, 'smoke': True}
    table = report.make_table([old, new, smoke]).splitlines()
    assert len(table) == 3
    assert '1,234 Mvoxel/s' in table[2]


def test_table_is_put_between_the_markers():
    text = 'above\n<!-- a -->\nold\n<!-- /a -->\nbelow\n'
    inserted = report.insert_table(text, 'a', 'new')
    assert inserted == 'above\n<!-- a -->\n\nnew\n\n<!-- /a -->\nbelow\n'
    with pytest.raises(InputError, match='no place'):
        report.insert_table('no markers', 'a', 'new')


def test_tables_go_where_there_is_a_place_for_them(tmp_path):
    path = tmp_path / 'README.md'
    path.write_text('<!-- a -->\n<!-- /a -->', encoding='utf-8')
    report.fill_in(path, {'a': 'first', 'b': 'second'})
    text = path.read_text(encoding='utf-8')
    assert 'first' in text
    assert 'second' not in text
    with pytest.raises(InputError, match='no place'):
        report.fill_in(path, {'b': 'second'})


def test_scores_have_a_table_of_their_own():
    record = {'data': 'sxt', 'class': 'mitochondria', 'method': 'otsu', 'steps': 5}
    record |= {'dice': 0.5, 'iou': 0.25, 'precision': 1.0, 'recall': 0.1234, 'training_s': 90}
    newer = {**record, 'method': 'prediction', 'dice': 0.75}
    lines = report.make_score_table([record, {**newer, 'dice': 0}, newer]).splitlines()
    assert len(lines) == 4
    assert (
        lines[3]
        == '| sxt | mitochondria | prediction | 0.750 | 0.250 | 1.000 | 0.123 | 5 | 2 min |'
    )


def test_tiled_inference_is_checked_against_the_network_itself():
    loop, tiled = harness.run_cases('tiled_inference', tiled_inference.make_cases(True), repeats=1)
    assert loop['rate'] > 0
    assert tiled['baseline'] == loop['case']
    case = tiled_inference.make_cases(True)[1]
    with pytest.raises(AssertionError):
        case.check(case.run()[::-1])


@pytest.mark.process
@pytest.mark.parametrize(
    'grid',
    [
        pytest.param(grid, marks=pytest.mark.slow if grid == 'fixed grid' else ())
        for grid in streaming_memory.GRIDS
    ],
)
def test_memory_of_streaming_inference_does_not_grow_with_the_volume(grid, monkeypatch):
    monkeypatch.delenv('XLA_FLAGS', raising=False)  # one device, as on a user's machine
    small, large = streaming_memory.compare(grid=grid, **streaming_memory.SMOKE)
    output_grown = large['facts']['output_bytes'] - small['facts']['output_bytes']
    assert output_grown > 300 * 2**20
    assert large['peak_host_bytes'] - small['peak_host_bytes'] < output_grown / 4


def test_training_steps_are_checked_against_xlas_convolutions():
    cases = training_steps.make_cases(True)
    plain, ours = harness.run_cases('training_steps', cases, repeats=1)
    assert ours['baseline'] == plain['case']
    case = cases[1]
    wrong = {name: 1.01 * values for name, values in case.run().items()}
    with pytest.raises(AssertionError):
        case.check(wrong)


def test_slices_are_segmented_as_a_network_by_hand_labels_them():
    size = slice_latency.SMOKE_SIZE
    cases = {case.name: case for case in slice_latency.make_cases(size, smoke=True)}
    first, *_ = cases
    assert first == 'label, whole slices'
    classes = cases[first].run()
    cases[first].check(classes)
    with pytest.raises(AssertionError):
        cases[first].check(1 - classes)
    theirs = cases.get('PyTorch, the network alone')  # where it is installed
    if theirs is not None:
        theirs.check(theirs.run())


def test_latency_of_slices_stands_beside_the_papers():
    size = (1324, 1284)
    facts = {'flop_per_slice': 2.9e12, 'paper_ms': slice_latency.PAPER_MS[size]}
    record = {
        'benchmark': 'slice_latency', 'case': 'label', 'shape': [2, *size], 'dtype': 'float32',
        'smoke': False, 'repeats': 1, 'run_s': 58.0, 'run_s_range': [56.0, 60.0], 'device': 'cpu',
        'platform': 'cpu', 'n_cores': 2, 'compile_s': 3.0, 'load': 1.0, 'facts': facts,
    }  # fmt: skip
    smoke = {**record, 'smoke': True, 'run_s': 1.0}
    heads, row = slice_latency.table_rows([record, smoke])
    found = dict(zip(heads, row, strict=True))
    assert (found['seconds'], found['range']) == ('29', '28 – 30')
    assert (found['paper (RTX 3090)'], found['TFLOP/s']) == ('0.857', '0.1')


@pytest.mark.parametrize(
    ('network', 'kind'), [('ncxt', 'forward'), ('ncxt', 'step'), ('deep_sxt', 'step')]
)
def test_pytorch_gives_the_answers_of_the_networks(network, kind):
    pytest.importorskip('torch')
    from benchmarks import against_torch

    first, second, ours = against_torch.make_cases(network, kind, 'smoke')
    for case in (first, second, ours):
        case.check(case.run())
    with pytest.raises(AssertionError):
        ours.check(1.01 * ours.run())


@pytest.fixture(scope='module')
def scene():
    (made,) = scenes.make_scenes(scenes.make_cells(scenes.SMOKE_SHAPE, 3), [0.1])
    return made


def test_noise_is_what_scenes_differ_in(scene):
    clean, noisy = scenes.make_scenes(scene.labels, [0.0, 0.5])
    for kind, flows in clean.flows.items():
        assert not flows[scene.labels == 0].any()
        noise = noisy.flows[kind] - flows
        assert noise.dtype == np.float32
        assert noise.std() == pytest.approx(0.5, rel=0.02)
        np.testing.assert_allclose(scene.flows[kind] - flows, noise / 5, atol=1e-5)
    assert clean.n_cells == 3


def test_instances_are_scored_and_stages_give_what_the_whole_gives(scene):
    from benchmarks import instances

    tanh, _ = (case for case in instances.instance_cases(scene) if case.name.startswith('ours'))
    found = tanh.run()
    tanh.check(found)
    assert tanh.facts['found'] == 3
    assert tanh.facts['matched_dice'] > 0.95
    with pytest.raises(AssertionError):
        tanh.check(found[::-1])
    whole, *stages = instances.stage_cases(scene)
    whole.check(found)
    with pytest.raises(AssertionError):
        whole.check(found[::-1])
    with pytest.raises(AssertionError):
        stages[-1].check(stages[-1].run() + 1)
    *_, heat = instances.heat_cases(scene)
    flows = np.asarray(heat.run())
    heat.check(flows)
    with pytest.raises(AssertionError):
        heat.check(-flows)


def test_ways_to_track_are_scored_and_the_default_stands_out(scene):
    default = tracking_accuracy.default_way()
    short = tracking_accuracy.Way('euler', 'linear', 2, 2, 1.0)
    assert default in tracking_accuracy.ways()
    assert default.lookups == 14
    records = []
    for cases in tracking_accuracy.accuracy_cases(
        scene.labels, [0.0, 0.1], compared=[default, short]
    ):
        records += harness.run_cases('tracking_accuracy', cases, repeats=0)
    kinds = ['tanh', 'tanh', 'heat', 'heat']
    assert [record['facts']['flows'] for record in records] == 2 * kinds
    assert [record['facts']['length'] for record in records] == 4 * [1.0] + 4 * [0.25]
    dice = [record['facts']['matched_dice'] for record in records]
    assert min(dice[::2]) > 0.99 > max(dice[1::2])
    heads, *rows = tracking_accuracy.table_rows(records)
    scenes_told = [f'{kind}, noise 0.1{more}' for more in ('', ', × 0.25') for kind in kinds[1:3]]
    assert heads == ('way', 'look-ups', *scenes_told)
    assert rows[0][:2] == (f'**{default.name}**', '14')
    assert rows[0][2] == f'{dice[0]:.4f} / 1.000 / 3'
    newer = {**records[0], 'run_s': 0.25}
    heads, timed, _ = tracking_accuracy.table_rows([*records, newer])
    assert (heads[-1], timed[-1]) == ('seconds', '0.25')
    assert len(report.TABLES['tracking accuracy'](records).splitlines()) == 4
    stars = [line for axes in tracking_accuracy.figure(records).axes for line in axes.lines]
    assert sum(line.get_marker() == '*' for line in stars) == 2


def test_the_baseline_of_instances_gives_the_published_ones():
    pytest.importorskip('torch')
    from benchmarks import published_instances

    path = Path(__file__).parent / 'fixtures' / 'cellpose3d_instances.npz'
    with np.load(path) as file:
        foreground = file['fg_map'].astype(np.float32) / 256
        away = np.stack([file[f'flow_{axis}'] for axis in 'xyz']).astype(np.float32) / 256
        expected = file['instances_base']
    parameters = published_instances.Parameters()
    found = published_instances.reconstruct(foreground, away, parameters)
    assert np.mean(found == expected) > 0.999


def stack(voxel_size_nm=None):
    """Two cells of 5 × 4 × 6 voxels side by side along y, and one of 2 × 2 × 2."""
    labels = np.zeros((8, 12, 10), np.uint16)
    labels[1:6, 1:5, 2:8] = 4
    labels[1:6, 6:10, 2:8] = 7
    labels[6:8, 10:12, 0:2] = 9
    image = labels.astype(np.float32)
    return Volume(image, voxel_size_nm), Volume(labels, voxel_size_nm)


def test_a_cell_that_is_cut_counts_in_both_parts():
    image, labels = stack()
    train, test = real_cells.cut(image, labels, axis='y', test_fraction=1 / 3)
    assert (train.image.shape, test.image.shape) == ((8, 8, 10), (8, 4, 10))
    assert (train.n_cells, test.n_cells) == (2, 2)
    joined = np.concatenate([train.labels.data, test.labels.data], axis=1)
    np.testing.assert_array_equal(joined, labels.data)
    with pytest.raises(InputError, match='test part: no cells along z'):
        real_cells.cut(image, Volume(labels.data * (labels.data == 4)), axis='z', test_fraction=0.2)
    with pytest.raises(InputError, match='as the image'):
        real_cells.cut(image, Volume(labels.data[1:]), axis='z', test_fraction=0.2)


def test_the_typical_radius_counts_in_voxels_along_x():
    for size, volume in ((None, 120), ((30.0, 10.0, 10.0), 360)):
        _, labels = stack(size)
        assert 4 / 3 * np.pi * real_cells.typical_radius(labels) ** 3 == pytest.approx(volume)


@pytest.mark.parametrize('smoke', [True, False])
def test_the_config_for_one_small_stack_can_be_trained(smoke, tmp_path):
    config = real_cells.make_config(tmp_path, kind='heat', steps=1000, smoke=smoke)
    check_config(config)
    assert config.epochs * config.data.steps_per_epoch == 1000
    assert config.data.validation_fraction == 0
    fields = real_cells.fields_of([32, 64, 64], 8)
    larger = real_cells.make_config(tmp_path, kind='tanh', steps=10, fields=fields)
    check_config(larger)
    assert (larger.data.patch, larger.model.features, larger.batch_size) == ((32, 64, 64), 8, 1)


def test_cells_keep_their_colour_in_truth_and_prediction():
    _, labels = stack()
    truth = labels.data.astype(int)
    found = np.select([truth == 4, truth == 7], [2, 1], 0)
    found[0] = 3
    named = real_cells._named_alike(found, truth)
    np.testing.assert_array_equal(named[1:], np.where(truth == 9, 0, truth)[1:])
    assert named[0, 0, 0] == 3 + 9
    colours = real_cells.colours_of(np.arange(1, 200))
    assert len(np.unique(colours.round(3), axis=0)) == 199
    np.testing.assert_array_equal(real_cells.colours_of(truth)[3, 7, 5], colours[6])
    figure = real_cells.picture(labels, truth, found)
    shown = [axes.images[0].get_array() for axes in figure.axes]
    assert len(shown) == 9
    truth_panel, found_panel = shown[4], shown[5]  # z = 4
    np.testing.assert_array_equal(truth_panel[1:10], found_panel[1:10])
    assert not np.array_equal(shown[3], truth_panel)


class TinyCells(TinyFlowNet):
    """In the place of Cellpose3D, which takes half a minute to compile."""

    features: int = 2
    dtype: Any = jnp.float32
    side_multiple = (8, 8, 8)
    n_dims = 3


def test_real_cells_from_a_stack_to_a_row_of_the_table(tmp_path, monkeypatch):
    monkeypatch.setitem(NETWORKS, 'cellpose3d', TinyCells)
    monkeypatch.setattr('sys.argv', ['real_cells', '--smoke', '--output', str(tmp_path / 'out')])
    monkeypatch.setattr(sys, 'argv', [*sys.argv, '--results', str(tmp_path), '--kind', 'tanh'])
    real_cells.main()
    (record,) = harness.read_records(tmp_path)
    assert (record['steps'], record['flows'], record['data']) == (4, 'tanh', 'simulated')
    assert 0 <= record['matched_dice'] <= 1
    assert (tmp_path / 'out' / 'comparison.png').stat().st_size > 1000
    found = read_volume(tmp_path / 'out' / 'instances' / 'stack.tif')
    truth = read_volume(tmp_path / 'out' / 'test' / 'labels' / 'stack.tif')
    table = contingency_table(found.data, truth.data)
    assert record['found'] == len(table.pred_ids)
    assert record['cells'] == len(table.true_ids) > 0
    assert len(real_cells.table_rows([record])) == 1
    heads, row = real_cells.table_rows([{**record, 'smoke': False}])
    told = dict(zip(heads, row, strict=True))
    assert (told['data'], told['flows'], told['steps']) == ('simulated', 'tanh', '4')
    assert told['mean Dice'] == f'{record["matched_dice"]:.3f}'


def test_few_slices_are_labelled_and_the_others_scored(tmp_path, monkeypatch):
    stack = real_slices.simulate()
    assert set(np.unique(stack.labels.data)) == {0, 32, 255}
    np.testing.assert_array_equal(stack.truth, stack.labels.data < 255)
    real_slices.prepare(stack, tmp_path)
    cut = real_slices.real_data.cut(stack.image.shape)['train']
    sparse = read_volume(tmp_path / 'train' / 'a.labels.tif').data
    np.testing.assert_array_equal(np.flatnonzero((sparse != 1).any((1, 2))), stack.labelled)
    np.testing.assert_array_equal(sparse[4], stack.labels.data[cut][4])
    for kind in real_slices.KINDS:
        for smoke in (True, False):
            config = real_slices.make_config(
                stack, tmp_path / 'train', kind, steps=250, smoke=smoke
            )
            check_config(config)
            assert config.epochs * config.data.steps_per_epoch == 250
    found = np.where(stack.truth, 0.95, -1)
    found[list(stack.labelled)] *= -1  # what was learnt from is not scored
    monkeypatch.setattr(real_slices, 'train_network', lambda config, workdir: None)
    monkeypatch.setattr(real_slices, 'plot_curves', lambda workdir, path: None)
    parts = {part: found[i] for part, i in real_slices.real_data.cut(found.shape).items()}
    monkeypatch.setattr(real_slices, 'segment', lambda *_: parts)
    records = real_slices.run('simulated', stack, tmp_path, 'semi-supervised', steps=4, smoke=False)
    heads, first, second = real_slices.table_rows([records[0], *records])
    assert first[:4] == ('simulated: membranes', 'semi-supervised', '3 of 8', 'unlabelled slices')
    told = dict(zip(heads, first, strict=True))
    assert told['dice'] == told['precision at 0.9'] == '1.000'
    assert 0 < float(second[heads.index('dice')]) < 1
    assert (tmp_path / 'semi-supervised.test.png').stat().st_size > 1000


def test_walks_are_those_of_the_plain_way():
    plain, ours = harness.run_cases('random_walks', random_walks.make_cases(True), repeats=0)
    assert (plain['case'], ours['case']) == ('plain JAX', 'ours')


def test_accuracy_of_the_interpolation_by_setting():
    rows = [
        {'benchmark': 'interpolation_accuracy', 'smoke': False, 'facts': facts}
        for facts in (
            {'n_steps': 400, 'n_walks': 5, 'smooth': 0, 'task': 'acseg', 'seed': seed,
             'scores': {'cell': score, 'beads': 0.5}}
            for seed, score in ((0, 0.1), (0, 0.8), (1, 0.6))  # measured again: the newer counts
        )
    ]  # fmt: skip
    heads, row = interpolation_accuracy.table_rows(rows)
    assert heads == ('steps', 'walks', 'smoothing', 'acseg: cell', 'acseg: beads')
    assert row == ('400', '5', '0', '0.700', '0.500')


def test_gains_by_one_more_slice():
    gains = suggested_slices.measure(0, side=24, spacing=8, every=12)
    assert gains['best'] >= gains['suggested']
    assert gains['best'] >= gains['mean']
    assert 0 < gains['start'] < 1


def test_tracking_a_pair_of_slices_is_checked_against_the_search_around_regions():
    searched, ours = harness.run_cases('linking', linking.make_cases(True), repeats=0)
    assert (searched['case'], ours['case']) == ('around each region (baseline)', 'joint histogram')


def test_islands_are_scored_by_their_cells():
    cells = np.zeros((4, 3, 16), np.int32)
    cells[:, :, :6], cells[:2, :, 8:10], cells[3, :, 14:] = 4, 4, 4
    cells[2, :, 6:10] = 4  # the island of the slices before meets its cell; another stays alone
    regions, owners = linking.regions_of(cells, shift_px=0.0, seed=0)
    assert [len(owner) - 1 for owner in owners] == [2, 2, 1, 2]
    for labels, owner, truth in zip(regions, owners, cells, strict=True):
        np.testing.assert_array_equal(owner[labels], truth)
    labelled = {3: np.where(np.arange(16) < 6, cells[3], 0)}
    for way in (linking.link_as_published, lambda r, c: linking.link(r, cells=c)):
        tracks = way(regions, labelled)
        assert linking.scores(tracks, owners, [3])['joined'] == 1
        all_slices = linking.scores(tracks, owners, [])
        assert (all_slices['islands'], all_slices['astray']) == (3, 0)
        np.testing.assert_allclose(all_slices['joined'], 2 / 3)
        np.testing.assert_allclose(all_slices['joined_area'], 12 / 18)
    rows = [
        {'benchmark': 'linking_accuracy', 'smoke': False, 'facts': {
            'way': 'ours', 'n_labelled': 1, 'shift_px': 0.5, 'shape': [64, 9, 9], 'voxel_nm': 55.0,
            'seed': seed, **all_slices,
        }}
        for seed in (0, 0, 1)  # measured again: the newer counts
    ]  # fmt: skip
    _, row = linking.table_rows(rows)
    assert row[:6] == ('55 nm', '0.5 px', '1 of 64', 'ours', '6', '66.7 %')


def test_flows_that_are_wrong_are_not_timed():
    first, second, truth = optical_flow.make_pair(64)
    moved = np.asarray(warp(second, truth))
    inner = np.s_[4:-4, 4:-4]
    assert np.abs(moved - first)[inner].mean() < 2 < np.abs(second.astype(float) - first).mean()
    *_, case = optical_flow.make_cases(64)
    case.check(truth)
    with pytest.raises(AssertionError):
        case.check(truth[..., ::-1])


def test_measures_of_objects_stand_beside_those_of_scikit_image():
    records = harness.run_cases('shape_features', shape_features.make_cases(True), repeats=1)
    assert len(records) == 3
    assert records[0]['case'].startswith('regionprops')


def test_cells_by_propagation_from_a_stack_to_a_row_of_the_table(monkeypatch):
    ways = {('mask', 'centroids'): 'mask', ('frames', 'regions'): 'default'}
    monkeypatch.setattr(cell_propagation, 'ROWS', ways)
    rng = np.random.default_rng(0)
    truth = np.zeros((16, 32, 32), np.int32)
    truth[:, 4:28, 4:14], truth[:, 4:28, 14:28] = 3, 5  # they touch
    truth[4:6, 10:14, 29:32], truth[6, 10:14, 26:32] = 5, 5  # an island that meets its cell
    image = np.where(truth > 0, 160, 220) + rng.integers(0, 20, truth.shape)
    image[:, 4:16, 13:15] = 40  # half of the contact is seen
    image = image.astype(np.uint8)
    maps = cell_propagation.simulate_maps(image, truth, seed=0, noise=0.05, shift_px=0.2)
    assert (maps[:, 6:13, 13:15, 1] > 140).mean() > 0.9
    assert (maps[:, 20:25, 13:15, 1] < 60).mean() > 0.9
    np.testing.assert_array_equal(maps[:, 6:26, 6:26, 0] > 128, True)

    stack = SimpleNamespace(image=Volume(image, (50.0,) * 3), instances=Volume(truth))
    monkeypatch.setattr(cell_propagation, 'tissue', lambda *_, **__: stack)
    monkeypatch.setattr(cell_propagation, 'simulate_maps', lambda *_, **__: maps)
    records = list(cell_propagation.measure(0, 0.5, 'simulated', smoke=True))
    alone, ours = (record['facts'] for record in records)
    assert ours['dice'] > max(0.94, alone['dice'] + 0.2)
    assert (ours['islands'], ours['islands_shown'], ours['joined']) == (1, 1, 1)
    stored = [{**record, 'smoke': False} for record in (*records, *records)]  # measured twice
    heads, _, row = cell_propagation.table_rows(stored)
    assert heads[1] == 'simulated maps, 50 % of contacts faint: Dice'
    assert row == ('default', f'{ours["dice"]:.3f}', '100.0 %', '')


def test_propagated_cells_are_scored_by_their_numbers():
    truth = np.zeros((3, 4, 12), np.int32)
    truth[:, :, :4], truth[:, :, 4:8] = 1, 2
    swapped = np.array([0, 2, 1])[truth]
    score = functools.partial(cell_propagation.score, truth=truth, mask=truth > 0, places=[1])
    assert score(truth)['dice'] == 1
    assert score(swapped)['dice'] == 0
    assert score(np.where(truth == 1, 1, 0))['dice'] == 0.5
    changed = truth.copy()
    changed[1] = 0  # the labelled slice does not count
    assert score(changed)['dice'] == 1


def test_the_config_for_maps_of_cells_can_be_trained():
    for smoke in (False, True):
        check_config(cell_propagation.make_config(Path('data'), seed=0, smoke=smoke))
