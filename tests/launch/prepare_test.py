"""Preparing a stack from the command line: what is printed, and bad input."""

import numpy as np
import pytest

from sxt_jax.core.volume import Volume
from sxt_jax.io import read_volume, write_volume
from tests.launch.processes import call, run

pytestmark = pytest.mark.process


def test_a_folder_of_slices(tmp_path):
    rng = np.random.default_rng(0)
    for z in range(3):
        image = rng.integers(0, 255, (1, 20, 24)).astype(np.uint8)
        write_volume(tmp_path / 'slices' / f'{z}.tif', Volume(image))
    output = tmp_path / 'out.zarr'
    flags = (f'--image={tmp_path / "slices"}', f'--output={output}')
    printed = run('prepare', *flags, '--noalign', '--contrast=equalise')
    assert '3 slices of 20 × 24 pixels, moved by up to 0 pixels' in printed
    assert read_volume(output).shape == (3, 20, 24)
    printed = call('prepare', *flags, '--contrast=bright', status=2)
    assert 'Traceback' not in printed
    printed = call('prepare', flags[0], status=2)
    assert 'expected --image and --output' in printed
