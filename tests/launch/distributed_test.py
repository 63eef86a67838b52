"""Two processes with two devices each do what one with as many devices does."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from unittest import mock

import jax
import numpy as np
import pytest

from configs import acseg
from sxt_jax.core.atomic import remove_abandoned
from sxt_jax.core.devices import make_device_mesh
from sxt_jax.core.processes import OutOfStep
from sxt_jax.pipelines import segment_volume
from sxt_jax.pipelines.ensemble import join_members, members_of
from sxt_jax.pipelines.segment_volume import Options, load_checkpoints, segment_file
from sxt_jax.pipelines.train_network import train_network
from sxt_jax.training.checkpoint import list_checkpoints, open_checkpoint
from sxt_jax.training.logbook import read_metrics
from tests.launch.processes import ROOT, TINY, call, tiny, write_balls

pytestmark = pytest.mark.process
SETTINGS = {
    'model.filters': (2,),
    'data.working_shape': None,
    'data.steps_per_epoch': 2,
    'checkpoint.every_steps': 1,
    'checkpoint.keep': 1000,
}


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(('localhost', 0))
        return int(sock.getsockname()[1])


def _start(command: list[str], n_devices: int = 2) -> subprocess.Popen:
    flags = f'--xla_force_host_platform_device_count={n_devices}'
    environment = {**os.environ, 'XLA_FLAGS': flags, 'JAX_PLATFORMS': 'cpu'}
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def _start_two(script: str, *flags: str, own: tuple[str, str] = ('', '')) -> list[subprocess.Popen]:
    """Both processes of a job; each may have a flag of its own."""
    job = f'--coordinator_address=localhost:{_free_port()}', '--num_processes=2'
    command = ['-m', f'launch.{script}', *flags, *job, '--heartbeat_timeout_s=10']
    return [
        _start([*command, f'--process_id={i}', *([own[i]] if own[i] else [])]) for i in range(2)
    ]


def _ends(processes: list[subprocess.Popen]) -> tuple[list[int], list[str], list[str]]:
    """Statuses, output and logs."""
    told = [process.communicate(timeout=300) for process in processes]
    return [p.returncode for p in processes], [out for out, _ in told], [log for _, log in told]


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data')
    write_balls(folder)
    return folder


@pytest.fixture(scope='module')
def trained(tmp_path_factory, data):
    """The workdir of a run of two processes of which one was asked to end."""
    workdir = tmp_path_factory.mktemp('run') / 'W'
    changed = [f'--config.{name}={value}' for name, value in SETTINGS.items()]
    flags = tiny(*changed, '--config.epochs=10000')
    processes = _start_two('train', *flags, f'--config.data.train={data}', f'--workdir={workdir}')
    while processes[1].poll() is None and len(list_checkpoints(workdir)) < 3:
        time.sleep(0.1)
    processes[1].terminate()
    return workdir, *_ends(processes)


@pytest.fixture(scope='module')
def resumed(tmp_path_factory, data, trained):
    """The same run after it went on in two processes, two epochs or so."""
    workdir = tmp_path_factory.mktemp('run') / 'R'
    shutil.copytree(trained[0], workdir)
    n_epochs = 1 + -(-_last_step(workdir) // 2)
    changed = [f'--config.{name}={value}' for name, value in SETTINGS.items()]
    flags = tiny(*changed, f'--config.epochs={n_epochs}', f'--config.data.train={data}')
    return workdir, *_ends(_start_two('train', *flags, f'--workdir={workdir}'))


def _last_step(workdir: Path) -> int:
    return int(list_checkpoints(workdir)[-1].name)


def test_two_processes_go_on_where_two_were_interrupted(trained, resumed):
    workdir, statuses, _, logs = resumed
    assert statuses == [0, 0], logs
    n_steps = _last_step(trained[0])
    assert f'Going on from {workdir}/checkpoints/{n_steps}' in logs[0]
    assert _last_step(workdir) == 2 * (1 + -(-n_steps // 2))


def test_a_process_that_is_asked_to_end_takes_the_other_along_in_the_same_step(trained):
    workdir, statuses, outputs, logs = trained
    assert statuses == [130, 130], logs
    last = list_checkpoints(workdir)[-1].name
    assert f'interrupted after step {last}; saved {last}' in logs[0]
    assert 'Traceback' not in logs[0] + logs[1]
    assert 'Computing on' in logs[0]  # the first process speaks for both
    assert 'Computing on' not in logs[1]
    assert 'epoch 1' not in outputs[1]


def test_two_processes_train_what_one_with_as_many_devices_trains(tmp_path, data, trained, resumed):
    n_steps, last = _last_step(trained[0]), _last_step(resumed[0])
    config = acseg.get_config('smoke')
    given = dict(flag.removeprefix('--config.').split('=') for flag in TINY[1:])
    config.update_from_flattened_dict({name: eval(value) for name, value in given.items()})
    config.update_from_flattened_dict(SETTINGS)
    config.data.train, config.epochs = str(data), last // 2
    train_network(config, tmp_path)  # of the eight devices, as many as divide the batch: four

    for folder, step in ((trained[0], n_steps), (resumed[0], last)):
        found, expected = (
            open_checkpoint(run / 'checkpoints' / str(step)).restore() for run in (folder, tmp_path)
        )
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected
        )
    rows, expected_rows = read_metrics(resumed[0]), read_metrics(tmp_path)
    assert rows[: len(read_metrics(trained[0]))] == read_metrics(trained[0])
    for row, other in zip(rows, expected_rows, strict=True):
        assert row.keys() == other.keys()
        assert 'dice' in row
        np.testing.assert_allclose(list(row.values()), list(other.values()), rtol=1e-4)


def test_two_processes_write_one_volume_as_one_process_does(tmp_path, trained):
    write_balls(tmp_path, n=1, side=50, suffix='.zarr')
    networks = f'{trained[0]},{trained[0]}/checkpoints/1'  # of which the mean counts
    flags = f'--checkpoint={networks}', f'--input={tmp_path}/images', f'--output={tmp_path}/two'
    statuses, outputs, logs = _ends(_start_two('segment', *flags, '--probabilities'))
    assert statuses == [0, 0], logs
    assert [f'{tmp_path}/two/ball_0.zarr\n' in output for output in outputs] == [True, False]
    assert '2 processes work on each of 1 files' in logs[0]
    _segment_in_one(networks, tmp_path / 'images' / 'ball_0.zarr', tmp_path / 'one')
    _check_same_files(tmp_path / 'one', tmp_path / 'two')


def _segment_in_one(names: str, source: Path, output: Path) -> None:
    """In this process, on as many devices as each of two has."""
    mesh = make_device_mesh(jax.devices()[:2])
    members = [
        dataclasses.replace(member, device_mesh=mesh)
        for member in members_of(load_checkpoints(names))
    ]
    network, options = join_members(members, names.split(',')), Options(probabilities=True)
    segment_file(network, source, output / source.name, options=options)


def _check_same_files(one: Path, two: Path) -> None:
    files = {path.relative_to(one) for path in one.rglob('*')}
    assert files == {path.relative_to(two) for path in two.rglob('*')}
    assert len(files) > 8
    for path in files:
        if (one / path).is_file():
            assert (one / path).read_bytes() == (two / path).read_bytes()


SEGMENTATIONS = """
    import contextlib, errno, json, sys
    from unittest import mock
    from sxt_jax.core.job import join_job
    from sxt_jax.io import zarr
    from sxt_jax.pipelines.segment_volume import Options, segment_files

    address, workdir, folder, index = sys.argv[1:4] + [int(sys.argv[4])]
    job = join_job(
        coordinator_address=address, num_processes=2, process_id=index, heartbeat_timeout_s=10
    )
    told = []

    def segment(source, target, **options):
        chosen = Options(probabilities=True, **options)
        found = segment_files(workdir, f'{folder}/{source}', f'{folder}/{target}', options=chosen)
        told.append([[one.labels.name, one.error, one.skipped] for one in found])

    full = OSError(errno.ENOSPC, 'No space left on device')
    failing = mock.patch.object(zarr, '_write_chunks', side_effect=full)
    with failing if index else contextlib.nullcontext():
        segment('images/ball_0.zarr', 'pieces')
    segment('images/ball_0.zarr', 'pieces')
    segment('images/ball_0.zarr', 'pieces', skip_existing=True)
    segment('images', 'files')
    job.finish()
    print(json.dumps(told))
