"""Slices segmented by a network with a label −1 … 1, that of deep_sxt."""

import dataclasses
import logging
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sxt_jax.core.devices import make_device_mesh
from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import Volume
from sxt_jax.data.classes import Classes
from sxt_jax.data.intensity import Intensity
from sxt_jax.data.targets import CELLS
from sxt_jax.inference import whole_slices
from sxt_jax.io import read_volume, write_volume
from sxt_jax.models.pretrained import load_deep_sxt
from sxt_jax.pipelines import segment_volume
from sxt_jax.pipelines.import_weights import Options as ImportOptions
from sxt_jax.pipelines.import_weights import import_weights
from sxt_jax.pipelines.retile import retile
from sxt_jax.pipelines.segment_volume import Options, probability_path, segment_files
from sxt_jax.pipelines.segmenter import Segmenter, load_segmenter

FIXTURES = pathlib.Path(__file__).parents[1] / 'fixtures'
WEIGHTS = FIXTURES / 'deep_sxt_small.h5', FIXTURES / 'deep_sxt_small.json'
TRACED = []


@dataclasses.dataclass(frozen=True)
class Bright:
    """Label 1 where a pixel is brighter than the mean of its slice."""

    side_multiple: tuple = (1, 16, 16)

    def __call__(self, variables, tiles):
        TRACED.append(tiles.shape)
        return {'label': jnp.tanh(10 * tiles)}


@pytest.fixture
def bright(monkeypatch):
    segmenter = Segmenter(
        apply_fn=Bright(), variables=np.float32(0), classes=Classes(('background', 'wall'), (0, 7)),
        intensity=Intensity('slice'), n_channels=1, working_shape=None,
        tiling={'tile': (1, 48, 48), 'overlap': (0, 16, 16), 'blend': 'cosine', 'batch_size': 1},
        voxel_size_nm=None, device_mesh=make_device_mesh(jax.devices()[:1]),
        has_label=True, whole_slices=True,
    )  # fmt: skip
    monkeypatch.setattr(segment_volume, 'load_segmenter', lambda *_, **__: segmenter)
    TRACED.clear()
    return segmenter


def _image(path, shape, seed=0):
    """Slices of different brightness and contrast; and what is brighter than the mean of each."""
    gray = np.random.default_rng(seed).random(shape).astype(np.float32)
    gray *= 1 + np.arange(len(gray))[:, None, None]
    write_volume(path, Volume(gray, (10.0,) * 3))
    return 7 * (gray > gray.mean((1, 2), keepdims=True))


def _segment(tmp_path, **options):
    outcomes = segment_files('W', tmp_path / 'in', tmp_path / 'out', options=Options(**options))
    assert not [outcome.error for outcome in outcomes if outcome.error]
    return [read_volume(outcome.labels) for outcome in outcomes]


@pytest.mark.usefixtures('bright')
@pytest.mark.parametrize('shape', [(3, 17, 33), (1, 512, 512), (1, 1001, 999)])
@pytest.mark.parametrize('chunks', [False, True])
def test_slices_of_any_size_are_segmented(tmp_path, monkeypatch, shape, chunks):
    """Also those of which the published loop makes no chunk, or thousands."""
    if chunks:
        monkeypatch.setattr(whole_slices, '_free_bytes', lambda _: 0.0)
    expected = _image(tmp_path / 'in' / 'a.tif', shape)
    (labels,) = _segment(tmp_path)
    assert (labels.data != expected).mean() < 1e-4  # at the mean itself
    assert labels.class_names == {0: 'background', 7: 'wall'}
    assert labels.voxel_size_nm == (10, 10, 10)


@pytest.mark.usefixtures('bright')
def test_files_of_similar_sizes_share_what_is_compiled(tmp_path, caplog):
    for i, shape in enumerate(((2, 301, 290), (5, 303, 291), (4, 296, 290))):
        _image(tmp_path / 'in' / f'{i}.tif', shape)
    with caplog.at_level(logging.INFO):
        _segment(tmp_path)
    assert len({shape for shape in TRACED if shape[0] == 1}) == 1
    assert 'slices/s' in caplog.text
    assert '5 slices in' in caplog.text


def test_it_is_applied_otherwise_as_asked(bright):
    chunked = retile(bright, tile=(1, 96, 96))
    assert chunked.tiling['tile'] == (1, 96, 96)
    assert chunked.tiling['overlap'] == (0, 32, 32)  # the same part of the tile
    assert not chunked.whole_slices
    assert retile(bright, blend='constant').tiling == {**bright.tiling, 'blend': 'constant'}
    assert retile(bright, blend='constant').whole_slices
    assert retile(bright, overlap=(0, 0, 0)).tiling['overlap'] == (0, 0, 0)
    assert retile(bright) == bright


@pytest.mark.parametrize(
    ('options', 'named'),
    [
        ({'tile': (1, 50, 48)}, 'tile: .* multiples of'),
        ({'tile': (48, 48)}, 'tile: '),
        ({'overlap': (0, 48, 0)}, 'overlap: .* at most'),
        ({'blend': 'sharp'}, "blend: 'sharp'"),
    ],
)
def test_tiles_that_there_are_not_are_told(bright, options, named):
    with pytest.raises(InputError, match=named):
        retile(bright, **options)


def test_flows_are_not_turned(bright):
    cells = dataclasses.replace(bright, classes=CELLS)
    with pytest.raises(InputError, match='rotate: with instances'):
        retile(cells, rotate=True)


@pytest.fixture(scope='module')
def published(tmp_path_factory):
    workdir = tmp_path_factory.mktemp('imported') / 'W'
    options = ImportOptions(config_json=WEIGHTS[1])
    import_weights('deep_sxt', WEIGHTS[0], workdir, options=options)
    return load_segmenter(workdir)


def test_of_published_weights_the_label_alone_is_computed(published):
    assert published.apply_fn.model.heads == ('label',)
    for trees in published.variables.values():
        assert trees
        assert not [name for name in trees if name.startswith('image_')]
    assert published.classes.names == ('background', 'membrane')
    assert published.intensity == Intensity('slice')
    assert published.tiling['tile'] == [1, 592, 592]
    assert published.tiling['overlap'] == [0, 192, 192]


def test_published_weights_segment(published, tmp_path, monkeypatch):
    """Every slice whole, standardised by itself: as the network gives it, and as published."""
    with np.load(FIXTURES / 'deep_sxt_small_io.npz') as arrays:
        gray = 3 * arrays['input'][..., 0] + np.arange(2)[:, None, None]
    write_volume(tmp_path / 'in' / 'a.tif', Volume(gray.astype(np.float32), (10.0,) * 3))
    monkeypatch.setattr(segment_volume, 'load_segmenter', lambda *_, **__: published)
    (labels,) = _segment(tmp_path, probabilities=True)
    pretrained = load_deep_sxt(*WEIGHTS)
    mean, std = gray.mean((1, 2), keepdims=True), gray.std((1, 2), keepdims=True)
    standard = ((gray - mean) / std)[..., None].astype(np.float32)
    label = jax.jit(pretrained.model.apply)(pretrained.variables, standard)['label'][..., 0]
    probs = read_volume(probability_path(tmp_path / 'out' / 'a.tif')).data
    np.testing.assert_allclose(probs[..., 1], (1 + label) / 2, atol=1e-4)
    clear = np.abs(label) > 1e-3
    np.testing.assert_array_equal(labels.data[clear], (label > 0)[clear])
    assert 0 < labels.data.mean() < 1
