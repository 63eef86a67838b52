"""Smart interpolation from the command line: what is printed, bad input, an interruption."""

from __future__ import annotations

import signal
import time

import numpy as np
import pytest

from sxt_jax.core.volume import Volume
from sxt_jax.io import read_volume, write_volume
from tests.launch.processes import call, run, start, write_balls

pytestmark = pytest.mark.process


@pytest.fixture
def sparse(tmp_path):
    """Two tomograms of which two slices are labelled."""
    write_balls(tmp_path, n=2)
    for path in (tmp_path / 'labels').iterdir():
        labels = read_volume(path).data
        labels[[z for z in range(len(labels)) if z not in (5, 10)]] = 0
        write_volume(path, Volume(labels, (30.0, 20.0, 20.0)))
    return [f'--image={tmp_path / "images"}', f'--labels={tmp_path / "labels"}']


def test_a_folder(sparse, tmp_path):
    output = tmp_path / 'dense'
    flags = ('--uncertainty', '--suggest_slices=1', '--smooth=5', '--n_steps=50')
    printed = run('interpolate', *sparse, f'--output={output}', *flags)
    for number in range(2):
        name = f'ball_{number}.tif'
        assert f'{output / name}\n' in printed
        assert (output / 'uncertainty' / name).exists()
        labels = read_volume(output / name)
        assert set(np.unique(labels.data)) == {0, 1}
        assert labels.data[7, 8, 8] == 1
        assert labels.voxel_size_nm == pytest.approx((30.0, 20.0, 20.0))
    assert printed.count('label next: xy slice') == 2


def test_one_bad_file_of_two(sparse, tmp_path):
    write_volume(tmp_path / 'labels' / 'ball_0.tif', Volume(np.ones((15, 16, 16), np.uint8)))
    output = tmp_path / 'dense'
    printed = call('interpolate', *sparse, f'--output={output}', '--n_steps=9', status=2)
    assert 'labels of shape [15, 16, 16]; expected [16, 16, 16]' in printed
    assert 'Traceback' not in printed
    assert [path.name for path in output.iterdir()] == ['ball_1.tif']


def test_an_interruption_leaves_nothing(sparse, tmp_path):
    output = tmp_path / 'dense'
    flags = ('--n_walks=1000000', '--n_steps=1000')
    process = start('interpolate', *sparse, f'--output={output}', *flags)
    for line in iter(process.stderr.readline, ''):
        if 'Computing on' in line:
            break
    time.sleep(4)  # it reads, compiles or walks by then
    process.send_signal(signal.SIGINT)
    _, log = process.communicate(timeout=120)
    assert process.returncode == 130
    assert log.strip().splitlines()[-1] == 'interrupted'
    assert not list(output.rglob('*.tif'))
