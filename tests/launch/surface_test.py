"""`launch.surface` as a user runs it."""

from __future__ import annotations

import numpy as np
import pytest

from sxt_jax.core.volume import Volume
from sxt_jax.io import write_volume
from tests.launch.processes import call, run

pytestmark = pytest.mark.process


def test_a_scene_and_bad_flags(tmp_path):
    labels = np.zeros((16, 20, 44), np.uint8)
    labels[3:12, 4:14, 3:12], labels[3:12, 4:14, 22:40] = 1, 1
    write_volume(tmp_path / 'in.npy', Volume(labels))
    flags = [f'--input={tmp_path / "in.npy"}', f'--output={tmp_path / "out" / "scene.obj"}']
    log = call('surface', *flags, status=2)
    assert 'no voxel size in the file; expected --voxel_size_nm' in log.strip().splitlines()[-1]
    assert 'Traceback' not in log
    assert not (tmp_path / 'out').exists()
    printed = run('surface', *flags, '--voxel_size_nm=9.8', '--min_faces=100')
    assert '2 objects with' in printed
    names = sorted(p.name for p in (tmp_path / 'out').iterdir())
    assert names == ['scene.csv', 'scene.obj', 'scene.png']
