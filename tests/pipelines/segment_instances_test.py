"""Cells one by one: the network is the gradient of the image, whose bumps are the cells."""

from __future__ import annotations

import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from sxt_jax.core.devices import make_device_mesh
from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import Volume
from sxt_jax.data.intensity import Intensity, measure_affine
from sxt_jax.data.targets import CELLS
from sxt_jax.inference import mirrored, predict_volume
from sxt_jax.instances import reconstruct
from sxt_jax.io import read_flows, read_volume, write_volume
from sxt_jax.pipelines import segment_volume
from sxt_jax.pipelines.import_weights import Options as ImportOptions
from sxt_jax.pipelines.import_weights import import_weights
from sxt_jax.pipelines.reconstruct_instances import reconstruct_file
from sxt_jax.pipelines.segment_volume import Options, probability_path, segment_files
from sxt_jax.pipelines.segmenter import Segmenter, load_segmenter

SIZE = (60.0, 30.0, 30.0)
CENTRES = ((5, 7, 7), (5, 7, 21), (13, 20, 8), (13, 20, 22))
TILING = {'tile': (16, 16, 16), 'overlap': (8, 8, 8), 'blend': 'cosine', 'batch_size': 8}
FIXTURES = pathlib.Path(__file__).parents[1] / 'fixtures'


def uphill(variables, tiles):
    """Unit steps up the gray values: to the middle of a bump."""
    slopes = [jnp.gradient(tiles[..., 0], axis=axis) for axis in (1, 2, 3)]
    flows = jnp.stack(slopes, -1)
    length = jnp.linalg.norm(flows, axis=-1, keepdims=True)
    return {'foreground': tiles, 'flows': flows / jnp.maximum(length, 1e-3), 'unused': tiles}


def bumps(shape=(19, 28, 30), centres=CENTRES):
    """Image of round bumps, and which of them a voxel is brightest by."""
    place = np.stack(np.indices(shape), -1)
    squares = np.stack([((place - centre) ** 2).sum(-1) for centre in centres])
    return np.exp(-squares.min(0) / 24).astype(np.float32), squares.argmin(0)


def segmenter(**changes):
    fields = {
        'apply_fn': uphill, 'variables': None, 'classes': CELLS, 'intensity': Intensity('unit'),
        'n_channels': 1, 'working_shape': None, 'tiling': TILING, 'voxel_size_nm': SIZE,
        'device_mesh': make_device_mesh(),
    }  # fmt: skip
    return Segmenter(**{**fields, **changes})


@pytest.fixture
def _network(monkeypatch):
    def load(checkpoint, *, mirror, instances):
        assert instances
        return segmenter(apply_fn=mirrored(uphill, axes=mirror) if mirror else uphill)

    monkeypatch.setattr(segment_volume, 'load_segmenter', load)


def segment(tmp_path, **options):
    chosen = Options(instances=True, cell_radius=4, **options)
    return segment_files('W', tmp_path / 'in', tmp_path / 'out', options=chosen)


@pytest.mark.usefixtures('_network')
def test_cells_get_numbers_on_the_grid_of_each_file(tmp_path):
    gray, nearest = bumps()
    write_volume(tmp_path / 'in' / 'a.tif', Volume((1000 * gray).astype(np.uint16), SIZE))
    write_volume(tmp_path / 'in' / 'b.h5', Volume(gray[:, ::-1], SIZE))
    write_volume(tmp_path / 'in' / 'flat.tif', Volume(np.zeros((4, 5, 6), np.uint8)))
    first, second, flat = segment(tmp_path)
    assert 'constant image' in flat.error
    assert sorted(p.name for p in (tmp_path / 'out').iterdir()) == ['a.tif', 'b.h5']
    for outcome, bright, cell in (
        (first, gray, nearest),
        (second, gray[:, ::-1], nearest[:, ::-1]),
    ):
        assert not outcome.error
        found = read_volume(outcome.labels)
        assert (found.dtype, found.voxel_size_nm) == (np.uint16, pytest.approx(SIZE))
        inside = bright > 0.52  # of whole numbers, a little of 0.5 is lost
        assert set(np.unique(found.data)) == {0, 1, 2, 3, 4}
        assert not found.data[bright < 0.48].any()
        for i in range(len(CENTRES)):
            assert len(np.unique(found.data[inside & (cell == i)])) == 1


