"""Cells of several laboratories, their names for label values, and what a task makes of them."""

import numpy as np
import pytest

from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import Volume
from sxt_jax.data.classes import IGNORE_INDEX, Classes
from sxt_jax.data.label_task import parse_task
from sxt_jax.data.library import read_library
from sxt_jax.io import write_volume
from tests.data.cells import SIZE, put_cell, write_library

TASK = 'nucleus=nucleus+euchromatin+Heterochromatin,lipid=lipid_body'


@pytest.fixture(scope='module')
def library(tmp_path_factory):
    return read_library(write_library(tmp_path_factory.mktemp('library')))


def test_names_come_from_files_beside_labels_and_folders(library):
    found = {cell.name: (cell.named_by, cell.values, cell.ignored) for cell in library.cells}
    assert found == {
        'a/c1': ('materials.yaml', {'nucleus': (1,), 'lipid body': (2,)}, {255}),
        'a/c2': (
            'c2.labels.yaml',
            {'lipid body': (1,), 'euchromatin': (2,), 'heterochromatin': (3,)},
            {255},
        ),
        'b/c3': (
            'TIFF (imagej)',
            {
                'exterior': (0,),
                'nucleus': (5,),
                'lipid body': (7,),
                'vesicle': (8,),
                'starch': (9,),
            },
            frozenset(),
        ),
        'c/c4': ('AmiraMesh', {'exterior': (0,), 'cell': (1,), 'nucleus': (2,)}, frozenset()),
    }
    cells = {cell.name: cell for cell in library.cells}
    assert 'starch' not in cells['b/c3'].materials  # no voxel is
    assert cells['c/c4'].voxel_size_nm == (100.0, 50.0, 100.0)
    assert cells['a/c1'].counts == {0: 144, 1: 144, 2: 96, 255: 96}
    assert str(library).startswith('nucleus (in 3), Lipid_Body (in 3), euchromatin (in 1)')


def test_a_file_beside_labels_wins_over_them_and_they_over_the_folders(tmp_path):
    put_cell(tmp_path, 'x', (0, 1), names={1: 'nucleus'})
    (tmp_path / 'materials.yaml').write_text('materials: {lipid: 1}\nvoxel_size_nm: 7')
    (cell,) = read_library(tmp_path).cells
    assert (cell.names, cell.voxel_size_nm) == ({1: 'nucleus'}, SIZE)
    (tmp_path / 'x.yaml').write_text('materials: {starch: 1}\nvoxel_size_nm: 9')
    (cell,) = read_library(tmp_path).cells
    assert (cell.names, cell.voxel_size_nm) == ({1: 'starch'}, (9.0, 9.0, 9.0))


def test_what_is_called_unlabelled_is_ignored_and_what_has_no_name_is_told(tmp_path):
    put_cell(tmp_path, 'x', (0, 1, 3, 4), names={0: 'Unlabeled', 1: 'nucleus', 4: 'ignore'})
    (cell,) = read_library(tmp_path).cells
    assert (cell.names, cell.ignored, cell.unnamed) == ({1: 'nucleus'}, {0, 4}, (3,))
    with pytest.raises(InputError, match=r'label values 3 have no name; expected names in x\.yaml'):
        parse_task('n=nucleus').classes_of(cell)
    found = parse_task('background=rest,n=nucleus').classes_of(cell)
    indices = found.indices(np.array([0, 1, 3, 4]))
    np.testing.assert_array_equal(indices, [IGNORE_INDEX, 1, 0, IGNORE_INDEX])


def test_a_folder_must_not_ignore_what_its_volumes_name(tmp_path):
    put_cell(tmp_path, 'x', (0, 1), names={1: 'nucleus'})
    (tmp_path / 'materials.yaml').write_text('ignore: 1')
    (fault,) = read_library(tmp_path).faults
    assert '1 is nucleus, which' in str(fault)
    (tmp_path / 'x.labels.yaml').write_text('ignore: 1')
    (cell,) = read_library(tmp_path).cells
    assert (cell.names, cell.ignored) == ({}, {1})


