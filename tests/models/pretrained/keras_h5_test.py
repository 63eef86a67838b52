"""Keras' HDF5 files in general; whole networks are in the tests of their importers."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from sxt_jax.core.errors import InputError
from sxt_jax.models.pretrained.keras_h5 import read_keras_weights


def _write(path, layers, *, parts=1, at=''):
    """Layer name -> {weight name: array}; long lists of names are split into attributes."""
    with h5py.File(path, 'w') as file:
        group = file.require_group(at) if at else file
        names = np.array([name.encode() for name in layers])
        if parts == 1:
            group.attrs['layer_names'] = names
        else:
            for i, part in enumerate(np.array_split(names, parts)):
                group.attrs[f'layer_names{i}'] = part
        for layer, weights in layers.items():
            group.create_group(layer).attrs['weight_names'] = [name.encode() for name in weights]
            for name, value in weights.items():
                group[layer][name] = value
    return path


@pytest.mark.parametrize('at', ['', 'model_weights'])
@pytest.mark.parametrize('parts', [1, 3])
def test_weights_come_by_name_in_the_order_of_the_file(tmp_path, at, parts):
    layers = {
        'z': {'z/b:0': np.arange(3), 'z/a:0': np.ones((2, 2))},
        'empty': {},
        'a': {'a/inner/kernel': np.float32(7)},
    }
    tensors = read_keras_weights(_write(tmp_path / 'w.h5', layers, at=at, parts=parts))
    assert list(tensors) == ['z/b', 'z/a', 'a/inner/kernel']
    np.testing.assert_array_equal(tensors['z/b'], np.arange(3))
    assert tensors['a/inner/kernel'] == 7


def test_weights_of_the_model_itself_are_read(tmp_path):
    layers = {'a': {'a/kernel:0': 1.0}, 'top_level_model_weights': {'scale:0': 2.0}}
    path = _write(tmp_path / 'w.h5', layers)
    with h5py.File(path, 'r+') as file:
        file.attrs['layer_names'] = ['a']
    assert list(read_keras_weights(path)) == ['a/kernel', 'scale']


def test_what_does_not_fit_is_named(tmp_path):
    path = _write(tmp_path / 'twice.h5', {'a': {'k:0': 1.0}, 'b': {'k:0': 2.0}})
    with pytest.raises(InputError, match="two weights are called 'k'"):
        read_keras_weights(path)
    path = _write(tmp_path / 'gone.h5', {'a': {'k:0': 1.0}, 'b': {'l:0': 2.0}})
    with h5py.File(path, 'r+') as file:
        del file['b/l:0']
    with pytest.raises(InputError, match="no data set 'l:0' in /b"):
        read_keras_weights(path)
    with h5py.File(path, 'r+') as file:
        del file['b']
    with pytest.raises(InputError, match="no group of layer 'b'"):
        read_keras_weights(path)
    with h5py.File(path, 'w') as file:
        file['data'] = np.zeros(3)
    with pytest.raises(InputError, match=r"no layer names of Keras \(it has 'data'\)"):
        read_keras_weights(path)


def _as_data_set(file):
    del file['a']
    file.create_dataset('a', data=np.zeros(3)).attrs['weight_names'] = ['k:0']


@pytest.mark.parametrize(
    'damage',
    [
        lambda file: file.attrs.create('layer_names', 3),
        lambda file: file.attrs.create('layer_names', h5py.Empty('f4')),
        _as_data_set,
    ],
)
def test_attributes_and_groups_of_other_kinds_are_damage(tmp_path, damage):
    path = _write(tmp_path / 'odd.h5', {'a': {'k:0': 1.0}})
    with h5py.File(path, 'r+') as file:
        damage(file)
    with pytest.raises(InputError, match=r'odd\.h5: no HDF5 file, or a damaged one'):
        read_keras_weights(path)
