"""Weights of Cellpose 1 to 3 (`cyto`, `cyto2`, `cyto3`, `nuclei`, models trained from them)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from sxt_jax.core.errors import InputError
from sxt_jax.models.cellpose2d import FLOW_SCALE, Cellpose2D
from sxt_jax.models.pretrained.state_dict import read_state_dict
from sxt_jax.models.pretrained.tensors import (
    Pretrained,
    Source,
    Tensors,
    assemble,
    torch_kernel,
)

_FIRST = 'downsample.down.res_down_{}.conv.conv_0.2.weight'
_DIAMETERS = ('diam_mean', 'diam_labels')
_NUCLEI_DIAMETER, _CELL_DIAMETER = 17.0, 30.0


def load_cellpose2d(path: str | Path, *, dtype: Any = jnp.float32) -> Pretrained:
    """The network of Cellpose 1 with the weights of a file.

    Read are the state dicts of cellpose 1 to 3 (residual and style on, concatenation off), which
    have no suffix (`cytotorch_0`, `nucleitorch_3`), or the same tensors as .npz. Sizes and input
    channels are those of the tensors. Files of cellpose 1 do not say what diameter they are for:
    it is 17 px where the file's name says nuclei, else 30 px, as in the published code.

    Args:
      path: the file.
      dtype: compute dtype of the model.

    Returns:
      The model, its variables, and its conventions: 'n_channels' and 'channels', 'diameter_px' to
      which cells are scaled, 'intensity' percentiles that become 0 and 1 in each channel,
      'flow_scale' by which the published flows are longer than ours.

    Raises:
      InputError: no such file, not of this network, or a tensor is missing, too many, or of
        another shape.
    """
    tensors = read_state_dict(path)
    features = _features(path, tensors)
    n_channels = tensors[_FIRST.format(0)].shape[1]
    model = Cellpose2D(features=features, dtype=dtype)
    side = model.side_multiple[0]
    counters = [name for name in tensors if name.endswith('.num_batches_tracked')]
    variables = assemble(
        path,
        model,
        tensors,
        _sources(len(features)).__getitem__,
        input_shape=(1, side, side, n_channels),
        ignored=[*counters, *_DIAMETERS],
    )
    return Pretrained(model, variables, _metadata(Path(path), tensors, n_channels))


def _features(path: str | Path, tensors: Tensors) -> tuple[int, ...]:
    """Channels of each level."""
    levels: list[int] = []
    while _FIRST.format(len(levels)) in tensors:
        weight = tensors[_FIRST.format(len(levels))]
        if weight.ndim != 4:
            raise InputError(
                path,
                f'tensor {_FIRST.format(len(levels))!r} of shape {weight.shape}',
                '[out, in, 3, 3]',
            )
        levels.append(weight.shape[0])
    if not levels:
        first = next(iter(tensors), 'none at all')
        raise InputError(
            path,
            f'no tensor {_FIRST.format(0)!r} (the first is {first!r})',
            'the residual network of Cellpose 1',
        )
    return tuple(levels)


def _sources(n_levels: int) -> dict[str, Source]:
    sources = _norm_conv('head', 'output', 2)
    for i in range(n_levels):
        down, up = f'downsample.down.res_down_{i}', f'upsample.up.res_up_{i}'
        sources |= _norm_conv(f'down_{i}/shortcut', f'{down}.proj', 1)
        sources |= _norm_conv(f'up_{i}/shortcut', f'{up}.proj', 1)
        for t in range(4):
            styled = f'{up}.conv.conv_{t}'
            sources |= _norm_conv(f'down_{i}/conv_{t}', f'{down}.conv.conv_{t}', 2)
            sources |= _norm_conv(f'up_{i}/conv_{t}', f'{styled}.conv' if t else styled, 2)
            if t:
                linear = f'params/up_{i}/conv_{t}/style'
                sources[f'{linear}/kernel'] = Source(f'{styled}.full.weight', torch_kernel)
                sources[f'{linear}/bias'] = Source(f'{styled}.full.bias')
    return sources


def _norm_conv(ours: str, theirs: str, conv: int) -> dict[str, Source]:
    """A norm, 0 in its sequence, and a convolution, 2, or 1 where no ReLU is between them."""
    return {
        f'params/{ours}/norm/scale': Source(f'{theirs}.0.weight'),
        f'params/{ours}/norm/bias': Source(f'{theirs}.0.bias'),
        f'batch_stats/{ours}/norm/mean': Source(f'{theirs}.0.running_mean'),
        f'batch_stats/{ours}/norm/var': Source(f'{theirs}.0.running_var'),
        f'params/{ours}/conv/kernel': Source(f'{theirs}.{conv}.weight', torch_kernel),
        f'params/{ours}/conv/bias': Source(f'{theirs}.{conv}.bias'),
    }


def _metadata(path: Path, tensors: Tensors, n_channels: int) -> dict[str, Any]:
    by_name = _NUCLEI_DIAMETER if 'nuclei' in path.name.lower() else _CELL_DIAMETER
    diameters = {name: float(np.ravel(tensors[name])[0]) for name in _DIAMETERS if name in tensors}
    return {
        'format': 'cellpose2d',
        'paper': 'Stringer et al. 2021, Nature Methods 18, 100–106',
        'n_channels': n_channels,
        'channels': ['cytoplasm', 'nucleus'] if n_channels == 2 else None,
        'diameter_px': diameters.get('diam_mean', by_name),
        'diameter_of_training_px': diameters.get('diam_labels'),
        'intensity': {'kind': 'percentile', 'low_percent': 1.0, 'high_percent': 99.0},
        'heads': {
            'foreground': 'probability',
            'foreground_logit': 'its logit, the published cell probability',
            'flows': '(y, x) towards the centre, length 1 in cells',
        },
        'flow_scale': FLOW_SCALE,
    }
