"""Networks from configs, and back: what a checkpoint writes down about its network."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from sxt_jax.core.errors import InputError
from sxt_jax.models.cellpose2d import Cellpose2D
from sxt_jax.models.cellpose3d import Cellpose3DNet
from sxt_jax.models.double_decoder import DoubleDecoder
from sxt_jax.models.resunet import ResUNet
from sxt_jax.models.setr import SETR
from sxt_jax.models.transunet import TransUNet
from sxt_jax.models.unet3d import UNet3D

NETWORKS: dict[str, type[nn.Module]] = {
    'cellpose2d': Cellpose2D,
    'cellpose3d': Cellpose3DNet,
    'double_decoder': DoubleDecoder,
    'resunet': ResUNet,
    'setr': SETR,
    'transunet': TransUNet,
    'unet3d': UNet3D,
}
_DTYPES = ('float32', 'bfloat16', 'float16')


def build_model(config: Mapping[str, Any]) -> nn.Module:
    """The network a config describes.

    Args:
      config: 'name' (a key of `NETWORKS`) and fields of that network; a plain mapping or a
        `ml_collections.ConfigDict`.

    Raises:
      InputError: an unknown network, field or dtype, with those there are, or a value of another
        type than the field's default.
    """
    fields = dict(config)
    name = fields.pop('name', None)
    if name not in NETWORKS:
        raise InputError('model.name', repr(name), f'one of {sorted(NETWORKS)}')
    known = _field_names(NETWORKS[name])
    unknown = sorted(set(fields) - set(known))
    if unknown:
        raise InputError(f'model ({name})', f'unknown field {unknown[0]!r}', f'some of {known}')
    fields = {field: _as_tuple(value) for field, value in fields.items()}
    defaults = {f.name: f.default for f in dataclasses.fields(NETWORKS[name])}
    for field, value in fields.items():
        if field != 'dtype' and not _is_like(value, defaults[field]):
            expected = f'something like {defaults[field]!r}'
            raise InputError(f'model.{field} ({name})', repr(value), expected)
    if 'dtype' in fields:
        fields['dtype'] = jnp.dtype(_dtype_name(fields['dtype']))
    return NETWORKS[name](**fields)


def model_config(model: nn.Module) -> dict[str, Any]:
    """The config from which `build_model` makes `model` again, as JSON-able values.

    Raises:
      InputError: the network is none of `NETWORKS`.
    """
    names = [name for name, network in NETWORKS.items() if type(model) is network]
    if not names:
        raise InputError('model', type(model).__name__, f'one of {sorted(NETWORKS)}')
    fields = {name: _as_json(getattr(model, name)) for name in _field_names(type(model))}
    if 'dtype' in fields:
        fields['dtype'] = _dtype_name(fields['dtype'])
    return {'name': names[0], **fields}


def _field_names(network: type[nn.Module]) -> list[str]:
    return [f.name for f in dataclasses.fields(network) if f.name not in ('parent', 'name')]


def _is_like(value: Any, default: Any) -> bool:
    """Whether a field's value is of its default's type; of those without one nothing is known."""
    if value is None or default is None:
        return default is None
    if isinstance(default, tuple):
        return isinstance(value, tuple) and all(_is_like(v, default[0]) for v in value)
    if isinstance(default, float):
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return type(value) is type(default)


def _dtype_name(dtype: Any) -> str:
    try:
        name = str(np.dtype(dtype))
    except TypeError:
        name = repr(dtype)
    if name not in _DTYPES:
        raise InputError('model.dtype', name, f'one of {_DTYPES}')
    return name


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(v) for v in value) if isinstance(value, (list, tuple)) else value


def _as_json(value: Any) -> Any:
    return [_as_json(v) for v in value] if isinstance(value, (list, tuple)) else value
