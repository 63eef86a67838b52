"""Which trainings a grid of choices takes, from which weights, and what its table tells."""

import csv
import dataclasses
import shutil

import numpy as np
import pytest

from configs import acseg, cellpose3d
from sxt_jax.core.errors import InputError
from sxt_jax.io import pair, read_volume, write_volume
from sxt_jax.pipelines import scored_trainings
from sxt_jax.pipelines.evaluation import find_cases
from sxt_jax.pipelines.transfer import Choices, Folders, measure_transfer
from sxt_jax.pipelines.transfer_report import report_transfer, save_transfer, tabulate_transfer
from tests.launch.processes import write_balls

GRID = Choices(n_other=[0, 1, 3], starts=['scratch', 'finetune'], finetune_epochs=1)


@pytest.fixture(name='folders')
def _folders(tmp_path):
    names = ('base', 'other', 'test_base', 'test_other')
    for name, n in zip(names, (3, 4, 2, 1), strict=True):
        write_balls(tmp_path / name, n=n)  # of the same names everywhere
    return Folders(**{name: tmp_path / name for name in names})


@pytest.fixture(name='trained')
def _trained(monkeypatch):
    """In the place of networks: predictions lack a part of the truth, the less the more trained."""
    trained = []

    def train(config, workdir):
        pairs = pair(config.data.train)
        names = sorted(p.name.replace('_ball_', '') for p in pairs)
        start = config.initial.checkpoint and config.initial.checkpoint.split('/')[-2]
        trained.append((workdir.parent.name, names, start, config.seed, config.epochs))
        assert len({p.image.resolve() for p in pairs}) == len(names)
        workdir.mkdir(parents=True)

    def predict(checkpoint, truth, image, output, **datasets):
        n = len(pair(checkpoint.parent / 'train'))
        cases = find_cases(truth)
        for case in cases:
            labels = read_volume(case.truth)
            places = np.flatnonzero(labels.data)
            labels.data.flat[places[: round(len(places) / (2 * n))]] = 0
            write_volume(output / case.truth.name, labels)
        return [dataclasses.replace(c, prediction=output / c.truth.name) for c in cases], None

    monkeypatch.setattr(scored_trainings, 'train_network', train)
    monkeypatch.setattr(scored_trainings, 'predict_with_checkpoint', predict)
    return trained


def test_every_choice_is_trained_once_from_the_right_weights(tmp_path, folders, trained):
    config, output = acseg.get_config('smoke'), tmp_path / 'out'
    table = measure_transfer(config, folders, output, choices=GRID)
    base = [f'base{i}' for i in range(3)]
    runs = {name: rest for name, *rest in trained}
    one = [name for name in runs['scratch_001_others_repeat_0'][0] if name not in base]
    three = runs['finetune_003_others_repeat_0'][0]
    assert (len(one), len(three)) == (1, 3)
    assert set(one) < set(three) <= {f'other{i}' for i in range(4)}
    start = 'base_000_others_repeat_0'
    assert runs == {
        start: [base, '', 0, 2],
        'scratch_001_others_repeat_0': [sorted([*base, *one]), '', 0, 2],
        'finetune_001_others_repeat_0': [one, start, 0, 1],
        'scratch_003_others_repeat_0': [sorted([*base, *three]), '', 0, 2],
        'finetune_003_others_repeat_0': [three, start, 0, 1],
    }
    assert trained[0][0] == start
    n_trained = {('base', 0): 3, ('scratch', 1): 4, ('finetune', 1): 1, ('scratch', 3): 6}
    for choice, n in n_trained.items():
        chosen = (table['method'] == choice[0]) & (table['n_tomograms'] == choice[1])
        missing = 1 / (2 * n)
        expected = (2 - 2 * missing) / (2 - missing)
        np.testing.assert_allclose(table['dice'][chosen], expected, atol=2e-3)
        assert table['type'][chosen].tolist() == ['base', 'base', 'other']
    assert [len(values) for values in table.values()] == [5 * 3] * len(table)
    # One was interrupted before its scores were written; and more is asked for.
    shutil.rmtree(output / 'finetune_001_others_repeat_0')
    trained.clear()
    more = dataclasses.replace(GRID, starts=['finetune', 'finetune_all', 'alone'], repeats=2)
    table = measure_transfer(config, folders, output, choices=more)
    runs = {name: rest for name, *rest in trained}
    assert len(trained) == 1 + 4 + 7
    assert runs['finetune_001_others_repeat_0'] == [one, start, 0, 1]
    assert runs['alone_003_others_repeat_0'] == [three, '', 0, 2]
    assert runs['finetune_all_001_others_repeat_0'] == [sorted([*base, *one]), start, 0, 1]
    assert runs['finetune_003_others_repeat_1'][1:] == ['base_000_others_repeat_1', 1, 1]
    assert set(table['method']) == {'base', 'finetune', 'finetune_all', 'alone'}
    assert not config.data.train  # the caller's config is as it was
    with pytest.raises(InputError, match='another --output'):
        measure_transfer(
            config, folders, output, choices=dataclasses.replace(GRID, finetune_epochs=3)
        )


