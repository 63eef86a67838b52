"""Weights and configs of deep_sxt against what the published implementation computes."""

from __future__ import annotations

import copy
import json
import pathlib
import re

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sxt_jax.core.errors import InputError
from sxt_jax.models.pretrained import deep_sxt, double_decoder_from_json, load_deep_sxt

FIXTURES = pathlib.Path(__file__).parents[2] / 'fixtures'
WEIGHTS = FIXTURES / 'deep_sxt_small.h5'
CONFIG = FIXTURES / 'deep_sxt_small.json'


@pytest.fixture(scope='module')
def published():
    return np.load(FIXTURES / 'deep_sxt_small_io.npz')


@pytest.fixture(scope='module')
def loaded():
    return load_deep_sxt(WEIGHTS, CONFIG)


def _config():
    return json.loads(CONFIG.read_text())


def _tree_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_reproduces_the_published_network(loaded, published):
    heads = jax.jit(loaded.model.apply)(loaded.variables, published['input'])
    for name, head in heads.items():
        np.testing.assert_allclose(head[:, ::2, 1::2], published[name], atol=5e-5)


def test_reproduces_published_training_mode(loaded, published):
    apply = jax.jit(lambda v, x: loaded.model.apply(v, x, train=True, mutable=['batch_stats']))
    heads, updated = apply(loaded.variables, published['input'])
    for name, head in heads.items():
        np.testing.assert_allclose(head[:, ::2, 1::2], published[f'{name}_training'], atol=5e-5)
    # As the published network writes them: mapped by the importer, like weights.
    names = [n.removeprefix('statistics/') for n in published.files if n.startswith('statistics/')]
    renamed = dict(zip(deep_sxt._by_order(names), names, strict=True))
    leaves = jax.tree_util.tree_leaves_with_path(updated)
    assert len(leaves) == len(names) == 96
    for place, found in leaves:
        path = jax.tree_util.keystr(place, simple=True, separator='/')
        name = renamed[deep_sxt._published_name(path)]
        np.testing.assert_allclose(found, published[f'statistics/{name}'], rtol=1e-5, atol=2e-6)


def test_the_published_config_takes_all_published_tensors(monkeypatch, tmp_path):
    layout = json.loads((FIXTURES / 'deep_sxt_layout.json').read_text())
    shapes = {n.removesuffix(':0'): s for layer in layout['layers'].values() for n, s in layer}
    config = _config()
    config['m_f'] *= 8
    for section in ('encoder', 'decoder_image', 'decoder_label'):
        config[section]['n_filters'] = [8 * n for n in config[section]['n_filters']]
    config['neck']['n_filters'] *= 8
    path = tmp_path / 'config.json'
    path.write_text(json.dumps(config))
    tensors = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
    monkeypatch.setattr(deep_sxt, 'read_keras_weights', lambda path: tensors)
    variables = load_deep_sxt('published.h5', path).variables
    assert len(jax.tree.leaves(variables)) == len(shapes) == 378
    count = {kind: sum(a.size for a in jax.tree.leaves(variables[kind])) for kind in variables}
    assert count['params'] == layout['trainable_parameters'] == 76_483_502
    assert sum(count.values()) == layout['total_parameters'] == 76_541_230


def test_metadata_say_how_to_use_it(loaded):
    metadata = loaded.metadata
    assert json.loads(json.dumps(metadata)) == metadata
    assert (metadata['format'], metadata['n_channels']) == ('deep_sxt', 1)
    assert metadata['config'] == _config()
    assert metadata['conventions']['label_threshold'] == 0


def _rewritten(path, *, rename=str, as_bytes=False, leave_out=None, add=None, replace=None):
    """A copy of the weights file, its names changed as another process could have written it."""
    with h5py.File(WEIGHTS) as old, h5py.File(path, 'w') as new:
        encode = (lambda names: [n.encode() for n in names]) if as_bytes else list
        layers = list(old.attrs['layer_names'])
        new.attrs['layer_names'] = encode(layers)
        new.create_group('top_level_model_weights')
        for layer in layers:
            names = [n for n in old[layer].attrs['weight_names'] if n != leave_out]
            group = new.create_group(layer)
            for name in names:
                value = old[layer][name][()] if name != replace else np.zeros((2, 3), np.float32)
                group[rename(name)] = value
            if add and layer == layers[-1]:
                group[add] = np.zeros(1, np.float32)
                names.append(add)
            group.attrs['weight_names'] = encode(map(rename, names))
    return path


def _other_process(name):
    def later(match):
        return f'{match[1]}_{int(match[2] or 0) + 95}/'

    numbered = r'(my_bottleneck_layer|my_activation_block|conv2d|batch_normalization)(?:_(\d+))?/'
    return 'my_double_decoder_net/' + re.sub(numbered, later, name)


def test_running_numbers_prefix_and_kind_of_text_do_not_matter(loaded, tmp_path):
    path = _rewritten(tmp_path / 'other.h5', rename=_other_process, as_bytes=True)
    with h5py.File(path) as file:  # 98, 99, 100: the order of numbers is not that of the alphabet
        names = str(list(file['encoder'].attrs['weight_names']))
        assert 'my_double_decoder_net/' in names
        assert 'conv2d_100/' in names
    _tree_equal(load_deep_sxt(path, CONFIG).variables, loaded.variables)


