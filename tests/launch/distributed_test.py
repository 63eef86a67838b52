"""Two processes with two devices each do what one with as many devices does."""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import acseg
from sxt_jax.core.devices import make_device_mesh
from sxt_jax.pipelines.segment_volume import Options, segment_file
from sxt_jax.pipelines.segmenter import load_segmenter
from sxt_jax.pipelines.train_network import train_network
from sxt_jax.training.checkpoint import list_checkpoints, open_checkpoint
from sxt_jax.training.logbook import read_metrics
from tests.launch.processes import ROOT, TINY, tiny, write_balls

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


def test_a_process_that_is_asked_to_end_takes_the_other_along_in_the_same_step(trained):
    workdir, statuses, outputs, logs = trained
    assert statuses == [130, 130], logs
    last = list_checkpoints(workdir)[-1].name
    assert f'interrupted after step {last}; saved {last}' in logs[0]
    assert 'Traceback' not in logs[0] + logs[1]
    assert 'Computing on' in logs[0]  # the first process speaks for both
    assert 'Computing on' not in logs[1]
    assert 'epoch 1' not in outputs[1]


def test_two_processes_train_what_one_with_as_many_devices_trains(tmp_path, data, trained):
    n_steps = int(list_checkpoints(trained[0])[-1].name)
    config = acseg.get_config('smoke')
    given = dict(flag.removeprefix('--config.').split('=') for flag in TINY[1:])
    config.update_from_flattened_dict({name: eval(value) for name, value in given.items()})
    config.update_from_flattened_dict(SETTINGS)
    config.data.train, config.epochs = str(data), -(-n_steps // 2)
    train_network(config, tmp_path)  # of the eight devices, as many as divide the batch: four

    found, expected = (
        open_checkpoint(folder / 'checkpoints' / str(n_steps)).restore()
        for folder in (trained[0], tmp_path)
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected
    )
    rows, expected_rows = read_metrics(trained[0]), read_metrics(tmp_path)
    assert len(rows) >= 1
    for row, other in zip(rows, expected_rows, strict=False):
        assert row.keys() == other.keys()
        assert 'dice' in row
        np.testing.assert_allclose(list(row.values()), list(other.values()), rtol=1e-4)


def test_two_processes_write_one_volume_as_one_process_does(tmp_path, trained):
    write_balls(tmp_path, n=1, side=50, suffix='.zarr')
    flags = f'--checkpoint={trained[0]}', f'--input={tmp_path}/images', f'--output={tmp_path}/two'
    statuses, outputs, logs = _ends(_start_two('segment', *flags, '--probabilities'))
    assert statuses == [0, 0], logs
    assert [f'{tmp_path}/two/ball_0.zarr\n' in output for output in outputs] == [True, False]
    assert '2 processes work on each of 1 files' in logs[0]
    as_many = make_device_mesh(jax.devices()[:2])
    segmenter = dataclasses.replace(load_segmenter(trained[0]), device_mesh=as_many)
    source, target = tmp_path / 'images' / 'ball_0.zarr', tmp_path / 'one' / 'ball_0.zarr'
    segment_file(segmenter, source, target, options=Options(probabilities=True))
    files = {path.relative_to(tmp_path / 'one') for path in (tmp_path / 'one').rglob('*')}
    assert files == {path.relative_to(tmp_path / 'two') for path in (tmp_path / 'two').rglob('*')}
    assert len(files) > 8
    for path in files:
        if (tmp_path / 'one' / path).is_file():
            assert (tmp_path / 'one' / path).read_bytes() == (tmp_path / 'two' / path).read_bytes()


WORKER = """
    import os, sys, time
    from sxt_jax.core.errors import InputError
    from sxt_jax.core.job import join_job
    from sxt_jax.core.processes import FailedElsewhere, Team, check_shared, everyone

    address, folder, index, end = sys.argv[1:3] + [int(sys.argv[3]), sys.argv[4]]
    job = join_job(
        coordinator_address=address, num_processes=2, process_id=index, heartbeat_timeout_s=5
    )
    team = everyone()
    assert team == Team(index, 2)
    assert team.gather({'a': index / 3}) == [{'a': 0.0}, {'a': 1 / 3}]
    assert team.first(lambda: 1 if team.is_first else 1 / 0) == 1
    assert team.share(lambda n: [os.getpid(), n], range(5))[4][1] == 4
    assert len({pid for pid, _ in team.share(lambda n: [os.getpid(), n], range(5))}) == 2

    def odd(n):
        if n == 3:
            raise InputError('three', 'is odd')
        return n

    try:
        team.share(odd, range(4))
        raise SystemExit('nothing was raised')
    except InputError as error:
        assert isinstance(error, FailedElsewhere) == team.is_first
        assert str(error) == 'three: is odd'
    check_shared(folder, team)
    if index == 1 and end == 'fail':
        job.fail('error: a file of mine', 2)
    elif index == 1:
        os.kill(os.getpid(), 9)
    else:
        team.wait()
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
    assert not list(tmp_path.iterdir())


def test_a_process_that_is_killed_ends_the_one_that_waits_for_it(tmp_path):
    begun = time.monotonic()
    statuses, outputs, logs = _work(tmp_path, 'die')
    assert statuses[1] == -signal.SIGKILL
    assert statuses[0] not in (0, None)
    assert outputs == ['', '']
    assert 'another task died' in logs[0]
    assert time.monotonic() - begun < 120


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
