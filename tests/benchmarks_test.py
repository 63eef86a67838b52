"""The harness: wrong answers are not timed, records are complete, the table shows the newest."""

import json
import mmap
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import harness, report, streaming_memory, tiled_inference, training_steps
from sxt_jax.core.errors import InputError


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


def test_timed_runs_take_turns():
    order = []

    def runner(name):
        return lambda: order.append(name) or jnp.float32(10)

    harness.run_cases('q', [make_case('a', run=runner('a')), make_case('b', run=runner('b'))])
    assert ''.join(order) == 'abababab'


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
@pytest.mark.parametrize('grid', streaming_memory.GRIDS)
def test_memory_of_streaming_inference_does_not_grow_with_the_volume(grid, monkeypatch):
    monkeypatch.delenv('XLA_FLAGS', raising=False)  # one device, as on a user's machine
    small, large = streaming_memory.compare(grid=grid, **streaming_memory.SMOKE)
    output_grown = large['facts']['output_bytes'] - small['facts']['output_bytes']
    assert output_grown > 300 * 2**20
    assert large['peak_host_bytes'] - small['peak_host_bytes'] < output_grown / 4


def test_training_steps_are_checked_against_xlas_convolutions():
    plain, ours = harness.run_cases('training_steps', training_steps.make_cases(True), repeats=1)
    assert ours['baseline'] == plain['case']
    case = training_steps.make_cases(True)[1]
    wrong = {name: 1.01 * values for name, values in case.run().items()}
    with pytest.raises(AssertionError):
        case.check(wrong)


@pytest.mark.parametrize('kind', ['forward', 'step'])
def test_pytorch_gives_the_answers_of_the_networks(kind):
    pytest.importorskip('torch')
    from benchmarks import against_torch

    first, second, ours = against_torch.make_cases('ncxt', kind, smoke=True)
    for case in (first, second, ours):
        case.check(case.run())
    with pytest.raises(AssertionError):
        ours.check(1.01 * ours.run())


def test_instances_are_scored_and_stages_give_what_the_whole_gives():
    from benchmarks import instances

    labels = instances.make_cells(instances.SMOKE_SHAPE, 3)
    scene = instances.make_scene(labels, noise=0.1)
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
