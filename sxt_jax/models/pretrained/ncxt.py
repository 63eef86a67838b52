"""Weights of the 3-D U-Net of the National Center for X-ray Tomography (Ekman et al. 2020)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from sxt_jax.core.errors import InputError
from sxt_jax.models.pretrained.state_dict import read_state_dict
from sxt_jax.models.pretrained.tensors import (
    Pretrained,
    Source,
    Tensors,
    assemble,
    torch_transpose_kernel,
)
from sxt_jax.models.pretrained.torch_layers import (
    another_network,
    conv_sources,
    weight_shape,
)
from sxt_jax.models.unet3d import UNet3D

_WIDTH = 'down_convs.{}.block1.conv.weight'
_HEAD = 'conv_final.weight'
_GRAY_FACTOR = 100.0


def load_ncxt(
    path: str | Path,
    *,
    norm: str = 'instance',
    dropout: float = 0.0,
    takes_lac: bool = False,
    class_names: Sequence[str] | None = None,
    dtype: Any = jnp.float32,
) -> Pretrained:
    """The U-Net of ncxt_sxtcnn and SXT_AUTOSEG with the weights of a file.

    Read are the state dicts that these write as `<hash>_<epoch>.weights`, or the same tensors as
    .npz. Depth, widths, classes and input channels are those of the tensors; the arguments are what
    tensors do not tell.

    The networks for yeast of SXT_AUTOSEG have five levels of 64 to 1024 channels and work on blocks
    of 96³ voxels of a volume binned by 2. A network of more than one channel is the
    second of a cascade: its first channel is the image, the others are the probabilities of the
    first network's classes 1, 2, …, smoothed by a Gaussian of 2 voxels.

    Args:
      path: the file.
      norm: 'instance' as in all published uses, or 'none' (`instancenorm=False`).
      dropout: of further training; no effect on predictions.
      takes_lac: the published loader multiplies absorption coefficients by 100 before the network
        sees them; True puts this into the first convolution, so that the model takes them as the
        files hold them.
      class_names: of the classes in order, background first. Those of the yeast networks are void,
        cell, lipid, nucleus and vacuole.
      dtype: compute dtype of the model.

    Returns:
      The model, its variables, and its conventions: 'n_channels', 'gray_factor' by which the image
      is to be multiplied, 'class_names'.

    Raises:
      InputError: no such file, not of this network, a tensor is missing, too many, or of another
        shape, or other class names than classes.
    """
    if norm not in ('instance', 'none'):
        raise InputError('load_ncxt.norm', repr(norm), "'instance' or 'none'")
    tensors = read_state_dict(path)
    filters = _filters(path, tensors)
    n_labels = weight_shape(path, tensors, _HEAD)[0]
    n_channels = weight_shape(path, tensors, _WIDTH.format(0))[1]
    if class_names is not None and len(class_names) != n_labels:
        raise InputError(path, f'{n_labels} classes', f'those of the names {tuple(class_names)}')
    model = UNet3D(
        n_labels=n_labels, filters=filters, norm=norm, up='transposed', dropout=dropout, dtype=dtype
    )
    variables = assemble(
        path,
        model,
        tensors,
        _sources(len(filters)).__getitem__,
        input_shape=(1, *model.side_multiple, n_channels),
    )
    if takes_lac:
        variables['params']['encoder_0']['conv_1']['kernel'][..., 0, :] *= _GRAY_FACTOR
    return Pretrained(model, variables, _metadata(n_labels, n_channels, class_names, takes_lac))


def _filters(path: str | Path, tensors: Tensors) -> tuple[int, ...]:
    """Channels of each level, from full resolution to the bottom."""
    levels = [int(m[1]) for name in tensors if (m := re.match(r'down_convs\.(\d+)\.', name))]
    if not levels:
        raise another_network(path, tensors, f'the U-Net of the NCXT ({_WIDTH.format(0)!r}, …)')
    return tuple(weight_shape(path, tensors, _WIDTH.format(i))[0] for i in range(max(levels) + 1))


def _sources(n_levels: int) -> dict[str, Source]:
    sources = conv_sources('head', 'conv_final')
    for i in range(n_levels):
        sources |= _block(f'encoder_{i}', f'down_convs.{i}')
    for i in range(n_levels - 1):
        up = f'up_convs.{n_levels - 2 - i}'  # theirs are counted from the bottom
        sources |= conv_sources(f'up_{i}', f'{up}.upconv', kernel=torch_transpose_kernel)
        sources |= _block(f'decoder_{i}', up)
    return sources


def _block(ours: str, theirs: str) -> dict[str, Source]:
    return {
        **conv_sources(f'{ours}/conv_1', f'{theirs}.block1.conv'),
        **conv_sources(f'{ours}/conv_2', f'{theirs}.block2.conv'),
    }


def _metadata(
    n_labels: int, n_channels: int, class_names: Sequence[str] | None, takes_lac: bool
) -> dict[str, Any]:
    return {
        'format': 'ncxt',
        'paper': 'Ekman et al. 2020, Microscopy and Microanalysis 26 (S2), 3152',
        'n_channels': n_channels,
        'intensity': {'kind': 'none'},
        'gray_factor': 1.0 if takes_lac else _GRAY_FACTOR,
        'heads': {'logits': 'of the classes, before softmax'},
        'class_names': None if class_names is None else list(class_names),
        'ignore_label': n_labels,
        'blend': 'triangular',
    }
