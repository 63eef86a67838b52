import numpy as np

from sxt_jax.data.datasets import Example
from sxt_jax.data.labelled_slices import Unlabelled, cut_slices, value_range


def _stack(labels, name='a'):
    labels = np.array(labels, np.int16)[:, None, :]
    image = np.arange(labels.size, dtype=np.float32).reshape(*labels.shape, 1)
    return Example(name, image, labels)


def test_slices_are_sorted_by_what_is_told_of_them():
    stack = _stack([[0, 0], [0, 1], [-1, -1], [-1, 0]])
    labelled, unlabelled = cut_slices([stack])
    assert [e.name for e in labelled] == ['a slice 0', 'a slice 1', 'a slice 3']
    assert [e.name for e in unlabelled] == ['a slice 2']
    labelled, unlabelled = cut_slices([stack], empty_are_labelled=False)
    assert [e.name for e in labelled] == ['a slice 1', 'a slice 3']
    assert [e.name for e in unlabelled] == ['a slice 0', 'a slice 2']
    np.testing.assert_array_equal(labelled[1].image[:], stack.image[3:])
    np.testing.assert_array_equal(labelled[1].labels[:], stack.labels[3:])


def test_an_image_of_one_slice_keeps_its_name():
    labelled, unlabelled = cut_slices([_stack([[1, 0]], 'b'), _stack([[-1, -1]], 'c')])
    assert [e.name for e in labelled + unlabelled] == ['b', 'c']


def test_the_range_of_values_is_that_of_all():
    a, b = _stack([[0, 0]]), _stack([[0, 0], [0, 0], [0, 0]])
    assert value_range([a, b]) == 5
    assert value_range([a]) == 1


def test_nothing_is_a_label_of_what_is_unlabelled():
    found = Unlabelled().indices(np.arange(6).reshape(1, 2, 3))
    assert found.dtype == np.int16
    np.testing.assert_array_equal(found, np.full((1, 2, 3), -1))
