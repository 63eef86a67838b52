"""Weights of Cellpose3D (Eschweiler and Stegmaier 2021)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from sxt_jax.models.cellpose3d import Cellpose3DNet
from sxt_jax.models.pretrained.state_dict import read_state_dict
from sxt_jax.models.pretrained.tensors import (
    Pretrained,
    Source,
    assemble,
    torch_kernel,
    torch_transpose_kernel,
)
from sxt_jax.models.pretrained.torch_layers import (
    another_network,
    conv_sources,
    weight_shape,
)

# Our module of two convolutions: their sequence, and the places of the convolutions in it.
_PAIRS = {
    'encoder_0': ('c1', 0, 2),
    'encoder_1': ('c2', 0, 3),
    'encoder_2': ('c3', 0, 3),
    'bottom': ('c4', 0, 3),
    'decoder_2': ('c5', 0, 3),
    'decoder_1': ('c6', 0, 3),
    'decoder_0': ('c7', 0, 3),
    'final': ('out', 0, 3),
}
_WIDTH, _INPUT = 'c1.2.weight', 'c1.0.weight'


def load_cellpose3d(path: str | Path, *, dtype: Any = jnp.float32) -> Pretrained:
    """The network of Cellpose3D with the weights of a file.

    Read are state dicts and checkpoints of PyTorch Lightning, whose names begin with 'network.', or
    the same tensors as .npz. Width and input channels are those of the tensors. That the network
    has instance norm and ends in tanh, as published, cannot be seen in them.

    The published flows point away from the centre of a cell, those of this library towards it: the
    weights and biases of the last convolution that make them are negated (tanh is odd).

    Args:
      path: the file.
      dtype: compute dtype of the model.

    Returns:
      The model, its variables, and its conventions: 'n_channels', 'intensity' percentiles that
      become 0 and 1, 'patch', 'overlap' and 'crop' (z, y, x) of the published prediction.

    Raises:
      InputError: no such file, not of this network, or a tensor is missing, too many, or of
        another shape.
    """
    tensors = read_state_dict(path)
    sources = _sources()
    names = {source.name for source in sources.values()}
    if 2 * len(names & set(tensors)) < len(names):
        raise another_network(path, tensors, f'Cellpose3D ({_INPUT!r}, …)')
    features = weight_shape(path, tensors, _WIDTH)[0]
    n_channels = weight_shape(path, tensors, _INPUT)[1]
    model = Cellpose3DNet(features=features, dtype=dtype)
    shape = (1, *model.side_multiple, n_channels)
    variables = assemble(path, model, tensors, sources.__getitem__, input_shape=shape)
    return Pretrained(model, variables, _metadata(n_channels))


def _sources() -> dict[str, Source]:
    sources = conv_sources('head', 'out.6', kernel=_flows_turned_kernel, bias=_flows_turned)
    for ours, (theirs, first, second) in _PAIRS.items():
        sources |= conv_sources(f'{ours}/conv_1', f'{theirs}.{first}')
        sources |= conv_sources(f'{ours}/conv_2', f'{theirs}.{second}')
    for i in range(3):
        sources |= conv_sources(f'down_{i}', f'd{i + 1}.0')
        sources |= conv_sources(f'up_{i}/transposed', f'u{3 - i}.0', kernel=torch_transpose_kernel)
        sources |= conv_sources(f'up_{i}/conv', f'u{3 - i}.3')
    return sources


def _flows_turned(tensor: np.ndarray) -> np.ndarray:
    """Output channels 1 and up, the flows, with the other sign."""
    return np.concatenate([tensor[:1], -tensor[1:]])


def _flows_turned_kernel(weight: np.ndarray) -> np.ndarray:
    return torch_kernel(_flows_turned(weight))


def _metadata(n_channels: int) -> dict[str, Any]:
    return {
        'format': 'cellpose3d',
        'paper': 'Eschweiler, Smith and Stegmaier 2021, arXiv:2105.00794',
        'n_channels': n_channels,
        'intensity': {
            'kind': 'percentile',
            'low_percent': 2.0,
            'high_percent': 98.0,
            'clip': [1e-5, 1.0],
        },
        'heads': {
            'foreground': 'after tanh; above 0.5 where cells are',
            'flows': '(z, y, x) towards the centre; the sign of the published ones was turned',
        },
        'patch': [64, 128, 128],
        'overlap': [8, 16, 16],
        'crop': [8, 32, 32],
        'blend': 'distance',
    }
