"""Benchmarks of scaling over devices and of streaming: what they count, what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import overlap, report, scaling, traffic
from sxt_jax.core.devices import make_device_mesh, replicated, split_batch
from sxt_jax.core.volume import Volume
from sxt_jax.io import write_volume

HLO = """HloModule jit_step, is_scheduled=true, replica_count=1, num_partitions=4

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  ROOT %add.1 = f32[] add(%a, %b)
}

%body (p: (s32[], bf16[8,2])) -> (s32[], bf16[8,2]) {
  %p = (s32[], bf16[8,2]{1,0}) parameter(0)
  %x = bf16[8,2]{1,0:T(8,128)(2,1)} get-tuple-element(%p), index=1
  %y = bf16[8,2]{1,0} collective-permute(%x), channel_id=3, source_target_pairs={{0,1}}
  ROOT %t = (s32[], bf16[8,2]{1,0}) tuple(%i, %y)
}

%test (p.1: (s32[], bf16[8,2])) -> pred[] {
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

%wrapped (w: f32[6]) -> f32[24] {
  ROOT %gathered = f32[24]{0} all-gather(%w), channel_id=4, dimensions={0}
  %w = f32[6]{0} parameter(0)
}

ENTRY %main (g: f32[3,5], h: s4[7]) -> f32[] {
  %g = f32[3,5]{1,0} parameter(0)
  %h = pred[7]{0} parameter(1)
  %all-reduce.1 = (f32[3,5]{1,0}, /*index=1*/pred[7]{0}) all-reduce(%g, /*index=1*/%h), to_apply=%add
  %start = (f32[6]{0}, f32[24]{0}) all-gather-start(f32[6]{0} %w.1), channel_id=5, dimensions={0}
  %done = f32[24]{0} all-gather-done(%start)
  %async = ((f32[6]{0}), f32[24]{0}) async-start(%w.1), calls=%wrapped
  %loop = (s32[], bf16[8,2]{1,0}) while(%init), condition=%test, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  ROOT %out = f32[] fusion(%all-reduce.1, %done), kind=kLoop, calls=%add
}
"""  # noqa: E501


def test_traffic_of_a_program_by_kind():
    expected = {
        'all-reduce': 4 * 15 + 7,
        'all-gather': 2 * 4 * 6,
        'collective-permute': 5 * 2 * 16,
    }
    assert traffic.count_traffic(HLO) == expected
    assert traffic.count_traffic(HLO.replace('num_partitions=4', 'num_partitions=1')) == {}
    with pytest.raises(ValueError, match='how often'):
        traffic.count_traffic(HLO.replace('known_trip_count', 'other'))
    with pytest.raises(ValueError, match='ENTRY'):
        traffic.count_traffic('HloModule empty, num_partitions=4')


def test_traffic_of_sums_and_gathers_that_are_known():
    device_mesh = make_device_mesh(jax.devices()[:4])
    split, whole = split_batch(device_mesh), replicated(device_mesh)
    x = jax.device_put(np.ones((8, 6), np.float32), split)

    def add(x):
        return jax.lax.scan(lambda c, _: (c * 0.5 + jax.lax.psum(c, 'data'), None), x, length=3)[0]

    shares = {'mesh': device_mesh, 'in_specs': split.spec, 'out_specs': split.spec}
    summed = jax.jit(jax.shard_map(add, **shares, check_vma=False))
    text = summed.lower(x).compile().as_text()
    assert traffic.count_traffic(text) == {'all-reduce': 3 * 4 * 2 * 6}
    gathered = jax.jit(lambda x: x, in_shardings=split, out_shardings=whole)
    meter = traffic.Meter()
    watched = meter.watch(gathered)
    for _ in range(2):
        np.testing.assert_array_equal(watched(x), x)
    assert meter.traffic == {'all-gather': 2 * 4 * 2 * 6}


@pytest.fixture(scope='module')
def scaled():
    sizes = scaling.Sizes((2,), 4, 1, 2, 2, 4, 4, (16, 16))
    return scaling.measure([1, 2], sizes, repeats=1, smoke=False)


def test_devices_find_what_one_does_and_exchange_sums_alone(scaled):
    found = {(r['facts']['task'], r['facts']['way'], r['facts']['devices']): r for r in scaled}
    assert len(found) == len(scaled) == 8
    for (task, way, n), record in found.items():
        facts = record['facts']
        first = 2 if way == 'strong' else n
        assert record['shape'] == ([first, 4, 4, 4] if task == 'training' else [4 * first, 16, 16])
        assert facts['fake']
        assert facts['efficiency'] is None
        assert set(facts['traffic']) == ({'all-reduce'} if n > 1 else set())
    # Two 3³ convolutions, batch norm after each, and the head; 2 statistics a channel.
    gradients = 4 * ((27 * 2 + 2) + (27 * 4 + 2) + 2 * 4 + (2 * 2 + 2))
    step = found['training', 'strong', 2]['facts']
    assert step['needed_bytes'] == gradients
    assert gradients < step['traffic']['all-reduce'] <= gradients + 4 * 8 + 4 * scaling.FEW_SCALARS
    volume = found['inference', 'weak', 2]['facts']
    assert volume['needed_bytes'] == 4 * 3 * 8 * 16 * 16 <= volume['traffic']['all-reduce']


def test_traffic_that_is_not_needed_is_an_error():
    sums = {'all-reduce': 100}
    scaling.check_traffic(scaling.Job(dict, sums, needed=90, allowed=100), 2)
    scaling.check_traffic(scaling.Job(dict, {}, needed=90, allowed=100), 1)
    for n, moved, allowed in (
        (2, sums, 99),
        (2, {**sums, 'all-gather': 1}, 200),
        (2, {'all-reduce': 44}, 100),
        (1, sums, 100),
    ):
        with pytest.raises(AssertionError):
            scaling.check_traffic(scaling.Job(dict, moved, needed=90, allowed=allowed), n)
    with pytest.raises(AssertionError):
        scaling.check_answer('training', {'loss': np.ones(2)}, {'loss': np.array([1, 1.01])})


def test_rows_of_scaling_tell_no_times_of_fake_devices(scaled):
    real = {**scaled[1], 'platform': 'gpu', 'device': 'G', 'rate': 30.0, 'shape': [6, 4, 4, 4]}
    real['facts'] = {**real['facts'], 'fake': False, 'efficiency': 0.75}
    real['facts'] |= {'traffic': {'all-reduce': 1500000, 'all-gather': 2}, 'needed_bytes': 1200000}
    smoke = {**real, 'smoke': True, 'device': 'H'}
    heads, *rows = scaling.table_rows([*scaled, {**real, 'rate': 1.0}, real, smoke])
    assert len(rows) == 9
    fake, row = (dict(zip(heads, cells, strict=True)) for cells in (rows[1], rows[-1]))
    assert {fake[name] for name in ('time', 'rate', 'efficiency')} == {'fake'}
    assert fake['device'].startswith('fake, of ')
    assert rows[0][-2:] == ('nothing', 'nothing')
    assert (row['time'], row['rate'], row['efficiency']) == ('0.2 s', '30 patches/s', '0.75')
    assert row['traffic of a device'] == 'all-gather 2e-06 MB, all-reduce 1.5 MB'
    assert row['needed'] == '1.2 MB'
    assert 'all-reduce 1.5 MB' in report.TABLES['scaling']([real])
    assert real['case'] not in report.make_table([real])


def _record(part, run_s, cpu_s, format_='TIFF'):
    facts = {'part': part, 'format': '' if part == 'computing' else format_}
    times = {'run_s': run_s, 'run_s_range': [run_s, 2 * run_s], 'cpu_s': cpu_s}
    return {**times, 'n_cores': 2, 'facts': facts}


@pytest.mark.parametrize(
    ('whole', 'cpu_s', 'hidden', 'attainable', 'limit'),
    [
        (10.0, 10.0, 1.0, 1.0, 'computing'),  # as on an accelerator
        (14.0, 10.0, 0.0, 1.0, 'order'),  # one after the other
        (12.0, 20.0, 0.5, 0.5, 'cores'),  # computing takes both
    ],
)
def test_share_of_the_time_of_files_that_is_hidden(whole, cpu_s, hidden, attainable, limit):
    parts = {
        'reading': _record('reading', 3.0, 3.0),
        'computing': _record('computing', 10.0, cpu_s),
        'writing': _record('writing', 1.0, 1.0),
        'whole': _record('whole', whole, 1.0),
    }
    told = overlap.tell_overlap(parts)
    assert (told['hidden'], told['attainable']) == pytest.approx((hidden, attainable))
    assert told['limit'] == limit
    assert told['cores'] == cpu_s / 10
    assert told['reading_s'] == 3


def test_streaming_is_taken_apart(tmp_path):
    sizes = overlap.Sizes((24, 20, 20), (2,), 8, 2)
    records = overlap.measure(sizes, tmp_path, repeats=1, smoke=True)
    names = [r['case'] for r in records]
    assert names == [
        'computing',
        'reading, OME-Zarr', 'writing, OME-Zarr', 'whole, OME-Zarr',
        'reading, TIFF', 'writing, TIFF', 'whole, TIFF',
    ]  # fmt: skip
    whole = records[-1]['facts']
    assert len(whole['passes_s']) == 2  # extremes, then the tiles
    parts = [r['run_s'] for r in (records[0], *records[-3:-1])]
    hidden = (sum(parts) - records[-1]['run_s']) / (parts[1] + parts[2])
    assert whole['hidden'] == pytest.approx(hidden)
    heads, first, second = overlap.table_rows([{**r, 'smoke': False} for r in records * 2])
    assert (first[0], second[0]) == ('OME-Zarr', 'TIFF')
    assert dict(zip(heads, second, strict=True))['hidden'] == f'{whole["hidden"]:.0%}'
    assert len(overlap.table_rows(records)) == 1


def test_windows_by_pass():
    all_of = slice(None)
    windows = [(slice(0, 4), all_of), (slice(4, 6), all_of), (slice(0, 5), all_of), slice(5, 6)]
    assert overlap.passes(windows) == [windows[:2], windows[2:]]


def test_labels_of_one_class_or_others_are_refused(tmp_path):
    labels = np.arange(8, dtype=np.uint8).reshape(2, 2, 2) % 2
    write_volume(tmp_path / 'a.tif', Volume(labels))
    overlap.check_labels(tmp_path / 'a.tif', labels)
    with pytest.raises(AssertionError):
        overlap.check_labels(tmp_path / 'a.tif', 1 - labels)
    write_volume(tmp_path / 'b.tif', Volume(0 * labels))
    with pytest.raises(AssertionError):
        overlap.check_labels(tmp_path / 'b.tif', 0 * labels)


def test_sizes_of_all_machines():
    for kind in ('smoke', 'default', 'full'):
        sizes = scaling.choose_sizes(kind, 8)
        assert sizes.amount('strong', 1) == sizes.amount('weak', 8) == 8
        assert jnp.isdtype(scaling.compute_dtype('auto'), 'real floating')
        assert sizes.side % 2 ** (len(sizes.filters) - 1) == 0
        assert overlap.choose_sizes(kind).tile % 16 == 0
