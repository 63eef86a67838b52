import dataclasses
import threading

import numpy as np
import pytest

from sxt_jax.core.errors import InputError
from sxt_jax.data.datasets import crop_example, foreground_positions, split_examples
from sxt_jax.data.folds import split_folds
from sxt_jax.data.patches import Sampling
from sxt_jax.data.pipeline import PatchStream, prefetch
from tests.training.nets import ball_example, ball_stream


def test_batches_are_functions_of_seed_and_step():
    one, two, other = ball_stream(), ball_stream(), ball_stream(seed=1)
    two.batch(40)  # what was asked before does not matter
    for step in (17, 3, 17):
        for name in ('image', 'labels'):
            np.testing.assert_array_equal(one.batch(step)[name], two.batch(step)[name])
    assert not np.array_equal(one.batch(3)['image'], other.batch(3)['image'])


def test_an_epoch_shows_every_patch_once():
    stream = ball_stream(batch_size=6, n_examples=2)
    assert stream.steps_per_epoch == 2 * 27 // 6
    for epoch in range(2):
        steps = range(epoch * 9, epoch * 9 + 9)
        seen = {patch.tobytes() for s in steps for patch in stream.batch(s)['image']}
        assert len(seen) == 54


def test_random_sampling_prefers_the_foreground_as_told():
    def share(probability):
        stream = PatchStream(
            [ball_example(side=24)],
            sampling=Sampling((4, 4, 4), 'random', foreground_probability=probability),
            batch_size=64,
            seed=0,
            n_classes=2,
        )
        labels = np.concatenate([stream.batch(s)['labels'] for s in range(4)])
        return (labels[:, 2, 2, 2] == 1).mean()

    assert share(1.0) == 1.0
    assert share(0.0) < 0.25


def test_one_volume_is_split_into_parts_that_do_not_overlap():
    example = ball_example(side=20)
    (train,), (held,) = split_examples([example], fraction=0.2, seed=0)
    everything = (slice(None),) * 3
    joined = np.concatenate([train.labels[everything], held.labels[everything]])
    np.testing.assert_array_equal(joined, example.labels)
    assert held.shape == (4, 20, 20)
    np.testing.assert_array_equal(held.image[(*everything, slice(None))], example.image[16:])
    np.testing.assert_array_equal(held.image[1:3, :, 2:4], example.image[17:19, :, 2:4])


def test_volumes_are_split_as_wholes():
    examples = [ball_example(i, name=str(i)) for i in range(10)]
    train, held = split_examples(examples, fraction=0.2, seed=3)
    assert len(held) == 2
    assert {e.name for e in train} | {e.name for e in held} == {str(i) for i in range(10)}
    again = split_examples(examples, fraction=0.2, seed=3)[1]
    assert [e.name for e in again] == [e.name for e in held]


@pytest.mark.parametrize(('n', 'k'), [(10, 5), (11, 3), (4, 4)])
def test_folds_share_nothing_and_leave_nothing_out(n, k):
    examples = [ball_example(i, side=4, name=str(i)) for i in range(n)]
    all_names = sorted(e.name for e in examples)
    held_by_seed = []
    for seed in (3, 4):
        parts = []
        for fold in range(k):
            train, held = split_folds(examples, n_folds=k, fold=fold, seed=seed)
            assert sorted(e.name for e in (*train, *held)) == all_names
            parts.append([e.name for e in held])
        assert sorted(name for part in parts for name in part) == all_names
        sizes = {len(part) for part in parts}
        assert max(sizes) - min(sizes) <= 1
        held_by_seed.append(parts)
    assert held_by_seed[0] != held_by_seed[1]


def test_more_folds_than_volumes_are_told():
    with pytest.raises(InputError, match=r'config\.data\.folds: 3, of 2 to train on \(a …\)'):
        split_folds([ball_example(name='a')] * 2, n_folds=3, fold=0, seed=0)


def test_foreground_positions_are_foreground():
    from sxt_jax.core.box import Box

    example = crop_example(ball_example(), Box((2, 0, 0), (16, 16, 16)))
    (positions,) = foreground_positions(example, 2, seed=0)
    labels = np.asarray(example.labels[(slice(None),) * 3])
    assert len(positions) == (labels == 1).sum()
    assert (labels[tuple(positions.T)] == 1).all()


def test_every_foreground_voxel_is_as_likely_wherever_it_lies():
    labels = np.zeros((3, 1024, 1024), np.int16)  # slabs of one slice
    labels[0, :200, :200] = 1
    labels[2, :100, :100] = 1
    example = dataclasses.replace(ball_example(), labels=labels)
    (positions,) = foreground_positions(example, 2, seed=0)
    assert np.bincount(positions[:, 0]).tolist() == [16_000, 0, 4_000]
    assert len(np.unique(positions, axis=0)) == len(positions)


def test_prefetch_keeps_order_works_ahead_and_ends_its_thread():
    made = []

    def make(step):
        made.append(step)
        return -step

    items = prefetch(make, range(5, 12), n_ahead=3)
    assert next(items) == (5, -5)
    items.close()
    assert len(made) <= 4
    assert not [t for t in threading.enumerate() if t.name.startswith('prefetch')]
    assert list(prefetch(make, range(3))) == [(0, 0), (1, -1), (2, -2)]


def test_prefetch_hands_on_errors():
    def make(step):
        raise OSError('disk gone')

    with pytest.raises(OSError, match='disk gone'):
        next(prefetch(make, range(3)))
