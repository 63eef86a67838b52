"""Layers in PyTorch that take our parameters: an independent evaluation of tiny networks.

Images are [b, c, y, x] here.
"""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip('torch')
F = torch.nn.functional


def tensor(array):
    return torch.tensor(np.array(array))


def image(x):
    """[b, y, x, c] → [b, c, y, x]."""
    return tensor(x).permute(0, 3, 1, 2)


def conv(x, params, *, stride=1, padding=0, standardize=False):
    kernel = tensor(params['kernel']).permute(3, 2, 0, 1)
    if standardize:
        variance, mean = torch.var_mean(kernel, dim=(1, 2, 3), keepdim=True, correction=0)
        kernel = (kernel - mean) / torch.sqrt(variance + 1e-5)
    bias = tensor(params['bias']) if 'bias' in params else None
    return F.conv2d(x, kernel, bias, stride, padding)


def batch_norm(x, params, statistics, epsilon):
    running = tensor(statistics['mean']), tensor(statistics['var'])
    return F.batch_norm(x, *running, tensor(params['scale']), tensor(params['bias']), eps=epsilon)


def group_norm(x, params, groups, epsilon):
    return F.group_norm(x, groups, tensor(params['scale']), tensor(params['bias']), epsilon)


def encoder_layer(params, n_heads):
    """`torch.nn.TransformerEncoderLayer`, norms first, with our parameters."""
    hidden, mlp_dim = params['mlp_1']['kernel'].shape
    layer = torch.nn.TransformerEncoderLayer(
        hidden, n_heads, mlp_dim, 0.0, 'gelu', 1e-6, batch_first=True, norm_first=True
    )
    attention = params['attention']
    rows = [attention[part]['kernel'].reshape(hidden, hidden).T for part in _QKV]
    biases = [attention[part]['bias'].reshape(hidden) for part in _QKV]
    state = {
        'self_attn.in_proj_weight': np.concatenate(rows),
        'self_attn.in_proj_bias': np.concatenate(biases),
        'self_attn.out_proj.weight': attention['out']['kernel'].reshape(hidden, hidden).T,
        'self_attn.out_proj.bias': attention['out']['bias'],
    }
    for ours, theirs in (('mlp_1', 'linear1'), ('mlp_2', 'linear2')):
        state[f'{theirs}.weight'] = params[ours]['kernel'].T
        state[f'{theirs}.bias'] = params[ours]['bias']
    for ours, theirs in (('attention_norm', 'norm1'), ('mlp_norm', 'norm2')):
        state[f'{theirs}.weight'] = params[ours]['scale']
        state[f'{theirs}.bias'] = params[ours]['bias']
    layer.load_state_dict({name: tensor(values) for name, values in state.items()})
    return layer.eval()


_QKV = ('query', 'key', 'value')


def encoder(tokens, params, n_heads):
    """[b, n, c] through all layers and the last norm."""
    for i in range(len(params) - 1):
        tokens = encoder_layer(params[f'layer_{i}'], n_heads)(tokens)
    norm = params['norm']
    return F.layer_norm(
        tokens, tokens.shape[-1:], tensor(norm['scale']), tensor(norm['bias']), 1e-6
    )
