"""`launch.learning_curve` as a user runs it."""

from __future__ import annotations

import pytest

from tests.launch.processes import run, tiny, write_balls

pytestmark = pytest.mark.process


def test_from_trainings_to_a_curve_and_from_its_scores_again(tmp_path):
    write_balls(tmp_path / 'train', n=3)
    write_balls(tmp_path / 'test', n=4)
    for folder in ('images', 'labels'):  # the fourth alone is not among those trained on
        for i in range(3):
            (tmp_path / 'test' / folder / f'ball_{i}.tif').unlink()
    output = tmp_path / 'out'
    measured = run(
        'learning_curve',
        *tiny('--config.epochs=6', '--config.optimizer.learning_rate=0.1'),
        f'--config.data.train={tmp_path / "train"}',
        f'--test={tmp_path / "test"}',
        f'--output={output}',
        '--sizes=1,3',
        '--target=0.1',
    )
    assert 'Training on 3 tomograms, repeat 0' in measured
    scores = f'--scores={output / "scores.csv"}'
    fitted = run('learning_curve', scores, f'--output={tmp_path / "fit"}', '--target=0.1')
    for name in ('learning_curve.csv', 'learning_curve.png'):
        assert (tmp_path / 'fit' / name).read_bytes() == (output / name).read_bytes()
        assert f'{tmp_path / "fit" / name}\n' in fitted


def test_bad_flags_and_tables(tmp_path):
    (tmp_path / 't.csv').write_text('n_tomograms,dice\n2,0.9\n4,0.8\n')
    scores, output = f'--scores={tmp_path / "t.csv"}', f'--output={tmp_path / "out"}'
    for flags, told in (
        ([scores], 'what is to be done is not clear'),
        ([scores, output], 'target: Dice 0.95, which no curve reaches'),
    ):
        log = run('learning_curve', *flags, status=2)
        assert told in log.strip().splitlines()[-1]
        assert 'Traceback' not in log
