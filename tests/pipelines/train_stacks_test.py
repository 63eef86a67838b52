"""The recipe of fibsem from files to segmented stacks: classes, maps of cells, binned pixels."""

import numpy as np
import pytest

from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import Volume, load
from sxt_jax.data.cell_maps import cell_codes
from sxt_jax.inference import add_classes, keep_classes
from sxt_jax.io import open_volume, read_volume, write_volume
from sxt_jax.models import NETWORKS
from sxt_jax.pipelines.check_config import check_config
from sxt_jax.pipelines.segment_volume import Options, probability_path, segment_files
from sxt_jax.pipelines.segmenter import load_segmenter, predict_image
from sxt_jax.pipelines.train_network import load_training_data, train_network
from sxt_jax.training.checkpoint import latest_checkpoint
from sxt_jax.training.logbook import read_metrics
from tests.training.stacks import (
    SHAPE,
    UNLABELLED,
    TinyResUNet,
    make_cells,
    tiny_config,
    write_stacks,
)

SPARSE = {'data.ignore_value': UNLABELLED}
BINNED = {**SPARSE, 'data.binning': (1, 2, 2), 'data.min_foreground': 5}


@pytest.fixture(scope='module', autouse=True)
def _tiny_network():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(NETWORKS, 'resunet', TinyResUNet)
        yield


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp('stacks')
    write_stacks(made)
    return made


@pytest.fixture(scope='module')
def trained(folder, tmp_path_factory):
    """Classes, of binned pixels; and maps of cells."""
    nuclei, cells = (tmp_path_factory.mktemp(name) for name in ('nuclei', 'cells'))
    train_network(tiny_config(folder / 'nuclei', **BINNED), nuclei)
    train_network(tiny_config(folder / 'cells', 'cells', **SPARSE), cells)
    return {'nuclei': nuclei, 'cells': cells}


def _data(config):
    return load_training_data(config, intensity='slice', folder='nowhere')


def _names(examples):
    return [int(e.name.rpartition(' ')[2]) for e in examples]


def test_k_labelled_slices_are_trained_on(folder):
    labelled = {'data.labelled_slices': 2, 'data.validation_fraction': 0.5}
    data = _data(tiny_config(folder / 'nuclei', **SPARSE, **labelled))
    assert (_names(data.train), _names(data.validation)) == ([4, 9], [6])
    drawn = {'data.labelled_choice': 'random', 'data.validation_fraction': 0.0}
    found = set()
    for seed in range(9):
        config = tiny_config(folder / 'nuclei', **SPARSE, **{**labelled, **drawn, 'seed': seed})
        data = _data(config)
        assert (len(data.train), data.validation) == (2, [])
        found.add(tuple(_names(data.train)))
    assert len(found) > 2
    with pytest.raises(InputError, match='5 of 4 labelled slices'):
        _data(tiny_config(folder / 'nuclei', **SPARSE, **{**labelled, 'data.labelled_slices': 5}))


def test_labelled_slices_are_held_in_memory(folder):
    data = _data(tiny_config(folder / 'nuclei', **SPARSE))
    for example in (*data.train, *data.validation):
        assert isinstance(example.image, np.ndarray)
        assert isinstance(example.labels, np.ndarray)
        assert example.shape == (1, *SHAPE[1:])
        np.testing.assert_allclose((example.image.mean(), example.image.std()), (0, 1), atol=1e-5)


def test_empty_slices_may_be_unlabelled(tmp_path):
    image, _, nuclei = make_cells()
    nuclei[::2] = 0
    write_volume(tmp_path / 'a.tif', Volume(image))
    write_volume(tmp_path / 'a.labels.tif', Volume(nuclei))
    everything = {'data.validation_fraction': 0.0}
    assert len(_data(tiny_config(tmp_path, **everything)).train) == 12
    everything['data.empty_slices'] = 'unlabelled'
    assert _names(_data(tiny_config(tmp_path, **everything)).train) == [1, 3, 5, 7, 9, 11]


def test_pixels_are_binned(folder):
    data = _data(tiny_config(folder / 'nuclei', **BINNED))
    image, _, nuclei = make_cells()
    (z,) = _names(data.train)[:1]
    example = data.train[0]
    assert example.shape == (1, 23, 19)
    assert example.voxel_size_nm == (8, 8, 8)
    means = image[z].reshape(23, 2, 19, 2).mean((1, 3))
    expected = (means - means.mean()) / means.std()
    np.testing.assert_allclose(example.image[0, ..., 0], expected, atol=1e-4)
    np.testing.assert_array_equal(example.labels[0], nuclei[z, 1::2, 1::2])


def test_ids_become_maps(folder):
    data = _data(tiny_config(folder / 'cells', 'cells', **SPARSE))
    _, ids, _ = make_cells()
    (z, *_) = _names(data.train)
    codes = cell_codes(ids[z : z + 1], boundary_px=2)
    np.testing.assert_array_equal(load(data.train[0].labels), codes)


