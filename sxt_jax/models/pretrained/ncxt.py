"""Weights of the 3-D U-Net of the National Center for X-ray Tomography (Ekman et al. 2020)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from sxt_jax.core.errors import InputError
from sxt_jax.models.pretrained.tensors import (
    Pretrained,
    Source,
    Tensors,
    assemble,
    read_state_dict,
    torch_kernel,
    torch_transpose_kernel,
    without_prefix,
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

    A network of more than one channel is the second of a cascade. Its first channel is the image,
    the others are the probabilities of the first network's classes 1, 2, …, smoothed by a Gaussian
    of 2 voxels.

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
    for prefix in ('module.', 'network.', 'module.'):
        tensors = without_prefix(tensors, prefix)
    filters = _filters(path, tensors)
    n_labels = _shape(path, tensors, _HEAD)[0]
    n_channels = _shape(path, tensors, _WIDTH.format(0))[1]
    if class_names is not None and len(class_names) != n_labels:
        raise InputError(path, f'{n_labels} classes', f'those of the names {tuple(class_names)}')
    model = UNet3D(
        n_labels=n_labels, filters=filters, norm=norm, up='transposed', dropout=dropout, dtype=dtype
    )
    variables = assemble(
        path,
        model,
        tensors,
        _sources(len(filters)),
        input_shape=(1, *model.side_multiple, n_channels),
    )
    if takes_lac:
        variables['params']['encoder_0']['conv_1']['kernel'][..., 0, :] *= _GRAY_FACTOR
    metadata = {
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
    return Pretrained(model, variables, metadata)


def _filters(path: str | Path, tensors: Tensors) -> tuple[int, ...]:
    """Channels of each level, from full resolution to the bottom."""
    levels = [int(m[1]) for name in tensors if (m := re.match(r'down_convs\.(\d+)\.', name))]
    if not levels:
        first = next(iter(tensors), 'none at all')
        found = f'tensors of another network (the first is {first!r})'
        raise InputError(path, found, f'the U-Net of the NCXT ({_WIDTH.format(0)!r}, …)')
    return tuple(_shape(path, tensors, _WIDTH.format(i))[0] for i in range(max(levels) + 1))


def _shape(path: str | Path, tensors: Tensors, name: str) -> tuple[int, ...]:
    shape = np.shape(tensors[name]) if name in tensors else None
    if shape is None or len(shape) != 5 or min(shape) < 1:
        found = f'no tensor {name!r}' if shape is None else f'tensor {name!r} of shape {shape}'
        raise InputError(path, found, '[out, in, k, k, k]')
    return shape


def _sources(n_levels: int) -> dict[str, Source]:
    sources = _conv('head', 'conv_final')
    for i in range(n_levels):
        sources |= _block(f'encoder_{i}', f'down_convs.{i}')
    for i in range(n_levels - 1):
        up = f'up_convs.{n_levels - 2 - i}'  # theirs are counted from the bottom
        sources |= _conv(f'up_{i}', f'{up}.upconv', torch_transpose_kernel)
        sources |= _block(f'decoder_{i}', up)
    return sources


def _block(ours: str, theirs: str) -> dict[str, Source]:
    return {
        **_conv(f'{ours}/conv_1', f'{theirs}.block1.conv'),
        **_conv(f'{ours}/conv_2', f'{theirs}.block2.conv'),
    }


def _conv(ours: str, theirs: str, kernel: Any = torch_kernel) -> dict[str, Source]:
    return {
        f'params/{ours}/kernel': Source(f'{theirs}.weight', kernel),
        f'params/{ours}/bias': Source(f'{theirs}.bias'),
    }
