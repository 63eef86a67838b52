"""Who does what, where there are several processes."""

from pathlib import Path

import pytest

from sxt_jax.core.errors import InputError
from sxt_jax.core.processes import Team
from sxt_jax.io.shared import share_of_slices
from sxt_jax.pipelines.several_processes import is_done_together


@pytest.mark.parametrize('size', [1, 2, 3, 7])
@pytest.mark.parametrize('n_slices', [1, 16, 50, 1000])
def test_shares_of_slices_are_whole_chunks_and_together_all(n_slices, size):
    shares = [share_of_slices(n_slices, Team(i, size)) for i in range(size)]
    assert [start for start, _ in shares] == [0, *(stop for _, stop in shares[:-1])]
    assert shares[-1][1] == n_slices
    assert all(bound % 16 == 0 or bound == n_slices for share in shares for bound in share)
    depths = [stop - start for start, stop in shares]
    assert max(depths) - min(depths) <= 16 + n_slices % 16


def done_together(names, n_processes, *, in_pieces=True):
    paths = [Path(name) for name in names]
    return is_done_together(paths, paths, Team(0, n_processes), in_pieces=in_pieces)


def test_few_zarr_volumes_are_worked_on_by_all_and_many_files_shared_out():
    assert done_together(['a.zarr'], 2)
    assert done_together(['a.zarr', 'b.zarr'], 3)
    assert not done_together(['a.zarr', 'b.zarr'], 2)
    assert not done_together(['a.tif', 'b.zarr'], 3)
    assert not done_together(['a.tif'], 1)
    assert not done_together(['a.zarr', 'b.zarr'], 3, in_pieces=False)


def test_one_file_that_has_one_writer_is_refused_in_several_processes():
    with pytest.raises(InputError, match=r'one \.tif file'):
        done_together(['a.tif'], 2)
    with pytest.raises(InputError, match='whole volume'):
        done_together(['a.zarr'], 2, in_pieces=False)