def test_checkpoints_tell_how_to_use_them(trained):
    facts = latest_checkpoint(trained['nuclei']).description
    assert facts['binning'] == [1, 2, 2]
    assert facts['classes']['names'] == ['background', 'class 1']
    segmenter = load_segmenter(trained['nuclei'])
    assert segmenter.voxel_size_nm == (8, 4, 4)
    facts = latest_checkpoint(trained['cells']).description
    assert 'binning' not in facts
    assert facts['classes'] is None
    assert 'within 2 pixels' in facts['conventions']['heads']['boundary']
    (row,) = read_metrics(trained['cells'])
    assert {'loss', 'mask_loss', 'boundary_loss', 'dice', 'dice/mask', 'dice/boundary'} <= set(row)
    assert row['loss'] == pytest.approx((row['mask_loss'] + row['boundary_loss']) / 2)


def test_bins_are_segmented_on_the_grid_of_the_file(folder, trained, tmp_path):
    """Enlarged probabilities decide, not enlarged classes."""
    source = folder / 'nuclei' / 'a.tif'
    options = Options(probabilities=True)
    (outcome,) = segment_files(trained['nuclei'], source, tmp_path, options=options)
    assert not outcome.error
    labels, probs = read_volume(outcome.labels), read_volume(probability_path(outcome.labels))
    assert labels.shape == SHAPE
    assert labels.voxel_size_nm == (8, 4, 4)
    assert (probs.data.shape, probs.dtype) == ((*SHAPE, 2), np.float32)
    np.testing.assert_array_equal(labels.data, probs.data.argmax(-1))
    pairs = probs.data[:, 1:-1, 1:-1].reshape(12, 22, 2, 18, 2, 2)  # of pixels between bins
    assert not np.allclose(pairs[:, :, 0], pairs[:, :, 1])
    segmenter = load_segmenter(trained['nuclei'])
    rows = list(predict_image(segmenter, open_volume(source), name='a', finish=keep_classes))
    assert [z for z, _ in rows] == list(range(12))
    np.testing.assert_array_equal(np.concatenate([r['classes'] for _, r in rows]), labels.data)


def test_maps_of_cells_are_written_for_propagation(folder, trained, tmp_path):
    source = folder / 'cells' / 'a.tif'
    options = Options(probabilities=True)
    (outcome,) = segment_files(trained['cells'], source, tmp_path, options=options)
    assert not outcome.error
    labels, maps = read_volume(outcome.labels), read_volume(probability_path(outcome.labels))
    assert (maps.data.shape, maps.dtype, maps.axes) == ((*SHAPE, 2), np.uint8, 'zyxc')
    assert labels.class_names == {0: 'background', 1: 'cell', 2: 'boundary'}
    mask, boundary = np.moveaxis(maps.data >= 128, -1, 0)
    expected = np.where(boundary, 2, np.where(mask, 1, 0))
    # A map of 127.5 may be either.
    assert (labels.data != expected).mean() < 0.01
    assert maps.data.std() > 0
    segmenter = load_segmenter(trained['cells'])
    assert segmenter.probability_kind == (2, np.uint8)
    (_, first), *_ = predict_image(segmenter, open_volume(source), name='a', finish=add_classes)
    np.testing.assert_array_equal(first['probs'][0], maps.data[0])


@pytest.mark.parametrize(
    ('variant', 'fields', 'named'),
    [
        ('smoke', {'data.patch': (2, 16, 16)}, r'config\.data\.patch.*one slice'),
        ('smoke', {'data.binning': (2, 4, 4)}, r'config\.data\.binning.* 1 along z'),
        ('smoke', {'data.binning': (1, 0, 4)}, r'config\.data\.binning'),
        ('smoke', {'data.labelled_choice': 'odd'}, r'config\.data\.labelled_choice'),
        ('smoke', {'data.labelled_slices': -1}, r'config\.data\.labelled_slices'),
        ('smoke', {'data.empty_slices': 'maybe'}, r'config\.data\.empty_slices'),
        ('smoke', {'data.working_shape': (8, 8, 8)}, r'config\.data\.working_shape'),
        ('smoke', {'optimizer.epsilon': 0.0}, r'config\.optimizer\.epsilon'),
        ('smoke', {'loss.dice_squared': 0.0}, r'loss.* positive weights'),
        ('cells', {'cells.boundary_px': 0}, r'config\.cells\.boundary_px'),
        ('cells', {'data.classes': 'cell=1'}, r'config\.data\.classes.* ids of cells'),
        ('cells', {'class_balance': True}, r'config\.class_balance'),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_before_work_begins(folder, variant, fields, named):
    with pytest.raises(InputError, match=named):
        check_config(tiny_config(folder, variant, **fields))


def test_fields_of_slices_are_for_networks_of_slices(folder):
    from configs import acseg

    for field, value in (
        ('labelled_slices', 3), ('empty_slices', 'unlabelled'),
    ):  # fmt: skip
        config = acseg.get_config('smoke')
        config.data.train, config.data[field] = str(folder), value
        with pytest.raises(InputError, match=rf'config\.data\.{field}.*unet3d.*resunet'):
            check_config(config)
