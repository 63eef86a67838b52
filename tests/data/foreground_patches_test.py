import numpy as np
import pytest

from sxt_jax.core.errors import InputError
from sxt_jax.data.datasets import Example
from sxt_jax.data.patches import Sampling
from sxt_jax.data.pipeline import PatchStream

SIDES = (1, 8, 8)


def _example(*squares, side=64, name='a'):
    """A slice with squares of 4×4: (class, y, x)."""
    labels = np.zeros((1, side, side), np.int16)
    for k, y, x in squares:
        labels[0, y : y + 4, x : x + 4] = k
    return Example(name, labels.astype(np.float32)[..., None], labels)


def _stream(examples, *, least=16, share=0.8, seed=0, n_classes=2, batch_size=5):
    sampling = Sampling(SIDES, 'random', foreground_share=share, min_foreground=least)
    return PatchStream(
        examples, sampling=sampling, batch_size=batch_size, seed=seed, n_classes=n_classes
    )


def _labels(stream, n):
    return [stream.batch(step)['labels'] for step in range(n)]


def test_four_of_five_patches_hold_what_is_rare():
    """The square is in a fiftieth of the patches of one slice of three: by chance never."""
    examples = [_example(), _example((1, 30, 40)), _example()]
    found = _labels(_stream(examples), 40)
    enough = np.array([[(patch == 1).sum() >= 16 for patch in batch] for batch in found])
    assert (enough.sum(1) >= 4).all()
    assert enough[:, :4].all()
    assert enough[:, 4].mean() < 0.2  # the fifth is any
    plain = _labels(_stream(examples, share=0, least=0), 40)
    assert np.mean([(patch == 1).sum() >= 16 for batch in plain for patch in batch]) < 0.1


def test_patches_with_enough_are_all_drawn():
    """Not only those around the square's middle: it lies at 25 places in a patch."""
    found = _labels(_stream([_example((1, 30, 40))], share=1), 80)
    corners = {tuple(np.argwhere(patch[0] == 1)[0]) for batch in found for patch in batch}
    assert len(corners) == 25


def test_classes_take_turns_by_chance():
    examples = [_example((1, 8, 8), (1, 16, 8), (1, 24, 8)), _example((2, 40, 40))]
    found = _labels(_stream(examples, share=1, n_classes=3), 40)
    share = np.mean([(patch == 2).sum() >= 16 for batch in found for patch in batch])
    assert 0.4 < share < 0.6


def test_where_none_holds_enough_the_best_is_taken():
    examples = [_example((1, 0, 0), (1, 40, 40))]
    found = _labels(_stream(examples, least=20), 8)
    n_held = np.array([[(patch == 1).sum() for patch in batch[:4]] for batch in found])
    assert (n_held == 16).mean() > 0.5
    assert (n_held > 0).all()


def test_batches_are_functions_of_seed_and_step():
    examples = [_example((1, 30, 40), (1, 8, 8))]
    one, two, other = _stream(examples), _stream(examples), _stream(examples, seed=1)
    two.batch(7)
    np.testing.assert_array_equal(one.batch(3)['labels'], two.batch(3)['labels'])
    assert not np.array_equal(one.batch(3)['labels'], other.batch(3)['labels'])


@pytest.mark.parametrize(
    ('make', 'named'),
    [
        (lambda: _stream([_example((1, 2, 2))], least=17), 'no volume holds more than 16'),
        (lambda: _stream([_example((1, 2, 2))], least=65), 'no more voxels than a patch'),
        (lambda: _stream([_example((1, 2, 2))], share=0.8, least=0), 'both or none'),
        (lambda: _stream([_example((1, 2, 2))], share=1.5), r'foreground_share.* 0 … 1'),
        (lambda: Sampling(SIDES, 'each', foreground_share=0.8, min_foreground=1), "'random'"),
    ],
)
def test_what_cannot_be_is_told(make, named):
    with pytest.raises(InputError, match=named):
        make()
