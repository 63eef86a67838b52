"""Who does what, where there are several processes."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from configs import stack
from sxt_jax.core.errors import InputError
from sxt_jax.core.processes import Team, everyone
from sxt_jax.core.volume import Volume
from sxt_jax.io import shared, write_volume
from sxt_jax.io.shared import share_of_slices
from sxt_jax.pipelines import segment_volume, segmenter, train_network
from sxt_jax.pipelines.segment_volume import Options, segment_files
from sxt_jax.pipelines.several_processes import is_done_together, make_shared_folder
from sxt_jax.training.checkpoint import open_checkpoint, save_checkpoint
from tests.launch.processes import write_balls
from tests.pipelines.ensemble_test import NETWORKS
from tests.teams import in_processes


@pytest.mark.parametrize('size', [1, 2, 3, 7])
@pytest.mark.parametrize('n_slices', [1, 16, 50, 1000])
def test_shares_of_slices_are_whole_chunks_and_together_all(n_slices, size):
    shares = [share_of_slices(n_slices, Team(i, size)) for i in range(size)]
    assert [start for start, _ in shares] == [0, *(stop for _, stop in shares[:-1])]
    assert shares[-1][1] == n_slices
    assert all(bound % 16 == 0 or bound == n_slices for share in shares for bound in share)
    depths = [stop - start for start, stop in shares]
    assert max(depths) - min(depths) <= 16 + n_slices % 16


def done_together(names, n_processes, *, in_pieces=True):
    paths = [Path(name) for name in names]
    return is_done_together(paths, paths, Team(0, n_processes), in_pieces=in_pieces)


def test_few_zarr_volumes_are_worked_on_by_all_and_many_files_shared_out():
    assert done_together(['a.zarr'], 2)
    assert done_together(['a.zarr', 'b.zarr'], 3)
    assert not done_together(['a.zarr', 'b.zarr'], 2)
    assert not done_together(['a.tif', 'b.zarr'], 3)
    assert not done_together(['a.tif'], 1)
    assert not done_together(['a.zarr', 'b.zarr'], 3, in_pieces=False)


def test_one_file_that_has_one_writer_is_refused_in_several_processes():
    with pytest.raises(InputError, match=r'one \.tif file'):
        done_together(['a.tif'], 2)
    with pytest.raises(InputError, match='whole volume'):
        done_together(['a.zarr'], 2, in_pieces=False)


@pytest.fixture(name='folder')
def _folder(tmp_path, monkeypatch):
    """Volumes of which each of two processes has slices; networks are known by their names."""
    monkeypatch.setattr(segment_volume, 'load_segmenter', lambda name, **_: NETWORKS[name])
    rng = np.random.default_rng(0)
    for name in ('a.zarr', 'b.zarr'):
        gray = rng.random((40, 10, 12)).astype(np.float32)
        write_volume(tmp_path / 'in' / name, Volume(gray / 2))
    return tmp_path


def contents(folder):
    """All files of a folder."""
    files = (path for path in folder.rglob('*') if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def told(found):
    """Names, errors and whether there was a result, as all processes must tell them."""
    assert all(outcomes == found[0] for outcomes in found), found
    return [(one.labels.name, one.error, one.skipped) for one in found[0]]


def fail_once(monkeypatch, where, name, error):
    """The first call of a function by process 1 fails."""
    function, failed = getattr(where, name), []

    def wrapped(*args, **options):
        if everyone().index == 1 and not failed:
            failed.append(True)
            raise error
        return function(*args, **options)

    monkeypatch.setattr(where, name, wrapped)


@pytest.mark.parametrize(
    ('where', 'name'), [(segmenter, 'predict_slabs'), (shared, 'append_to_zarr')]
)
def test_after_a_volume_at_which_one_failed_all_work_on_the_next(folder, monkeypatch, where, name):
    """Of two networks the first fails in its first slab, before the second has one."""
    options = Options(probabilities=True, skip_existing=True)
    segment_files('A,B', folder / 'in', folder / 'one', options=options)
    fail_once(monkeypatch, where, name, InputError('slab', 'is bad'))

    def work(team):
        return segment_files('A,B', folder / 'in', folder / 'all', options=options)

    found = in_processes(monkeypatch, work, size=3)
    assert told(found) == [('a.zarr', 'slab: is bad', False), ('b.zarr', '', False)]
    whole = {name: data for name, data in contents(folder / 'one').items() if name[0] == 'b'}
    assert contents(folder / 'all') == whole
    assert len(whole) == 2 * (2 + 3) + 3  # two groups and arrays, three chunks, six of channels
    assert {path.name for path in (folder / 'all').iterdir()} == {'b.zarr', 'b.probabilities.zarr'}

    again = in_processes(monkeypatch, work, size=3)
    assert told(again) == [('a.zarr', '', False), ('b.zarr', '', True)]
    assert contents(folder / 'all') == contents(folder / 'one')


def test_files_are_shared_out_as_the_first_process_finds_them(folder, monkeypatch):
    (folder / 'fewer').mkdir()
    (folder / 'fewer' / 'b.zarr').symlink_to(folder / 'in' / 'b.zarr')
    segment_files('B', folder / 'in', folder / 'one')

    def work(team):
        source = folder / ('fewer' if team.index else 'in')
        return segment_files('B', source, folder / 'all', options=Options(skip_existing=True))

    expected = [('a.zarr', '', False), ('b.zarr', '', False)]
    assert told(in_processes(monkeypatch, work)) == expected
    assert contents(folder / 'all') == contents(folder / 'one')
    assert len(contents(folder / 'one')) == 2 * (2 + 3)
    again = told(in_processes(monkeypatch, work))
    assert again == [(name, '', True) for name, _, _ in expected]


def test_processes_that_have_other_networks_segment_nothing(folder, monkeypatch):
    monkeypatch.setattr(
        segment_volume,
        'load_segmenter',
        lambda name, **_: dataclasses.replace(
            NETWORKS[name], variables=np.float32(everyone().index)
        ),
    )
    found = in_processes(
        monkeypatch, lambda team: segment_files('A', folder / 'in', folder / 'all')
    )
    assert all('A: process 1 has other weights than process 0' in str(error) for error in found)
    assert contents(folder / 'all') == {}


def test_a_folder_for_results_is_made_once_all_have_tried_it(tmp_path, monkeypatch):
    make_shared_folder(tmp_path / 'a', Team())
    assert not (tmp_path / 'a').exists()  # one process makes it when it has something
    made = in_processes(monkeypatch, lambda team: make_shared_folder(tmp_path / 'a' / 'b', team))
    assert made == [None, None]
    assert list(tmp_path.rglob('*')) == [tmp_path / 'a', tmp_path / 'a' / 'b']
    (tmp_path / 'file').touch()
    found = in_processes(monkeypatch, lambda team: make_shared_folder(tmp_path / 'file', team))
    assert all('cannot be written' in str(error) for error in found)


def test_processes_that_learn_from_other_data_or_another_checkpoint_are_refused(
    tmp_path, monkeypatch
):
    for name in ('0', '1'):
        write_balls(tmp_path / name)
    config = stack.get_config('smoke')
    config.data.train = str(tmp_path / '0')

    def load(config, **options):  # the folder of one name on a disk of its own
        found = train_network.load_training_data(config, **options)
        if everyone().index == 0:
            return found
        first = found.train[0]
        return dataclasses.replace(
            found, train=[dataclasses.replace(first, image=first.image[:] + 1), *found.train[1:]]
        )

    found = in_processes(
        monkeypatch, lambda team: train_network.train_network(config, tmp_path / 'W', load=load)
    )
    assert all('process 1 has other images than process 0' in str(error) for error in found)
    assert not (tmp_path / 'W').exists()

    for step in (1, 2):
        save_checkpoint(tmp_path / 'W', step, {'a': np.zeros(1)}, {})
    monkeypatch.setattr(
        train_network,
        '_begun',
        lambda workdir: open_checkpoint(workdir / 'checkpoints' / str(1 + everyone().index)),
    )
    found = in_processes(
        monkeypatch, lambda team: train_network.train_network(config, tmp_path / 'W')
    )
    expected = 'process 1 has other checkpoint to go on from than process 0'
    assert all(expected in str(error) for error in found)
