"""The ResUNet of the FIB-SEM paper against a plain numpy evaluation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sxt_jax.core.errors import InputError
from sxt_jax.models import ResUNet, build_model
from tests.models.random_variables import count, draw, shapes


def _conv(x, params, stride=1):
    """Correlation of [y, x, c], padded as Keras' 'same': the odd zero behind."""
    kernel, bias = params['kernel'], params['bias']
    sides = [-(-n // stride) for n in x.shape[:2]]
    padding = []
    for n, m, k in zip(x.shape, sides, kernel.shape[:2], strict=False):
        total = max((m - 1) * stride + k - n, 0)
        padding.append((total // 2, total - total // 2))
    x = np.pad(x, (*padding, (0, 0)))
    y = np.zeros((*sides, kernel.shape[-1]))
    for i, j in np.ndindex(kernel.shape[:2]):
        rows, columns = (
            slice(k, k + stride * n, stride) for k, n in zip((i, j), sides, strict=True)
        )
        y += x[rows, columns] @ kernel[i, j]
    return y + bias


def _norm(x, params, statistics):
    scale = params['scale'] / np.sqrt(statistics['var'] + 1e-3)
    return (x - statistics['mean']) * scale + params['bias']


def _transposed(x, params):
    """Keras' Conv2DTranspose(3, strides=2, padding='same'); its kernel is ours mirrored."""
    y = np.zeros((2 * x.shape[0] + 1, 2 * x.shape[1] + 1, params['kernel'].shape[-1]))
    for i, j in np.ndindex(3, 3):
        y[i : i + 2 * x.shape[0] : 2, j : j + 2 * x.shape[1] : 2] += (
            x @ params['kernel'][2 - i, 2 - j]
        )
    return y[:-1, :-1] + params['bias']


def _block(x, params, statistics, stride=1):
    y = x
    if 'norm_1' in params:
        y = np.maximum(_norm(y, params['norm_1'], statistics['norm_1']), 0)
    y = _conv(y, params['conv_1'], stride)
    y = np.maximum(_norm(y, params['norm_2'], statistics['norm_2']), 0)
    y = _conv(y, params['conv_2'])
    shortcut = _conv(x, params['shortcut'], stride)
    return y + _norm(shortcut, params['shortcut_norm'], statistics['shortcut_norm'])


def _resunet(x, params, statistics, up):
    def block(name, x, stride=1):
        return _block(x, params[name], statistics[name], stride)

    x = _norm(x, params['image_norm'], statistics['image_norm'])
    x = block('first', x)
    skips = []
    for i in range(4):
        skips.append(x)
        x = block(f'encoder_{i}', x, 2)
    x = block('bridge', x)
    for i in reversed(range(4)):
        if up == 'nearest':
            x = _conv(x.repeat(2, 0).repeat(2, 1), params[f'up_{i}'])
        else:
            x = np.maximum(_transposed(x, params[f'up_{i}']), 0)
            x = _norm(x, params[f'up_{i}_norm'], statistics[f'up_{i}_norm'])
        x = block(f'decoder_{i}', np.concatenate([x, skips[i]], -1))
    return _conv(x, params['head'])


@pytest.mark.parametrize('up', ['nearest', 'transposed'])
def test_equals_a_plain_evaluation(up):
    model = ResUNet(n_labels=3, width=2, up=up)
    x = np.random.default_rng(1).normal(size=(2, 32, 48, 2)).astype(np.float32)
    variables = draw(model, x.shape)
    logits = jax.jit(model.apply)(variables, x)['logits']
    assert logits.shape == (2, 32, 48, 3)
    wide = jax.tree.map(lambda a: a.astype(np.float64), variables)
    expected = [_resunet(a, wide['params'], wide['batch_stats'], up) for a in x.astype(float)]
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max())


def test_cells_are_the_sigmoids_of_two_maps():
    x = np.random.default_rng(2).normal(size=(1, 16, 16, 1)).astype(np.float32)
    model = ResUNet(width=1)
    variables = draw(model, x.shape)
    logits = model.apply(variables, x)['logits']
    cells = ResUNet(width=1, heads='cells', n_labels=7)
    assert cells.head_activations == {'mask': None, 'boundary': None}
    found = cells.apply(variables, x)
    for i, name in enumerate(('mask', 'boundary')):
        np.testing.assert_allclose(found[name], jax.nn.sigmoid(logits[..., i : i + 1]), atol=1e-6)


def _block_parameters(c_in, c, *, norms):
    """Two 3×3 convolutions, the 1×1 shortcut, its norm, norm 2, and norm 1 where there is one."""
    convs = (9 * c_in + 1) * c + (9 * c + 1) * c + (c_in + 1) * c
    return convs + 2 * c + 2 * c + (2 * c_in if norms == 2 else 0)


@pytest.mark.parametrize(('up', 'total'), [('nearest', 37_449_798), ('transposed', 40_935_238)])
def test_parameters_of_the_published_width(up, total):
    # Channels as in the released code: first 64; encoder 128, 256, 512, 512; bridge 1024; each
    # decoder block gets its up-sampled half and the skip of that size.
    trainable = 2 + _block_parameters(1, 64, norms=1)
    for c_in, c in ((64, 128), (128, 256), (256, 512), (512, 512), (512, 1024)):
        trainable += _block_parameters(c_in, c, norms=2)
    for c_in, c, skip in ((1024, 512, 512), (512, 256, 256), (256, 128, 128), (128, 64, 64)):
        taps = 4 if up == 'nearest' else 9
        trainable += (taps * c_in + 1) * c + (2 * c if up == 'transposed' else 0)
        trainable += _block_parameters(c + skip, c, norms=2)
    trainable += 2 * (64 + 1)
    found = shapes(ResUNet(up=up), (1, 512, 512, 1))
    assert count(found['params']) == trainable
    assert count(found) == total


@pytest.mark.parametrize('up', ['nearest', 'transposed'])
def test_halo_is_how_far_pixels_reach(up):
    model = ResUNet(width=1, up=up)
    shape = (1, 304, 16, 1)
    # Positive parameters keep every ReLU open, so that whatever can reach the output does.
    variables = jax.tree.map(np.abs, draw(model, shape))
    gradient = jax.jit(jax.grad(lambda x, row: model.apply(variables, x)['logits'][0, row].sum()))
    before = after = 0
    for row in range(144, 160):
        rows = np.flatnonzero(np.abs(gradient(jnp.ones(shape), row)).max((0, 2, 3)))
        before, after = max(before, row - rows[0]), max(after, rows[-1] - row)
    assert model.halo == (max(before, after),) * 2


@pytest.mark.parametrize(
    ('fields', 'shape', 'words'),
    [
        ({}, (1, 24, 16, 1), 'sides'),
        ({}, (1, 16, 16), 'shape'),
        ({'up': 'cubic'}, (1, 16, 16, 1), 'cubic'),
        ({'heads': 'nuclei'}, (1, 16, 16, 1), 'nuclei'),
        ({'n_labels': 0}, (1, 16, 16, 1), 'n_labels'),
        ({'width': 0}, (1, 16, 16, 1), 'width'),
    ],
)
def test_what_does_not_fit_is_named(fields, shape, words):
    with pytest.raises(InputError, match=words):
        shapes(build_model({'name': 'resunet', **fields}), shape)