def test_what_cannot_be_read_leaves_the_others(tmp_path):
    root = write_library(tmp_path)
    put_cell(root, 'torn', (0, 1))
    (root / 'torn.yaml').write_text('materials: 1')
    write_volume(root / 'b' / 'alone.mrc', Volume(np.zeros((2, 3, 4), 'f4')))
    (root / 'images only').mkdir()
    write_volume(root / 'images only' / 'x.mrc', Volume(np.zeros((2, 3, 4), 'f4')))
    library = read_library(root)
    assert [cell.name for cell in library.cells] == ['a/c1', 'a/c2', 'b/c3', 'c/c4']
    assert [fault.where for fault in library.faults] == [str(root / 'torn.yaml')]
    assert [one.file.name for one in library.unpaired] == ['alone.mrc']


@pytest.mark.parametrize('rest', ['background', 'ignored'])
def test_labels_of_cells_become_the_same_classes(library, rest):
    task = parse_task(TASK)
    assert task.classes == Classes(('background', 'nucleus', 'lipid'), (0, 1, 2))
    cells = {cell.name: cell for cell in library.cells}
    assert {name: task.missing(cell) for name, cell in cells.items()} == {
        'a/c1': (), 'a/c2': (), 'b/c3': (), 'c/c4': ('lipid',),
    }  # fmt: skip
    other = {'background': 0, 'ignored': IGNORE_INDEX}[rest]
    for name, values, expected in (
        ('a/c1', [0, 1, 2, 255], [0, 1, 2, IGNORE_INDEX]),
        ('a/c2', [0, 1, 2, 3, 255], [0, 2, 1, 1, IGNORE_INDEX]),
        ('b/c3', [0, 5, 7, 8, 9], [0, 1, 2, other, other]),
    ):
        classes = task.classes_of(cells[name], rest=rest)
        assert (classes.names, classes.values) == (task.classes.names, (0, 1, 2))
        np.testing.assert_array_equal(classes.indices(np.array(values)), expected)
        with pytest.raises(InputError, match='label values'):
            classes.indices(np.array([77]))


def test_materials_of_no_class_may_be_refused(library):
    cells = {cell.name: cell for cell in library.cells}
    task = parse_task(TASK)
    task.classes_of(cells['a/c1'], rest='refuse')
    with pytest.raises(InputError, match=r'c3\.labels\.tif: vesicle in no class'):
        task.classes_of(cells['b/c3'], rest='refuse')
    parse_task(f'{TASK},background=vesicle').classes_of(cells['b/c3'], rest='refuse')
    with pytest.raises(InputError, match='7 is lipid_body and ignored'):
        task.classes_of(cells['b/c3'], ignore_value=7)


def test_zero_may_be_a_class_and_another_value_background(tmp_path):
    put_cell(tmp_path, 'x', (0, 1, 2), names={0: 'wall', 1: 'outside', 2: 'lipid'})
    (cell,) = read_library(tmp_path).cells
    for text, expected in (
        ('wall=wall', [1, 0, 0]),
        ('background=Outside,wall=wall+lipid', [1, 0, 1]),
        ('lipid=lipid,wall=rest', [0, 2, 1]),  # 0 is background where nothing is said of it
    ):
        assert not parse_task(text).missing(cell)
        np.testing.assert_array_equal(
            parse_task(text).classes_of(cell).indices(np.arange(3)), expected
        )


@pytest.mark.parametrize(
    ('text', 'told'),
    [
        ('nucleus', 'names of classes and materials like'), ('a=b+', 'names of classes'),
        ('a=', 'names of classes'), ('background=rest', 'nothing but background'),
        ('a=b,a=c', "a twice .* as 'a=b.c'"), ('a=Lipid body,b=lipid_body', 'material lipid body'),
        ('a=rest,b=rest', 'material rest twice'),
    ],
)  # fmt: skip
def test_texts_that_are_no_task(text, told):
    with pytest.raises(InputError, match=rf'^config\.data\.task: .*{told}'):
        parse_task(text)


def test_a_task_is_read_as_it_is_written():
    for text in (TASK, 'b=rest,a=x+y', 'background=rest,a=x'):
        assert parse_task(str(parse_task(text))) == parse_task(text)
