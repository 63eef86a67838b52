"""What processes tell each other, and what becomes of those that are out of step."""

import pytest

from sxt_jax.core import processes
from sxt_jax.core.errors import InputError
from sxt_jax.core.processes import FailedElsewhere, OutOfStep, check_same, check_shared
from tests.teams import in_processes


def test_all_are_told_what_each_has_and_who_failed(monkeypatch):
    def odd(n):
        if n == 3:
            raise InputError('three', 'is odd')
        return n

    def work(team):
        found = [team.gather(team.index / 3, name='a'), team.first(lambda: team.index, name='b')]
        found.append(team.share(lambda n: [team.index, n], range(4), name='c'))
        with pytest.raises(InputError, match='three: is odd') as caught:
            team.share(odd, range(4), name='d')
        found.append(isinstance(caught.value, FailedElsewhere))
        return found

    pairs = [[0, 0], [1, 1], [2, 2], [0, 3]]
    expected = [[0.0, 1 / 3, 2 / 3], 0, pairs]
    assert in_processes(monkeypatch, work, size=3) == [
        [*expected, False],  # 3 was its own
        [*expected, True],
        [*expected, True],
    ]


def test_processes_that_are_out_of_step_end_and_tell_both_places(monkeypatch):
    """One has failed and goes on to the end of its file, the other to the next network."""
    after = []

    def work(team):
        for name in ('a.zarr', 'b.zarr'):  # as over files: one that fails does not stop the others
            try:
                error = InputError(name, 'is bad') if team.index else None
                if error is None:
                    team.share(int, [1, 2, 3], name=f'statistics of {name}')
                team.settle(error, name=f'write {name}')
            except Exception as error:
                after.append(error)

    first, second = in_processes(monkeypatch, work)
    assert isinstance(first, OutOfStep)
    assert isinstance(second, OutOfStep)
    told = "'statistics of a.zarr, 3 parts', process 1 at 'write a.zarr'"
    assert str(first) == f'processes are out of step: process 0 at {told}'
    assert str(second) == f'{first}; before that a.zarr: is bad'
    assert after == []


def test_lists_of_different_lengths_are_not_shared_out(monkeypatch):
    found = in_processes(monkeypatch, lambda team: team.share(int, [1] * team.index, name='files'))
    assert [type(error) for error in found] == [OutOfStep, OutOfStep]
    assert "process 0 at 'files, 0 parts', process 1 at 'files, 1 parts'" in str(found[0])


def test_what_cannot_be_told_leaves_the_others_at_the_same_place(monkeypatch):
    def work(team):
        if team.index:
            with pytest.raises(TypeError):
                team.gather(object(), name='a')
        return team.gather(team.index, name='b' if team.index else 'a')

    assert [type(error) for error in in_processes(monkeypatch, work)] == [OutOfStep, OutOfStep]


def test_what_differs_between_processes_is_named(monkeypatch):
    def compare(team):
        n = team.index
        same = {'steps': 3, 'mean': 0.1234567890123 + 1e-12 * n, 'names': ['a', 'b']}
        check_same(same, team, where='W')
        check_same({**same, 'volumes': n // 2, 'seed': n // 2}, team, where='W')

    found = in_processes(monkeypatch, compare, size=3)
    told = 'W: process 2 has other volumes, seed than process 0; expected the same flags'
    assert [type(error) for error in found] == [InputError] * 3
    assert all(str(error).startswith(told) for error in found)
    missing = in_processes(
        monkeypatch, lambda team: check_same({'b': 1} if team.index else {}, team, where='W')
    )
    assert all('has other b than' in str(error) for error in missing)


def test_a_folder_of_its_own_in_each_process_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, '_SEEN_AFTER_S', 0.1)
    for name in ('0', '1'):
        (tmp_path / name).mkdir()
    (tmp_path / 'all').mkdir()
    monkeypatch.chdir(tmp_path)
    assert in_processes(monkeypatch, lambda team: check_shared('all', team)) == [None, None]
    # One name, two folders: as a disk of each machine.
    see = processes.see_path
    elsewhere = tmp_path / '1'
    monkeypatch.setattr(
        processes,
        'see_path',
        lambda path: see(elsewhere / path.name if processes.everyone().index else path),
    )
    found = in_processes(monkeypatch, lambda team: check_shared('0', team))
    assert all('another folder in another process' in str(error) for error in found)
    assert not list(tmp_path.rglob('.incomplete-*'))
