"""Which labels belong to which image, and what counts as a volume."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

from sxt_jax import io
from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import Volume
from tests.io.samples import noise, ramp


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith('.zarr'):
            io.write_volume(path, Volume(ramp((2, 3, 4))))
        else:
            path.write_bytes(b'')


def told(pairs, root):
    return [
        (p.name, str(p.image.relative_to(root)), str(p.labels.relative_to(root))) for p in pairs
    ]


@pytest.mark.parametrize(
    ('names', 'expected'),
    [
        (['images/b.tif', 'images/a.mrc', 'labels/a.tif', 'labels/b.h5'],
         [('a', 'images/a.mrc', 'labels/a.tif'), ('b', 'images/b.tif', 'labels/b.h5')]),
        (['imagesTr/c1_0000.tif', 'labelsTr/c1.tif', 'dataset.json'],
         [('c1', 'imagesTr/c1_0000.tif', 'labelsTr/c1.tif')]),
        (['images/a10.tif', 'images/a9.tif', 'labels/a9_labels.tif', 'labels/a10.labels.tif'],
         [('a9', 'images/a9.tif', 'labels/a9_labels.tif'),
          ('a10', 'images/a10.tif', 'labels/a10.labels.tif')]),
        (['images/a.zarr', 'labels/a.nrrd'], [('a', 'images/a.zarr', 'labels/a.nrrd')]),
        (['images/a.ome.tif', 'labels/a.tif'], [('a', 'images/a.ome.tif', 'labels/a.tif')]),
        (['x.tif', 'x.labels.tif', '.hidden.tif', 'notes.txt'], [('x', 'x.tif', 'x.labels.tif')]),
        (['x.rec', 'x.labels'], [('x', 'x.rec', 'x.labels')]),
        (['a.tif', 'a.tif.incomplete-1', '.incomplete-9-b.tif', 'a_mask.npy'],
         [('a', 'a.tif', 'a_mask.npy')]),
    ],
)  # fmt: skip
def test_one_root(names, expected, tmp_path):
    touch(tmp_path, *names)
    assert told(io.pair(tmp_path), tmp_path) == expected


@pytest.mark.parametrize(
    'mark',
    ['.labels', '_labels', '-labels', '.label', '_label', '-label', '_mask', '.mask', '_Labels'],
)
def test_marks_of_labels_beside_the_image(mark, tmp_path):
    touch(tmp_path, 'x.tif', f'x{mark}.tif')
    assert told(io.pair(tmp_path), tmp_path) == [('x', 'x.tif', f'x{mark}.tif')]


def test_two_folders_and_two_files(tmp_path):
    touch(tmp_path, 'i/a.tif', 'l/a.mrc')
    expected = [('a', 'i/a.tif', 'l/a.mrc')]
    assert told(io.pair(tmp_path / 'i', tmp_path / 'l'), tmp_path) == expected
    assert told(io.pair(tmp_path / 'i/a.tif', tmp_path / 'l/a.mrc'), tmp_path) == expected
    with pytest.raises(InputError, match='folder of volumes'):
        io.pair(tmp_path / 'i/a.tif', tmp_path / 'l')


def test_slices_of_one_volume_with_their_labels(tmp_path):
    (tmp_path / 'stack').mkdir()
    for i in range(3):
        tifffile.imwrite(tmp_path / 'stack' / f's{i}.tif', noise((4, 5)))
    touch(tmp_path, 'labels.tif')
    (pair,) = io.pair(tmp_path / 'stack', tmp_path / 'labels.tif')
    assert pair.image == tmp_path / 'stack'


@pytest.mark.parametrize(
    ('names', 'file', 'looked_for'),
    [
        (['images/a.tif', 'images/b.tif', 'labels/a.tif'], 'b.tif', r'labels named b\.\*'),
        (['images/a.tif', 'labels/a.tif', 'labels/c.tif'], 'c.tif', r'an image named c\.\*'),
        (['x.tif', 'x.labels.tif', 'y.tif'], 'y.tif', r'labels named y\.labels'),
        (['x.tif', 'x.labels.tif', 'y_labels.tif'], 'y_labels.tif', r'an image named y\.\*'),
    ],
)
def test_missing_partner_is_named(names, file, looked_for, tmp_path):
    touch(tmp_path, *names)
    with pytest.raises(InputError, match=looked_for) as info:
        io.pair(tmp_path)
    assert info.value.where.endswith(file)
    pairs, unpaired = io.find_pairs(tmp_path)
    assert len(pairs) == 1
    assert [u.file.name for u in unpaired] == [file]


def test_ambiguous_and_empty_folders(tmp_path):
    touch(tmp_path, 'images/a.tif', 'images/a.mrc', 'labels/a.tif')
    with pytest.raises(InputError, match='same stem'):
        io.pair(tmp_path)
    for path in (tmp_path / 'gone', tmp_path / 'empty'):
        with pytest.raises(InputError, match=r'does not exist|no volumes'):
            io.pair(path)
        (tmp_path / 'empty').mkdir(exist_ok=True)


def test_one_hdf5_file_holds_both(tmp_path):
    import h5py

    with h5py.File(tmp_path / 'a.h5', 'w') as file:
        file['raw'], file['label'] = ramp(), ramp(dtype='u2')
    (pair,) = io.pair(tmp_path)
    assert pair.name == 'a'
    assert io.read_volume(pair.image).dtype == np.uint8
    assert io.read_volume(pair.labels).dtype == np.uint16
    assert io.pair(tmp_path / 'a.h5') == [pair]


def test_list_volumes(tmp_path):
    touch(tmp_path, 'b10.tif', 'b9.mrc', 'a.zarr', 'notes.txt', '.c.tif', '.incomplete-1-d.tif')
    (tmp_path / 'slices').mkdir()
    for i in range(3):
        tifffile.imwrite(tmp_path / 'slices' / f's{i}.tif', noise((4, 5)))
    names = [p.name for p in io.list_volumes(tmp_path)]
    assert names == ['a.zarr', 'b9.mrc', 'b10.tif', 'slices']
    for one in ('b9.mrc', 'a.zarr', 'slices'):
        assert io.is_volume(tmp_path / one)
        assert io.list_volumes(tmp_path / one) == [tmp_path / one]
    for none in ('notes.txt', '.c.tif', '.incomplete-1-d.tif', 'gone.tif'):
        assert not io.is_volume(tmp_path / none)
        with pytest.raises(InputError):
            io.list_volumes(tmp_path / none)


def test_folders_of_stacks_or_of_unlike_images_are_no_volume(tmp_path):
    tifffile.imwrite(tmp_path / 'a.tif', noise((4, 5)))
    tifffile.imwrite(tmp_path / 'b.tif', noise((4, 6)))
    assert [p.name for p in io.list_volumes(tmp_path)] == ['a.tif', 'b.tif']
    tifffile.imwrite(tmp_path / 'b.tif', noise((5, 4, 5)))
    assert [p.name for p in io.list_volumes(tmp_path)] == ['a.tif', 'b.tif']


def test_data_sets_of_other_names_are_paired_when_named(tmp_path):
    import h5py

    for name in ('a', 'b'):
        with h5py.File(tmp_path / f'{name}.h5', 'w') as file:
            file['t0/channel0'], file['t0/truth'] = ramp(), ramp(dtype='u2')
    with pytest.raises(InputError, match='has no partner'):
        io.pair(tmp_path)
    for where in ((tmp_path,), (tmp_path / 'a.h5', tmp_path / 'a.h5')):
        pairs = io.pair(*where, dataset='t0/channel0', label_dataset='t0/truth')
        assert [p.name for p in pairs] == ['a', 'b'][: len(pairs)]
        assert io.read_volume(pairs[0].image).dtype == np.uint8
        assert io.read_volume(pairs[0].labels).dtype == np.uint16


def test_a_data_set_in_the_path_stays_and_other_formats_have_none(tmp_path):
    touch(tmp_path, 'images/a.tif', 'labels/a.h5')
    (pair,) = io.pair(tmp_path, dataset='x', label_dataset='y')
    assert told([pair], tmp_path) == [('a', 'images/a.tif', 'labels/a.h5::y')]
    image, labels = f'{tmp_path}/labels/a.h5::p', f'{tmp_path}/labels/a.h5::q'
    (pair,) = io.pair(image, labels, dataset='x', label_dataset='y')
    assert (str(pair.image), str(pair.labels)) == (image, labels)


def test_labels_beside_their_images_are_told_from_images(tmp_path):
    from sxt_jax.io import list_volumes, without_labels

    touch(tmp_path, 'a.tif', 'a.labels.tif', 'b.ome.tif', 'b.labels.ome.tif', 'c.labels.tif')
    touch(tmp_path, 'd.rec', 'd.labels', 'e.labels')
    found = [p.name for p in without_labels(list_volumes(tmp_path))]
    assert found == ['a.tif', 'b.ome.tif', 'c.labels.tif', 'd.rec', 'e.labels']


def slices(folder, *shapes):
    folder.mkdir(parents=True)
    for i, shape in enumerate(shapes):
        tifffile.imwrite(folder / f's{i}.tif', noise(shape))


def test_what_should_be_a_volume_is_listed_and_told_when_opened(tmp_path):
    touch(tmp_path, 'a.mrc')
    for name in ('gone.tif', 'gone.zarr', '.gone.tif', 'gone.txt'):
        (tmp_path / name).symlink_to(tmp_path / 'nowhere')
    slices(tmp_path / 'unlike', (4, 5), (4, 6), (4, 5))
    slices(tmp_path / 'cut', (4, 5), (4, 5), (4, 5))
    (tmp_path / 'cut/s1.tif').write_bytes((tmp_path / 'cut/s1.tif').read_bytes()[:100])
    for i, ordinary in enumerate(('stacks', 'images', 'labels', 'imagesTr', '.unlike')):
        shape = (5, 4, 6) if i == 0 else (4, 5)
        slices(tmp_path / ordinary, shape, (*shape[:-1], 7))
    slices(tmp_path / 'one', (4, 5))
    (tmp_path / 'empty').mkdir()
    names = [p.name for p in io.list_volumes(tmp_path)]
    assert names == ['a.mrc', 'cut', 'gone.tif', 'gone.zarr', 'unlike']
    for name, reason in (('gone.tif', 'link to nothing'), ('gone.zarr', 'link to nothing'),
                         ('unlike', r's1\.tif: .*a 2-D slice like s0\.tif'),
                         ('cut', r's1\.tif: is truncated')):  # fmt: skip
        with pytest.raises(InputError, match=reason):
            io.open_volume(tmp_path / name)
    with pytest.raises(InputError, match='has no partner'):
        io.pair(tmp_path / 'images', tmp_path / 'one')
    pairs = io.pair(tmp_path)  # of images/ and labels/, file by file
    assert [p.name for p in pairs] == ['s0', 's1']


def test_folders_within_a_folder_without_volumes_are_named(tmp_path):
    with pytest.raises(
        InputError, match=r'no volume here; expected files ending in [^,]*(, \.\w+)*$'
    ):
        io.list_volumes(tmp_path)
    touch(tmp_path, 'labels/a.tif', 'images/a.tif', '.git/a.tif', 'notes.txt')
    with pytest.raises(InputError, match=r'\.tif.*, or one of its folders images, labels$'):
        io.list_volumes(tmp_path)
    for i in range(9):
        (tmp_path / f'f{i}').mkdir()
    with pytest.raises(InputError, match=r'folders f0, f1, f2, f3, f4, f5, …$'):
        io.list_volumes(tmp_path)


def test_a_data_set_of_listed_volumes(tmp_path):
    touch(tmp_path, 'a.h5', 'b.mrc', 'c.npz', 'd.zarr', 'e.tif')
    names = ['a.h5::x', 'b.mrc', 'c.npz::x', 'd.zarr::x', 'e.tif']
    assert [p.name for p in io.list_volumes(tmp_path, dataset='x')] == names
    assert [p.name for p in io.list_volumes(f'{tmp_path}::x')] == names
    assert [io.with_dataset(n.partition('::')[0], 'x').name for n in names] == names
    for name in ('a.h5', 'b.mrc'):  # of a file that is named itself, the data set is meant
        one = tmp_path / name
        assert [p.name for p in io.list_volumes(one, dataset='x')] == [f'{name}::x']
        assert [p.name for p in io.list_volumes(f'{one}::y', dataset='x')] == [f'{name}::y']


def test_data_sets_of_two_named_files_are_not_dropped(tmp_path):
    for name in ('a.mrc', 'b.mrc'):
        io.write_volume(tmp_path / name, Volume(ramp(dtype='i2')))
    (pair,) = io.pair(tmp_path / 'a.mrc', tmp_path / 'b.mrc', label_dataset='x')
    assert (pair.image.name, pair.labels.name) == ('a.mrc', 'b.mrc::x')
    with pytest.raises(InputError, match=r"b\.mrc: no data set 'x'"):
        io.read_volume(pair.labels)


@pytest.mark.parametrize(
    ('names', 'expected'),
    [
        (['images/a.tif', 'labels/a.tif'], True),
        (['images/a.tif', 'images/a.npy', 'labels/a.tif'], True),  # wrong, but pairs
        (['imagesTr/a.tif', 'labelsTr/b.tif'], True),
        (['a.tif', 'a.labels.tif', 'a.npy'], True),
        (['a.zarr', 'b.tif'], False),
        (['images/a.tif'], False),
        (['a.tif', 'b_labels.tif'], False),
        (['broken.h5'], False),
    ],
)
def test_holds_pairs(names, expected, tmp_path):
    touch(tmp_path, *names)
    assert io.holds_pairs(tmp_path) is expected
    assert not io.holds_pairs(tmp_path / 'gone')


def test_holds_pairs_in_one_file_and_in_empty_folders(tmp_path):
    import h5py

    with h5py.File(tmp_path / 'a.h5', 'w') as file:
        file['raw'], file['truth'] = ramp(), ramp()
    assert not io.holds_pairs(tmp_path)
    assert io.holds_pairs(tmp_path, label_dataset='truth')
    assert io.holds_pairs(tmp_path / 'a.h5', label_dataset='truth')
    for name in ('images', 'labels'):
        (tmp_path / 'empty' / name).mkdir(parents=True)
    assert io.holds_pairs(tmp_path / 'empty')
