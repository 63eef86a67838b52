import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging

from sxt_jax.core.devices import make_device_mesh
from sxt_jax.core.errors import InputError
from sxt_jax.training.checkpoint import (
    BrokenCheckpoint,
    best_checkpoint,
    best_step,
    latest_checkpoint,
    list_checkpoints,
    open_checkpoint,
    remove_old_checkpoints,
    restore_into,
    save_checkpoint,
)


def _tree(step=0):
    rng = np.random.default_rng(step)
    return {
        'params': {'conv': {'kernel': jnp.asarray(rng.standard_normal((3, 3, 4, 8)), jnp.float32)}},
        'step': jnp.asarray(step, jnp.int32),
        'optimizer_states': {'a': ({'trace': jnp.ones((5,))}, ())},
    }


def _save(workdir, *steps, scores=None):
    history = []
    for step in steps:
        history.append({'step': step, 'dice': (scores or {}).get(step, 0.0)})
        save_checkpoint(workdir, step, _tree(step), {'history': list(history), 'note': 'ü'})


def _assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_what_is_saved_is_restored_in_the_same_structure(tmp_path):
    _save(tmp_path, 3)
    checkpoint = latest_checkpoint(tmp_path)
    assert checkpoint.step == 3
    assert checkpoint.description['note'] == 'ü'
    restored = restore_into(checkpoint, _tree(), device_mesh=make_device_mesh())
    _assert_same(restored, _tree(3))
    assert len(restored['params']['conv']['kernel'].devices()) == 8


def test_paths_relative_to_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _save('run', 3)
    for checkpoint in (latest_checkpoint('run'), best_checkpoint('run', metric='dice')):
        restored = restore_into(checkpoint, _tree(), device_mesh=make_device_mesh())
        _assert_same(restored, _tree(3))
    _assert_same(open_checkpoint('run/checkpoints/3').restore()['params'], _tree(3)['params'])


def test_no_checkpoint_is_none_and_wrong_folder_an_error(tmp_path):
    assert latest_checkpoint(tmp_path) is None
    with pytest.raises(InputError, match='no checkpoint'):
        best_checkpoint(tmp_path / 'nowhere', metric='dice')


def test_best_is_by_metric_and_first_among_equals(tmp_path):
    _save(tmp_path, 1, 2, 3, 4, scores={1: 0.1, 2: 0.8, 3: 0.8, 4: 0.5})
    assert best_checkpoint(tmp_path, metric='dice').step == 2
    assert best_checkpoint(tmp_path, metric='other').step == 4
    assert best_checkpoint(tmp_path / 'checkpoints' / '3', metric='dice').step == 3
    remove_old_checkpoints(tmp_path, keep=1, always=2)
    assert [p.name for p in list_checkpoints(tmp_path)] == ['2', '4']


def test_scores_that_are_not_numbers_are_never_best():
    history = [{'step': 1, 'dice': float('nan')}, {'step': 2}, {'step': 3, 'dice': 0.0}]
    assert best_step(history, metric='dice') is None
    assert best_step([*history, {'step': 4, 'dice': 0.1}], metric='dice') == 4
    assert best_step(history[:2], metric='dice') is None


def test_another_network_is_refused_by_name(tmp_path):
    _save(tmp_path, 1)
    template = _tree()
    template['params']['conv']['kernel'] = jnp.zeros((3, 3, 4, 9))
    with pytest.raises(InputError, match=r'params/conv/kernel: float32\[3, 3, 4, 8\]'):
        restore_into(latest_checkpoint(tmp_path), template, device_mesh=make_device_mesh())
    smaller = _tree()
    del smaller['optimizer_states']
    with pytest.raises(InputError, match='too many'):
        restore_into(latest_checkpoint(tmp_path), smaller, device_mesh=make_device_mesh())


def _damage(folder: Path, rng: np.random.Generator) -> str:
    """A random bit flip, truncation or deletion in a random file."""
    files = sorted(p for p in folder.rglob('*') if p.is_file())
    path = files[rng.integers(len(files))]
    data = bytearray(path.read_bytes())
    kind = ('flip', 'truncate', 'delete')[rng.integers(3)]
    if kind == 'delete' or not data:
        path.unlink()
    elif kind == 'truncate':
        path.write_bytes(data[: rng.integers(len(data))])
    else:
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        path.write_bytes(data)
    return f'{kind} {path.relative_to(folder)}'


def test_of_200_damages_none_is_restored_silently(tmp_path):
    """Each falls back to the older step, says so, and gives that step's arrays.

    A flipped bit may leave the manifest's meaning as it was (a blank in its layout); then the
    newest step is intact in all its files and may be used.
    """
    rng = np.random.default_rng(0)
    _save(tmp_path / 'intact', 1, 2)
    for trial in range(200):
        workdir = tmp_path / 'damaged'
        shutil.rmtree(workdir, ignore_errors=True)
        shutil.copytree(tmp_path / 'intact', workdir)
        newest = workdir / 'checkpoints' / '2'
        what = _damage(newest, rng)
        checkpoint = latest_checkpoint(workdir)
        if checkpoint.step == 2:
            assert what == 'flip manifest.json', what
        restored = checkpoint.restore()
        np.testing.assert_array_equal(
            restored['params']['conv']['kernel'],
            _tree(checkpoint.step)['params']['conv']['kernel'],
            err_msg=f'trial {trial}: {what}',
        )


def test_fall_back_is_told(tmp_path, caplog):
    _save(tmp_path, 1, 2, scores={1: 0.9, 2: 0.5})
    logging.use_python_logging()
    (tmp_path / 'checkpoints' / '2' / 'checkpoint.json').write_text('{}')
    with caplog.at_level('WARNING'):
        assert latest_checkpoint(tmp_path).step == 1
    assert 'falling back to step 1' in caplog.text


def test_a_broken_best_falls_back_to_the_newest(tmp_path):
    _save(tmp_path, 1, 2, scores={1: 0.9, 2: 0.5})
    (tmp_path / 'checkpoints' / '1' / 'manifest.json').unlink()
    assert best_checkpoint(tmp_path, metric='dice').step == 2
    (tmp_path / 'checkpoints' / '2' / 'manifest.json').unlink()
    with pytest.raises(InputError, match='every checkpoint is broken'):
        best_checkpoint(tmp_path, metric='dice')
    with pytest.raises(BrokenCheckpoint, match='manifest'):
        open_checkpoint(tmp_path / 'checkpoints' / '1')


def test_damage_between_opening_and_restoring_is_noticed(tmp_path):
    _save(tmp_path, 1)
    checkpoint = latest_checkpoint(tmp_path)
    (payload,) = (p for p in (checkpoint.path / 'state' / 'd').iterdir())
    data = bytearray(payload.read_bytes())
    data[len(data) // 2] ^= 1
    payload.write_bytes(data)
    with pytest.raises(BrokenCheckpoint, match='changed since it was written'):
        checkpoint.restore()
