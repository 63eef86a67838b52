"""Models of Biomedisa, of which that of ACSeg is one (Lösel et al. 2020; Erozan et al. 2024)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import jax.numpy as jnp
import numpy as np

from sxt_jax.core.errors import InputError
from sxt_jax.models.pretrained.keras_h5 import FULL_MODEL, open_keras, read_keras_weights
from sxt_jax.models.pretrained.tensors import Pretrained, Source, Tensors, assemble
from sxt_jax.models.unet3d import UNet3D

_CONVOLUTION = re.compile(r'conv_(\d+)_([12])/kernel')
_LARGEST_SIDE = 2**16  # of a working grid; beyond, meta data are damaged
_OLD_PATCH = (64, 64, 64)  # of models from before their files told it
_SHAPES: dict[str, tuple[int | None, ...]] = {
    'configuration': (7,),  # channels; x, y and z scale; normalise; mean, SD of the oldest models
    'labels': (None,),
    'normalization': (2, None),
    'patch_size': (3,),
    'scaling': (),
    'patch_normalization': (),
    'separation': (),
}
_LAYERS: dict[str, dict[str, Any]] = {
    'BatchNormalization': {'epsilon': 0.001},
    'MaxPooling3D': {'pool_size': [2, 2, 2]},
    'UpSampling3D': {'size': [2, 2, 2]},
}
_REQUIRED = ('configuration', 'labels')
_EXPECTED = 'a model of Biomedisa (.h5, weights and meta data)'


def load_biomedisa(model_h5: str | Path, *, dtype: Any = jnp.float32) -> Pretrained:
    """The U-Net of a model that Biomedisa has trained, plain or residual.

    Read are full models of legacy Keras and of Keras 3 with Biomedisa's group `meta`. Depth,
    widths, classes and input channels are those of the tensors.

    Args:
      model_h5: the file; what the optimizer left in it is not read.
      dtype: compute dtype of the model.

    Returns:
      The model, its variables, and its conventions: 'n_channels', 'labels' the label values of the
      classes, 'scaling' whether volumes are resized to 'scale' (z, y, x), 'normalise' whether they
      are moved to 'mean' and 'std' (one a channel, of gray values in 0 … 1), 'patch_size'
      (z, y, x), 'patch_normalization' whether each patch is standardised, 'separation' whether the
      classes are sides of borders between particles, 'cropping' whether a second network in the
      file, which is not read, finds the region to segment.

    Raises:
      InputError: no such file, none of Biomedisa, a tensor is missing, too many or of another
        shape, or meta data that contradict the tensors.
    """
    metadata = _read_metadata(model_h5)
    tensors = read_keras_weights(model_h5)
    filters, residual = _filters(model_h5, tensors), 'Identity1_1/kernel' in tensors
    head = f'conv_{2 * len(filters)}_1/kernel'
    n_channels = _shape(model_h5, tensors, 'conv_1_1/kernel')[3]
    n_labels = _shape(model_h5, tensors, head)[4]
    _check_layers(model_h5, head.partition('/')[0], residual=residual)
    model = UNet3D(n_labels=n_labels, filters=filters, residual=residual, dtype=dtype)
    _check_metadata(model_h5, metadata, model, n_channels)
    shape = (1, *model.side_multiple, n_channels)
    sources = _sources(len(filters), residual=residual)
    variables = assemble(model_h5, model, tensors, sources.__getitem__, input_shape=shape)
    return Pretrained(model, variables, metadata)


def _read_metadata(path: str | Path) -> dict[str, Any]:
    with open_keras(path) as file:
        if 'meta' not in file or not isinstance(file['meta'], h5py.Group):
            found = 'no group meta'
            if 'layer_names' in file.attrs:
                found = 'weights without a model and without meta data'
            elif FULL_MODEL not in file:
                found = f'no model (it has {", ".join(map(repr, list(file)[:3])) or "nothing"})'
            raise InputError(path, found, _EXPECTED)
        meta = {
            name: np.asarray(item[()])
            for name, item in file['meta'].items()
            if isinstance(item, h5py.Dataset) and item.dtype.kind in 'biuf'
        }
        cropping = 'cropping_weights' in file
    _check_numbers(path, meta)
    return {**_conventions(meta), 'cropping': cropping}


def _check_numbers(path: str | Path, meta: Mapping[str, np.ndarray]) -> None:
    """Whether the meta data are as many numbers as they should be, whole where they count."""
    for name, shape in _SHAPES.items():
        if name not in meta:
            if name in _REQUIRED:
                raise InputError(path, f'no meta/{name}', _EXPECTED)
            continue
        found = meta[name].shape
        fits = [n in (None, m) for n, m in zip(shape, found, strict=False)]
        if len(found) != len(shape) or not all(fits):
            raise InputError(path, f'meta/{name} of shape {found}', f'{shape}')
    for name in ('configuration', 'labels', 'patch_size'):
        numbers = meta.get(name, np.zeros(0))
        numbers = numbers[:5] if name == 'configuration' else numbers
        if not np.isfinite(numbers).all() or np.any(numbers != np.rint(numbers)):
            raise InputError(path, f'meta/{name} says {numbers.tolist()}', 'whole numbers')


def _conventions(meta: Mapping[str, np.ndarray]) -> dict[str, Any]:
    channels, x, y, z, normalise, mean, std = meta['configuration'].tolist()
    # Models of one channel had mean and standard deviation in the configuration at first.
    means, stds = np.asarray(meta.get('normalization', [[mean], [std]])).tolist()
    return {
        'format': 'biomedisa',
        'paper': 'Lösel et al. 2020, Nature Communications 11, 5577; ACSeg: Erozan et al. 2024',
        'n_channels': int(channels),
        'heads': {'logits': 'of the classes, before softmax'},
        'labels': [int(value) for value in meta['labels']],
        'scaling': bool(meta.get('scaling', np.array(1))),
        'scale': [int(z), int(y), int(x)],
        'normalise': bool(normalise),
        'mean': means,
        'std': stds,
        'patch_size': [int(side) for side in meta.get('patch_size', _OLD_PATCH)],
        'patch_normalization': bool(meta.get('patch_normalization', np.array(0))),
        'separation': bool(meta.get('separation', np.array(0))),
    }


def _check_metadata(
    path: str | Path, metadata: Mapping[str, Any], model: UNet3D, n_channels: int
) -> None:
    labels, scale, patch = metadata['labels'], metadata['scale'], metadata['patch_size']
    means, stds = metadata['mean'], metadata['std']

    def require(holds: bool, name: str, found: Any, expected: str) -> None:
        if not holds:
            raise InputError(path, f'meta/{name} says {found}', expected)

    count = metadata['n_channels']
    require(count == n_channels, 'configuration', f'{count} channels', f'{n_channels} as it has')
    require(len(labels) == model.n_labels, 'labels', labels, f'{model.n_labels} as the network has')
    require(labels == sorted(set(labels)), 'labels', labels, 'values in rising order')
    sides = not metadata['scaling'] or 0 < min(scale) <= max(scale) <= _LARGEST_SIDE
    require(sides, 'configuration', scale, f'sides of 1 … {_LARGEST_SIDE}')
    multiple = model.side_multiple
    whole = min(patch) > 0 and not any(p % m for p, m in zip(patch, multiple, strict=True))
    require(whole, 'patch_size', patch, f'multiples of {multiple}')
    if metadata['normalise']:
        usable = len(means) == len(stds) == n_channels and np.isfinite(means + stds).all()
        usable = usable and min(stds) > 0
        require(usable, 'normalization', [means, stds], 'a mean and a deviation of each channel')


def _check_layers(path: str | Path, head: str, *, residual: bool) -> None:
    """Whether the layers compute what ours do, which tensors do not tell."""
    with open_keras(path) as file:
        config = json.loads(file.attrs.get('model_config', '{}'))
        layers = config.get('config', {}).get('layers', [])
        kinds = [(layer['class_name'], dict(layer['config'])) for layer in layers]
    for kind, fields in kinds:
        name = fields.get('name', '')
        expected = dict(_LAYERS.get(kind, {}))
        if kind == 'Conv3D':
            linear = name == head or 'Identity' in name or (residual and name.endswith('_2'))
            expected['activation'] = 'linear' if linear else 'relu'
        for field, value in expected.items():
            if fields.get(field) != value:
                found = f'{field} {fields.get(field)!r} of layer {name!r}'
                raise InputError(path, found, f'{value!r} as in the U-Net of Biomedisa')


def _filters(path: str | Path, tensors: Tensors) -> tuple[int, ...]:
    """Channels of each level, from full resolution to the bottom.

    Blocks are counted down, at the bottom and up again; the head has the next number.
    """
    blocks = [int(match[1]) for name in tensors if (match := _CONVOLUTION.fullmatch(name))]
    if not blocks:
        first = next(iter(tensors), 'none at all')
        found = f'tensors of another network (the first is {first!r})'
        raise InputError(path, found, "the U-Net of Biomedisa ('conv_1_1/kernel', …)")
    if max(blocks) % 2:
        found = f'a last convolution conv_{max(blocks)}_1'
        raise InputError(path, found, 'an even number: blocks down, one at the bottom, up, a head')
    names = [f'conv_{n}_1/kernel' for n in range(1, max(blocks) // 2 + 1)]
    return tuple(_shape(path, tensors, name)[4] for name in names)


def _shape(path: str | Path, tensors: Tensors, name: str) -> tuple[int, ...]:
    shape = np.shape(tensors[name]) if name in tensors else None
    if shape is None or len(shape) != 5 or min(shape) < 1:
        found = f'no tensor {name!r}' if shape is None else f'tensor {name!r} of shape {shape}'
        raise InputError(path, found, '[z, y, x, in, out]')
    return shape


def _sources(n_levels: int, *, residual: bool) -> dict[str, Source]:
    blocks = [f'encoder_{i}' for i in range(n_levels)]
    blocks += [f'decoder_{i}' for i in reversed(range(n_levels - 1))]
    sources = _layer('head', f'conv_{len(blocks) + 1}_1')
    for n, block in enumerate(blocks, start=1):
        for stage in (1, 2):
            sources |= _layer(f'{block}/conv_{stage}', f'conv_{n}_{stage}')
            norm, theirs = f'{block}/norm_{stage}', f'batch_norm_{n}_{stage}'
            sources[f'params/{norm}/scale'] = Source(f'{theirs}/gamma')
            sources[f'params/{norm}/bias'] = Source(f'{theirs}/beta')
            sources[f'batch_stats/{norm}/mean'] = Source(f'{theirs}/moving_mean')
            sources[f'batch_stats/{norm}/var'] = Source(f'{theirs}/moving_variance')
        if residual:
            sources[f'params/{block}/shortcut/kernel'] = Source(f'Identity{n}_1/kernel')
    return sources


def _layer(ours: str, theirs: str) -> dict[str, Source]:
    return {f'params/{ours}/{name}': Source(f'{theirs}/{name}') for name in ('kernel', 'bias')}
