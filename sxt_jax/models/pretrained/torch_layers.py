"""What the importers of PyTorch's 3-D networks share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from sxt_jax.core.errors import InputError
from sxt_jax.models.pretrained.tensors import (
    Source,
    Tensors,
    read_state_dict,
    torch_kernel,
    without_prefix,
)
from sxt_jax.models.pretrained.torch_archive import read_torch_archive

Turn = Callable[[np.ndarray], np.ndarray]
_ZIP = b'PK\x03\x04'


def read_layers(path: str | Path) -> dict[str, np.ndarray]:
    """Tensors of a PyTorch checkpoint by the names of their layers.

    Names lose what a Lightning module ('network.') and DataParallel ('module.') put before them.

    Args:
      path: any file that `torch.save` wrote, or .npz with the same names. PyTorch must be installed
        only for files of versions before 1.6.

    Raises:
      InputError: no such file, none of these formats, or it is damaged.
    """
    tensors = read_torch_archive(path) if _is_archive(Path(path)) else read_state_dict(path)
    for prefix in ('module.', 'network.', 'module.'):
        tensors = without_prefix(tensors, prefix)
    return tensors


def _is_archive(path: Path) -> bool:
    if path.suffix == '.npz' or not path.is_file():
        return False
    with path.open('rb') as file:
        return file.read(4) == _ZIP


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
