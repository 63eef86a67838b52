"""Published weights as checkpoints: what they tell, what is refused, and what they can be used for.

That a model of Biomedisa gives Biomedisa's labels is in `biomedisa_test.py`.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
from functools import partial

import jax
import numpy as np
import pytest

from configs import acseg, deep_sxt
from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import Volume
from sxt_jax.data.classes import Classes
from sxt_jax.io import read_volume, write_volume
from sxt_jax.models import build_model
from sxt_jax.models.pretrained import load_biomedisa
from sxt_jax.pipelines.export_network import export_checkpoint
from sxt_jax.pipelines.import_weights import FORMATS, Options, import_weights, summarise
from sxt_jax.pipelines.segment_volume import segment_files
from sxt_jax.pipelines.segmenter import load_segmenter
from sxt_jax.pipelines.train_network import train_network
from sxt_jax.training.checkpoint import best_checkpoint, save_checkpoint
from tests.launch.processes import write_balls
from tests.models.pretrained.biomedisa_models import random_weights, write_model

FIXTURES = pathlib.Path(__file__).parents[1] / 'fixtures'


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    """Two levels, made for balls on a grid of 16³."""
    path = tmp_path_factory.mktemp('biomedisa') / 'balls.h5'
    return write_model(
        path,
        random_weights((2, 3), 1, 2, residual=False),
        configuration=np.array([1, 16, 16, 16, 1, 0, 1]),
        labels=np.array([0, 1], np.uint8),
        patch_size=np.array([8, 8, 8]),
    )


def _state_dict(tmp_path, name):
    """Of a fixture, as a file of its own."""
    with np.load(FIXTURES / f'{name}.npz') as arrays:
        weights = {
            k.removeprefix('weights/'): arrays[k] for k in arrays if k.startswith('weights/')
        }
    path = tmp_path / f'{name}.npz'
    np.savez(path, **weights)
    return path


def _import(tmp_path, format, **options):
    if format == 'deep_sxt':
        options['config_json'] = FIXTURES / 'deep_sxt_small.json'
        source = FIXTURES / 'deep_sxt_small.h5'
    else:
        names = {'ncxt': 'ncxt_unet_small', 'cellpose2d': 'cellpose2d_small'}
        source = _state_dict(tmp_path, names.get(format, 'cellpose3d_unet_small'))
    return import_weights(format, source, tmp_path / 'W', options=Options(**options))


def test_a_model_of_biomedisa_becomes_a_checkpoint(tmp_path, model):
    options = Options(classes='cytoplasm=1', voxel_size_nm=[30, 20, 20])
    imported = import_weights('biomedisa', model, tmp_path / 'W', options=options)
    found = best_checkpoint(tmp_path / 'W', metric='dice')
    facts = found.description
    assert facts['imported'] == {
        'format': 'biomedisa',
        'file': 'balls.h5',
        'sha256': hashlib.sha256(model.read_bytes()).hexdigest(),
    }
    assert facts['classes']['names'] == ['background', 'cytoplasm']
    assert facts['voxel_size_nm'] == [30, 20, 20]
    assert facts['working_shape'] == [16, 16, 16]
    assert facts['intensity'] == {'kind': 'reference', 'mean': [0.31], 'std': [0.17], 'clip': True}
    assert facts['tiling']['overlap'] == [0, 0, 0]  # patches narrower than Biomedisa's stride
    assert (facts['resampling'], facts['whole_tiles']) == ('opencv', True)
    published = load_biomedisa(model)
    assert build_model(facts['model']) == published.model
    jax.tree.map(np.testing.assert_array_equal, found.restore(), published.variables)
    line = summarise(imported)
    assert '\n' not in line
    for part in ('unet3d of balls.h5', '1 channel;', '16 × 16 × 16', 'cytoplasm=1'):
        assert part in line
    n_parameters = sum(leaf.size for leaf in jax.tree.leaves(published.variables))
    assert f'{n_parameters:,} parameters' in line


@pytest.mark.parametrize('format', sorted(set(FORMATS) - {'biomedisa'}))
def test_every_format_becomes_a_checkpoint(tmp_path, format):
    imported = _import(tmp_path, format)
    facts = best_checkpoint(tmp_path / 'W', metric='dice').description
    assert facts == {**json.loads(json.dumps(dict(imported.description))), 'step': 0}
    assert facts['conventions']['format'] == facts['imported']['format'] == format
    assert len(facts['tiling']['tile']) == 3
    assert facts['model']['name'] in summarise(imported)
    network = build_model(facts['model'])
    tile = np.ravel([network.side_multiple] * 3)[: 3 - (network.n_dims == 2)]
    conventions = export_checkpoint(
        tmp_path / 'W', tmp_path / 'n.stablehlo', tile=tile.tolist(), platforms=['cpu']
    )
    assert set(conventions['heads'])


def test_networks_that_tell_no_classes_are_not_for_segmentation(tmp_path):
    _import(tmp_path, 'cellpose3d')
    with pytest.raises(InputError, match="network 'cellpose3d', which tells no classes"):
        load_segmenter(tmp_path / 'W')
    with pytest.raises(InputError, match='classes: given'):
        _import(tmp_path, 'cellpose3d', classes='cell=1')


def test_a_network_of_the_ncxt_segments(tmp_path):
    imported = _import(tmp_path, 'ncxt', tile=[8, 8, 8], classes='cell=1,lipid=2')
    assert imported.description['tiling']['overlap'] == [4, 4, 4]
    image = np.random.default_rng(0).random((9, 10, 11, 2)).astype(np.float32)
    write_volume(tmp_path / 'image.h5', Volume(image, axes='zyxc'))
    (outcome,) = segment_files(tmp_path / 'W', tmp_path / 'image.h5', tmp_path / 'out')
    labels = read_volume(outcome.labels)
    assert labels.shape == (9, 10, 11)
    assert labels.class_names == {0: 'background', 1: 'cell', 2: 'lipid'}
    assert len(np.unique(labels.data)) > 1


def test_weights_of_deep_sxt_tell_how_they_segment(tmp_path):
    """As the config does, and as imports that told less (what they give: `segment_masks_test`)."""
    imported = _import(tmp_path, 'deep_sxt', classes='wall=255')
    facts = imported.description
    published = deep_sxt.get_config()
    assert facts['intensity']['kind'] == published.data.intensity
    assert facts['tiling'] == {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in published.inference.items()
    }
    told = '; slices whole, or in chunks of 592 × 592; classes background=0, wall=255; computes in'
    assert told in summarise(imported)

    earlier = {**facts, 'classes': None, 'intensity': None}
    variables = best_checkpoint(tmp_path / 'W', metric='dice').restore()
    save_checkpoint(tmp_path / 'earlier', 0, variables, earlier)
    old, new = (load_segmenter(tmp_path / name) for name in ('earlier', 'W'))
    assert new.classes == Classes(('background', 'wall'), (0, 255))
    assert old.classes == Classes(('background', 'membrane'), (0, 1))
    assert (old.intensity, old.tiling) == (new.intensity, new.tiling)
    with pytest.raises(InputError, match=r'classes: .* one besides the background'):
        _import(tmp_path, 'deep_sxt', classes='wall=1,lumen=2')


def test_training_starts_from_an_import(tmp_path, model):
    import_weights('biomedisa', model, tmp_path / 'W')
    write_balls(tmp_path / 'data')
    config = acseg.get_config('smoke').unlock()
    config.update({'batch_size': 4, 'epochs': 1})
    config.model.filters = (2, 3)
    config.data.update({
        'train': str(tmp_path / 'data'), 'working_shape': (16, 16, 16),
        'patch': (8, 8, 8), 'stride': (8, 8, 8),
    })  # fmt: skip
    config.inference.update({'tile': (8, 8, 8), 'overlap': (0, 0, 0)})
    config.optimizer.learning_rate = 1e-9
    config.initial.checkpoint = str(tmp_path / 'W')
    trained = train_network(config.lock(), tmp_path / 'run')
    assert trained.description['intensity']['mean'] == [0.31]
    assert trained.description['intensity']['clip']
    expected = load_biomedisa(model).variables['params']
    close = partial(np.testing.assert_allclose, atol=1e-6)
    jax.tree.map(close, trained.restore()['params'], expected)
    with pytest.raises(InputError, match='another --workdir'):
        train_network(config, tmp_path / 'W')


@pytest.mark.parametrize(
    ('meta', 'message'),
    [
        ({'separation': 1}, 'separates particles'),
        ({'patch_size': np.array([8, 8, 7])}, 'patch_size'),
    ],
)
def test_what_cannot_be_reproduced_is_refused(tmp_path, meta, message):
    weights = random_weights((2, 3), 1, 2, residual=False)
    labels = np.array([0, 1], np.uint8)
    path = write_model(tmp_path / 'm.h5', weights, labels=labels, **meta)
    with pytest.raises(InputError, match=message):
        import_weights('biomedisa', path, tmp_path / 'W')
    assert not (tmp_path / 'W').exists()


def test_a_second_network_for_cropping_is_refused(tmp_path, model):
    import shutil

    import h5py

    shutil.copy(model, tmp_path / 'm.h5')
    with h5py.File(tmp_path / 'm.h5', 'r+') as file:
        file['cropping_weights/0'] = np.zeros(3)
    with pytest.raises(InputError, match='finds the region'):
        import_weights('biomedisa', tmp_path / 'm.h5', tmp_path / 'W')
    assert not (tmp_path / 'W').exists()


@pytest.mark.parametrize(
    ('format', 'options', 'message'),
    [
        ('keras', {}, "format: 'keras'; expected one of biomedisa"),
        ('deep_sxt', {}, 'no config_json'),
        ('biomedisa', {'config_json': 'c.json'}, 'only for deep_sxt'),
        ('biomedisa', {'classes': 'cell=1+2'}, 'one value a name'),
        ('biomedisa', {'classes': 'cell=7'}, r'classes: value 7; .* \[0, 1\]'),
        ('biomedisa', {'voxel_size_nm': [1, 0, 1]}, 'voxel_size_nm'),
        ('biomedisa', {'tile': [8, 8, 9]}, r'tile: .* multiples of \(2, 2, 2\)'),
        ('biomedisa', {'overlap': [8, 0, 0]}, 'overlap: .* below the tile'),
        ('biomedisa', {'compute_dtype': 'int8'}, 'compute_dtype'),
        ('ncxt', {}, 'torch|state dict'),
    ],
)
def test_what_does_not_go_together_is_told(tmp_path, model, format, options, message):
    with pytest.raises(InputError, match=message):
        import_weights(format, model, tmp_path / 'W', options=Options(**options))
    assert not (tmp_path / 'W').exists()


def test_only_an_earlier_import_is_replaced(tmp_path, model):
    import_weights('biomedisa', model, tmp_path / 'W')
    options = Options(classes='cell=1')
    import_weights('biomedisa', model, tmp_path / 'W', options=options)
    facts = best_checkpoint(tmp_path / 'W', metric='dice').description
    assert facts['classes']['names'] == ['background', 'cell']
    save_checkpoint(tmp_path / 'run', 3, {'params': np.zeros(3)}, {})
    (tmp_path / 'file').write_text('mine')
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'folder' / 'notes.txt').write_text('mine')
    for other in ('run', 'file', 'folder'):
        with pytest.raises(InputError, match='an earlier import'):
            import_weights('biomedisa', model, tmp_path / other)
    assert (tmp_path / 'file').read_text() == 'mine'
