"""What the importers of PyTorch's 3-D networks share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from sxt_jax.core.errors import InputError
from sxt_jax.models.pretrained.tensors import Source, Tensors, torch_kernel

Turn = Callable[[np.ndarray], np.ndarray]


def conv_sources(
    ours: str, theirs: str, *, kernel: Turn = torch_kernel, bias: Turn = np.asarray
) -> dict[str, Source]:
    """Where kernel and bias of a convolution come from.

    Args:
      ours: path of our layer, such as 'encoder_0/conv_1'.
      theirs: name of the PyTorch layer, such as 'c1.0'.
      kernel: turns its weight to our layout.
      bias: turns its bias.
    """
    return {
        f'params/{ours}/kernel': Source(f'{theirs}.weight', kernel),
        f'params/{ours}/bias': Source(f'{theirs}.bias', bias),
    }


def weight_shape(path: str | Path, tensors: Tensors, name: str) -> tuple[int, ...]:
    """Shape [out, in, k, k, k] of a 3-D convolution's weight.

    Raises:
      InputError: there is no such tensor, or it is no such weight.
    """
    if name not in tensors:
        raise InputError(path, f'no tensor {name!r}', 'one of shape [out, in, k, k, k]')
    shape = np.shape(tensors[name])
    if len(shape) != 5 or min(shape) < 1:
        raise InputError(path, f'tensor {name!r} of shape {shape}', '[out, in, k, k, k]')
    return shape


def another_network(path: str | Path, tensors: Tensors, expected: str) -> InputError:
    """The error for a file whose tensors belong to another network altogether."""
    first = next(iter(tensors), None)
    if first is None:
        return InputError(path, 'no tensors at all', expected)
    return InputError(path, f'tensors of another network (the first is {first!r})', expected)