"""


@pytest.mark.slow
def test_two_processes_go_on_after_a_full_disk(tmp_path, trained):
    write_balls(tmp_path, n=2, side=50, suffix='.zarr')
    address, code = f'localhost:{_free_port()}', textwrap.dedent(SEGMENTATIONS)
    arguments = [address, str(trained[0]), str(tmp_path)]
    statuses, outputs, logs = _ends([_start(['-c', code, *arguments, str(i)]) for i in range(2)])
    assert statuses == [0, 0], logs
    found, other = (json.loads(output.splitlines()[-1]) for output in outputs)  # below Gloo's
    assert found == other
    first, *others = found
    assert 'No space left on device' in first[0][1]
    expected = ['ball_0.zarr', '', False], ['ball_0.zarr', '', True]
    assert others == [[one] for one in expected] + [[expected[0], ['ball_1.zarr', '', False]]]

    _segment_in_one(str(trained[0]), tmp_path / 'images' / 'ball_0.zarr', tmp_path / 'one')
    _check_same_files(tmp_path / 'one', tmp_path / 'pieces')
    _segment_in_one(str(trained[0]), tmp_path / 'images' / 'ball_1.zarr', tmp_path / 'one')
    _check_same_files(tmp_path / 'one', tmp_path / 'files')


WORKER = """
    import os, sys
    from sxt_jax.core.atomic import atomic_path
    from sxt_jax.core.errors import InputError
    from sxt_jax.core.job import join_job
    from sxt_jax.core.processes import FailedElsewhere, Team, check_shared, everyone

    address, folder, index, end = sys.argv[1:3] + [int(sys.argv[3]), sys.argv[4]]
    job = join_job(
        coordinator_address=address, num_processes=2, process_id=index, heartbeat_timeout_s=5
    )
    team = everyone()
    assert team == Team(index, 2)
    assert team.gather({'a': index / 3}, name='a') == [{'a': 0.0}, {'a': 1 / 3}]
    assert team.first(lambda: 1 if team.is_first else 1 / 0, name='b') == 1
    shares = team.share(lambda n: [os.getpid(), n], range(5), name='c')
    assert shares[4][1] == 4
    assert len({pid for pid, _ in shares}) == 2

    def odd(n):
        if n == 3:
            raise InputError('three', 'is odd')
        return n

    try:
        team.share(odd, range(4), name='d')
        raise SystemExit('nothing was raised')
    except InputError as error:
        assert isinstance(error, FailedElsewhere) == team.is_first
        assert str(error) == 'three: is odd'
    check_shared(folder, team)
    with atomic_path(f'{folder}/{index}.zarr') as temporary:
        temporary.mkdir()
        (temporary / 'zarr.json').touch()
        team.wait(name='both have begun')
        if index == 1 and end == 'die':
            os.kill(os.getpid(), 9)
        if index == 1:
            job.fail('error: a file of mine', 2)
        team.wait(name='both have ended')
    print('was not ended')
