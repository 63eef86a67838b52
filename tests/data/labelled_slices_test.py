import numpy as np
import pytest

from configs import fibsem
from sxt_jax.core.errors import InputError
from sxt_jax.data.datasets import Example
from sxt_jax.data.folds import split_slice_folds
from sxt_jax.data.labelled_slices import (
    Unlabelled,
    choose_slices,
    cut_slices,
    split_slices,
    value_range,
)
from sxt_jax.pipelines.slice_data import split_labelled


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


def test_slices_are_chosen_evenly_or_at_random():
    np.testing.assert_array_equal(choose_slices(10, 1), [5])
    np.testing.assert_array_equal(choose_slices(10, 2), [2, 7])
    np.testing.assert_array_equal(choose_slices(5, 5), range(5))
    for n, k in ((757, 7), (757, 50), (13, 12)):
        found = choose_slices(n, k)
        assert len(set(found.tolist())) == k
        gaps = np.diff(np.concatenate([[-found[0] - 1], found, [2 * n - 1 - found[-1]]]))
        assert gaps.max() - gaps.min() <= 2  # as even as whole numbers go, the ends included
    one, two, other = (choose_slices(99, 7, choice='random', seed=s) for s in (0, 0, 1))
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, other)
    assert len(set(one.tolist())) == 7
    assert (np.diff(one) > 0).all()
    with pytest.raises(InputError, match='12 of 11 labelled slices'):
        choose_slices(11, 12)
    with pytest.raises(InputError, match='labelled_choice'):
        choose_slices(11, 2, choice='odd')


def test_slices_not_chosen_are_validated_on_or_left_over():
    slices = [_stack([[i, 1]], str(i)) for i in range(20)]
    options = {'choice': 'even', 'seed': 0}
    train, held, left = split_slices(slices, n=5, fraction=0.4, **options)
    names = [[e.name for e in part] for part in (train, held, left)]
    assert names[0] == ['2', '6', '10', '14', '18']
    assert names[1] == ['4', '15']
    assert {name for part in names for name in part} == {str(i) for i in range(20)}
    train, held, left = split_slices(slices, n=20, fraction=0, **options)
    assert (len(train), held, left) == (20, [], [])
    train, held, left = split_slices(slices, n=0, fraction=0.2, **options)
    assert (len(train), len(held), left) == (16, 4, [])
    with pytest.raises(InputError, match='18 of 20 labelled slices, with 4 more to validate'):
        split_slices(slices, n=18, fraction=0.2, **options)


@pytest.mark.parametrize('depths', [(4, 3, 5, 4), (9,), (6, 5)])
def test_folds_of_slices_leave_no_neighbours_to_train_on(depths):
    """Of whole volumes; of fewer volumes than folds, one block of slices each."""
    stacks = [_stack([[0, 1]] * n, name) for name, n in zip('abcd', depths, strict=False)]
    slices, _ = cut_slices(stacks)
    config = fibsem.get_config('smoke')
    config.data.folds, every = 3, []
    for config.data.fold in range(3):
        train, held, left = split_labelled(config, slices)
        assert train
        assert not left
        assert len(train) + len(held) == len(slices)
        assert {e.name for e in train} | {e.name for e in held} == {e.name for e in slices}
        places = [[e.name for e in slices].index(e.name) for e in held]
        if len(depths) >= 3:
            assert not {e.stack for e in train} & {e.stack for e in held}
        else:
            assert places == list(range(places[0], places[0] + len(held)))
            assert len(held) in (sum(depths) // 3, sum(depths) // 3 + 1)
        every += places
    assert sorted(every) == list(range(sum(depths)))


def test_slices_in_files_of_their_own_are_volumes():
    slices, _ = cut_slices([_stack([[0, 1]], name) for name in 'abcde'])
    held = [split_slice_folds(slices, n_folds=5, fold=k, seed=3)[1] for k in range(5)]
    assert sorted(e.name for (e,) in held) == list('abcde')
    assert [e.name for (e,) in held] != list('abcde')
    with pytest.raises(InputError, match=r'config\.data\.folds: 6, of 5'):
        split_slice_folds(slices, n_folds=6, fold=0, seed=0)
