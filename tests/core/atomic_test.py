"""Half-written results are never taken for results, and do not pile up."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sxt_jax.core.atomic import (
    atomic_path,
    check_writable,
    remove_abandoned,
    remove_unfinished,
    write_text,
)
from sxt_jax.core.errors import InputError


def test_what_was_there_stays_until_the_new_is_whole(tmp_path):
    target = tmp_path / 'a.txt'
    write_text(target, 'old')

    def fail():
        with atomic_path(target) as temporary:
            temporary.write_text('half')
            assert temporary.suffix == '.txt'
            assert target.read_text() == 'old'
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [p.name for p in tmp_path.iterdir()] == ['a.txt']
    write_text(target, 'new')
    assert target.read_text() == 'new'


def test_folders_are_replaced_whole(tmp_path):
    for content in ('one', 'two'):
        with atomic_path(tmp_path / 'f') as temporary:
            temporary.mkdir()
            (temporary / content).touch()
    assert [p.name for p in (tmp_path / 'f').iterdir()] == ['two']
    assert [p.name for p in tmp_path.iterdir()] == ['f']


def test_only_what_nobody_writes_any_more_is_removed(tmp_path):
    code = (
        'import os, sys; from sxt_jax.core.atomic import atomic_path\n'
        'with atomic_path(sys.argv[1]) as path:\n'
        '    path.mkdir() if sys.argv[1].endswith("zarr") else path.touch()\n'
        '    os._exit(1)'
    )
    for name in ('a.tif', 'b.zarr'):
        subprocess.run([sys.executable, '-c', code, str(tmp_path / name)], check=False)
    assert len(list(tmp_path.iterdir())) == 2
    foreign = tmp_path / '.incomplete-elsewhere.1.0123abcd-c.tif'
    foreign.touch()
    with atomic_path(tmp_path / 'd.tif') as mine:
        mine.touch()
        remove_abandoned(tmp_path)
        assert set(tmp_path.iterdir()) == {mine, foreign}
    assert {p.name for p in tmp_path.iterdir()} == {'d.tif', foreign.name}


def test_what_was_interrupted_between_blocks_is_removed_at_the_end(tmp_path):
    write_text(tmp_path / 'done.txt', 'whole')
    begun = [atomic_path(tmp_path / name) for name in ('a.zarr', 'b.tif')]
    folder, file = (path.__enter__() for path in begun)
    (folder / '0').mkdir(parents=True)
    file.touch()
    remove_unfinished()
    assert [p.name for p in tmp_path.iterdir()] == ['done.txt']


def test_a_trial_leaves_nothing(tmp_path):
    check_writable(tmp_path / 'a' / 'b')
    assert list(tmp_path.iterdir()) == []
    (tmp_path / 'file').touch()
    for folder in (tmp_path / 'file' / 'x', '/proc/x'):
        with pytest.raises(InputError, match='cannot be written'):
            check_writable(folder)


def test_an_interrupted_trial_is_removed_at_the_end(tmp_path, monkeypatch):
    def interrupt(path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, 'unlink', interrupt)
        with pytest.raises(KeyboardInterrupt):
            check_writable(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    remove_unfinished()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write anywhere')
def test_a_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match='cannot be written'):
        check_writable(tmp_path)
