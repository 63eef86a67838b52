"""Biomedisa's models: both layouts, plain and residual, and files that are none."""

from __future__ import annotations

import json

import h5py
import jax
import numpy as np
import pytest

from sxt_jax.core.errors import InputError
from sxt_jax.models.pretrained import load_biomedisa
from tests.models.pretrained.biomedisa_models import (
    FIXTURE,
    predict_patches,
    published_weights,
    random_weights,
    write_model,
)


@pytest.fixture(scope='module')
def weights():
    return published_weights()


@pytest.fixture
def model(tmp_path, weights):
    return write_model(tmp_path / 'model.h5', weights)


def test_both_layouts_give_the_published_network(tmp_path, weights):
    fixture = np.load(FIXTURE)
    loaded = [
        load_biomedisa(write_model(tmp_path / f'{i}.h5', weights, legacy=i < 2, as_bytes=i % 2))
        for i in range(4)
    ]
    network, variables, _ = loaded[0]
    logits = jax.jit(network.apply)(variables, fixture['input'])['logits']
    np.testing.assert_allclose(logits[:, ::3, ::3, ::3], fixture['logits'], atol=1e-4)
    assert network.filters == (4, 8, 16, 32)
    assert not network.residual
    for other in loaded[1:]:
        jax.tree.map(np.testing.assert_array_equal, other.variables, variables)


def test_the_numpy_network_is_the_published_one(weights):
    """It stands for Biomedisa in other tests."""
    fixture = np.load(FIXTURE)
    logits = predict_patches(weights, fixture['input'][:1])
    np.testing.assert_allclose(logits[:, ::3, ::3, ::3], fixture['logits'][:1], atol=1e-4)


@pytest.mark.parametrize(('filters', 'residual'), [((3, 5, 4), True), ((2, 6), False)])
def test_any_depth_width_channels_and_labels(tmp_path, filters, residual):
    weights = random_weights(filters, 2, 4, residual=residual)
    configuration, meta = np.array([2, 64, 48, 32, 1, 0, 1]), {'labels': np.arange(4)}
    meta['normalization'] = np.array([[0.3, 0.4], [0.1, 0.2]])
    path = write_model(tmp_path / 'm.h5', weights, configuration=configuration, **meta)
    network, variables, metadata = load_biomedisa(path)
    assert (network.filters, network.residual, network.n_labels) == (filters, residual, 4)
    x = np.random.default_rng(1).random((2, 4, 8, 12, 2)).astype(np.float32)
    logits = jax.jit(network.apply)(variables, x)['logits']
    np.testing.assert_allclose(logits, predict_patches(weights, x, residual=residual), atol=1e-4)
    assert metadata['scale'] == [32, 48, 64]  # stored as x, y, z
    assert metadata['mean'] == [0.3, 0.4]


def test_its_conventions_come_along(model):
    metadata = load_biomedisa(model).metadata
    assert json.loads(json.dumps(metadata)) == metadata
    assert metadata['labels'] == [0, 2, 5]
    assert metadata['patch_size'] == [32, 32, 32]
    assert metadata['scale'] == [256, 256, 256]
    assert (metadata['mean'], metadata['std']) == ([0.31], [0.17])
    flags = ('scaling', 'normalise', 'patch_normalization', 'separation', 'cropping')
    assert [metadata[flag] for flag in flags] == [True, True, False, False, False]


def test_the_oldest_models_told_less(tmp_path, weights):
    later = ('normalization', 'patch_size', 'scaling', 'patch_normalization', 'separation')
    path = write_model(tmp_path / 'm.h5', weights, **dict.fromkeys(later))
    metadata = load_biomedisa(path).metadata
    assert (metadata['mean'], metadata['std']) == ([0.31], [0.17])
    assert metadata['patch_size'] == [64, 64, 64]
    assert metadata['scaling']


@pytest.mark.parametrize(
    ('meta', 'message'),
    [
        ({'labels': np.array([0, 1])}, r'meta/labels says \[0, 1\]; expected 3'),
        ({'labels': np.array([0, 2, 1])}, 'meta/labels .* rising order'),
        ({'labels': np.array([0, 1, 1])}, 'meta/labels .* rising order'),
        ({'labels': np.array([0, 0.5, 1])}, 'meta/labels .* whole numbers'),
        ({'labels': None}, 'no meta/labels'),
        ({'configuration': np.zeros(5)}, r'meta/configuration of shape \(5,\)'),
        ({'configuration': np.array([2, 64, 64, 64, 1, 0, 1])}, '2 channels; expected 1'),
        ({'configuration': np.array([1, 64, np.nan, 64, 1, 0, 1])}, 'whole numbers'),
        ({'configuration': np.array([1, 0, 64, 64, 1, 0, 1])}, r'\[64, 64, 0\]; expected sides'),
        ({'normalization': np.array([[0.3], [0.0]])}, 'a mean and a deviation'),
        ({'normalization': np.zeros(2)}, r'normalization of shape \(2,\)'),
        ({'patch_size': np.array([32, 32, 20])}, r'patch_size .* multiples of \(8, 8, 8\)'),
        ({'scaling': np.ones(2)}, 'meta/scaling of shape'),
    ],
)
def test_meta_data_that_contradict_the_network_are_named(tmp_path, weights, meta, message):
    path = write_model(tmp_path / 'm.h5', weights, **meta)
    with pytest.raises(InputError, match=message):
        load_biomedisa(path)


