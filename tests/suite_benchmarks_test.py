"""The benchmark suite: what is run, the papers' rows, and the table of their scores."""

import sys
from importlib.util import find_spec

import numpy as np
import pytest

from benchmarks import accuracy, papers, run, voxel_operations

MACHINE = {'platform': 'cpu', 'device': 'cpu', 'n_cores': 2, 'smoke': False, 'repeats': 2}


def _record(benchmark, case, seconds, shape, **fields):
    ranges = {'run_s': seconds, 'run_s_range': [seconds, 2 * seconds], 'dtype': 'float32'}
    return {'benchmark': benchmark, 'case': case, 'shape': shape, **ranges, **MACHINE, **fields}


def test_every_benchmark_of_the_suite_is_there():
    for name in run.BENCHMARKS:
        assert find_spec(f'benchmarks.{name}'), name


def test_commands_are_small_full_or_smoke(tmp_path):
    def options(**wanted):
        return run.command('papers', **{'full': False, 'smoke': False, 'results': None, **wanted})

    assert options()[1:] == ['-m', 'benchmarks.papers', '--repeats=1']
    assert options(full=True)[3:] == ['--full']
    assert options(full=True, smoke=True)[3:] == ['--smoke']
    assert options(results=tmp_path)[-1] == f'--results={tmp_path}'


def test_one_that_fails_does_not_stop_the_others(monkeypatch, capfd, tmp_path):
    programs = {'papers': 'raise SystemExit(3)', 'layers': 'print("measured")'}
    monkeypatch.setattr(run, 'command', lambda name, **_: [sys.executable, '-c', programs[name]])
    monkeypatch.setattr(run, 'is_accelerator', lambda _: False)
    monkeypatch.setattr('sys.argv', ['run', '--only=layers,papers', f'--results={tmp_path}'])
    with pytest.raises(SystemExit) as stopped:
        run.main()
    assert stopped.value.code == 1
    told = capfd.readouterr().out
    assert 'measured' in told
    assert 'failed (exit status 3)' in told
    assert told.index('raise SystemExit') < told.index('measured')  # in our order


def test_unknown_names_and_packages_that_are_not_there(monkeypatch):
    with pytest.raises(SystemExit, match='nonsense'):
        run.chosen('papers,nonsense')
    assert run.chosen('') == list(run.BENCHMARKS)
    monkeypatch.setitem(run.BENCHMARKS, 'papers', run.Benchmark(needs='no_such_package'))
    outcome = run.run_one('papers', ['python'], {})
    assert outcome.state == 'left out: no_such_package is not installed'


def test_compiled_programs_of_former_runs_are_not_used(monkeypatch):
    monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', '/somewhere')
    found = run.environment('gpu')
    assert 'JAX_COMPILATION_CACHE_DIR' not in found
    assert found['JAX_PLATFORMS'] == 'cuda'


@pytest.mark.parametrize(
    ('record', 'name', 'seconds'),
    [
        (_record('slice_latency', 'label, whole slices', 32.0, [16, 1324, 1284]), papers.SLICE,
         2.0),
        # 200 epochs of 34 tomograms of 7³ patches, two patches in four seconds
        (_record('training_steps', 'ours', 4.0, [2, 64, 64, 64], rate=0.25), papers.ACSEG_TRAINING,
         200 * 34 * 343 * 2.0),
        (_record('papers', '', 3.0, [4, 4, 4], facts={'row': papers.CELLS.name, 'share': 0.01}),
         papers.CELLS, 300.0),
    ],
)  # fmt: skip
def test_what_was_measured_is_scaled_to_the_whole(record, name, seconds):
    ((row, _, found),) = papers.measured([record, {**record, 'smoke': True}])
    assert row == name
    assert found == pytest.approx(seconds)


def test_the_longer_tomogram_takes_as_much_longer_as_it_has_slices():
    facts = {'row': papers.TOMOGRAM.name, 'share': 0.5}
    found = [s for *_, s in papers.measured([_record('papers', '', 7.0, [175], facts=facts)])]
    assert found == pytest.approx([14.0, 20.0])


