"""From files to a file of cells: streamed equals whole, islands, bad input, an interruption."""

import numpy as np
import pytest

from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import Volume
from sxt_jax.io import read_volume, write_volume
from sxt_jax.pipelines import propagate_cells
from sxt_jax.pipelines.propagate_cells import Options, propagate_file
from sxt_jax.pipelines.slice_store import SliceStore
from sxt_jax.propagation import Recipe, link, regions_of, relabel, split_stack
from tests.propagation.stack_test import DEPTH, SIDE, maps_of, moving_cells

SIZE = (8.0, 4.0, 4.0)
PLACES = (1, 5)


def scene():
    """Two cells, an island that meets the second one in the last slice, and one that meets none."""
    image, ids = moving_cells()
    truth = ids.copy()
    truth[3:, 30:34, 58:62] = 2
    truth[6, 30:34, 54:62] = 2
    mask = truth.copy()
    mask[2:5, 0:4, 0:4] = 7
    return image, truth, maps_of(mask)


@pytest.fixture
def files(tmp_path):
    image, truth, maps = scene()
    sparse = np.zeros_like(truth)
    sparse[list(PLACES)] = truth[list(PLACES)]
    sparse[5, 30:34, 58:62] = 2
    folder = tmp_path / 'in'
    write_volume(folder / 'image.tif', Volume(image, SIZE))
    write_volume(folder / 'labels.tif', Volume(sparse.astype(np.uint16), SIZE))
    write_volume(folder / 'maps.zarr', Volume(maps, SIZE, axes='zyxc'))
    return {name: folder / name for name in ('image.tif', 'labels.tif', 'maps.zarr')}


def propagate(files, output, **options):
    paths = {name.partition('.')[0]: path for name, path in files.items()}
    image, labels, maps = (paths.pop(name) for name in ('image', 'labels', 'maps'))
    return propagate_file(image, labels, output, maps=maps, options=Options(**options))


@pytest.mark.parametrize('suffix', ['.zarr', '.tif'])
def test_files_give_what_arrays_give(files, tmp_path, suffix):
    output = tmp_path / 'new' / f'cells{suffix}'
    found = propagate(files, output)
    image, truth, maps = scene()
    labelled = {z: truth[z] for z in PLACES}
    slices = dict(split_stack(image, labelled, maps, first_island=3, recipe=Recipe()))
    regions = np.stack([regions_of(slices[z]) for z in range(DEPTH)])
    expected = np.stack(list(relabel(regions, link(regions, cells=labelled))))
    written = read_volume(output)
    np.testing.assert_array_equal(written.data, expected)
    assert written.voxel_size_nm == pytest.approx(SIZE)
    assert (found.labelled, found.n_cells, found.n_islands) == (PLACES, 2, 1)
    assert [path.name for path in output.parent.iterdir()] == [output.name]
    np.testing.assert_array_equal(written.data[list(PLACES)], truth[list(PLACES)])
    assert (written.data[3:, 31:33, 59:61] == 2).all()  # the island, back from where it met
    assert (written.data[2:5, 0:4, 0:4] == 3).all()
    assert np.mean(written.data != truth) < 0.01


def test_islands_that_meet_none_may_be_left_out(files, tmp_path):
    found = propagate(files, tmp_path / 'cells.npy', keep_islands=False)
    assert found.n_islands == 0
    assert set(np.unique(read_volume(tmp_path / 'cells.npy').data)) == {0, 1, 2}


def test_pixels_without_a_label_may_have_a_value(files, tmp_path):
    labels = read_volume(files['labels.tif']).data
    empty = np.setdiff1d(np.arange(DEPTH), PLACES)
    labels[empty] = 99
    labels[1, :4] = 99
    write_volume(files['labels.tif'], Volume(labels))
    propagate(files, tmp_path / 'cells.tif', ignore_value=99)
    assert read_volume(tmp_path / 'cells.tif').data.max() == 3


def test_what_is_wrong_is_told_and_nothing_written(files, tmp_path):
    zeros = np.zeros((DEPTH, SIDE, SIDE), np.uint8)
    bad = {
        'empty.tif': Volume(zeros),
        'short.tif': Volume(zeros[1:] + 1),
        'halves.npy': Volume(zeros + np.float32(0.5)),
        'channels.npy': Volume(np.zeros((DEPTH, SIDE, SIDE, 3), np.uint8), axes='zyxc'),
        'bits.npy': Volume(maps_of(zeros + 1) // 255, axes='zyxc'),
        'flat.npy': Volume(maps_of(zeros + 1)[:, 1:], axes='zyxc'),
    }
    bad = {name: (tmp_path / 'bad' / name, volume) for name, volume in bad.items()}
    for path, volume in bad.values():
        write_volume(path, volume)
    cases = (
        ({'labels.tif': 'empty.tif'}, 'out.tif', 'empty.tif: no labelled slice'),
        ({'labels.tif': 'short.tif'}, 'out.tif', 'short.tif: shape'),
        ({'labels.tif': 'halves.npy'}, 'out.tif', 'whole numbers'),
        ({'image.tif': 'channels.npy'}, 'out.tif', '3 channels; expected one'),
        ({'maps.zarr': 'channels.npy'}, 'out.tif', 'expected two, mask and boundary'),
        ({'maps.zarr': 'empty.tif'}, 'out.tif', '1 channels; expected two'),
        ({'maps.zarr': 'bits.npy'}, 'out.tif', 'no cell in the mask of slice 1'),
        ({'maps.zarr': 'flat.npy'}, 'out.tif', 'flat.npy: shape'),
        ({'maps.zarr': None}, 'out.tif', "--maps: none; expected mask and boundary.*'frames'"),
        ({}, 'out.xyz', 'the suffix'),
        ({}, 'in/image.tif', 'a file of the input'),
    )
    before = sorted(tmp_path.rglob('*'))
    for changed, output, told in cases:
        given = {k: bad[v][0] if v else None for k, v in changed.items()}
        with pytest.raises(InputError, match=told):
            propagate({**files, **given}, tmp_path / output)
    assert sorted(tmp_path.rglob('*')) == before


@pytest.mark.parametrize('stage', ['split_stack', 'relabel'])
def test_an_interruption_leaves_nothing(files, tmp_path, monkeypatch, stage):
    whole = getattr(propagate_cells, stage)

    def interrupted(*args, **options):
        for i, one in enumerate(whole(*args, **options)):
            if i == 3:
                raise KeyboardInterrupt
            yield one

    monkeypatch.setattr(propagate_cells, stage, interrupted)
    before = sorted(tmp_path.rglob('*'))
    with pytest.raises(KeyboardInterrupt):
        propagate(files, tmp_path / 'cells.zarr')
    assert sorted(tmp_path.rglob('*')) == before


def test_slices_are_put_and_read_in_any_order(tmp_path):
    slices = np.random.default_rng(0).integers(0, 9, (3, 4, 5), np.int32)
    with SliceStore(tmp_path, 3) as store:
        for z in (2, 0, 1):
            store.put(z, slices[z])
        np.testing.assert_array_equal(np.stack(list(store)), slices)
        assert not list(tmp_path.iterdir())
    with SliceStore(tmp_path, 3) as store, pytest.raises(ValueError, match='slice 1'):
        store[1]
