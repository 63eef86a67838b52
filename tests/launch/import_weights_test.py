"""`launch.import_weights` as a user runs it, and what it says to run next."""

from __future__ import annotations

import pathlib
import shlex

import numpy as np
import pytest

from sxt_jax.core.volume import Volume
from sxt_jax.io import read_volume, write_volume
from tests.launch.processes import call, run
from tests.models.pretrained.biomedisa_models import random_weights, write_model

FIXTURES = pathlib.Path(__file__).parents[1] / 'fixtures'
pytestmark = pytest.mark.process


def test_a_model_is_imported_and_applied(tmp_path):
    model, output = tmp_path / 'model.h5', tmp_path / 'the W'
    write_model(
        model,
        random_weights((2, 3), 1, 3, residual=False),
        configuration=np.array([1, 16, 16, 16, 1, 0, 1]),
    )
    flags = ('--format=biomedisa', f'--input={model}', f'--output={output}')
    printed = run('import_weights', *flags, '--classes=cell=2,bead=5')
    line, follows = printed.splitlines()[-2:]
    assert line.startswith('unet3d of model.h5; ')
    assert line.endswith('; classes background=0, cell=2, bead=5; computes in float32')
    words = ['next:', 'python', '-m', 'launch.segment', f'--checkpoint={output}']
    assert shlex.split(follows)[:5] == words
    image = np.random.default_rng(0).random((20, 18, 22)).astype(np.float32)
    write_volume(tmp_path / 'image.tif', Volume(image, (30.0, 20.0, 20.0)))
    source = f'--input={tmp_path / "image.tif"}'
    printed = run('segment', f'--checkpoint={output}', source, f'--output={tmp_path / "out"}')
    assert str(tmp_path / 'out' / 'image.tif') in printed.split('\n')
    labels = read_volume(tmp_path / 'out' / 'image.tif')
    assert labels.shape == (20, 18, 22)
    assert set(np.unique(labels.data)) <= {0, 2, 5}


def test_imported_weights_of_deep_sxt_segment(tmp_path):
    output = tmp_path / 'W'
    weights, config = (FIXTURES / f'deep_sxt_small.{kind}' for kind in ('h5', 'json'))
    flags = (f'--input={weights}', f'--config_json={config}', f'--output={output}')
    line, follows = run('import_weights', '--format=deep_sxt', *flags).splitlines()[-2:]
    assert '; classes background=0, membrane=1; ' in line
    flags = ['--input=TOMOGRAMS', '--output=FOLDER']
    words = ['next:', 'python', '-m', 'launch.segment', f'--checkpoint={output}', *flags]
    assert shlex.split(follows) == words


def test_bad_input_is_one_line(tmp_path):
    (tmp_path / 'model.h5').write_bytes(b'no model')
    flags = ('--format=biomedisa', f'--input={tmp_path / "model.h5"}', f'--output={tmp_path / "W"}')
    printed = call('import_weights', *flags, status=2)
    assert 'Traceback' not in printed
    assert 'error: ' in printed.splitlines()[-1]
    assert 'model.h5: no HDF5 file' in printed.splitlines()[-1]
    assert not (tmp_path / 'W').exists()
    printed = call('import_weights', *flags, '--tile=8,x,8', status=2)
    assert '--tile: 8,x,8' in printed.splitlines()[-1]
