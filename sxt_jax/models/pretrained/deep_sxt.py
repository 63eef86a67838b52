"""Files of deep_sxt (Dyhr et al. 2023): the JSON config of a network, and its weights."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from sxt_jax.core.errors import InputError
from sxt_jax.models.double_decoder import DoubleDecoder
from sxt_jax.models.pretrained.keras_h5 import read_keras_weights
from sxt_jax.models.pretrained.tensors import (
    Pretrained,
    Source,
    assemble,
    keras_transpose_kernel,
)

_MODEL = re.compile(r'my_double_decoder_net(_\d+)?/')
# Layers that Keras numbers in the order in which the writing process made them.
_NUMBERED = re.compile(
    r'(my_bottleneck_layer|my_activation_block|conv2d|batch_normalization)(_\d+)?'
)
_WEIGHTS = {
    'kernel': 'kernel',
    'bias': 'bias',
    'scale': 'gamma',
    'mean': 'moving_mean',
    'var': 'moving_variance',
}
_CONV = {'reduce': 'conv2d#0', 'conv': 'conv2d#1', 'expand': 'conv2d#2'}

_STAGES = {
    'n_filters': 'filters',
    'kernel_sizes': 'kernels',
    'n_blocks': 'blocks',
    'block_depth': 'depth',
    'add_instead_of_concat': 'add',
}
_SECTIONS: dict[str, tuple[str, dict[str, str]]] = {
    'encoder': ('encoder', _STAGES),
    'neck': ('neck', {'n_filters': 'filters', 'kernel_sizes': 'kernels', 'depth': 'depth'}),
    'decoder_image': ('image', {**_STAGES, 'use_skip_connections': 'skips'}),
    'decoder_label': ('label', {**_STAGES, 'use_skip_connections': 'skips'}),
}
_LISTS = ('filters', 'kernels')
_FLAGS = ('add', 'skips')
# What every section says beside these, and the only value that there is for it here.
_FIXED = {
    'activation': {'type': 'relu'},
    'dropout': {'active': False},
    'batch_norm': {'active': True},
}

_CONVENTIONS = {
    'intensity': 'each slice standardised by its own mean and standard deviation',
    'label_range': [-1.0, 1.0],
    'label_threshold': 0.0,
    'training_crop': 256,
    'inference_tile': 600,
    'inference_stride': 400,
}


def load_deep_sxt(
    weights_h5: str | Path, config_json: str | Path, *, dtype: Any = jnp.float32
) -> Pretrained:
    """The double decoder with weights that deep_sxt has written.

    Args:
      weights_h5: what legacy Keras' `save_weights` wrote.
      config_json: the network's config, written beside it.
      dtype: compute dtype of the network.

    Returns:
      Network, variables, and metadata: 'format', 'paper', 'n_channels', 'heads', 'conventions',
      'config' as the file has it.

    Raises:
      InputError: a file of the wrong kind, a config that there is no network for, or a tensor
        that is missing, too many, of another shape than the config says, or not finite.
    """
    config = _read_json(config_json)
    model = double_decoder_from_json(config, where=config_json, dtype=dtype)
    tensors = {
        _MODEL.sub('', name, count=1): t for name, t in read_keras_weights(weights_h5).items()
    }
    n_channels = _n_channels(tensors, weights_h5)
    input_shape = (1, *model.side_multiple, n_channels)
    stored = dict(zip(_by_order(tensors), tensors, strict=True))

    def source_of(path: str) -> Source:
        name = _published_name(path)
        turn = keras_transpose_kernel if re.search(r'/up_\d+/kernel$', path) else np.asarray
        return Source(stored.get(name, name), turn)

    variables = assemble(weights_h5, model, tensors, source_of, input_shape=input_shape)
    metadata = {
        'format': 'deep_sxt',
        'paper': 'Dyhr et al. 2023',
        'n_channels': n_channels,
        'heads': list(model.heads),
        'conventions': dict(_CONVENTIONS),
        'config': config,
    }
    return Pretrained(model, variables, metadata)


def double_decoder_from_json(
    config: Mapping[str, Any], *, where: str | Path = 'config', dtype: Any = jnp.float32
) -> DoubleDecoder:
    """The network that a published JSON config describes.

    Args:
      config: as `json.load` gives it.
      where: the config's name, for errors.
      dtype: compute dtype.

    Raises:
      InputError: a field is missing, unknown, of the wrong type, or asks for what the published
        network has not: other activations than ReLU, dropout, no batch normalisation, other
        poolings than the maximum of 2 × 2.
    """
    known = {'pooling', 'm_f', 'add_instead_of_concat_after_neck', *_SECTIONS}
    _check_names(config, known, where, 'config')
    pooling = {'type': 'max_pooling', 'factor': 2}
    if config['pooling'] not in (None, pooling):
        raise InputError(where, f'pooling is {config["pooling"]!r}', f'null or {pooling}')
    after_neck = 'add_instead_of_concat_after_neck'
    fields: dict[str, Any] = {
        'width': _number(config['m_f'], where, 'm_f'),
        'neck_add': _flag(config[after_neck], where, after_neck),
    }
    for section, (part, names) in _SECTIONS.items():
        fields |= _section_fields(config[section], part, names, where, section)
        if part != 'neck' and config[section]['n_stages'] != config['encoder']['n_stages']:
            found = f'{section}.n_stages is {config[section]["n_stages"]}'
            raise InputError(where, found, 'as many stages as the encoder has')
    return DoubleDecoder(**fields, dtype=dtype)


def _section_fields(
    section: Any, part: str, names: Mapping[str, str], where: str | Path, at: str
) -> dict[str, Any]:
    """Fields of the encoder, the neck or a decoder."""
    stages = {'n_stages'} if part != 'neck' else set()
    _check_names(section, {*names, *_FIXED, *stages}, where, at)
    for name, value in _FIXED.items():
        if section[name] != value:
            raise InputError(where, f'{at}.{name} is {section[name]!r}', f'{value}')
    fields: dict[str, Any] = {}
    for name, ours in names.items():
        value, path = section[name], f'{at}.{name}'
        if ours in _FLAGS:
            fields[f'{part}_{ours}'] = _flag(value, where, path)
        elif ours in _LISTS and not (part == 'neck' and ours == 'filters'):
            n_stages = _number(section['n_stages'], where, f'{at}.n_stages') if stages else None
            length = None if n_stages is None else n_stages + 1
            fields[f'{part}_{ours}'] = _numbers(value, where, path, length=length)
        else:
            fields[f'{part}_{ours}'] = _number(value, where, path)
    return fields


def _check_names(section: Any, known: Iterable[str], where: str | Path, at: str) -> None:
    if not isinstance(section, Mapping):
        raise InputError(where, f'{at} is {section!r}', f'fields {sorted(known)}')
    missing = sorted(set(known) - set(section))
    if missing:
        raise InputError(where, f'{at} has no field {missing[0]!r}', f'fields {sorted(known)}')
    unknown = sorted(set(section) - set(known))
    if unknown:
        raise InputError(where, f'{at} has unknown field {unknown[0]!r}', f'{sorted(known)}')


def _number(value: Any, where: str | Path, at: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(where, f'{at} is {value!r}', 'a positive whole number')
    return value


def _numbers(value: Any, where: str | Path, at: str, *, length: int | None) -> tuple[int, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise InputError(where, f'{at} is {value!r}', 'a list of positive whole numbers')
    if length is not None and len(value) != length:
        raise InputError(where, f'{at} is {value!r}', f'{length} numbers, one more than n_stages')
    return tuple(_number(v, where, at) for v in value)


def _flag(value: Any, where: str | Path, at: str) -> bool:
    if not isinstance(value, bool):
        raise InputError(where, f'{at} is {value!r}', 'true or false')
    return value


def _read_json(path: str | Path) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding='utf-8'))
    except OSError as error:
        raise InputError(path, f'cannot be read ({error.strerror})', 'a JSON config') from error
    except ValueError as error:
        raise InputError(path, f'no JSON ({error})', 'the JSON config of deep_sxt') from error


def _n_channels(tensors: Mapping[str, np.ndarray], path: str | Path) -> int:
    """Input channels, from the first kernel."""
    for name, tensor in tensors.items():
        if name.startswith('encoder/encoder_initial_convolution/') and tensor.ndim == 4:
            return int(tensor.shape[-2])
    found = f'no tensor encoder/encoder_initial_convolution/… (it has {list(tensors)[:2]})'
    raise InputError(path, found, 'weights of a double decoder')


def _by_order(names: Iterable[str]) -> list[str]:
    """Names with Keras' running numbers replaced by '#' and the order under the same parent."""
    children: dict[tuple[str, str], list[str]] = defaultdict(list)
    renamed = []
    for name in names:
        ours: list[str] = []
        for part in name.split('/'):
            numbered = _NUMBERED.fullmatch(part)
            if numbered:
                known = children['/'.join(ours), numbered[1]]
                if part not in known:
                    known.append(part)
                part = f'{numbered[1]}#{known.index(part)}'
            ours.append(part)
        renamed.append('/'.join(ours))
    return renamed


