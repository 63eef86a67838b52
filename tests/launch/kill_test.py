"""Processes that are killed for real."""

import random
import shutil
import time

import jax
import numpy as np
import pytest

from sxt_jax.io import is_volume, list_volumes, read_volume
from sxt_jax.training.checkpoint import latest_checkpoint, list_checkpoints, open_checkpoint
from sxt_jax.training.logbook import read_metrics
from tests.launch.processes import run, start, tiny, write_balls

pytestmark = pytest.mark.process
TRAINING = (
    *tiny('--config.data.working_shape=None'),
    '--config.epochs=10',
    '--config.data.steps_per_epoch=6',
    '--config.checkpoint.every_steps=2',
)
N_STEPS = 60


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """A folder of `data` and the `whole` training run that nothing interrupted."""
    folder = tmp_path_factory.mktemp('whole')
    write_balls(folder / 'data')
    data = f'--config.data.train={folder / "data"}'
    run('train', *TRAINING, data, f'--workdir={folder / "whole"}')
    return folder


def _wait_for_another_checkpoint(process, workdir, *, step):
    before = set(list_checkpoints(workdir))
    while process.poll() is None:
        new = set(list_checkpoints(workdir)) - before
        if any(int(path.name) >= step for path in new):
            return
        time.sleep(0.02)


@pytest.mark.parametrize('n_kills', [3, pytest.param(10, marks=pytest.mark.slow)])
def test_training_killed_again_and_again_ends_bit_identical(whole, tmp_path, n_kills):
    data = f'--config.data.train={whole / "data"}'
    rng, workdir = random.Random(0), tmp_path / 'killed'
    for n in range(n_kills):
        process = start('train', *TRAINING, data, f'--workdir={workdir}')
        if n % 3 == 0:  # while it starts, reads, compiles
            time.sleep(rng.uniform(0, 5))
        else:  # while it steps, saves, validates, all along the run
            _wait_for_another_checkpoint(process, workdir, step=N_STEPS * n // (n_kills + 1))
            time.sleep(rng.uniform(0, 0.5))
        process.kill()
        process.wait()
        for path in list_checkpoints(workdir):
            open_checkpoint(path)  # raises unless intact
    run('train', *TRAINING, data, f'--workdir={workdir}')

    expected, killed = latest_checkpoint(whole / 'whole'), latest_checkpoint(workdir)
    assert expected.step == killed.step == N_STEPS
    jax.tree.map(np.testing.assert_array_equal, expected.restore(), killed.restore())
    assert read_metrics(whole / 'whole') == read_metrics(workdir)
    assert not list((workdir / 'checkpoints').glob('.incomplete-*'))


@pytest.mark.parametrize('n_kills', [2, pytest.param(6, marks=pytest.mark.slow)])
def test_segmentation_killed_anywhere_leaves_nothing_that_looks_complete(whole, tmp_path, n_kills):
    write_balls(tmp_path / 'big', n=2, side=40, suffix='.mrc')
    flags = (f'--checkpoint={whole / "whole"}', f'--input={tmp_path / "big" / "images"}')
    begun = time.monotonic()
    run('segment', *flags, f'--output={tmp_path / "whole"}')
    duration = time.monotonic() - begun
    volumes = {p.name: read_volume(p) for p in list_volumes(tmp_path / 'whole')}
    assert len(volumes) == 2

    rng, output = random.Random(1), tmp_path / 'killed'
    n_cut = 0
    for n in range(n_kills):
        shutil.rmtree(output, ignore_errors=True)
        process = start('segment', *flags, f'--output={output}')
        if n % 2 == 0:  # while it writes
            while process.poll() is None and not list(output.glob('*')):
                time.sleep(0.002)
            time.sleep(rng.uniform(0, 0.1))
        else:  # at any time
            time.sleep(rng.uniform(0.3, 1.0) * duration)
        n_cut += process.poll() is None
        process.kill()
        process.wait()
        for path in filter(is_volume, output.glob('*')):
            np.testing.assert_array_equal(read_volume(path).data, volumes[path.name].data)
    assert n_cut > 0
    run('segment', *flags, f'--output={output}', '--skip_existing')
    assert {p.name for p in output.iterdir()} == set(volumes)
