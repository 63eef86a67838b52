"""`launch.review` as a user runs it."""

from __future__ import annotations

import numpy as np
import pytest

from sxt_jax.core.volume import Volume
from sxt_jax.io import write_volume
from tests.launch.processes import call, run

pytestmark = pytest.mark.process


def test_a_sheet_and_bad_flags(tmp_path):
    labels = np.zeros((6, 20, 30), np.uint8)
    labels[1:5, 4:14, 3:12] = 1
    more = labels.copy()
    more[1:5, 4:14, 13:23] = 1
    image = labels + np.random.default_rng(0).normal(size=labels.shape)
    for name, data in (('p.tif', labels), ('c.tif', more), ('i.mrc', image.astype(np.float32))):
        write_volume(tmp_path / name, Volume(data, (10.0, 10.0, 10.0)))
    flags = [f'--prediction={tmp_path / "p.tif"}', f'--corrected={tmp_path / "c.tif"}']
    output = f'--output={tmp_path / "out" / "sheet.png"}'
    log = call('review', *flags, f'--image={tmp_path / "no.mrc"}', output, status=2)
    assert 'no.mrc' in log.strip().splitlines()[-1]
    assert 'Traceback' not in log
    assert not (tmp_path / 'out').exists()
    printed = run('review', *flags, f'--image={tmp_path / "i.mrc"}', output, '--n_slices=2')
    assert 'true positive:   47.4 ± 0.0 %' in printed
    names = sorted(p.name for p in (tmp_path / 'out').iterdir())
    assert names == ['sheet.csv', 'sheet.png', 'sheet.summary.csv']
