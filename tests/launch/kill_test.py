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
from tests.launch.processes import TINY, run, start, tiny, write_balls

pytestmark = pytest.mark.process
TRAINING = (
    *TINY,
    '--config.epochs=10',
    '--config.data.steps_per_epoch=6',
    '--config.checkpoint.every_steps=2',
)


def _wait_for_another_checkpoint(process, workdir):
    before = set(list_checkpoints(workdir))
    while process.poll() is None and not set(list_checkpoints(workdir)) - before:
        time.sleep(0.02)


def test_training_killed_ten_times_ends_bit_identical(tmp_path):
    write_balls(tmp_path / 'data')
    data = f'--config.data.train={tmp_path / "data"}'
    run('train', *TRAINING, data, f'--workdir={tmp_path / "whole"}')

    rng, workdir = random.Random(0), tmp_path / 'killed'
    for n in range(10):
        process = start('train', *TRAINING, data, f'--workdir={workdir}')
        if n % 3 == 0:  # while it starts, reads, compiles
            time.sleep(rng.uniform(0, 5))
        else:  # while it steps, saves, validates
            _wait_for_another_checkpoint(process, workdir)
            time.sleep(rng.uniform(0, 0.5))
        process.kill()
        process.wait()
        for path in list_checkpoints(workdir):
            open_checkpoint(path)  # raises unless intact
    run('train', *TRAINING, data, f'--workdir={workdir}')

    whole, killed = latest_checkpoint(tmp_path / 'whole'), latest_checkpoint(workdir)
    assert whole.step == killed.step == 60
    jax.tree.map(np.testing.assert_array_equal, whole.restore(), killed.restore())
    assert read_metrics(tmp_path / 'whole') == read_metrics(workdir)
    assert not list((workdir / 'checkpoints').glob('.incomplete-*'))


def test_segmentation_killed_anywhere_leaves_nothing_that_looks_complete(tmp_path):
    write_balls(tmp_path / 'data')
    run(
        'train',
        *tiny('--config.data.working_shape=None'),
        f'--config.data.train={tmp_path / "data"}',
        f'--workdir={tmp_path / "run"}',
    )
    write_balls(tmp_path / 'big', n=2, side=64, suffix='.mrc')
    flags = (f'--checkpoint={tmp_path / "run"}', f'--input={tmp_path / "big" / "images"}')
    begun = time.monotonic()
    run('segment', *flags, f'--output={tmp_path / "whole"}')
    duration = time.monotonic() - begun
    whole = {p.name: read_volume(p) for p in list_volumes(tmp_path / 'whole')}
    assert len(whole) == 2

    rng, output = random.Random(1), tmp_path / 'killed'
    n_cut = 0
    for _ in range(6):
        shutil.rmtree(output, ignore_errors=True)
        process = start('segment', *flags, f'--output={output}')
        time.sleep(rng.uniform(0.3, 1.0) * duration)
        n_cut += process.poll() is None
        process.kill()
        process.wait()
        for path in filter(is_volume, output.glob('*')):
            np.testing.assert_array_equal(read_volume(path).data, whole[path.name].data)
    assert n_cut > 0
    run('segment', *flags, f'--output={output}', '--skip_existing')
    assert {p.name for p in output.iterdir()} == set(whole)