"""


def _work(folder: Path, end: str) -> tuple[list[int], list[str], list[str]]:
    address, code = f'localhost:{_free_port()}', textwrap.dedent(WORKER)
    commands = [['-c', code, address, str(folder), str(i), end] for i in range(2)]
    return _ends([_start(command) for command in commands])


def test_a_process_that_fails_ends_the_one_that_waits_for_it(tmp_path):
    statuses, outputs, logs = _work(tmp_path, 'fail')
    assert statuses == [2, 2], logs
    assert outputs == ['', '']
    assert 'process 0 ends: process 1 of 2 failed: error: a file of mine' in logs[0]
    assert 'error: a file of mine' in logs[1]
    assert not list(tmp_path.iterdir())  # of both


def test_a_process_that_is_killed_ends_the_one_that_waits_for_it(tmp_path):
    begun = time.monotonic()
    statuses, outputs, logs = _work(tmp_path, 'die')
    assert statuses[1] == -signal.SIGKILL
    assert statuses[0] not in (0, None)
    assert outputs == ['', '']
    assert 'another task died' in logs[0]
    assert time.monotonic() - begun < 120
    left = {path.name.partition('-')[0] for path in tmp_path.iterdir()}
    assert left == {'.incomplete'}
    remove_abandoned(tmp_path)
    assert not list(tmp_path.iterdir())


def test_processes_out_of_step_end_with_one_line():
    error = OutOfStep('processes are out of step: process 0 at …')
    with mock.patch.object(segment_volume, 'segment_files', side_effect=error):
        log = call('segment', '--checkpoint=W', '--input=I', '--output=O', status=1)
    assert f'error: {error}' in log
    assert 'Traceback' not in log


@pytest.mark.parametrize(
    ('flags', 'told'),
    [
        (['--num_processes=2'], '--num_processes alone'),
        (['--multiprocess'], 'srun'),
    ],
)
def test_processes_that_nobody_tells_of_are_refused(flags, told):
    process = _start(['-m', 'launch.segment', *flags])
    [status], _, [log] = _ends([process])
    assert status == 2
    assert told in log
    assert 'Traceback' not in log
