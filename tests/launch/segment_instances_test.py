"""`launch.segment --instances` and `launch.reconstruct` as a user runs them."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from sxt_jax.core.volume import Volume
from sxt_jax.io import read_volume, write_volume
from sxt_jax.pipelines.import_weights import Options, import_weights
from tests.launch.processes import call, run

pytestmark = pytest.mark.process
WEIGHTS = pathlib.Path(__file__).parents[1] / 'fixtures' / 'cellpose3d_unet_small.npz'


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp('weights')
    with np.load(WEIGHTS) as arrays:
        weights = {k[8:]: arrays[k] for k in arrays if k.startswith('weights/')}
    np.savez(folder / 'weights.npz', **weights)
    options = Options(tile=[16, 16, 16], overlap=[8, 8, 8])
    import_weights('cellpose3d', folder / 'weights.npz', folder / 'W', options=options)
    return folder / 'W'


def test_instances_and_their_flows_are_written_and_read(tmp_path, checkpoint):
    gray = np.random.default_rng(0).random((16, 20, 20)).astype(np.float32)
    write_volume(tmp_path / 'in' / 'a.mrc', Volume(gray, (20.0, 20.0, 20.0)))
    (tmp_path / 'in' / 'b.tif').write_bytes(b'no image')
    flags = f'--checkpoint={checkpoint}', f'--input={tmp_path / "in"}', f'--output={tmp_path}/out'
    wanted = '--instances', '--cell_radius=3', '--probabilities'
    printed = call('segment', *flags, *wanted, status=2)
    assert 'Traceback' not in printed
    assert 'b.tif' in printed
    assert sorted(p.name for p in (tmp_path / 'out').iterdir()) == [
        'a.mrc', 'a.mrc.probabilities.h5',
    ]  # fmt: skip
    found = read_volume(tmp_path / 'out' / 'a.mrc')
    assert (found.dtype, found.shape) == (np.uint16, (16, 20, 20))
    assert found.data.any()
    again = tmp_path / 'again.tif'
    flows = f'--flows={tmp_path / "out" / "a.mrc.probabilities.h5"}'
    printed = run('reconstruct', flows, f'--output={again}', '--cell_radius=3')
    assert f'{found.data.max()} instances: {again}' in printed
    np.testing.assert_array_equal(read_volume(again).data, found.data)


def test_what_is_to_be_added_is_one_line(tmp_path, checkpoint):
    write_volume(tmp_path / 'a.tif', Volume(np.eye(8, dtype=np.uint8)[None].repeat(8, 0)))
    flags = f'--checkpoint={checkpoint}', f'--input={tmp_path / "a.tif"}', f'--output={tmp_path}/o'
    printed = call('segment', *flags, status=2)
    assert 'Traceback' not in printed
    told = 'expected launch.segment with --instances --cell_radius=VOXELS'
    assert told in printed.strip().splitlines()[-1]
