"""Writing slab by slab: in order, atomically, in bounded memory, on disks that are full."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from sxt_jax import io
from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import Volume
from sxt_jax.io import zarr
from tests.io.samples import FORMATS, VOXEL_SIZE_NM, noise


@pytest.mark.parametrize('suffix', FORMATS)
@pytest.mark.parametrize('steps', [(37,), (1,) * 37, (5, 20, 12), (16, 16, 5), (33, 4)])
def test_slabs_of_any_thickness_make_the_same_volume(suffix, steps, tmp_path):
    data = noise((37, 6, 7), 'u2')
    path = tmp_path / f'a{suffix}'
    with io.open_writer(path, shape=data.shape, dtype='u2', voxel_size_nm=VOXEL_SIZE_NM) as writer:
        start = 0
        for step in steps:
            slab = data[start : start + step].copy()
            writer.write(start, slab)
            slab[:] = 0  # the caller may reuse its buffer
            start += step
        assert not path.exists()
    np.testing.assert_array_equal(io.read_volume(path).data, data)


def write_and_interrupt(path):
    with io.open_writer(path, shape=(40, 4, 5), dtype='u1') as writer:
        writer.write(0, noise((20, 4, 5)))
        raise KeyboardInterrupt


@pytest.mark.parametrize('suffix', FORMATS)
def test_exceptions_leave_nothing_and_keep_the_old_file(suffix, tmp_path):
    path = tmp_path / f'a{suffix}'
    io.write_volume(path, Volume(noise((3, 4, 5)), VOXEL_SIZE_NM))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt):
        write_and_interrupt(path)
    with (
        pytest.raises(ValueError, match='20 of 40 slices'),
        io.open_writer(path, shape=(40, 4, 5), dtype='u1') as writer,
    ):
        writer.write(0, noise((20, 4, 5)))
    assert sorted(tmp_path.iterdir()) == before
    np.testing.assert_array_equal(io.read_volume(path).data, noise((3, 4, 5)))
    assert io.read_volume(path).voxel_size_nm is not None


@pytest.mark.parametrize('n_slices', [0, 20])
def test_what_a_library_writes_in_the_background_is_awaited(n_slices, tmp_path, monkeypatch):
    """An interruption while a slow disk is at the array, or at its first chunks."""
    opened = zarr.ts.open
    with ThreadPoolExecutor() as pool:

        def slowly(spec, *args, **kwargs):
            def work():
                if not n_slices:
                    time.sleep(0.4)
                return SlowWrites(opened(spec, *args, **kwargs).result(), pool)

            return pool.submit(work)

        monkeypatch.setattr(zarr.ts, 'open', slowly)
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        with (
            pytest.raises(KeyboardInterrupt),
            io.open_writer(tmp_path / 'a.zarr', shape=(20, 4, 5), dtype='u1') as writer,
        ):
            writer.write(0, noise((n_slices, 4, 5)))
    assert list(tmp_path.iterdir()) == []


class SlowWrites:
    """An array of tensorstore whose writes begin late."""

    def __init__(self, array, pool):
        self._array, self._pool = array, pool

    def __getitem__(self, index):
        return SlowWrites(self._array[index], self._pool)

    def write(self, values):
        def work():
            time.sleep(0.4)
            self._array.write(values).result()

        return self._pool.submit(work)


def test_slabs_out_of_turn_or_shape_are_refused(tmp_path):
    with io.open_writer(tmp_path / 'a.tif', shape=(4, 5, 6), dtype='u1') as writer:
        writer.write(0, noise((2, 5, 6)))
        for start, shape in ((0, (2, 5, 6)), (3, (1, 5, 6)), (2, (3, 5, 6)), (2, (2, 6, 5)),
                             (2, (5, 6)), (2, ())):  # fmt: skip
            with pytest.raises(ValueError, match='slab'):
                writer.write(start, noise(shape))
        with pytest.raises(InputError, match='kept exactly'):
            writer.write(2, noise((2, 5, 6), 'f4') + np.float32(0.5))
        with pytest.raises(InputError, match='real numbers'):
            writer.write(2, noise((2, 5, 6), 'c8'))
        writer.write(2, noise((2, 5, 6), 'f4'))  # whole numbers fit
    assert io.read_volume(tmp_path / 'a.tif').shape == (4, 5, 6)


@pytest.mark.parametrize(
    ('shape', 'axes'),
    [((4, 5), 'zyx'), ((4, 5, 6), 'zyxc'), ((0, 5, 6), 'zyx'), ((4, 5, 6), 'xyz')],
)
def test_impossible_shapes_are_refused(shape, axes, tmp_path):
    with (
        pytest.raises(InputError, match='axes'),
        io.open_writer(tmp_path / 'a.tif', shape=shape, dtype='u1', axes=axes),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_data_set_names_where_there_are_none(tmp_path):
    with pytest.raises(InputError, match='no data set'):
        io.write_volume(tmp_path / 'a.tif', Volume(noise((2, 2, 2))), dataset='labels')


@pytest.mark.parametrize('suffix', FORMATS)
def test_folder_that_cannot_be_written_to(suffix, tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(InputError, match='cannot be written'):
        io.write_volume(tmp_path / 'file' / f'a{suffix}', Volume(noise((2, 2, 2))))


def peak_bytes(path, n: int, slab: np.ndarray) -> int:
    tracemalloc.start()
    with io.open_writer(path, shape=(n, *slab.shape[1:]), dtype=slab.dtype) as writer:
        for start in range(0, n, len(slab)):
            writer.write(start, slab)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize('suffix', FORMATS)
def test_memory_does_not_grow_with_the_volume(suffix, tmp_path):
    slab = noise((8, 128, 128))
    peak_bytes(tmp_path / f'warm{suffix}', 8, slab)
    small = peak_bytes(tmp_path / f'a{suffix}', 32, slab)
    large = peak_bytes(tmp_path / f'b{suffix}', 256, slab)
    assert large < small + 0.25 * 224 * slab[0].nbytes


def test_conversion_reads_and_writes_slab_by_slab(tmp_path, monkeypatch):
    monkeypatch.setattr('sxt_jax.io.files._SLAB_BYTES', 4 * 128 * 128)
    peaks = []
    for n in (16, 128):
        io.write_volume(tmp_path / f'{n}.mrc', Volume(noise((n, 128, 128), 'i2')))
        tracemalloc.start()
        io.write_volume(tmp_path / f'{n}.nrrd', io.open_volume(tmp_path / f'{n}.mrc'))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


FILL_DISK = """
import os, resource, sys
import numpy as np
from sxt_jax import io
from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import Volume

data = np.random.default_rng(0).random((40, 128, 128)).astype('f4')
for limit in (3000, 100_000, 700_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    for suffix in sys.argv[2:]:
        path = os.path.join(sys.argv[1], 'a' + suffix)
        try:
            io.write_volume(path, Volume(data, (1, 2, 3)), compression=limit < 50_000)
        except InputError as error:
            assert 'the disk is full' in str(error), error
        else:
            raise SystemExit(f'{suffix} was written with files limited to {limit}')
        assert os.listdir(sys.argv[1]) == [], os.listdir(sys.argv[1])
"""


@pytest.mark.process
def test_full_disk_is_told_and_nothing_is_left(tmp_path):
    run = subprocess.run(
        [sys.executable, '-c', FILL_DISK, str(tmp_path), *FORMATS],
        capture_output=True, text=True, env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    assert list(tmp_path.iterdir()) == []
