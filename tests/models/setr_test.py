"""SETR: parameters, and a tiny one against PyTorch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sxt_jax.core.errors import InputError
from sxt_jax.models import SETR, build_model
from tests.models.random_variables import count, draw, shapes

TINY = {'hidden': 12, 'n_layers': 2, 'n_heads': 3, 'mlp_dim': 20, 'decoder_width': 5}
BASE = {'hidden': 768, 'n_layers': 12, 'n_heads': 12, 'mlp_dim': 3072}


def _torch_setr(x, params, statistics, decoder):
    from tests.models import torch_layers as layers

    def block(y, i, padding):
        y = layers.conv(y, params[f'decoder_{i}'], padding=padding)
        name = f'decoder_{i}_norm'
        return layers.batch_norm(y, params[name], statistics[name], 1e-5).relu()

    def grow(y, factor):
        return layers.F.interpolate(y, scale_factor=factor, mode='bilinear', align_corners=False)

    y = layers.conv(layers.image(x), params['patches'], stride=16)
    table = layers.image(params['positions']['table'])
    y = y + layers.F.interpolate(table, size=y.shape[2:], mode='bilinear', align_corners=False)
    token = layers.tensor(params['class_token'] + params['class_position'])
    tokens = y.flatten(2).transpose(1, 2)
    tokens = layers.torch.cat([token.expand(len(tokens), 1, -1), tokens], 1)
    tokens = layers.encoder(tokens, params['encoder'], TINY['n_heads'])
    y = tokens[:, 1:].transpose(1, 2).reshape(y.shape)
    if decoder == 'naive':
        return grow(layers.conv(block(y, 0, 0), params['head']), 16)
    y = block(y, 0, 1)
    for i in (1, 2, 3):
        y = block(grow(y, 2), i, 1)
    return grow(layers.conv(y, params['head']), 2)


@pytest.mark.parametrize('decoder', ['pup', 'naive'])
def test_equals_an_evaluation_in_pytorch(decoder):
    torch = pytest.importorskip('torch')
    # Position embeddings of 2×3 tokens, interpolated to an image of 3×2.
    model = SETR(n_labels=3, grid=(2, 3), decoder=decoder, **TINY)
    x = np.random.default_rng(0).normal(size=(2, 48, 32, 2)).astype(np.float32)
    variables = draw(model, x.shape)
    logits = jax.jit(model.apply)(variables, x)['logits']
    with torch.no_grad():
        theirs = _torch_setr(x, variables['params'], variables['batch_stats'], decoder)
    theirs = theirs.permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(logits, theirs, atol=1e-5 * max(1, np.abs(theirs).max()))


def _vit_parameters(hidden, n_layers, mlp_dim, n_tokens):
    """Patches of 16×16×3, positions and class token with its own, layers, last norm."""
    layer = 4 * hidden + 4 * (hidden**2 + hidden) + mlp_dim * (2 * hidden + 1) + hidden
    return (768 + 1) * hidden + (n_tokens + 2) * hidden + n_layers * layer + 2 * hidden


def _decoder_parameters(hidden, decoder, n_labels):
    """Convolutions with bias to 256 channels, batch norms (scale, bias), 1×1 to the labels."""
    if decoder == 'naive':
        return 256 * (hidden + 1) + 2 * 256 + n_labels * (256 + 1)
    return 256 * (9 * hidden + 1) + 3 * 256 * (9 * 256 + 1) + 4 * 2 * 256 + n_labels * (256 + 1)


@pytest.mark.parametrize('decoder', ['pup', 'naive'])
@pytest.mark.parametrize('size', ['large', 'base'])
def test_parameters_of_the_published_sizes(size, decoder):
    # Table 1 of the paper: T-Large 24 layers of 1024, T-Base 12 of 768; Cityscapes: 768×768
    # pixels, 19 labels. ViT-L/16 with 24² + 1 positions has 304 M without its classifier.
    hidden, n_layers, mlp_dim = (1024, 24, 4096) if size == 'large' else (768, 12, 3072)
    expected = _vit_parameters(hidden, n_layers, mlp_dim, 48 * 48)
    expected += _decoder_parameters(hidden, decoder, 19)
    fields = {} if size == 'large' else BASE
    model = SETR(n_labels=19, grid=(48, 48), decoder=decoder, **fields)
    found = count(shapes(model, (1, 768, 768, 3))['params'])
    assert found == expected
    if (size, decoder) == ('large', 'pup'):
        assert found == 309_596_947


def test_defaults_are_for_the_tiles_of_the_fibsem_paper():
    assert count(shapes(SETR(), (1, 512, 512, 1))['params']) == 307_757_570


def test_every_pixel_sees_the_whole_image():
    model = SETR(grid=(2, 3), decoder='naive', **TINY)
    assert model.halo is None
    variables = draw(model, (1, 32, 48, 1))
    x = jnp.asarray(np.random.default_rng(3).normal(size=(1, 32, 48, 1)), jnp.float32)
    gradient = jax.jit(jax.grad(lambda x: model.apply(variables, x)['logits'][0, 0, 0, 0]))(x)
    assert np.all(gradient != 0)


@pytest.mark.parametrize(
    ('fields', 'shape', 'words'),
    [
        ({}, (1, 40, 32, 1), 'sides'),
        ({}, (16, 16, 1), 'shape'),
        ({'decoder': 'mla'}, (1, 16, 16, 1), 'mla'),
        ({'heads': 'nuclei'}, (1, 16, 16, 1), 'nuclei'),
        ({'n_heads': 5}, (1, 16, 16, 1), 'hidden'),
        ({'grid': (3,)}, (1, 16, 16, 1), 'grid'),
        ({'dropout': 1.0}, (1, 16, 16, 1), 'dropout'),
    ],
)
def test_what_does_not_fit_is_named(fields, shape, words):
    with pytest.raises(InputError, match=words):
        shapes(build_model({'name': 'setr', **TINY, **fields}), shape)