def test_rows_beside_the_papers_times_and_the_figure():
    records = [
        _record('slice_latency', 'label, whole slices', 1.0, [1, 1324, 1284]),
        _record('slice_latency', 'label, whole slices', 0.2, [1, 1324, 1284]),
        _record('papers', '', 9.0, [4, 8], facts={'row': papers.CELLS.name, 'share': 1 / 400}),
        _record('papers', '', 1.0, [4, 4], facts={'row': papers.CELLS.name, 'share': 1 / 1200}),
    ]
    heads, one_slice, cells = papers.table_rows(records)
    assert len(heads) == len(cells) == len(one_slice)
    assert cells[1:4] == ('2 – 3 h, the stack not told', 'not told', '2 CPU cores')
    assert cells[-2:] == ('60 min', '2 – 3')  # the larger share counts, though it is older
    assert one_slice[-2:] == ('0.2 s', '4.3')  # of two alike the newer
    *lines, all_ours, scaled = papers.figure(records).axes[0].lines
    assert len(lines) == len(papers.ROWS)
    assert sorted(all_ours.get_xdata()) == pytest.approx([0.2, 3600])
    assert list(scaled.get_xdata()) == pytest.approx([3600])


def test_durations():
    assert [papers.duration(s) for s in (0.0123, 89, 90, 5400)] == [
        '0.0123 s', '89 s', '1.5 min', '1.5 h',
    ]  # fmt: skip


def test_tissue_beside_itself_has_cells_of_its_own():
    image, ids = papers.tiled_tissue((3, 40, 300))
    assert image.shape == ids.shape == (3, 40, 300)
    np.testing.assert_array_equal(image[..., :44], image[..., 256:])
    left, right = np.unique(ids[..., :256]), np.unique(ids[..., 256:])
    assert set(left) & set(right) == {0}
    assert ids.max() > 0


@pytest.mark.slow
def test_papers_rows_are_checked_and_kept(tmp_path, monkeypatch):
    monkeypatch.setattr('sys.argv', ['papers', '--smoke', f'--results={tmp_path}'])
    papers.main()
    lines = (tmp_path / 'papers.jsonl').read_text().splitlines()
    assert len(lines) == 5


def test_one_paper_row_is_checked_and_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(
        papers, 'make_cases', lambda size, folder: [papers.acseg_case(size, folder)]
    )
    monkeypatch.setattr('sys.argv', ['papers', '--smoke', f'--results={tmp_path}'])
    papers.main()
    (line,) = (tmp_path / 'papers.jsonl').read_text().splitlines()
    assert papers.CAPILLARY.name in line


def _score(way, seed, **scores):
    return {'way': way, 'seed': seed, **scores}


def test_claims_say_whether_they_show():
    rows = [
        _score(way, seed, **{'cell': cell + seed / 100, 'SA:V error': error})
        for way, cell, error in (('coarse', 0.9, 0.1), ('coarse, surface', 0.95, 0.05))
        for seed in range(3)
    ]
    surface = {'benchmark': 'cascade', 'question': 'surface', 'rows': rows}
    assert accuracy.surface_stage([surface]) == (
        '0.910 → 0.960 (3 of 3 seeds); error of SA:V 0.100 → 0.050 (3 of 3 seeds)', True,
    )  # fmt: skip
    assert accuracy.two_stages([surface]) is None
    base = {'start': 'base', 'size': 'small', 'other_dice': 0.8, 'base_dice': 0.95}
    six = {**base, 'start': 'scratch', 'n_other': 6, 'other_dice': 0.9, 'base_dice': 0.93}
    text, shows = accuracy.other_cell_type([base, six])
    assert text == '0.800 → 0.900; on the first type 0.950 → 0.930'
    assert not shows  # more than one percent was lost on the first
    assert accuracy.other_cell_type([base, {**six, 'base_dice': 0.945}])[1]


def test_the_table_has_the_claims_with_records_only():
    record = {'benchmark': 'labelled_slices', 'organelle': 'nuclei', 'smoke': False}
    records = [{**record, 'n_slices': n, 'mean_dice': n / 10} for n in (2, 4)]
    heads, row = accuracy.table_rows(records)
    assert len(heads) == len(row)
    assert row[2:] == ('2: 0.200 · 4: 0.400', 'yes', '`labelled_slices`')
    assert accuracy.table_rows([]) == [heads]


def test_operations_on_voxels_equal_those_of_scikit_image():
    for theirs, ours in voxel_operations.groups(smoke=True):
        found = np.array(ours.run())
        ours.check(found)
        theirs.check(theirs.run())
        with pytest.raises(AssertionError):
            ours.check(np.roll(found, 1, axis=0))
