"""The recipe of Cellpose3D from files to a checkpoint."""

import contextlib

import jax
import numpy as np
import pytest

from configs import acseg, cellpose3d
from sxt_jax.core.devices import make_device_mesh
from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import Volume
from sxt_jax.data.datasets import fingerprint
from sxt_jax.inference import predict_volume
from sxt_jax.io import read_volume, write_volume
from sxt_jax.models import cellpose3d as cellpose3d_network
from sxt_jax.pipelines import flow_training as pipeline
from sxt_jax.pipelines.check_config import check_config
from sxt_jax.pipelines.segmenter import load_segmenter
from sxt_jax.pipelines.train_network import load_training_data, plot_curves, train_network
from sxt_jax.pipelines.trained_network import load_network
from sxt_jax.training.checkpoint import latest_checkpoint, list_checkpoints
from sxt_jax.training.logbook import read_metrics
from sxt_jax.training.loop import TrainingStopped
from tests.training.cells import make_cells, tanh_flows, write_cells


def smoke(folder, **fields):
    """Small enough for a test: the steps of few seconds."""
    config = cellpose3d.get_config('smoke')
    config.update_from_flattened_dict({
        'data.train': str(folder), 'data.patch': (8, 16, 16), 'data.steps_per_epoch': 3,
        'model.features': 2, 'inference.tile': (16, 16, 16), 'inference.overlap': (4, 8, 8),
        'inference.batch_size': 2, 'distortion.noise': 0.0, 'distortion.shuffle_windows': 0,
        'distortion.inpaint_windows': 1, **fields,
    })  # fmt: skip
    return config


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp('cells')
    write_cells(made, shape=(12, 20, 20), n_cells=4)
    return made