@pytest.mark.usefixtures('_network')
@pytest.mark.parametrize('suffix', ['.tif', '.mrc'])
def test_flows_are_written_from_which_the_same_instances_come(tmp_path, suffix):
    gray, _ = bumps()
    path = tmp_path / 'in' / f'a{suffix}'
    write_volume(path, Volume(gray, SIZE))
    (outcome,) = segment(tmp_path, probabilities=True)
    found = read_volume(outcome.labels)
    heads = predict_volume(
        uphill, None, measure_affine(Intensity('unit'), gray).apply(gray), **TILING
    )
    saved = read_flows([probability_path(outcome.labels)])
    np.testing.assert_array_equal(saved.foreground, heads['foreground'][..., 0])
    np.testing.assert_array_equal(saved.flows.data, heads['flows'])
    by_hand = reconstruct(
        heads['foreground'][..., 0], heads['flows'], cell_radius=4, voxel_size=(2.0, 1.0, 1.0)
    )
    np.testing.assert_array_equal(found.data, by_hand)
    again = tmp_path / 'again.tif'
    n = reconstruct_file([probability_path(outcome.labels)], again, cell_radius=4)
    assert n == found.data.max() == 4
    np.testing.assert_array_equal(read_volume(again).data, found.data)
    (outcome,) = segment(tmp_path, probabilities=True, skip_existing=True)
    assert outcome.skipped


@pytest.mark.usefixtures('_network')
def test_an_image_of_one_slice_is_flat(tmp_path):
    gray, nearest = bumps((1, 28, 30), [(0, 7, 7), (0, 20, 20)])
    write_volume(tmp_path / 'in' / 'a.tif', Volume(gray, SIZE))
    (outcome,) = segment(tmp_path, probabilities=True)
    found = read_volume(outcome.labels)
    np.testing.assert_array_equal(found.data, np.where(gray > 0.5, 1 + nearest, 0))
    assert read_volume(probability_path(outcome.labels)).data.shape == (1, 28, 30, 3)
    reconstruct_file([probability_path(outcome.labels)], tmp_path / 'again.tif', cell_radius=4)
    np.testing.assert_array_equal(read_volume(tmp_path / 'again.tif').data, found.data)


@pytest.mark.usefixtures('_network')
def test_mirroring_turns_flows(tmp_path):
    """The gradient of a mirror image is the mirrored gradient, also where tiles end."""
    gray, _ = bumps()
    write_volume(tmp_path / 'in' / 'a.tif', Volume(gray, SIZE))
    (plain,) = segment(tmp_path, probabilities=True)
    path = probability_path(plain.labels)
    instances, flows = read_volume(plain.labels).data, read_flows([path]).flows.data
    (mean,) = segment(tmp_path, probabilities=True, mirror='zx')
    np.testing.assert_allclose(read_flows([path]).flows.data, flows, atol=1e-4)
    np.testing.assert_array_equal(read_volume(mean.labels).data, instances)


