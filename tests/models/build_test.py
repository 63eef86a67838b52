"""Networks from configs and back."""

from __future__ import annotations

import json

import jax.numpy as jnp
import ml_collections
import pytest
from flax import linen as nn

from sxt_jax.core.errors import InputError
from sxt_jax.models import UNet3D, build_model, model_config


def test_config_and_network_are_inverse():
    model = UNet3D(
        n_labels=4,
        filters=(2, 4),
        residual=True,
        pool_sizes=((1, 2, 2),),
        dtype=jnp.bfloat16,
    )
    config = model_config(model)
    assert config['name'] == 'unet3d'
    rebuilt = build_model(json.loads(json.dumps(config)))
    assert model_config(rebuilt) == config
    assert rebuilt.side_multiple == (1, 2, 2)
    assert rebuilt.dtype == jnp.bfloat16
    assert isinstance(hash(rebuilt), int)  # static argument of jitted functions


def test_takes_config_dicts():
    config = ml_collections.ConfigDict({'name': 'unet3d', 'filters': (2, 3), 'n_labels': 5})
    model = build_model(config)
    assert (model.filters, model.n_labels, model.dtype) == ((2, 3), 5, jnp.float32)


@pytest.mark.parametrize(
    ('config', 'message'),
    [
        ({'name': 'unet4d'}, "'unet4d'; expected one of .*'unet3d'"),
        ({}, 'None; expected one of'),
        ({'name': 'unet3d', 'filter': 3}, "unknown field 'filter'; expected .*'filters'"),
        ({'name': 'unet3d', 'dtype': 'int8'}, 'int8; expected one of .*bfloat16'),
        ({'name': 'unet3d', 'dtype': 'half-ish'}, 'half-ish'),
        ({'name': 'unet3d', 'filters': ('4-8',)}, r"model\.filters .*'4-8'.*something like \(32"),
        ({'name': 'unet3d', 'filters': (4.5, 8)}, r'model\.filters .*4\.5'),
        ({'name': 'unet3d', 'filters': 8}, r'model\.filters .*: 8'),
        ({'name': 'unet3d', 'residual': 1}, r'model\.residual .*: 1'),
        ({'name': 'double_decoder', 'heads': ('label', 3)}, r'model\.heads'),
    ],
)
def test_names_what_is_unknown(config, message):
    with pytest.raises(InputError, match=message):
        build_model(config)


def test_a_foreign_network_has_no_config():
    with pytest.raises(InputError, match='Dense'):
        model_config(nn.Dense(3))