KERNEL = 'label_decoder_final_convolution_2/kernel:0'


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'leave_out': KERNEL}, r'no tensor .label_decoder_final_convolution_2/kernel'),
        ({'add': 'dense/kernel:0'}, r'1 tensors too many, first .dense/kernel'),
        ({'replace': KERNEL}, r'label_decoder_final_convolution_2/kernel. of shape \(2, 3\)'),
    ],
)
def test_names_the_tensor_that_does_not_fit(change, message, tmp_path):
    path = _rewritten(tmp_path / 'changed.h5', **change)
    with pytest.raises(InputError, match=message):
        load_deep_sxt(path, CONFIG)


def test_says_when_files_are_of_another_kind(tmp_path):
    text = tmp_path / 'weights.h5'
    text.write_text('no HDF5')
    with pytest.raises(InputError, match='no HDF5 file'):
        load_deep_sxt(text, CONFIG)
    with h5py.File(tmp_path / 'other.h5', 'w') as file:
        file.attrs['layer_names'] = ['dense']
        file.create_group('dense').attrs['weight_names'] = ['dense/kernel:0']
        file['dense/dense/kernel:0'] = np.zeros((2, 3))
    with pytest.raises(InputError, match='weights of a double decoder'):
        load_deep_sxt(tmp_path / 'other.h5', CONFIG)
    with pytest.raises(InputError, match='cannot be read'):
        load_deep_sxt(WEIGHTS, tmp_path / 'missing.json')
    with pytest.raises(InputError, match='no JSON'):
        load_deep_sxt(WEIGHTS, text)


def test_says_when_the_config_is_of_other_weights(tmp_path):
    config = _config()
    config['encoder']['n_filters'][1] = 12
    path = tmp_path / 'config.json'
    path.write_text(json.dumps(config))
    with pytest.raises(InputError, match=r'tensor .encoder/encoder_resnet_block_0_0.* of shape'):
        load_deep_sxt(WEIGHTS, path)


def test_every_field_of_the_config_reaches_the_network():
    config = _config()
    config['m_f'] = 5
    config['add_instead_of_concat_after_neck'] = True
    config['encoder'] |= {'n_filters': [4, 4, 6], 'kernel_sizes': [5, 3, 1], 'n_stages': 2}
    config['encoder'] |= {'n_blocks': 2, 'block_depth': 3}
    config['neck'] |= {'n_filters': 7, 'kernel_sizes': [3, 4], 'depth': 1}
    for section in ('decoder_image', 'decoder_label'):
        config[section] |= {'n_filters': [6, 4, 3], 'kernel_sizes': [2, 3, 5], 'n_stages': 2}
    config['decoder_image'] |= {'use_skip_connections': True, 'add_instead_of_concat': True}
    model = double_decoder_from_json(config, dtype=jnp.bfloat16)
    assert (model.width, model.neck_add, model.dtype) == (5, True, jnp.bfloat16)
    assert (model.encoder_filters, model.encoder_kernels) == ((4, 4, 6), (5, 3, 1))
    assert (model.encoder_blocks, model.encoder_depth, model.encoder_add) == (2, 3, False)
    assert (model.neck_filters, model.neck_kernels, model.neck_depth) == (7, (3, 4), 1)
    assert (model.image_filters, model.image_kernels) == ((6, 4, 3), (2, 3, 5))
    assert (model.image_skips, model.image_add, model.image_blocks) == (True, True, 1)
    assert (model.label_skips, model.label_add, model.label_blocks) == (True, False, 2)
    assert model.side_multiple == (4, 4)


@pytest.mark.parametrize(
    ('section', 'field', 'value'),
    [
        (None, 'm_f', None),
        (None, 'pooling', {'type': 'average_pooling', 'factor': 2}),
        (None, 'neck', None),
        (None, 'surprise', 1),
        ('encoder', 'activation', {'type': 'leaky_relu', 'leak_slope': 0.1}),
        ('decoder_label', 'dropout', {'active': True, 'rate': 0.1}),
        ('neck', 'batch_norm', {'active': False}),
        ('encoder', 'n_stages', 3),
        ('decoder_image', 'n_filters', [64, 32, 16, 8, 0]),
        ('decoder_image', 'use_skip_connections', 1),
        ('neck', 'kernel_sizes', 3),
    ],
)
def test_names_the_field_of_a_config_it_has_no_network_for(section, field, value):
    config = copy.deepcopy(_config())
    (config if section is None else config[section])[field] = value
    with pytest.raises(InputError, match=field if section is None else f'{section}'):
        double_decoder_from_json(config, where='model_config.json')


def test_names_a_missing_field():
    config = _config()
    del config['neck']['kernel_sizes']
    with pytest.raises(InputError, match=r'model.json: neck has no field .kernel_sizes'):
        double_decoder_from_json(config, where='model.json')
