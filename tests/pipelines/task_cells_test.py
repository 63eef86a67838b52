"""Training takes the cells of a library that serve its task, with their labels merged."""

import numpy as np
import pytest

from configs import acseg, cellpose3d, fibsem
from sxt_jax.core.errors import InputError
from sxt_jax.data.classes import IGNORE_INDEX
from sxt_jax.io import read_volume, write_volume
from sxt_jax.pipelines.check_config import check_config
from sxt_jax.pipelines.list_library import library_columns, report_task
from sxt_jax.pipelines.train_network import load_training_data
from tests.data.cells import put_cell, write_library
from tests.data.library_test import TASK, read_library

KNOWN = r'expected what there is in .*: nucleus \(in 3\), Lipid_Body \(in 3\), euchromatin'


@pytest.fixture
def root(tmp_path):
    return write_library(tmp_path / 'library')


def load(root, task=TASK, get_config=acseg.get_config, variant='smoke', **fields):
    config = get_config(variant)
    config.update_from_flattened_dict({
        'data.train': str(root), 'data.task': task, 'data.working_shape': (None,),
        'data.validation_fraction': 0.0, **fields,
    })  # fmt: skip
    check_config(config)
    return load_training_data(config, intensity='unit', folder=root)


def test_cells_that_have_all_classes_are_learnt_from(root):
    data = load(root)
    assert data.classes.value_names == {0: 'background', 1: 'nucleus', 2: 'lipid'}
    assert [example.name for example in data.train] == ['a/c1', 'a/c2', 'b/c3']
    meant = {
        'a/c1': {0: 0, 1: 1, 2: 2, 255: IGNORE_INDEX},
        'a/c2': {0: 0, 1: 2, 2: 1, 3: 1},
        'b/c3': {0: 0, 5: 1, 7: 2, 8: 0},
    }
    for example in data.train:
        labels = read_volume(root / f'{example.name}.labels.tif').data
        expected = np.vectorize(meant[example.name].get)(labels)
        np.testing.assert_array_equal(example.labels[:, :, :], expected)
    data = load(root, **{'data.task_rest': 'ignored'})
    assert (np.asarray(data.train[2].labels[:, :, :]) == IGNORE_INDEX).any()


@pytest.mark.parametrize('suffix', ['tif', 'zarr'])
def test_a_single_volume_has_the_names_of_its_folder(root, tmp_path, suffix):
    """Also where it is a folder to the file system."""
    files = [tmp_path / 'one' / f'{name}.{suffix}' for name in ('c1', 'c1.labels')]
    for file in files:
        write_volume(file, read_volume(root / 'a' / f'{file.stem}.tif'))
    (tmp_path / 'one' / 'materials.yaml').write_text('materials: {nucleus: 1, lipid body: 2}')
    where = {'data.labels': str(files[1]), 'data.ignore_value': 255}
    data = load(files[0], 'nucleus=nucleus,lipid=lipid_body', **where)
    np.testing.assert_array_equal(data.train[0].labels[0, 0, :4], [0, 1, 2, IGNORE_INDEX])


def test_slices_are_learnt_from_too(root):
    fields = {'data.patch': (1, 16, 16), 'inference.tile': (1, 16, 16),
              'inference.overlap': (0, 0, 0), 'model.name': 'resunet'}  # fmt: skip
    data = load(root, get_config=fibsem.get_config, variant='small', **fields)
    assert len(data.train) == 3 * 6
    assert set(np.unique(data.train[0].labels[:, :, :])) == {IGNORE_INDEX, 0, 1, 2}


def test_a_validation_folder_may_have_fewer_names(root, tmp_path):
    put_cell(tmp_path / 'held', 'h', (0, 1, 2), names={1: 'lipid body', 2: 'nucleus'})
    data = load(root, **{'data.validation': str(tmp_path / 'held')})
    assert [example.name for example in data.validation] == ['h']
    np.testing.assert_array_equal(data.validation[0].labels[0, 0, :3], [0, 2, 1])


@pytest.mark.parametrize(
    ('task', 'told'),
    [
        ('nucleus=nucleolus,lipid=lipid body', f'no cell has a material called nucleolus; {KNOWN}'),
        ('v=vesicle,e=euchromatin', rf'a/c1 lacks v and e, a/c2 lacks v, b/c3 lacks e, .* {KNOWN}'),
        ('s=starch', rf'no cell has all classes of s=starch .* {KNOWN}'),
        ('a=nucleus+euchromatin,b=Nucleus', 'material nucleus twice'),
        ('n=nucleus', r'30×30×30 nm: a/c1, b/c3; 100×50×100 nm: c/c4.*task_voxel_sizes'),
    ],
)
def test_tasks_that_the_library_cannot_serve(root, task, told):
    with pytest.raises(InputError, match=rf'^config\.data\.task: .*{told}'):
        load(root, task)


def test_voxels_may_differ_where_that_is_wanted(root):
    assert len(load(root, 'n=nucleus', **{'data.task_voxel_sizes': 'any'}).train) == 3
    data = load(root, 'n=nucleus', **{'data.working_shape': (8, 8, 8)})
    assert {example.shape for example in data.train} == {(8, 8, 8)}


def test_files_beside_labels_tell_the_voxel_size(root):
    (root / 'c' / 'c4.yaml').write_text('voxel_size_nm: 30')
    data = load(root, 'n=nucleus')
    assert [example.voxel_size_nm for example in data.train] == [(30.0, 30.0, 30.0)] * 3


@pytest.mark.parametrize(
    ('fields', 'told'),
    [
        ({'data.task_missing': 'refuse'}, r'^c/c4: lacks lipid; expected .*task_missing'),
        ({'data.task_rest': 'refuse'}, r'c3\.labels\.tif: vesicle in no class'),
        ({'data.task_rest': 'most'}, r'^config\.data\.task_rest: .most.; expected one of'),
        ({'data.classes': 'a=1'}, r'^config\.data\.classes: .*; expected one of them'),
        ({'data.task': '', 'data.task_rest': 'ignored'}, r'task_rest: .*, without a task'),
        (
            {'data.task': f'{TASK},background=rest', 'data.task_rest': 'ignored'},
            r'^config\.data\.task_rest: .* with rest in',
        ),
    ],
)
def test_what_does_not_fit_is_refused(root, fields, told):
    with pytest.raises(InputError, match=told):
        load(root, **fields)


def test_ids_of_cells_are_no_task(root):
    with pytest.raises(InputError, match=r'^config\.data\.task: .* ids of cells'):
        load(root, get_config=cellpose3d.get_config)


def test_the_list_tells_which_cells_serve(root):
    library = read_library(root)
    columns = library_columns(library)
    assert columns['cell'] == ['a/c1', 'a/c2', 'b/c3', 'c/c4']
    assert columns['nucleus'] == ['1', None, '5', '2']
    assert columns['starch'] == [None, None, '(9)', None]
    report = report_task(library, TASK)
    assert report.columns['serves'] == ['yes', 'yes', 'yes', 'no']
    assert report.columns['nucleus'][:2] == ['nucleus=1', 'euchromatin=2 heterochromatin=3']
    assert report.columns['lipid'] == ['lipid body=2', 'lipid body=1', 'lipid body=7', 'lacks']
    assert (report.n_cells, report.errors, report.warnings) == (3, (), ())
    (warning,) = report_task(library, 'n=nucleus').warnings
    assert 'voxels of several sizes' in str(warning)
    for text in ('nucleus', 'm=mitochondria', 's=starch'):
        report = report_task(library, text)
        assert (report.n_cells, len(report.errors)) == (0, 1)
        assert bool(report.columns) == (text == 's=starch')
