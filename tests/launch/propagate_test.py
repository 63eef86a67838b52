"""`launch.propagate` as a user runs it."""

import numpy as np
import pytest

from sxt_jax.core.volume import Volume
from sxt_jax.io import read_volume, write_volume
from tests.launch.processes import call, run
from tests.propagation.stack_test import moving_cells

pytestmark = pytest.mark.process


def test_a_stack_and_a_missing_file(tmp_path):
    image, ids = moving_cells()
    sparse = np.where(np.arange(len(ids))[:, None, None] == 3, ids, 0).astype(np.uint8)
    write_volume(tmp_path / 'image.tif', Volume(image, (8.0, 4.0, 4.0)))
    write_volume(tmp_path / 'labels.tif', Volume(sparse))
    flags = [f'--{name}={tmp_path / name}.tif' for name in ('image', 'labels')]
    flags.append(f'--output={tmp_path / "cells.tif"}')
    log = call('propagate', *flags, status=2)
    assert log.strip().splitlines()[-1].startswith('error: --maps: none')
    assert not (tmp_path / 'cells.tif').exists()
    printed = run('propagate', *flags, '--method=flow')
    assert '2 cells of 1 labelled slices, 0 islands that meet none' in printed
    found = read_volume(tmp_path / 'cells.tif')
    assert found.voxel_size_nm == pytest.approx((8.0, 4.0, 4.0))
    assert np.mean(found.data != ids) < 0.02
