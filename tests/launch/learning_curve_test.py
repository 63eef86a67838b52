"""`launch.learning_curve` as a user runs it; trainings are those of `launch.train`."""

from __future__ import annotations

import pytest

from tests.launch.processes import call, run, tiny, write_balls

pytestmark = pytest.mark.process
SCORES = 'method,class,n_tomograms,repeat,name,dice\nnetwork,ball,{0},0,x,{1}\n'


def test_what_is_trained_is_scored_and_fitted(tmp_path):
    write_balls(tmp_path / 'train', n=3)
    write_balls(tmp_path / 'test', n=1)
    for n, dice in ((1, 0.8), (3, 0.95)):  # finished before
        folder = tmp_path / 'out' / f'{n:03d}_tomograms_repeat_0'
        folder.mkdir(parents=True)
        (folder / 'scores.csv').write_text(SCORES.format(n, dice))
    flags = (
        *tiny(f'--config.data.train={tmp_path / "train"}'),
        f'--test={tmp_path / "test"}',
        f'--output={tmp_path / "out"}',
    )
    printed = run('learning_curve', *flags, '--sizes=1,3', '--target=0.9,0.975')
    rows = [line.split()[:4] for line in printed.splitlines()]
    assert ['network', 'ball', '0.9', '2.0'] in rows
    assert ['network', 'ball', '0.975', '4.0'] in rows
    assert '4.0 tomograms for ball (network) are more than the 3 measured' in printed
    for name in ('scores.csv', 'learning_curve.csv', 'learning_curve.png'):
        assert (tmp_path / 'out' / name).stat().st_size > 50
    log = call('learning_curve', *flags, '--sizes=1,4', status=2)
    assert log.strip().splitlines()[-1].startswith('error: sizes: 4; expected at most the 3 pairs')
    assert 'Traceback' not in log


def test_what_cannot_be_reached_is_written_and_told(tmp_path):
    (tmp_path / 't.csv').write_text('n_tomograms,dice\n2,0.9\n4,0.8\n')
    flags = f'--scores={tmp_path / "t.csv"}', f'--output={tmp_path / "out"}'
    log = call('learning_curve', *flags, status=2)
    assert log.strip().splitlines()[-1].startswith('error: target: Dice 0.95, which no curve')
    assert 'Traceback' not in log
    assert (tmp_path / 'out' / 'learning_curve.png').stat().st_size > 5000