@pytest.mark.parametrize(
    ('options', 'told'),
    [
        ({'instances': True}, 'cell_radius: not given, with instances; expected the typical'),
        ({'cell_radius': 3.0}, 'cell_radius: 3.0, without instances'),
        ({'instances': True, 'cell_radius': 0.0}, 'cell_radius: 0.0; expected a positive'),
        ({'instances': True, 'cell_radius': float('nan')}, 'cell_radius: nan; expected a positive'),
        ({'instances': True, 'cell_radius': 3.0, 'clean': 0.1}, 'clean: 0.1, with instances'),
        ({'instances': True, 'cell_radius': 3.0, 'fill': 0.1}, 'fill: 0.1, with instances'),
    ],
)
def test_options_that_make_no_sense_are_told_before_any_work(tmp_path, options, told):
    write_volume(tmp_path / 'in' / 'a.tif', Volume(bumps()[0]))
    with pytest.raises(InputError, match=told):
        segment_files('W', tmp_path / 'in', tmp_path / 'out', options=Options(**options))
    assert not (tmp_path / 'out').exists()


def broken(variables, tiles):
    heads = uphill(variables, tiles)
    return {**heads, 'flows': heads['flows'] * jnp.nan}


def test_flows_that_cannot_be_followed_leave_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(
        segment_volume, 'load_segmenter', lambda *_, **__: segmenter(apply_fn=broken)
    )
    write_volume(tmp_path / 'in' / 'a.tif', Volume(bumps()[0], SIZE))
    (outcome,) = segment(tmp_path, probabilities=True)
    assert 'a.tif: of its flows: flows: NaN or infinity' in outcome.error
    assert not list((tmp_path / 'out').iterdir())


def imported(tmp_path, format, name, **options):
    """A checkpoint of random weights."""
    with np.load(FIXTURES / f'{name}.npz') as arrays:
        weights = {k[8:]: arrays[k] for k in arrays if k.startswith('weights/')}
    np.savez(tmp_path / 'weights.npz', **weights)
    options = ImportOptions(**{'tile': [16, 16, 16], **options})
    import_weights(format, tmp_path / 'weights.npz', tmp_path / 'W', options=options)
    return tmp_path / 'W'


def test_the_network_of_a_checkpoint_sees_what_it_was_trained_on(tmp_path, monkeypatch):
    checkpoint = imported(tmp_path, 'cellpose3d', 'cellpose3d_unet_small', overlap=[8, 8, 8])
    gray = 500 * np.random.default_rng(0).random((19, 28, 30)).astype(np.float32)
    write_volume(tmp_path / 'a.tif', Volume(gray, SIZE))
    network = load_segmenter(checkpoint, instances=True)  # once: it is compiled for each
    monkeypatch.setattr(segment_volume, 'load_segmenter', lambda *_, **__: network)
    options = Options(instances=True, cell_radius=4, probabilities=True)
    (outcome,) = segment_files(checkpoint, tmp_path / 'a.tif', tmp_path / 'out', options=options)
    assert not outcome.error
    low, high = np.percentile(gray, (2, 98))
    scaled = np.clip((gray - low) / (high - low), 0, 1)
    heads = predict_volume(
        network.apply_fn, network.variables, scaled, tile=16, overlap=8, blend='distance'
    )
    saved = read_flows([probability_path(outcome.labels)])
    np.testing.assert_allclose(saved.foreground, heads['foreground'][..., 0], atol=1e-4)
    np.testing.assert_allclose(saved.flows.data, heads['flows'], atol=1e-4)
    by_hand = reconstruct(
        saved.foreground, saved.flows.data, cell_radius=4, voxel_size=(2.0, 1.0, 1.0)
    )
    np.testing.assert_array_equal(read_volume(outcome.labels).data, by_hand)
    assert by_hand.any()
    with pytest.raises(InputError, match=r"'cellpose3d', which tells no classes.*--instances"):
        load_segmenter(checkpoint)


def test_classes_are_no_instances(tmp_path):
    checkpoint = imported(tmp_path, 'ncxt', 'ncxt_unet_small')
    write_volume(tmp_path / 'a.tif', Volume(bumps()[0]))
    options = Options(instances=True, cell_radius=2)
    with pytest.raises(InputError, match='gives no flows; expected cellpose3d or another'):
        segment_files(checkpoint, tmp_path / 'a.tif', tmp_path / 'out', options=options)
