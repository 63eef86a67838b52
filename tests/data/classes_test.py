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


@pytest.mark.parametrize('text', ['a', 'a=', '=1', 'a=b', 'a=1,,'])
def test_bad_class_lists(text):
    with pytest.raises(InputError, match=r'data\.classes'):
        parse_classes(text)


def test_names_and_values_must_be_distinct():
    with pytest.raises(InputError, match='twice'):
        parse_classes('a=1,a=2')
    with pytest.raises(InputError, match='ignored'):
        parse_classes('a=1', ignore_value=1)


def test_found_classes_are_the_values_that_occur():
    counts = [count_labels(np.array([[[0, 5, 5]]])), count_labels(np.array([[[2, 9]]], np.float32))]
    assert counts == [{0: 1, 5: 2}, {2: 1, 9: 1}]
    found = find_classes(counts, value_names={5: 'nucleus'}, ignore_value=9)
    assert found == Classes(('background', 'class 2', 'nucleus'), (0, 2, 5), 9)


def test_fractional_labels_are_refused():
    with pytest.raises(InputError, match='not whole numbers'):
        count_labels(np.array([[[0, 0.5]]]))


def test_survives_json():
    classes = parse_classes('a=1,b=4', ignore_value=9)
    assert Classes.from_dict(classes.to_dict()) == classes
