"""Files that give their label values contradicting names are not merged by value."""

import pytest

from configs import acseg
from sxt_jax.core.errors import InputError
from sxt_jax.data.value_names import join_names
from sxt_jax.pipelines.evaluation import find_cases
from sxt_jax.pipelines.scored_trainings import find_pairs_of, with_classes
from sxt_jax.pipelines.train_network import load_training_data
from tests.data.cells import put_cell

ALL = {0: 9, 1: 9, 2: 9, 3: 9}
FILES = ('a.tif', 'b.tif')


def join(*names, counts=(ALL, ALL), **options):
    return join_names(names, counts, files=FILES[: len(names)], **options)


@pytest.mark.parametrize(
    ('second', 'told'),
    [
        ({1: 'mitochondria', 2: 'nucleus'}, r'value 1 is mitochondria, and nucleus in a\.tif'),
        ({3: 'Nucleus'}, r'Nucleus is value 3, and 1 in a\.tif'),
        ({0: 'nucleus'}, r'nucleus is value 0, and 1 in a\.tif'),
    ],
)
def test_contradictions_are_told_with_both_files(second, told):
    first = {1: 'nucleus', 2: 'mitochondria'}
    with pytest.raises(InputError, match=rf'^b\.tif: {told}.*--config\.data\.task=.*data\.classes'):
        join(first, second)


def test_what_contradicts_nothing():
    first = {0: 'background', 1: 'Lipid_Body', 2: 'nucleus'}
    assert join(first, {}) == first
    assert join(first, {0: 'Exterior', 1: 'lipid  body'})[1] == 'lipid  body'
    assert join(first, {3: 'starch'}) == {**first, 3: 'starch'}
    unused = {1: 'lipid body', 2: 'starch'}  # Amira lists materials that nobody used
    assert join(first, unused, counts=(ALL, {1: 9}))[2] == 'nucleus'
    assert join(unused, {}, counts=({1: 9}, ALL))[2] == 'starch'
    assert join(first, {2: 'unlabelled'}, ignore_value=2)[1] == 'Lipid_Body'


def test_no_training_merges_them(tmp_path):
    put_cell(tmp_path, 'a', (0, 1, 2), names={1: 'nucleus', 2: 'mitochondria'})
    put_cell(tmp_path, 'b', (0, 1, 2), names={1: 'mitochondria', 2: 'nucleus'})
    config = acseg.get_config('smoke')
    config.data.train = str(tmp_path)
    told = r'b\.labels\.tif: value 1 is mitochondria, and nucleus in .*a\.labels\.tif'
    with pytest.raises(InputError, match=told):
        load_training_data(config, intensity='unit', folder=tmp_path)
    with pytest.raises(InputError, match=told):
        with_classes(config, find_pairs_of(config, tmp_path))
    (tmp_path / 'held').mkdir()
    for name in ('b.tif', 'b.labels.tif'):
        (tmp_path / name).rename(tmp_path / 'held' / name)
    config.data.validation = str(tmp_path / 'held')
    told = r'b\.labels\.tif: value 1 is mitochondria, and nucleus in the training data'
    with pytest.raises(InputError, match=told):
        load_training_data(config, intensity='unit', folder=tmp_path)
    with pytest.raises(InputError, match=told):
        with_classes(config, find_pairs_of(config, tmp_path), find_cases(tmp_path / 'held'))
    put_cell(tmp_path / 'held', 'b', (0, 1), names={1: 'Nucleus'})
    assert load_training_data(config, intensity='unit', folder=tmp_path).validation
    put_cell(tmp_path, 'b', (0, 1, 2), names={1: 'Nucleus', 2: 'mitochondria'})
    assert 'mitochondria=2' in with_classes(config, find_pairs_of(config, tmp_path)).data.classes
    config.data.classes = 'nucleus=1,mitochondria=2'
    assert with_classes(config, []).data.classes == config.data.classes