def _published_name(path: str) -> str:
    """The name, numbers replaced as by `_by_order`, of the tensor for one of our variables."""
    _, *modules, weight = path.split('/')
    layer = '/'.join(_published_layer(modules))
    if weight == 'bias' and 'norm' in modules[-1]:
        return f'{layer}/beta'
    return f'{layer}/{_WEIGHTS[weight]}'


def _published_layer(modules: Sequence[str]) -> list[str]:
    first = modules[0]
    if neck := re.fullmatch(r'neck_(\d+)_(conv|norm)_(\d+)', first):
        i, kind, j = neck.groups()
        branch = f'mid_branch_{i}'
        if kind == 'norm':
            return [branch, f'{branch}_activation_{j}', 'batch_normalization#0']
        return [branch, f'{branch}_convolution_{j}', _CONV[modules[1]]]
    if first == 'label_head_norm':
        return ['label_decoder_final_batchnorm']
    if first == 'label_head_last':
        return ['label_decoder_final_convolution_2']
    if first == 'label_head_conv':
        return ['label_decoder_final_convolution_1', _CONV[modules[1]]]
    if head := re.fullmatch(r'image_head_conv_(\d+)', first):
        return [f'image_decoder_final_convolution_{head[1]}', _CONV[modules[1]]]
    return [first, *_published_stage(first, modules[1:])]


def _published_stage(part: str, modules: Sequence[str]) -> list[str]:
    """Layers within 'encoder', 'image_decoder' or 'label_decoder'."""
    if up := re.fullmatch(r'up_(\d+)', modules[0]):
        return [f'{part}_transposed_convolution_{up[1]}']
    if stage := re.fullmatch(r'stage_(\d+)_(\d+)_(conv|norm)_(\d+)', modules[0]):
        i, j, kind, k = stage.groups()
        block = f'{part}_resnet_block_{i}_{j}'
        if kind == 'norm':
            return [block, f'my_activation_block#{k}', 'batch_normalization#0']
        return [block, f'my_bottleneck_layer#{k}', _CONV[modules[1]]]
    place, kind = modules[0].split('_')  # first or last, conv or norm
    name = f'{part}_{"initial" if place == "first" else "final"}'
    if kind == 'norm':
        return [f'{name}_activation', 'batch_normalization#0']
    return [f'{name}_convolution', _CONV[modules[1]]]