def _without(weights, name):
    return {n: w for n, w in weights.items() if n != name}


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda w: _without(w, 'conv_3_2/bias'), "no tensor 'conv_3_2/bias'"),
        (lambda w: _without(w, 'conv_1_1/kernel'), "no tensor 'conv_1_1/kernel'"),
        (lambda w: _without(w, 'conv_8_1/kernel'), 'a last convolution conv_7_1'),
        (lambda w: {**w, 'dense/kernel': np.ones(3)}, "1 tensors too many, first 'dense/kernel'"),
        (lambda w: {**w, 'conv_2_1/bias': np.ones(3)}, r"'conv_2_1/bias' of shape \(3,\)"),
        (lambda w: {**w, 'conv_2_1/kernel': np.ones((3, 3))}, r"'conv_2_1/kernel' of shape \(3, 3"),
        (lambda w: {**w, 'conv_8_1/bias': np.full(3, np.nan)}, "NaN .* 'conv_8_1/bias'"),
        (lambda w: {**w, 'conv_8_1/bias': np.full(3, 1e300)}, "infinity .* 'conv_8_1/bias'"),
        (lambda w: {**w, 'conv_8_1/bias': np.full(3, 1j)}, "'conv_8_1/bias' of complex128"),
        (lambda w: {**w, 'conv_8_1/bias': np.full(3, b'1')}, "'conv_8_1/bias' of "),
        (lambda w: {'dense/kernel': np.ones(3)}, "another network .* 'dense/kernel'"),
        (lambda w: {}, 'another network .*none at all'),
    ],
)
def test_tensors_that_do_not_fit_are_named(tmp_path, weights, change, message):
    path = write_model(tmp_path / 'm.h5', change(weights))
    with pytest.raises(InputError, match=message):
        load_biomedisa(path)


@pytest.mark.parametrize(
    ('layer', 'message'),
    [
        (('Conv3D', {'name': 'conv_1_2', 'activation': 'elu'}), "activation 'elu' .* 'relu'"),
        (('Conv3D', {'name': 'conv_8_1', 'activation': 'relu'}), "'conv_8_1'; expected 'linear'"),
        (('MaxPooling3D', {'name': 'pool', 'pool_size': [1, 2, 2]}), 'pool_size .*1, 2, 2'),
        (
            ('BatchNormalization', {'name': 'norm', 'epsilon': 1e-5}),
            "epsilon 1e-05 of layer 'norm'",
        ),
    ],
)
def test_networks_that_compute_something_else_are_told(tmp_path, weights, layer, message):
    path = write_model(tmp_path / 'm.h5', weights, layers=[layer])
    with pytest.raises(InputError, match=message):
        load_biomedisa(path)


@pytest.mark.parametrize(
    'config', ['null', '[1]', '{"config": [1]}', '{"config": {"layers": [1]}}']
)
def test_a_model_config_of_another_kind_is_told(tmp_path, weights, config):
    path = write_model(tmp_path / 'm.h5', weights)
    with h5py.File(path, 'r+') as file:
        file.attrs['model_config'] = config
    with pytest.raises(InputError, match=r'm\.h5'):
        load_biomedisa(path)


def test_files_of_other_kinds_are_told(tmp_path, model):
    with pytest.raises(InputError, match='no such file'):
        load_biomedisa(tmp_path / 'none.h5')
    text = tmp_path / 'text.h5'
    text.write_text('no HDF5')
    with pytest.raises(InputError, match='no HDF5 file'):
        load_biomedisa(text)
    with h5py.File(tmp_path / 'image.h5', 'w') as file:
        file['data'] = np.zeros((3, 4, 5))
    with pytest.raises(InputError, match=r"no model \(it has 'data'\)"):
        load_biomedisa(tmp_path / 'image.h5')
    with h5py.File(tmp_path / 'weights.h5', 'w') as file:
        file.attrs['layer_names'] = ['encoder']
    with pytest.raises(InputError, match='weights without a model'):
        load_biomedisa(tmp_path / 'weights.h5')
    with h5py.File(model, 'r+') as file:
        del file['meta']
    with pytest.raises(InputError, match='no group meta'):
        load_biomedisa(model)


@pytest.mark.parametrize('share', [0.01, 0.3, 0.6, 0.99])
def test_truncated_files_are_told(model, share):
    model.write_bytes(model.read_bytes()[: int(share * model.stat().st_size)])
    with pytest.raises(InputError, match='damaged'):
        load_biomedisa(model)
