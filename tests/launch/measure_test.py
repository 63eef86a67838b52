"""`launch.measure` as a user runs it."""

from __future__ import annotations

import numpy as np
import pytest

from sxt_jax.core.volume import Volume
from sxt_jax.io import write_volume
from tests.launch.processes import call, run

pytestmark = pytest.mark.process


def test_filopodia_and_bad_flags(tmp_path):
    labels = np.zeros((16, 20, 44), np.uint8)
    labels[3:12, 4:14, 3:12], labels[3:12, 4:14, 22:40], labels[0, 0, 0] = 1, 1, 1
    write_volume(tmp_path / 'in.mrc', Volume(labels, (9.8, 9.8, 9.8)))
    flags = [f'--input={tmp_path / "in.mrc"}', f'--output={tmp_path / "out" / "f.csv"}']
    log = call('measure', *flags, '--kind=filopodia', '--class=7', status=2)
    assert "no voxel of class '7'; expected one of 1" in log.strip().splitlines()[-1]
    assert 'Traceback' not in log
    assert not (tmp_path / 'out').exists()
    printed = run('measure', *flags, '--kind=filopodia')
    assert '2 filopodia, 1 more are cut by the border' in printed
    assert '2-D second axis:' in printed
    names = sorted(p.name for p in (tmp_path / 'out').iterdir())
    assert names == ['f.csv', 'f.png', 'f.sections.csv']


def test_textures_of_objects_within_others(tmp_path):
    labels = np.zeros((12, 16, 30), np.uint8)
    labels[3:9, 4:12, 3:10], labels[3:9, 4:12, 18:26] = 4, 9
    cells = np.zeros_like(labels)
    cells[:, :, :15], cells[:, :, 15:] = 1, 2
    image = np.random.default_rng(0).normal(100, 20, labels.shape).astype(np.float32)
    for name, data in (('in', labels), ('cells', cells), ('em', image)):
        write_volume(tmp_path / f'{name}.tif', Volume(data, (8.0, 4.0, 4.0)))
    printed = run(
        'measure', '--kind=objects', '--instances', '--texture', '--gray', '--gray_range=40,160',
        *(f'--{flag}={tmp_path / name}.tif' for flag, name in
          (('input', 'in'), ('inside', 'cells'), ('image', 'em'))),
        f'--output={tmp_path / "o.csv"}', '--gray_levels=8', '--largest_ball=2',
    )  # fmt: skip
    assert printed.startswith('2 objects')
    header, *rows = (tmp_path / 'o.csv').read_text().splitlines()
    assert {'mean_gray', 'proximity', 'glcm_contrast', 'spectrum_mean_nm'} <= set(header.split(','))
    assert len(rows) == 2
    assert (tmp_path / 'o.png').exists()
    assert len((tmp_path / 'o.containers.csv').read_text().splitlines()) == 3
