"""Models of Biomedisa: files as it writes them, and what it computes, in numpy."""

from __future__ import annotations

import json
import pathlib

import h5py
import numpy as np

FIXTURE = pathlib.Path(__file__).parents[2] / 'fixtures' / 'biomedisa_unet_small.npz'
META = {
    'configuration': np.array([1, 256, 256, 256, 1, 0.31, 0.17]),
    'normalization': np.array([[0.31], [0.17]]),
    'labels': np.array([0, 2, 5], np.uint8),
    'patch_size': np.array([32, 32, 32]),
    'scaling': 1,
    'patch_normalization': 0,
    'separation': 0,
}


def published_weights():
    """Those of the fixture, in the order in which Keras writes them."""
    fixture = np.load(FIXTURE)
    order = ('kernel', 'bias', 'gamma', 'beta', 'moving_mean', 'moving_variance')
    stored = [name.split('/')[1:] for name in fixture.files if name.startswith('weights/')]
    return {
        f'{layer}/{name}': fixture[f'weights/{layer}/{name}']
        for layer, name in sorted(stored, key=lambda n: (n[0].split('_')[-2:], order.index(n[1])))
    }


def random_weights(filters, n_channels, n_labels, *, residual, seed=0):
    """Of any such network."""
    rng = np.random.default_rng(seed)
    weights = {}

    def conv(name, *shape, bias=True):
        weights[f'{name}/kernel'] = rng.normal(0, np.prod(shape[:-1]) ** -0.5, shape)
        if bias:
            weights[f'{name}/bias'] = rng.normal(0, 0.3, shape[-1])

    widths = [*filters, *filters[-2::-1]]
    for n, width in enumerate(widths, start=1):
        up = n > len(filters)
        c = n_channels if n == 1 else widths[n - 2] + (width if up else 0)
        if residual:
            conv(f'Identity{n}_1', 1, 1, 1, c, width, bias=False)
        for stage in (1, 2):
            conv(f'conv_{n}_{stage}', 3, 3, 3, c if stage == 1 else width, width)
            norm = f'batch_norm_{n}_{stage}'
            for name in ('gamma', 'moving_variance'):
                weights[f'{norm}/{name}'] = rng.uniform(0.5, 2, width)
            for name in ('beta', 'moving_mean'):
                weights[f'{norm}/{name}'] = rng.normal(0, 0.3, width)
    conv(f'conv_{len(widths) + 1}_1', 1, 1, 1, widths[-1], n_labels)
    return {name: tensor.astype(np.float32) for name, tensor in weights.items()}


def write_model(path, weights, *, legacy=True, as_bytes=False, layers=(), **meta):
    """A full model: `legacy` with ':0' after the names, Keras 3 without; with an optimizer.

    `layers`: of the model's config, such as ('Conv3D', {'name': 'conv_1_1', …}).
    """

    def names(values):
        return np.array([v.encode() for v in values]) if as_bytes else list(values)

    config = [{'class_name': kind, 'config': fields} for kind, fields in layers]
    groups = {'input_1': []}
    for name in weights:
        groups.setdefault(name.split('/')[0], []).append(name + ':0' * legacy)
    with h5py.File(path, 'w') as file:
        file.attrs['model_config'] = json.dumps({'config': {'layers': config}})
        group = file.create_group('model_weights')
        group.attrs['layer_names'] = names(groups)
        group.create_group('top_level_model_weights').attrs['weight_names'] = np.zeros(0)
        for layer, weight_names in groups.items():
            group.create_group(layer).attrs['weight_names'] = names(weight_names)
            for name in weight_names:
                group[layer][name] = weights[name.removesuffix(':0')]
        file['optimizer_weights/SGD/conv_1_1/kernel/momentum:0'] = np.ones(3)
        for name, value in {**META, **meta}.items():
            if value is not None:
                file[f'meta/{name}'] = value
    return path


def predict_patches(weights, x, *, residual=False):
    """Logits of patches [b, z, y, x, c]."""
    n_levels = max(int(name.split('_')[1]) for name in weights if name.startswith('conv_')) // 2
    skips = []
    for n in range(1, n_levels):
        x = _block(weights, x, n, residual)
        skips.append(x)
        b, z, y, w, c = x.shape
        x = x.reshape(b, z // 2, 2, y // 2, 2, w // 2, 2, c).max((2, 4, 6))
    x = _block(weights, x, n_levels, residual)
    for n in range(n_levels + 1, 2 * n_levels):
        x = x.repeat(2, 1).repeat(2, 2).repeat(2, 3)
        x = _block(weights, np.concatenate([x, skips.pop()], -1), n, residual)
    return _conv(weights, x, f'conv_{2 * n_levels}_1')


def _block(weights, x, n, residual):
    y = np.maximum(_norm(weights, np.maximum(_conv(weights, x, f'conv_{n}_1'), 0), n, 1), 0)
    y = _conv(weights, y, f'conv_{n}_2')
    if residual:
        return np.maximum(_norm(weights, y, n, 2) + _conv(weights, x, f'Identity{n}_1'), 0)
    return np.maximum(_norm(weights, np.maximum(y, 0), n, 2), 0)


def _norm(weights, x, n, stage):
    names = ('gamma', 'beta', 'moving_mean', 'moving_variance')
    gamma, beta, mean, var = (weights[f'batch_norm_{n}_{stage}/{name}'] for name in names)
    return gamma * (x - mean) / np.sqrt(var + np.float32(1e-3)) + beta


def _conv(weights, x, name):
    kernel = weights[f'{name}/kernel']
    pad, (z, y, w) = kernel.shape[0] // 2, x.shape[1:4]
    padded = np.pad(x, [(0, 0), *[(pad, pad)] * 3, (0, 0)])
    result = np.float32(0) + weights.get(f'{name}/bias', np.float32(0))
    for i, j, k in np.ndindex(kernel.shape[:3]):
        result = result + padded[:, i : i + z, j : j + y, k : k + w] @ kernel[i, j, k]
    return result
