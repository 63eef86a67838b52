"""The 2-D network of Cellpose on slices in three orientations: from files to cells."""

import dataclasses

import numpy as np
import pytest

from configs import cellpose2d
from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import Volume
from sxt_jax.data.intensity import Intensity, measure_affine
from sxt_jax.inference.orthogonal import predict_orthogonal
from sxt_jax.io import read_flows, read_volume, write_volume
from sxt_jax.pipelines import segment_volume
from sxt_jax.pipelines.check_config import check_config
from sxt_jax.pipelines.flow_training import predict_flows
from sxt_jax.pipelines.segment_volume import Options, probability_path, segment_files
from sxt_jax.pipelines.segmenter import load_segmenter
from sxt_jax.pipelines.slice_segmenter import predict_slices
from sxt_jax.pipelines.train_network import load_training_data, train_network
from sxt_jax.training.checkpoint import latest_checkpoint
from sxt_jax.training.logbook import read_metrics
from tests.pipelines.segment_instances_test import imported
from tests.training.cells import make_cells, write_cells

SHAPE = (12, 20, 18)


def smoke(folder, **fields):
    config = cellpose2d.get_config('smoke')
    config.update_from_flattened_dict({
        'data.train': str(folder), 'data.patch': (1, 16, 16), 'data.steps_per_epoch': 2,
        'batch_size': 2, 'epochs': 1, 'model.features': (2,), 'optimizer.warmup_steps': 0,
        'inference.tile': (1, 16, 16), 'inference.overlap': (0, 4, 4), **fields,
    })  # fmt: skip
    return config


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp('cells')
    write_cells(made, shape=SHAPE, n_cells=4)
    return made


@pytest.fixture(scope='module')
def trained(folder, tmp_path_factory):
    workdir = tmp_path_factory.mktemp('run')
    train_network(smoke(folder), workdir)
    return workdir


@pytest.fixture
def _quick_instances(monkeypatch):
    """What is made of foreground and flows is tested where it is made."""

    def whole(foreground, flows, **_):
        return flows.with_data((foreground > 0.5).astype(np.uint16), axes='zyx')

    monkeypatch.setattr('sxt_jax.pipelines.segment_instances.instances_of', whole)


def test_it_is_trained_on_slices_and_validated_on_volumes(folder, trained):
    facts = latest_checkpoint(trained).description
    assert len(facts['volumes']['train']) == 6
    assert len(facts['volumes']['validation']) == 1
    assert facts['voxel_size_nm'] == [200, 200, 200]
    assert 'in the slice' in facts['conventions']['heads']['flows']
    (row,) = read_metrics(trained)
    assert row['loss'] == pytest.approx(row['foreground_loss'] + row['flow_loss'])
    assert {'dice/foreground', 'dice/flows', 'validation/flow_loss'} <= set(row)


def test_volumes_held_out_are_those_of_any_network_of_flows(folder, tmp_path):
    """Also of a single volume, whose cells are cut after their flows are made."""
    for n in (3, 1):
        write_cells(tmp_path / str(n), n, shape=SHAPE, n_cells=4)
        config = smoke(tmp_path / str(n), **{'data.validation_fraction': 0.4})
        options = {'intensity': 'percentile', 'folder': tmp_path}
        slices = load_training_data(config, **options)
        config.model = {'name': 'cellpose3d', 'features': 2}
        volumes = load_training_data(config, **options)
        assert [e.shape for e in slices.validation] == [e.shape for e in volumes.validation]
        whole = (slice(None),) * 4
        for ours, theirs in zip(slices.validation, volumes.validation, strict=True):
            np.testing.assert_array_equal(ours.flows[whole], theirs.flows[whole])
        (train, *_), (z, y, x) = slices.train, volumes.train[0].shape
        assert [e.shape for e in slices.train[:3]] == [(z, y, x), (y, z, x), (x, z, y)]
        assert not train.flows[..., 0].any()
        assert np.linalg.norm(train.flows, axis=-1)[train.labels == 1].mean() > 0.8


@pytest.mark.usefixtures('_quick_instances')
def test_cells_come_from_all_three_orientations(folder, trained, tmp_path, monkeypatch):
    network = load_segmenter(trained, instances=True, mirror='z')
    monkeypatch.setattr(segment_volume, 'load_segmenter', lambda *_, **__: network)
    options = Options(instances=True, cell_radius=4, probabilities=True)
    (outcome, *_) = segment_files(trained, folder / 'images', tmp_path / 'out', options=options)
    assert not outcome.error
    image = read_volume(folder / 'images' / 'cells_0.tif').data
    gray = measure_affine(Intensity('percentile'), image).apply(image)
    tiling = {'tile': (1, 16, 16), 'overlap': (0, 4, 4), 'mirror': 'z'}
    heads = predict_orthogonal(network.apply_fn, network.variables, gray, **tiling)
    saved = read_flows([probability_path(outcome.labels)])
    np.testing.assert_allclose(saved.foreground, heads['foreground'][..., 0], atol=1e-5)
    np.testing.assert_allclose(saved.flows.data, heads['flows'], atol=1e-5)
    assert read_volume(outcome.labels).data.shape == SHAPE


