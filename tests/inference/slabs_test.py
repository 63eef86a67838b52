"""Slabs hold what the tiles need, mirrored behind the end; every slice is read once."""

import itertools

import numpy as np
import pytest

from sxt_jax.core.blocks import bucket
from sxt_jax.core.tiles import make_grid
from sxt_jax.inference.slabs import make_plan, mirror_indices, read_slabs, work_ahead


class CountingReader:
    """A lazily read image that counts how often each slice is read."""

    def __init__(self, data):
        self.data, self.reads = data, np.zeros(data.shape[0], int)
        self.shape, self.dtype = data.shape, data.dtype

    def __getitem__(self, index):
        self.reads[index[0]] += 1
        return self.data[index]


def test_buckets_waste_little_and_are_few():
    sizes = np.arange(1, 5000)
    buckets = np.array([bucket(int(n)) for n in sizes])
    assert (buckets >= sizes).all()
    assert (buckets[128:] / sizes[128:]).max() <= 1.126
    assert len(set(buckets.tolist())) < 60
    assert all(bucket(int(b)) == b for b in buckets)


@pytest.mark.parametrize('batch_size', [1, 7, 100])
@pytest.mark.parametrize('shape', [(40, 20, 11), (5, 3, 1), (16, 16, 16), (33, 8, 30, 2)])
def test_slabs_are_pieces_of_the_mirrored_volume(shape, batch_size):
    image = np.random.default_rng(0).random(shape, np.float32)
    grid = make_grid(shape[:3], tile=(8, 8, 12), overlap=(2, 4, 4), align=(1, 4, 4))
    plan = make_plan(grid, batch_size)
    padding = [(0, p) for p in grid.padding] + [(0, 0)] * (len(shape) - 3)
    padded = np.pad(image, padding, mode='reflect')
    padded = padded if padded.ndim == 4 else padded[..., None]
    reader = CountingReader(image)
    slabs = list(read_slabs(reader, plan))
    assert len(slabs) == plan.n_slabs
    for i, slab in enumerate(slabs):
        start, stop = plan.z_range(i)
        assert slab.shape[:3] == plan.shape
        n_y, n_x = grid.padded_shape[1:]
        np.testing.assert_array_equal(slab[: stop - start, :n_y, :n_x], padded[start:stop])
    np.testing.assert_array_equal(reader.reads, 1)


@pytest.mark.parametrize('batch_size', [1, 5, 64])
def test_slabs_complete_every_slice_once(batch_size):
    grid = make_grid((101, 30, 30), tile=(16, 16, 16), overlap=(6, 6, 6), align=(4, 4, 4))
    plan = make_plan(grid, batch_size)
    done = [plan.completed(i) for i in range(plan.n_slabs)]
    assert done[0][0] == 0
    assert done[-1][1] == grid.padded_shape[0]
    assert all(a[1] == b[0] for a, b in itertools.pairwise(done))
    assert all(b - a <= plan.chunk for a, b in done[:-1])
    rows = [r for i in range(plan.n_slabs) for r in plan.slab_rows(i)]
    assert rows == list(range(len(grid.starts[0])))


@pytest.mark.parametrize(
    ('dtype', 'expected'),
    [('?', 'uint8'), ('>i2', 'int16'), ('<u2', 'uint16'), ('>f4', 'float32'), ('f8', 'float32'),
     ('u4', 'float32'), ('i8', 'float32'), ('f2', 'float16')],
)  # fmt: skip
def test_types_are_made_fit_for_the_device(dtype, expected):
    image = np.arange(8).reshape(2, 2, 2).astype(dtype)
    plan = make_plan(make_grid((2, 2, 2), tile=(2, 2, 2), overlap=(0, 0, 0)), 1)
    (slab,) = read_slabs(image, plan)
    assert slab.dtype == np.dtype(expected)
    assert slab.dtype.isnative
    np.testing.assert_array_equal(slab[:2, :2, :2, 0], image)


def test_mirror_goes_back_and_forth_where_the_padding_is_longer_than_the_axis():
    assert mirror_indices(3, 6).tolist() == [0, 1, 2, 1, 0, 1, 2, 1, 0]
    assert mirror_indices(1, 3).tolist() == [0, 0, 0, 0]


def test_working_ahead_changes_neither_order_nor_errors():
    def items():
        yield from range(5)
        raise OSError('the disk went away')

    ahead = work_ahead(items())
    assert [next(ahead) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(OSError, match='went away'):
        next(ahead)
