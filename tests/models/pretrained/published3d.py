"""Two published 3-D networks in numpy, float64, from tensors named as PyTorch names them.

Written from what the layers mean, one kernel tap after the other: slow, and independent of JAX.
Images are [c, z, y, x], convolution weights [out, in, k, k, k], transposed ones [in, out, k, k, k].
"""

from __future__ import annotations

import itertools
import pathlib

import numpy as np

EPSILON = 1e-5
FIXTURES = pathlib.Path(__file__).parents[2] / 'fixtures'


def read_fixture(name):
    """Arrays of a fixture, and of these its weights under the names in the published file."""
    with np.load(FIXTURES / name) as file:
        arrays = dict(file)
    before = 'weights/'
    return arrays, {n.removeprefix(before): t for n, t in arrays.items() if n.startswith(before)}


def save(path, tensors, prefix=''):
    """An npz file of a state dict."""
    np.savez(path, **{f'{prefix}{name}': tensor for name, tensor in tensors.items()})
    return path


def convolve(x, weight, bias, *, stride=1, padding=1):
    x = np.pad(x, [(0, 0), *[(padding, padding)] * 3])
    side = weight.shape[2]
    sides = [(n - side) // stride + 1 for n in x.shape[1:]]
    y = np.zeros((weight.shape[0], *sides))
    for tap in itertools.product(range(side), repeat=3):
        seen = tuple(slice(k, k + stride * n, stride) for k, n in zip(tap, sides, strict=True))
        y += np.tensordot(weight[:, :, *tap], x[:, *seen], 1)
    return y + bias[:, None, None, None]


def spread(x, weight, bias, *, padding):
    """Transposed convolution of stride 2: output 2·i − padding + k gets input i times tap k."""
    side = weight.shape[2]
    y = np.zeros((weight.shape[1], *(2 * n + side for n in x.shape[1:])))
    for tap in itertools.product(range(side), repeat=3):
        hit = tuple(slice(k, k + 2 * n, 2) for k, n in zip(tap, x.shape[1:], strict=True))
        y[:, *hit] += np.tensordot(weight[:, :, *tap].T, x, 1)
    kept = (slice(padding, padding + 2 * n) for n in x.shape[1:])
    return y[:, *kept] + bias[:, None, None, None]


def normalise(x):
    mean, variance = x.mean((1, 2, 3), keepdims=True), x.var((1, 2, 3), keepdims=True)
    return (x - mean) / np.sqrt(variance + EPSILON)


def ncxt(tensors, x, *, norm):
    """Logits [n_labels, z, y, x]."""

    def layer(name):
        return (tensors[f'{name}.{part}'].astype(float) for part in ('weight', 'bias'))

    def two_blocks(x, name):
        for block in ('block1', 'block2'):
            x = convolve(x, *layer(f'{name}.{block}.conv'))
            x = np.maximum(normalise(x) if norm else x, 0)
        return x

    n_levels = sum(name.startswith('down_convs') for name in tensors) // 4
    skips = []
    for i in range(n_levels):
        x = two_blocks(x, f'down_convs.{i}')
        skips.append(x)
        if i < n_levels - 1:
            c, z, y, w = x.shape
            x = x.reshape(c, z // 2, 2, y // 2, 2, w // 2, 2).max((2, 4, 6))
    for i, skip in enumerate(reversed(skips[:-1])):
        x = spread(x, *layer(f'up_convs.{i}.upconv'), padding=0)
        x = two_blocks(np.concatenate([x, skip]), f'up_convs.{i}')
    return convolve(x, *layer('conv_final'), padding=0)


def cellpose3d(tensors, x):
    """Foreground and the three flows [4, z, y, x], as published: away from the centre."""

    def layer(name):
        return (tensors[f'{name}.{part}'].astype(float) for part in ('weight', 'bias'))

    def leaky(x, *, norm=True):
        x = normalise(x) if norm else x
        return np.where(x > 0, x, 0.2 * x)

    def two_convs(x, name, *, second='3', norm=True):
        x = leaky(convolve(x, *layer(f'{name}.0')), norm=norm)
        return leaky(convolve(x, *layer(f'{name}.{second}')), norm=norm)

    def down(x, name, *, norm=True):
        return leaky(convolve(x, *layer(f'{name}.0'), stride=2), norm=norm)

    def up(x, name):
        x = leaky(spread(x, *layer(f'{name}.0'), padding=1))
        return leaky(convolve(x, *layer(f'{name}.3'), padding=0))

    c1 = two_convs(x, 'c1', second='2', norm=False)
    c2 = two_convs(down(c1, 'd1', norm=False), 'c2')
    c3 = two_convs(down(c2, 'd2'), 'c3')
    x = two_convs(down(c3, 'd3'), 'c4')
    for skip, up_name, name in ((c3, 'u1', 'c5'), (c2, 'u2', 'c6'), (c1, 'u3', 'c7')):
        x = two_convs(np.concatenate([up(x, up_name), skip]), name)
    x = two_convs(x, 'out')
    return np.tanh(convolve(x, *layer('out.6'), padding=0))


def random_tensors(shapes, seed):
    """Weights that keep the signal's size, and biases, of these shapes by name."""
    rng = np.random.default_rng(seed)
    scales = {
        name: 0.2 if len(shape) == 1 else 1.4 / np.sqrt(np.prod(shape[1:]))
        for name, shape in shapes.items()
    }
    return {
        name: rng.normal(0, scales[name], shape).astype(np.float32)
        for name, shape in shapes.items()
    }


def _with_bias(shapes, transposed=()):
    return shapes | {
        name.replace('weight', 'bias'): (shape[1 if name in transposed else 0],)
        for name, shape in shapes.items()
    }


def ncxt_shapes(filters, n_labels, n_channels):
    """Shapes of the NCXT's tensors by name."""
    shapes, ups = {}, []
    for i, width in enumerate(filters):
        before = filters[i - 1] if i else n_channels
        shapes[f'down_convs.{i}.block1.conv.weight'] = (width, before, 3, 3, 3)
        shapes[f'down_convs.{i}.block2.conv.weight'] = (width, width, 3, 3, 3)
    for i, (below, width) in enumerate(zip(filters[:0:-1], filters[-2::-1], strict=True)):
        ups.append(f'up_convs.{i}.upconv.weight')
        shapes[ups[-1]] = (below, width, 2, 2, 2)
        shapes[f'up_convs.{i}.block1.conv.weight'] = (width, 2 * width, 3, 3, 3)
        shapes[f'up_convs.{i}.block2.conv.weight'] = (width, width, 3, 3, 3)
    shapes['conv_final.weight'] = (n_labels, filters[0], 1, 1, 1)
    return _with_bias(shapes, ups)


def cellpose3d_shapes(f, n_channels):
    """Shapes of Cellpose3D's tensors by name."""
    pairs = {  # input, inner and output channels
        'c1': (n_channels, f // 2, f),
        'c2': (f, f, 2 * f),
        'c3': (2 * f, 2 * f, 4 * f),
        'c4': (4 * f, 4 * f, 8 * f),
        'c5': (12 * f, 4 * f, 4 * f),
        'c6': (6 * f, 2 * f, 2 * f),
        'c7': (3 * f, f, f),
        'out': (f, f, f),
    }
    shapes = {}
    for name, (before, inner, after) in pairs.items():
        shapes[f'{name}.0.weight'] = (inner, before, 3, 3, 3)
        shapes[f'{name}.{2 if name == "c1" else 3}.weight'] = (after, inner, 3, 3, 3)
    for i, width in ((1, f), (2, 2 * f), (3, 4 * f)):
        shapes[f'd{i}.0.weight'] = (width, width, 4, 4, 4)
        shapes[f'u{4 - i}.0.weight'] = (2 * width, 2 * width, 3, 3, 3)
        shapes[f'u{4 - i}.3.weight'] = (2 * width, 2 * width, 1, 1, 1)
    shapes['out.6.weight'] = (4, f, 1, 1, 1)
    return _with_bias(shapes)