@contextlib.contextmanager
def one_level():
    """The network goes down once, not three times: the seconds go into compilation."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cellpose3d_network, 'N_LEVELS', 2)
        yield


@pytest.fixture
def shallow():
    with one_level():
        yield


@pytest.fixture(scope='module')
def trained(folder, tmp_path_factory):
    workdir = tmp_path_factory.mktemp('run')
    with one_level():
        train_network(smoke(folder), workdir)
    return workdir


@pytest.mark.usefixtures('shallow')
def test_the_checkpoint_tells_how_to_use_it(folder, trained):
    facts = latest_checkpoint(trained).description
    assert facts['intensity'] == {'kind': 'percentile', 'mean': [], 'std': [], 'clip': True}
    assert facts['classes'] is None
    assert facts['voxel_size_nm'] == [200, 200, 200]
    told = facts['conventions']
    assert told['flow_kind'] == 'tanh'
    assert told['intensity']['low_percent'] == 2
    assert 'towards the centre' in told['heads']['flows']
    network = load_network(trained)
    image = read_volume(folder / 'images' / 'cells_0.tif').data
    device_mesh = make_device_mesh(jax.devices()[:1])  # as in training: compiled already
    heads = predict_volume(
        network.apply_fn, network.variables, image, device_mesh=device_mesh, **facts['tiling']
    )
    assert heads['foreground'].shape == (12, 20, 20, 1)
    assert heads['flows'].shape == (12, 20, 20, 3)
    with pytest.raises(InputError, match='tells no classes'):
        load_segmenter(trained)


def test_losses_and_scores_are_told_and_drawn(trained):
    rows = read_metrics(trained)
    assert [row['step'] for row in rows] == [3, 6]
    for row in rows:
        assert row['loss'] == pytest.approx(row['foreground_loss'] + row['flow_loss'])
        assert {'dice', 'dice/foreground', 'dice/flows', 'validation/flow_loss'} <= set(row)
    assert plot_curves(trained).stat().st_size > 1000


def test_volumes_to_validate_on_may_have_any_ids(folder, tmp_path):
    write_cells(tmp_path, shape=(12, 20, 20), n_cells=4)
    config = smoke(folder, **{'data.validation': str(tmp_path)})
    data = load_training_data(config, intensity='percentile', folder=tmp_path)
    assert all(set(np.unique(e.labels)) == {0, 1} for e in (*data.train, *data.validation))


@pytest.mark.usefixtures('shallow')
def test_a_stopped_run_goes_on_to_the_same_end(folder, trained, tmp_path, monkeypatch):
    real = pipeline.flow_scores

    def broken(*args, **options):
        raise TrainingStopped('here', 'stopped')

    config = smoke(folder, **{'checkpoint.every_steps': 2})
    monkeypatch.setattr(pipeline, 'flow_scores', broken)
    with pytest.raises(TrainingStopped):
        train_network(config, tmp_path)
    assert [p.name for p in list_checkpoints(tmp_path)] == ['2']
    monkeypatch.setattr(pipeline, 'flow_scores', real)
    train_network(config, tmp_path)
    assert read_metrics(tmp_path) == read_metrics(trained)
    _assert_same(latest_checkpoint(tmp_path).restore(), latest_checkpoint(trained).restore())


def test_targets_that_do_not_fit_in_memory_are_read_from_files(folder, tmp_path, monkeypatch):
    config = smoke(folder)
    options = {'intensity': 'percentile', 'folder': tmp_path}
    held = load_training_data(config, **options)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr('sxt_jax.pipelines.flow_training.fits_in_memory', lambda n_bytes: False)
    read = load_training_data(config, **options)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / 'targets' / 'tanh').iterdir()}
    assert len(files) == 6
    again = load_training_data(config, **options)
    assert files == {path: path.stat().st_mtime_ns for path in files}
    assert all(isinstance(e.flows, np.memmap) for e in read.train)
    streams = [pipeline.make_stream(config, d.train, n_classes=2) for d in (held, read, again)]
    for batch in (stream.batch(3) for stream in streams):
        for name, array in streams[0].batch(3).items():
            np.testing.assert_array_equal(batch[name], array)
    assert [fingerprint(e) for e in read.train] == [fingerprint(e) for e in held.train]


def _assert_same(a, b):
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for name in a:
            _assert_same(a[name], b[name])
    elif isinstance(a, (list, tuple)):
        for x, y in zip(a, b, strict=True):
            _assert_same(x, y)
    else:
        np.testing.assert_array_equal(a, b)


@pytest.mark.usefixtures('shallow')
def test_another_kind_of_flows_is_another_experiment(folder, trained):
    with pytest.raises(InputError, match=r'config\.flows\.kind is now'):
        train_network(smoke(folder, **{'flows.kind': 'heat'}), trained)


def test_ids_become_foreground_and_flows_of_whole_cells(tmp_path):
    """Of a single volume too, whose held-out part cuts cells."""
    image, ids = make_cells(0, (12, 20, 32))
    large = np.where(ids > 0, ids.astype(np.int32) + 70_000, 0)
    large[0] = 5
    write_volume(tmp_path / 'images' / 'one.tif', Volume(image))
    write_volume(tmp_path / 'labels' / 'one.nrrd', Volume(large))
    config = smoke(tmp_path, **{'data.ignore_value': 5})
    data = load_training_data(config, intensity='percentile', folder=tmp_path)
    (train,), (held,) = data.train, data.validation
    ids[0] = 0
    assert (train.shape, held.shape) == ((12, 20, 26), (12, 20, 6))
    everything = (slice(None),) * 3
    labels = np.concatenate([e.labels[everything] for e in (train, held)], 2)
    assert (labels[0] == -1).all()
    np.testing.assert_array_equal(labels[1:], ids[1:] > 0)
    flows = np.concatenate([e.flows[(*everything, slice(None))] for e in (train, held)], 2)
    np.testing.assert_allclose(flows, tanh_flows(ids), atol=2e-3)
    gray = np.asarray(train.image[(*everything, slice(None))])
    assert (gray.min(), gray.max()) == (0, 1)


@pytest.mark.parametrize(
    ('get_config', 'fields', 'named'),
    [
        (cellpose3d, {'flows.kind': ''}, r'config\.flows\.kind: empty'),
        (cellpose3d, {'flows.kind': 'water'}, r"config\.flows\.kind: 'water'"),
        (acseg, {'flows.kind': 'heat'}, r'config\.flows\.kind: .*unet3d'),
        (cellpose3d, {'data.classes': 'cell=1'}, r'config\.data\.classes'),
        (cellpose3d, {'data.working_shape': (8, 8, 8)}, r'config\.data\.working_shape'),
        (cellpose3d, {'augmentation.rotate_degrees': 5.0}, r'config\.augmentation\.rotate_degrees'),
        (cellpose3d, {'flows.flow_weight': -1.0}, r'config\.flows'),
        (cellpose3d, {'distortion.probability': 2.0}, r'config\.distortion\.probability'),
        (acseg, {'data.exchange_axes': 0.5}, r'config\.data\.exchange_axes'),
        (cellpose3d, {'data.patch': (8, 12, 16)}, r'config\.data\.patch'),
        (cellpose3d, {'inference.overlap': (9, 8, 8)}, r'config\.inference\.overlap'),
    ],
)
def test_what_does_not_fit_is_told_before_work_begins(get_config, fields, named):
    config = get_config.get_config('smoke')
    config.update_from_flattened_dict({'data.train': 'DATA', **fields})
    with pytest.raises(InputError, match=named):
        check_config(config)
