"""`launch.export` as a user runs it: the example it prints is run where the package is not."""

from __future__ import annotations

import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from sxt_jax.models import UNet3D, model_config
from sxt_jax.training.checkpoint import save_checkpoint
from tests.launch.processes import call, run
from tests.pipelines.exports import WITHOUT_THE_PACKAGE

pytestmark = pytest.mark.process


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp('run')
    model = UNet3D(filters=(2, 3))
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 2, 2, 2, 1)))
    tiling = {'tile': [4, 4, 4]}
    facts = {'model': model_config(model), 'n_channels': 1, 'tiling': tiling}
    save_checkpoint(folder, 1, variables, facts)
    return folder


def test_the_example_it_prints_runs_without_the_package(workdir, tmp_path):
    output = tmp_path / 'model.stablehlo'
    printed = run('export', f'--checkpoint={workdir}', f'--output={output}', '--tile=2,4,6')
    lines = printed.splitlines()
    start = lines.index('import jax, jax.export, numpy as np')
    example = '\n'.join(lines[start : start + 5])
    code = f'{WITHOUT_THE_PACKAGE}\n{example}\nprint(probs.shape, float(probs.sum()))'
    ran = subprocess.run(
        [sys.executable, '-c', code], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert ran.stdout.startswith('(1, 2, 4, 6, 2) 4')
    assert (tmp_path / 'model.json').exists()


@pytest.mark.parametrize(
    ('flag', 'told'),
    [
        ('--tile=4,4,x', 'error: --tile: 4,4,x; expected integers'),
        ('--dtype=float64', 'error: flag --dtype=float64'),
    ],
)
def test_errors_are_one_line(workdir, tmp_path, flag, told):
    flags = (f'--checkpoint={workdir}', f'--output={tmp_path / "m.stablehlo"}')
    log = call('export', *flags, flag, status=2)
    assert log.strip().splitlines()[-1].startswith(told)
    assert 'Traceback' not in log
    assert list(tmp_path.iterdir()) == []
