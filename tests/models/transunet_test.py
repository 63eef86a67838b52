"""TransUNet: parameters, and a tiny one against PyTorch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sxt_jax.core.errors import InputError
from sxt_jax.models import TransUNet, build_model
from sxt_jax.models.transunet import StandardizedConv
from tests.models.random_variables import count, draw, shapes

TINY = {
    'stem_width': 4,
    'stem_blocks': (2, 1, 1),
    'groups': 2,
    'hidden': 12,
    'n_layers': 1,
    'n_heads': 3,
    'mlp_dim': 20,
    'decoder_filters': (8, 7, 6, 5, 4),
}


def _torch_stem(x, params, layers):
    """Output and skips; `TINY`'s block counts."""

    def conv_norm(x, params, i, stride=1):
        side = params[f'conv_{i}']['kernel'].shape[0]
        x = layers.conv(x, params[f'conv_{i}'], stride=stride, padding=side // 2, standardize=True)
        return layers.group_norm(x, params[f'norm_{i}'], TINY['groups'], 1e-6)

    def block(x, params, stride):
        y = conv_norm(x, params, 1).relu()
        y = conv_norm(y, params, 2, stride).relu()
        y = conv_norm(y, params, 3)
        if 'shortcut' in params:
            x = layers.conv(x, params['shortcut'], stride=stride, standardize=True)
            x = layers.group_norm(x, params['shortcut_norm'], x.shape[1], 1e-5)
        return (x + y).relu()

    sides = x.shape[2:]
    x = layers.conv(x, params['conv'], stride=2, padding=3, standardize=True)
    x = layers.group_norm(x, params['norm'], TINY['groups'], 1e-6).relu()
    skips = [x]
    x = layers.F.max_pool2d(x, 3, 2)
    for stage, n_blocks in enumerate(TINY['stem_blocks']):
        for i in range(n_blocks):
            stride = 2 if stage > 0 and i == 0 else 1
            x = block(x, params[f'stage_{stage}_block_{i}'], stride)
        skip = x.new_zeros(*x.shape[:2], *(n // (4 * 2**stage) for n in sides))
        if stage < 2:
            skip[:, :, : x.shape[2], : x.shape[3]] = x
            skips.insert(0, skip)
    return x, skips


def _torch_transunet(x, params, statistics):
    from tests.models import torch_layers as layers

    def block(y, name):
        y = layers.conv(y, params[name], padding=1)
        name = f'{name}_norm'
        return layers.batch_norm(y, params[name], statistics[name], 1e-5).relu()

    x = layers.image(x)
    y, skips = _torch_stem(x.expand(-1, 3, -1, -1), params['stem'], layers)
    y = layers.conv(y, params['patches'])
    table = layers.image(params['positions']['table'])
    y = y + layers.F.interpolate(table, size=y.shape[2:], mode='bilinear', align_corners=True)
    tokens = layers.encoder(y.flatten(2).transpose(1, 2), params['encoder'], TINY['n_heads'])
    y = block(tokens.transpose(1, 2).reshape(y.shape), 'bottom')
    for i in range(4):
        y = layers.F.interpolate(y, scale_factor=2, mode='bilinear', align_corners=True)
        y = layers.torch.cat([y, skips[i]], 1) if i < 3 else y
        y = block(block(y, f'decoder_{i}_conv_1'), f'decoder_{i}_conv_2')
    return layers.conv(y, params['head'], padding=1)


def test_equals_an_evaluation_in_pytorch():
    torch = pytest.importorskip('torch')
    # Position embeddings of 2×2 tokens, interpolated to an image of 3×2; one channel of three.
    model = TransUNet(n_labels=3, grid=(2, 2), **TINY)
    x = np.random.default_rng(0).normal(size=(2, 48, 32, 1)).astype(np.float32)
    variables = draw(model, x.shape)
    logits = jax.jit(model.apply)(variables, x)['logits']
    with torch.no_grad():
        theirs = _torch_transunet(x, variables['params'], variables['batch_stats'])
    theirs = theirs.permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(logits, theirs, atol=1e-4 * max(1, np.abs(theirs).max()))


def _stem_parameters():
    """ResNet-50 to its third stage: convolutions without bias, each with a norm's two vectors."""
    total, c_in = 7 * 7 * 3 * 64 + 2 * 64, 64
    for c, n_blocks in ((64, 3), (128, 4), (256, 9)):
        for i in range(n_blocks):
            total += c_in * c + 9 * c * c + c * 4 * c + 2 * (c + c + 4 * c)
            total += c_in * 4 * c + 2 * 4 * c if i == 0 else 0
            c_in = 4 * c
    return total


@pytest.mark.parametrize(('side', 'n_labels'), [(224, 9), (512, 2)])
def test_parameters_of_r50_vit_b16(side, n_labels):
    expected = _stem_parameters()
    # 1×1 to 768, positions, 12 layers of 7,087,872 (see transformer_test), last norm.
    expected += (1024 + 1) * 768 + (side // 16) ** 2 * 768 + 12 * 7_087_872 + 2 * 768
    # Decoder: 3×3 convolutions without bias and batch norms; 3×3 with bias to the labels.
    for c_in, c in (
        (768, 512),
        (512 + 512, 256),
        (256, 256),
        (256 + 256, 128),
        (128, 128),
        (128 + 64, 64),
        (64, 64),
        (64, 16),
        (16, 16),
    ):
        expected += 9 * c_in * c + 2 * c
    expected += n_labels * (9 * 16 + 1)
    model = TransUNet(n_labels=n_labels, grid=(side // 16,) * 2)
    found = count(shapes(model, (1, side, side, 1))['params'])
    # The literature gives 105 M for 224×224 and 9 labels.
    assert found == expected == {224: 105_277_081, 512: 105_911_970}[side]


def test_one_channel_takes_the_parameters_of_three():
    model = TransUNet(grid=(1, 1), **TINY)
    one, three = (shapes(model, (1, 16, 16, c)) for c in (1, 3))
    assert one == three
    assert one['params']['stem']['conv']['kernel'].shape == (7, 7, 3, TINY['stem_width'])


def test_kernels_are_standardized():
    layer = StandardizedConv(2, 3)
    rng = np.random.default_rng(2)
    x = jnp.asarray(rng.normal(size=(1, 5, 4, 3)), jnp.float32)
    kernel = rng.normal(size=(3, 3, 3, 2)).astype(np.float32)
    plain, moved = (layer.apply({'params': {'kernel': k}}, x) for k in (kernel, 3 * kernel + 1))
    np.testing.assert_allclose(moved, plain, atol=1e-3)
    constant = {'params': {'kernel': np.ones_like(kernel)}}
    gradient = jax.grad(lambda v: jnp.sum(layer.apply(v, x) ** 2))(constant)
    assert all(np.isfinite(a).all() for a in jax.tree.leaves(gradient))


@pytest.mark.parametrize(
    ('fields', 'shape', 'words'),
    [
        ({}, (1, 40, 32, 1), 'sides'),
        ({}, (16, 16, 1), 'shape'),
        ({'heads': 'nuclei'}, (1, 16, 16, 1), 'nuclei'),
        ({'n_heads': 5}, (1, 16, 16, 1), 'hidden'),
        ({'grid': (0, 1)}, (1, 16, 16, 1), 'grid'),
        ({'groups': 3}, (1, 16, 16, 1), 'groups'),
        ({'stem_blocks': (1, 1)}, (1, 16, 16, 1), 'stem_blocks'),
        ({'decoder_filters': (8, 7, 6, 5)}, (1, 16, 16, 1), 'decoder_filters'),
    ],
)
def test_what_does_not_fit_is_named(fields, shape, words):
    with pytest.raises(InputError, match=words):
        shapes(build_model({'name': 'transunet', **TINY, **fields}), shape)