def test_what_makes_no_transfer_is_told_before_any_training(tmp_path, folders, trained):
    config = acseg.get_config('smoke')

    def told(what, config=config, folders=folders, **changes):
        choices = dataclasses.replace(GRID, **changes)
        with pytest.raises(InputError, match=what):
            measure_transfer(config, folders, tmp_path / 'out', choices=choices)

    told('n: 0; expected', n_other=[0])
    told('n: none', n_other=[])
    told('n: 5; expected at most the 4 pairs of .*other', n_other=[5])
    told('start: magic; expected of scratch, finetune', starts=['magic'])
    told('start: none', starts=[])
    told('repeats: 0', repeats=0)
    told('finetune_learning_rate: nan', finetune_learning_rate=float('nan'))
    told('finetune_epochs: -1', finetune_epochs=-1)
    told('is of the base type too', folders=dataclasses.replace(folders, other=folders.base))
    for kind in ('base', 'other'):
        same = dataclasses.replace(folders, test_base=getattr(folders, kind))
        told('is a training tomogram too', folders=same)
    same = dataclasses.replace(folders, test_other=folders.test_base)
    told('test_base.*is of the base type too; expected tomograms of another type', folders=same)
    told('config of classes', cellpose3d.get_config())
    config.data.folds = 3
    told(
        'folds: 3, with a smallest training of 2; expected at most 2', n_other=[2], starts=['alone']
    )
    told('smallest training of 1', n_other=[3, 1])
    config.data.folds = 4
    told('folds: 4, with a smallest training of 3', n_other=[2], starts=['scratch'])  # the base net
    config.data.folds, config.data.validation = 0, str(folders.test_base)
    told('validation: .*expected none: config.data.validation_fraction')
    assert not trained
    assert not (tmp_path / 'out').exists()


def scores(**rows):
    """Of two repeats on tomograms a and b of the base type, and c of the other."""
    columns = {n: [] for n in ('method', 'type', 'n_tomograms', 'repeat', 'class', 'name', 'dice')}
    for method, values in rows.items():
        method, n = method.split('_') if '_' in method else (method, '0')
        for (repeat, name), dice in zip(
            ((r, t) for r in (0, 1) for t in 'abc'), values, strict=True
        ):
            row = (method, 'other' if name == 'c' else 'base', int(n), repeat, 'cell', name, dice)
            for column, value in zip(columns.values(), row, strict=True):
                column.append(value)
    return {name: np.array(values) for name, values in columns.items()}


def test_the_table_has_means_over_tomograms_and_changes_against_the_base_net(tmp_path):
    table = scores(
        base=[0.8, 0.9, 0.5, 0.9, 0.9, 0.6],
        scratch_2=[0.7, 0.8, 0.8, 0.8, 1.0, 0.9],
        finetune_2=[0.5, np.nan, 0.7, 0.7, np.nan, np.nan],
    )
    found = tabulate_transfer(table)
    assert found['method'].tolist() == ['base', 'scratch', 'finetune']
    assert found['n_trainings'].tolist() == [2, 2, 2]
    assert found['base_n'].tolist() == [2, 2, 1]
    np.testing.assert_allclose(found['base_dice'], [0.875, 0.825, 0.6])
    np.testing.assert_allclose(found['base_sd'][:2], np.std([[0.85, 0.9], [0.75, 0.9]], 1, ddof=1))
    means = [[0.85, 0.9], [0.75, 0.9], [0.5, 0.7]]  # of each training
    np.testing.assert_allclose(found['base_sd_trainings'], np.std(means, 1, ddof=1))
    np.testing.assert_allclose(found['other_dice'], [0.55, 0.85, 0.7])
    np.testing.assert_allclose(found['other_change'], [0, 0.3, 0.2])
    np.testing.assert_allclose(found['base_change'], [0, -0.05, -0.25])
    assert found['base_change_sd'][1] == pytest.approx(np.std([-0.1, 0.0], ddof=1))
    assert np.isnan(found['other_sd']).all()
    text = report_transfer(found)
    assert '0.8250 ± 0.1061' in text
    assert '-0.0500 ± 0.0707' in text
    assert '+0.3000' in text
    assert 'each the mean of 2 trainings' in text
    file, figure = save_transfer(table, found, tmp_path)
    assert figure.stat().st_size > 5000
    with file.open(newline='', encoding='utf-8') as lines:
        rows = list(csv.DictReader(lines))
    assert float(rows[1]['base_change']) == found['base_change'][1]
