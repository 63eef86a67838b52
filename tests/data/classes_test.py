import json

import numpy as np
import pytest

from sxt_jax.core.errors import InputError
from sxt_jax.data.classes import IGNORE_INDEX, Classes, count_labels, find_classes, parse_classes


def test_values_and_indices_are_inverse():
    classes = parse_classes('cell=200, bead=7', ignore_value=255)
    assert classes.names == ('background', 'bead', 'cell')
    labels = np.array([[0, 7, 200], [200, 0, 7]], np.uint8)
    indices = classes.indices(labels)
    np.testing.assert_array_equal(indices, [[0, 1, 2], [2, 0, 1]])
    np.testing.assert_array_equal(classes.labels(indices), labels)
    assert classes.labels(indices).dtype == np.uint8
    np.testing.assert_array_equal(classes.indices(np.array([255, 0])), [IGNORE_INDEX, 0])


def test_labels_take_the_smallest_type_that_holds_them():
    classes = Classes(('background', 'a'), (0, 70000))
    assert classes.labels(np.array([0, 1])).dtype == np.uint32


def test_unknown_values_are_named():
    with pytest.raises(InputError, match=r'x.tif: label values \[3, 9\]'):
        parse_classes('a=1').indices(np.array([0, 1, 3, 9]), name='x.tif')


def test_values_of_a_class_are_merged():
    classes = parse_classes('bead=9, cell=4 + 2', ignore_value=255)
    labels = np.array([[0, 2, 4, 9, 255]], np.uint8)
    np.testing.assert_array_equal(classes.indices(labels), [[0, 1, 1, 2, IGNORE_INDEX]])
    assert classes.value_names == {0: 'background', 4: 'cell', 9: 'bead'}
    assert classes.as_written is classes
    assert parse_classes(str(classes), ignore_value=255) == classes
    with pytest.raises(InputError, match=r'label values \[3\]'):
        classes.indices(np.array([3]))


@pytest.mark.parametrize('background', ['159+255', 'rest'])
def test_zero_may_be_another_class_than_background(background):
    classes = parse_classes(f'membrane=32+0,background={background}', ignore_value=1)
    labels = np.array([0, 32, 159, 255, 1], np.int64)
    np.testing.assert_array_equal(classes.indices(labels), [1, 1, 0, 0, IGNORE_INDEX])
    assert classes.value_names == {0: 'background', 1: 'membrane'}  # 0 is background when written
    np.testing.assert_array_equal(classes.labels(np.array([0, 1])), [0, 1])
    np.testing.assert_array_equal(classes.as_written.indices(np.array([0, 1])), [0, 1])
    with pytest.raises(InputError, match=r'label values \[32\]'):
        classes.as_written.indices(np.array([32]))
    assert (classes.is_background(0), classes.is_background(255)) == (False, True)
    assert parse_classes(str(classes), ignore_value=1) == classes
    known = None if background == 'rest' else {0, 32, 159, 255}
    assert classes.known_values == known


def test_all_other_values_may_be_a_class():
    classes = parse_classes('cell=rest')
    np.testing.assert_array_equal(classes.indices(np.array([-3, 0, 1, 70000])), [1, 0, 1, 1])
    assert classes.value_names == {0: 'background', 1: 'cell'}
    assert classes.as_written is classes
    classes = parse_classes('cell=rest,bead=2')
    assert classes.value_names == {0: 'background', 1: 'bead', 2: 'cell'}
    np.testing.assert_array_equal(classes.indices(np.array([2, 1, 7])), [1, 2, 2])
    np.testing.assert_array_equal(classes.as_written.indices(np.array([1, 2])), [1, 2])


def test_zero_is_no_class_where_background_has_other_values():
    classes = parse_classes('background=255,cell=7')
    assert classes.value_names == {0: 'background', 1: 'cell'}
    with pytest.raises(InputError, match=r'label values \[0\]'):
        classes.indices(np.array([0, 7]))


def test_background_may_have_another_name():
    classes = parse_classes('cell=5,outside=0+3')
    assert classes.value_names == {0: 'outside', 5: 'cell'}
    np.testing.assert_array_equal(classes.indices(np.array([3, 5, 0])), [0, 1, 0])


@pytest.mark.parametrize('text', ['membrane=0+32', 'background=rest', 'background=1'])
def test_there_is_more_than_background(text):
    with pytest.raises(InputError, match='nothing but background'):
        parse_classes(text)


@pytest.mark.parametrize(
    'text', ['a', 'a=', '=1', 'a=b', 'a=1,,', 'a=1+', 'a=+1', 'a=1+1.5', 'a=1 2', 'a=resting']
)
def test_bad_class_lists(text):
    with pytest.raises(InputError, match=r'data\.classes'):
        parse_classes(text)


def test_names_and_values_must_be_distinct():
    for text, message in (
        ('a=1,a=2', "a twice .* as 'a=1.2'"),
        ('a=1,b=2+1', 'value 1 twice'),
        ('a=1+01', 'value 1 twice'),
        ('a=rest,b=rest', 'value rest twice'),
    ):
        with pytest.raises(InputError, match=message):
            parse_classes(text)
    with pytest.raises(InputError, match='twice'):
        Classes(('a', 'a'), (0, 1))
    with pytest.raises(InputError, match='ignored'):
        parse_classes('a=2+1', ignore_value=1)


def test_found_classes_are_the_values_that_occur():
    counts = [count_labels(np.array([[[0, 5, 5]]])), count_labels(np.array([[[2, 9]]], np.float32))]
    assert counts == [{0: 1, 5: 2}, {2: 1, 9: 1}]
    found = find_classes(counts, value_names={5: 'nucleus'}, ignore_value=9)
    assert found == Classes(('background', 'class 2', 'nucleus'), (0, 2, 5), 9)


def test_fractional_labels_are_refused():
    with pytest.raises(InputError, match='not whole numbers'):
        count_labels(np.array([[[0, 0.5]]]))


def test_survives_json():
    for text in ('a=1,b=4', 'a=1+4,background=rest'):
        classes = parse_classes(text, ignore_value=9)
        assert Classes.from_dict(json.loads(json.dumps(classes.to_dict()))) == classes
    assert set(parse_classes('a=1').to_dict()) == {'names', 'values', 'ignore_value'}


def test_what_is_ignored_may_be_a_value_that_is_written():
    classes = parse_classes('background=rest,cell=1', ignore_value=0)
    assert classes.indices(np.array([0, 1, 7])).tolist() == [IGNORE_INDEX, 1, 0]
    assert classes.as_written.indices(np.array([0, 1])).tolist() == [0, 1]
