"""`launch.reconstruct` as a user runs it."""

from __future__ import annotations

import numpy as np
import pytest

from sxt_jax.core.volume import Volume
from sxt_jax.instances import labels_to_flows
from sxt_jax.io import read_volume, write_volume
from tests.launch.processes import call, run

pytestmark = pytest.mark.process


def test_instances_of_a_file_and_bad_flags(tmp_path):
    labels = np.zeros((16, 20, 24), np.int32)
    labels[3:12, 4:14, 3:12], labels[3:12, 4:14, 13:22] = 1, 2
    both = np.concatenate([(labels > 0)[..., None], labels_to_flows(labels, kind='tanh')], -1)
    write_volume(tmp_path / 'in.tif', Volume(both.astype(np.float32), axes='zyxc'))
    flags = [f'--flows={tmp_path / "in.tif"}', f'--output={tmp_path / "out.tif"}']
    printed = run('reconstruct', *flags, '--cell_radius=5')
    assert f'2 instances: {tmp_path / "out.tif"}' in printed
    np.testing.assert_array_equal(read_volume(tmp_path / 'out.tif').data, labels)
    for wrong, told in (
        ([], 'a flag is missing'),
        (['--cell_radius=-1'], 'cell_radius'),
        (['--cell_radius=5', '--published'], '--min_diameter and --max_diameter'),
        (['--cell_radius=5', '--components=zzz'], "'zzz'"),
    ):
        log = call('reconstruct', *flags, *wrong, status=2)
        assert told in log.strip().splitlines()[-1]