@pytest.mark.usefixtures('_quick_instances')
def test_an_image_of_one_slice_has_flows_within_it(trained, tmp_path, monkeypatch):
    network = load_segmenter(trained, instances=True)
    monkeypatch.setattr(segment_volume, 'load_segmenter', lambda *_, **__: network)
    image = make_cells(0, SHAPE)[0][6:7]
    write_volume(tmp_path / 'a.tif', Volume(image, (200.0,) * 3))
    options = Options(instances=True, cell_radius=4, probabilities=True)
    (outcome,) = segment_files(trained, tmp_path / 'a.tif', tmp_path / 'out', options=options)
    assert not outcome.error
    assert read_flows([probability_path(outcome.labels)]).flows.data.shape == (1, 20, 18, 2)
    tiling = {'tile': (1, 16, 16), 'overlap': (0, 4, 4)}
    (slab,) = predict_flows(network.apply_fn, network.variables, image, slices=True, **tiling)
    assert slab.heads['flows'].shape == (1, 20, 18, 3)  # to compare with the truth
    assert not slab.heads['flows'][..., 0].any()


@pytest.mark.usefixtures('_quick_instances')
def test_published_weights_see_one_channel_their_way(tmp_path, monkeypatch):
    """Gray values by their percentiles, no nuclei, cubes of voxels, and cells of their size."""
    checkpoint = imported(tmp_path, 'cellpose2d', 'cellpose2d_small', tile=[1, 16, 16])
    gray = 500 * np.random.default_rng(0).random((6, 20, 18)).astype(np.float32)
    write_volume(tmp_path / 'a.tif', Volume(gray, (60.0, 30.0, 30.0)))
    network = load_segmenter(checkpoint, instances=True)
    assert (network.n_channels, network.diameter_px) == (2, 27)
    monkeypatch.setattr(segment_volume, 'load_segmenter', lambda *_, **__: network)
    options = Options(instances=True, cell_radius=9, probabilities=True)
    (outcome,) = segment_files(checkpoint, tmp_path / 'a.tif', tmp_path / 'out', options=options)
    assert not outcome.error
    low, high = np.percentile(gray, (1, 99))
    scaled = (gray - low) / (high - low)
    heads = predict_orthogonal(
        network.apply_fn, network.variables, np.stack([scaled, 0 * scaled], -1),
        scale=(3, 1.5, 1.5), **network.tiling,
    )  # fmt: skip
    saved = read_flows([probability_path(outcome.labels)])
    np.testing.assert_allclose(saved.foreground, heads['foreground'][..., 0], atol=1e-4)
    np.testing.assert_allclose(saved.flows.data, heads['flows'], atol=1e-4)
    write_volume(tmp_path / 'b.tif', Volume(np.stack([gray] * 3, -1), axes='zyxc'))
    (outcome,) = segment_files(checkpoint, tmp_path / 'b.tif', tmp_path / 'out', options=options)
    assert '3 channels; expected 2 as in training' in outcome.error


def test_slices_as_flat_as_those_of_the_training_stay_as_they_are(trained, monkeypatch):
    network = load_segmenter(trained, instances=True)
    seen = []

    def predict(*_, scale, **__):
        seen.append(scale)

    monkeypatch.setattr('sxt_jax.pipelines.slice_segmenter.predict_orthogonal', predict)
    image = make_cells(0, SHAPE)[0]
    for size in ((50.0,) * 3, (300.0, 100.0, 100.0), None):
        predict_slices(network, Volume(image, size), name='a', cell_radius=5)
    assert seen == [(1, 1, 1), (3, 1, 1), (1, 1, 1)]
    unknown = dataclasses.replace(network, voxel_size_nm=None)
    predict_slices(unknown, Volume(image, (300.0, 100.0, 100.0)), name='a', cell_radius=5)
    published = dataclasses.replace(unknown, diameter_px=30.0)
    predict_slices(published, Volume(image, (300.0, 100.0, 100.0)), name='a', cell_radius=5)
    assert seen[3:] == [(1, 1, 1), (9, 3, 3)]


@pytest.mark.parametrize(
    ('fields', 'named'),
    [
        ({'flows.kind': 'tanh'}, r"config\.flows\.kind: 'tanh', with the 2-D network"),
        ({'flows.kind': ''}, r'config\.flows\.kind: empty'),
        ({'data.exchange_axes': 0.5}, r'config\.data\.exchange_axes'),
        ({'distortion.probability': 0.5}, r'config\.distortion\.probability'),
        ({'data.patch': (1, 15, 16)}, r'config\.data\.patch'),
        (
            {'data.patch': (16, 16, 16), 'augmentation.swap_axes': True},
            r'config\.augmentation\.swap_axes',
        ),
        ({'inference.tile': (1, 16, 15)}, r'config\.inference\.tile'),
        ({'flows.flow_weight': -1.0}, r'config\.flows'),
    ],
)
def test_what_does_not_fit_is_told_before_work_begins(fields, named):
    with pytest.raises(InputError, match=named):
        check_config(smoke('DATA', **{'model.features': (2, 4), **fields}))
    check_config(smoke('DATA', **{'data.patch': (4, 16, 16), 'augmentation.swap_axes': True}))


def test_flat_voxels_are_not_turned(tmp_path):
    image, ids = make_cells(0, SHAPE)
    for name, data in (('images', image), ('labels', ids)):
        write_volume(tmp_path / name / 'a.tif', Volume(data, (400.0, 200.0, 200.0)))
    with pytest.raises(InputError, match=r'a \(xz\).*augmentation\.rotate_90'):
        train_network(smoke(tmp_path), tmp_path / 'W')
