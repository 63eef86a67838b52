"""From the tensors of a file to the variables of a network, every name and shape checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from sxt_jax.core.errors import InputError

Tensors = Mapping[str, np.ndarray]


class Pretrained(NamedTuple):
    """A network with weights of others.

    Attributes:
      model: `model.apply(variables, x)` gives the published result.
      variables: 'params' and, where there are any, 'batch_stats'; numpy arrays.
      metadata: what the file says of its conventions, JSON-able.
    """

    model: nn.Module
    variables: dict[str, Any]
    metadata: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a variable comes from: the tensor's name, and how it is turned to our layout."""

    name: str
    turn: Callable[[np.ndarray], np.ndarray] = np.asarray


def torch_kernel(weight: np.ndarray) -> np.ndarray:
    """PyTorch's convolution (or linear) weight [out, in, …] as […, in, out]."""
    return np.moveaxis(weight, (0, 1), (-1, -2))


def torch_transpose_kernel(weight: np.ndarray) -> np.ndarray:
    """PyTorch's transposed convolution weight [in, out, …] as it is correlated, […, in, out]."""
    return np.flip(np.moveaxis(weight, (0, 1), (-2, -1)), tuple(range(weight.ndim - 2)))


def keras_transpose_kernel(kernel: np.ndarray) -> np.ndarray:
    """Keras' transposed convolution kernel […, out, in] as it is correlated, […, in, out]."""
    return np.flip(np.swapaxes(kernel, -1, -2), tuple(range(kernel.ndim - 2)))


def assemble(
    path: str | Path,
    model: nn.Module,
    tensors: Tensors,
    source_of: Callable[[str], Source],
    *,
    input_shape: Sequence[int],
    ignored: Collection[str] = (),
) -> dict[str, Any]:
    """The variables of a network, each from its tensor.

    Args:
      path: of the file, for errors.
      model: the network.
      tensors: all that the file holds.
      source_of: where a variable comes from, by its path such as 'params/encoder_0/conv_1/kernel'.
      input_shape: of an image the network takes.
      ignored: names of tensors that are no part of the network.

    Raises:
      InputError: a tensor is missing, has another shape, or belongs nowhere.
    """
    template = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros(input_shape, jnp.float32))
    )

    def take(place: Any, wanted: jax.ShapeDtypeStruct) -> np.ndarray:
        source = source_of(jax.tree_util.keystr(place, simple=True, separator='/'))
        used.add(source.name)
        if source.name not in tensors:
            raise InputError(path, f'no tensor {source.name!r}', f'one for shape {wanted.shape}')
        stored = np.asarray(tensors[source.name])
        try:
            found = source.turn(stored)
        except ValueError:  # too few axes to turn (numpy's AxisError is one)
            found = stored
        if found.shape != wanted.shape:
            raise InputError(
                path,
                f'tensor {source.name!r} of shape {stored.shape}, in our layout {found.shape}',
                f'{wanted.shape}',
            )
        if found.dtype.kind not in 'biuf':
            raise InputError(path, f'tensor {source.name!r} of {found.dtype}', 'real numbers')
        with np.errstate(over='ignore'):  # told below
            found = np.ascontiguousarray(found, np.float32)
        if not np.isfinite(found).all():
            raise InputError(path, f'NaN or infinity in tensor {source.name!r}', 'finite weights')
        return found

    used = set(ignored)
    variables = jax.tree_util.tree_map_with_path(take, template)
    extra = [name for name in tensors if name not in used]
    if extra:
        raise InputError(path, f'{len(extra)} tensors too many, first {extra[0]!r}', 'no others')
    return variables
