"""The demo's files are there and agree with each other, however badly its network is trained."""

import csv
import dataclasses

import numpy as np
import pytest

from configs import demo
from sxt_jax.io import read_volume
from sxt_jax.metrics import dice
from sxt_jax.pipelines.demonstrate import _telling_position, demonstrate


@pytest.fixture(scope='module')
def result(tmp_path_factory):
    config = demo.get_config()
    config.simulation.n_train = 2
    config.simulation.shape = (48, 48, 48)
    config.model.filters = (4, 8)
    config.model.pool_sizes = ((2, 2, 2),)
    config.epochs = 1
    config.batch_size = 2
    config.data.patch = config.inference.tile = (16, 16, 16)
    config.inference.overlap = (8, 8, 8)
    config.data.steps_per_epoch = 12
    output = tmp_path_factory.mktemp('demo')
    with pytest.MonkeyPatch.context() as patch:  # as users do: a folder where they are
        patch.chdir(output)
        found = demonstrate(config, 'out')
    files = {what: output / path for what, path in found.files.items()}
    return dataclasses.replace(found, files=files), output / 'out'


def test_every_file_it_names_is_there(result):
    found, output = result
    assert {'labels', 'measurements', 'scores', 'overlay'} <= set(found.files)
    for path in found.files.values():
        assert path.stat().st_size > 0
        assert output in path.parents


def test_scores_and_measures_are_those_of_the_labels(result):
    found, output = result
    labels = read_volume(found.files['labels'])
    truth = read_volume(output / 'data' / 'unseen' / 'labels' / 'cell_02.tif')
    assert labels.voxel_size_nm == truth.voxel_size_nm
    assert list(found.dice) == ['cytoplasm', 'beads']
    for value, name in enumerate(found.dice, start=1):
        expected = dice(labels.data == value, truth.data == value)
        np.testing.assert_allclose(found.dice[name], expected, atol=1e-6)
    with open(found.files['measurements'], newline='') as file:
        rows = {row['class']: row for row in csv.DictReader(file)}
    volume_um3 = np.sum(labels.data == 1) * np.prod(labels.voxel_size_nm) * 1e-9
    np.testing.assert_allclose(float(rows['cytoplasm']['volume_um3']), volume_um3, rtol=1e-6)


def test_the_drawn_sections_show_all_classes():
    labels = np.zeros((9, 9, 9), np.uint8)
    labels[1:6, 1:6, 1:6] = 1
    labels[4, 2, 5] = 2
    assert _telling_position(labels, [1, 2]) == (4, 2, 5)
