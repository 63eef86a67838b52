"""True labels of cells that have names of their own are scored by these, not by their values."""

import dataclasses

import numpy as np
import pytest

from sxt_jax.core.errors import InputError
from sxt_jax.data.classes import Classes
from sxt_jax.io import read_volume, write_volume
from sxt_jax.pipelines import evaluation_request
from sxt_jax.pipelines.evaluation_request import Request, evaluate
from sxt_jax.training.checkpoint import save_checkpoint
from tests.data.cells import put_cell, write_library
from tests.data.library_test import TASK

MEANT = {'c1': {0: 0, 1: 1, 2: 2, 255: 0}, 'c2': {0: 0, 1: 2, 2: 1, 3: 1}}
CLASSES = Classes(('background', 'nucleus', 'lipid'), (0, 1, 2))


@pytest.fixture
def cells(tmp_path):
    """Two cells whose values mean different things."""
    return write_library(tmp_path / 'library') / 'a'


@pytest.fixture
def predicted(cells, tmp_path):
    """What a perfect network writes for them."""
    for name, meant in MEANT.items():
        labels = read_volume(cells / f'{name}.labels.tif')
        found = np.vectorize(meant.get)(labels.data).astype(np.uint8)
        named = dataclasses.replace(labels, data=found, class_names=CLASSES.value_names)
        write_volume(tmp_path / 'predicted' / f'{name}.tif', named)
    return tmp_path / 'predicted'


def dice_of(output):
    _, *rows = (output / 'scores.csv').read_text().splitlines()
    fields = [row.split(',') for row in rows]
    return {(name, of): float(dice) for name, _, of, dice, *_ in fields}


def score(cells, output, told=None, **flags):
    request = Request(truth=str(cells), output=str(output), **flags)
    evaluate(request, tell=(told if told is not None else []).append)
    return dice_of(output)


def test_labels_are_merged_by_the_names_of_each_cell(cells, predicted, tmp_path):
    found = score(cells, tmp_path / 'out', prediction=str(predicted), task=TASK)
    assert found == {(cell, of): 1 for cell in MEANT for of in CLASSES.names[1:]}


def test_a_checkpoint_tells_the_task_it_learnt(cells, predicted, tmp_path, monkeypatch):
    data = {'task': TASK, 'task_rest': 'ignored', 'ignore_value': None}
    description = {'classes': CLASSES.to_dict(), 'config': {'data': data}}
    save_checkpoint(tmp_path / 'w', 1, {'params': {'a': np.zeros(2)}}, description)
    segmented = []

    def predict(checkpoint, cases, output):
        segmented.extend(case.name for case in cases)
        files = [predicted / case.image.name for case in cases]
        made = zip(cases, files, strict=True)
        return [dataclasses.replace(case, prediction=file) for case, file in made], CLASSES

    monkeypatch.setattr(evaluation_request, 'predict_cases', predict)
    put_cell(cells, 'c0', (0, 1))  # without lipid
    told = []
    flags = {'told': told, 'checkpoint': str(tmp_path / 'w')}
    found = score(cells, tmp_path / 'out', **flags)
    assert set(found.values()) == {1}
    assert segmented == list(MEANT)
    assert 'note: c0 left out: it lacks lipid' in told[0]
    with pytest.raises(InputError, match=r'finds background, nucleus, lipid; expected .*body'):
        score(cells, tmp_path / 'out', **flags, task='nucleus=nucleus,body=lipid_body')
    for file in cells.glob('*.yaml'):
        file.unlink()
    with pytest.raises(InputError, match=r'^task of .*/w .*no cell has all classes'):
        score(cells, tmp_path / 'other', checkpoint=str(tmp_path / 'w'), told=told)


def test_checkpoints_of_several_tasks_have_no_one_truth(cells, predicted, tmp_path, monkeypatch):
    ours = {'task': TASK, 'task_rest': 'ignored', 'ignore_value': None}
    spelt = 'nucleus=Heterochromatin+nucleus+Euchromatin,lipid=Lipid Body'
    fields = {
        'a': ours, 'same': {**ours, 'task': spelt}, 'none': {**ours, 'task': ''}, 'old': {},
        'less': {**ours, 'task': 'nucleus=nucleus,lipid=lipid_body'},
        'rest': {**ours, 'task_rest': 'background'},
    }  # fmt: skip
    for name, data in fields.items():
        description = {'classes': CLASSES.to_dict(), 'config': {'data': data}}
        save_checkpoint(tmp_path / name, 1, {'params': {'a': np.zeros(2)}}, description)

    def predict(checkpoint, cases, output):
        made = [(case, predicted / case.image.name) for case in cases]
        return [dataclasses.replace(case, prediction=file) for case, file in made], CLASSES

    monkeypatch.setattr(evaluation_request, 'predict_cases', predict)

    def score_all(*names, **flags):
        paths = ','.join(str(tmp_path / name) for name in names)
        return score(cells, tmp_path / 'out', checkpoint=paths, **flags)

    assert set(score_all('a', 'same').values()) == {1}
    learnt = {
        'less': "the task 'nucleus=nucleus,", 'rest': r'.*\(rest: background\)',
        'none': 'no task', 'old': 'no task',
    }  # fmt: skip
    for name, told in learnt.items():
        match = (
            rf"/{name}: learnt {told}.* expected the task '.*' \(rest: ignored\) as .*/a, or --task"
        )
        with pytest.raises(InputError, match=match):
            score_all('a', 'same', name)
    with pytest.raises(InputError, match=r'/a: learnt the task .*expected no task as .*/none'):
        score_all('none', 'old', 'a')
    assert set(score_all('a', 'less', 'none', task=TASK).values()) == {1}


def test_values_that_mean_different_things_are_not_compared(cells, predicted, tmp_path):
    labels = read_volume(cells / 'c2.labels.tif')
    named = dataclasses.replace(labels, class_names={1: 'Lipid', 2: 'nucleus', 3: 'chromatin'})
    write_volume(cells / 'c2.labels.tif', named)
    one = {'prediction': str(predicted / 'c2.tif')}
    with pytest.raises(InputError, match=r'lipid is value 1, and 2 in .*--task='):
        score(cells / 'c2.labels.tif', tmp_path / 'out', **one)
    with pytest.raises(InputError, match=r'c1.tif: value 1 is nucleus; expected 1 body'):
        score(cells, tmp_path / 'out', prediction=str(predicted), task='body=lipid_body')
    with pytest.raises(InputError, match='--classes and --task'):
        score(cells, tmp_path / 'out', **one, classes='a=1', task=TASK)
