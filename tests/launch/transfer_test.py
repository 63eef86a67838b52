"""`launch.transfer` as a user runs it; trainings are those of `launch.train`."""

from __future__ import annotations

import pytest

from tests.launch.processes import call, run, tiny, write_balls

pytestmark = pytest.mark.process
PLACES = ('base', 'other', 'test_base', 'test_other')
HEADS = 'method,type,n_tomograms,repeat,class,name,dice'
ROWS = HEADS + '\n{0},base,{1},0,ball,x,{2}\n{0},other,{1},0,ball,y,{3}\n'


def test_what_is_trained_is_told_as_a_table(tmp_path):
    for name in PLACES:
        write_balls(tmp_path / name, n=2)
    for start, n, base, other in (('base', 0, 0.9, 0.5), ('scratch', 2, 0.85, 0.75)):
        folder = tmp_path / 'out' / f'{start}_{n:03d}_others_repeat_0'  # finished before
        folder.mkdir(parents=True)
        (folder / 'scores.csv').write_text(ROWS.format(start, n, base, other))
    flags = (
        *tiny(*(f'--{name}={tmp_path / name}' for name in PLACES)),
        f'--output={tmp_path / "out"}',
    )
    printed = run('transfer', *flags, '--n=2', '--start=scratch')
    assert ['scratch', '2', 'ball', '0.8500', '0.7500', '-0.0500', '+0.2500'] in [
        line.split() for line in printed.splitlines()
    ]
    for name in ('scores.csv', 'transfer.csv', 'transfer.png'):
        assert (tmp_path / 'out' / name).stat().st_size > 50
    log = call('transfer', *flags, '--n=3', status=2)
    assert log.strip().splitlines()[-1].startswith('error: n: 3; expected at most the 2 pairs')
    assert 'Traceback' not in log
