"""Single layers of the networks in PyTorch, to compare with (see `layers`).

Weights are given as this library holds them, images as [b, c, (z,) y, x].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from benchmarks.network_layers import Layer, explicit_pads
from sxt_jax.models.blocks import BatchNorm, Conv, ConvTranspose
from sxt_jax.models.pretrained.tensors import torch_kernel, torch_transpose_kernel

Tensors = Mapping[str, torch.Tensor]


def layouts(n_dims: int) -> dict[str, torch.memory_format]:
    """Ways to lay out images of 2 or 3 spatial axes in memory."""
    last = torch.channels_last if n_dims == 2 else torch.channels_last_3d
    return {'PyTorch': torch.contiguous_format, 'PyTorch, channels last': last}


def to_torch(array: np.ndarray, layout: torch.memory_format, like: torch.Tensor) -> torch.Tensor:
    """An image [b, (z,) y, x, c] as [b, c, (z,) y, x], of the type and device of `like`."""
    moved = torch.from_numpy(np.moveaxis(array, -1, 1).copy())
    return moved.to(like.device, like.dtype).contiguous(memory_format=layout)


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """Back again, in float32."""
    return np.moveaxis(tensor.detach().float().cpu().numpy(), 1, -1)


def torch_weights(
    layer: Layer, variables: Mapping[str, Any], layout: torch.memory_format, like: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Weights and statistics by the names that ours have, kernels turned to PyTorch's layout."""
    arrays = {**variables.get('params', {}), **variables.get('batch_stats', {})}
    weights = {}
    for name, array in arrays.items():
        if name == 'kernel':
            weight = torch.from_numpy(_turn_kernel(layer, np.asarray(array)).copy())
            weight = weight.to(like.device, like.dtype)
            weights[name] = weight.contiguous(memory_format=layout)
        else:
            # Norms of half precision keep their numbers in full.
            dtype = torch.float32 if layer.is_norm else like.dtype
            weights[name] = torch.from_numpy(np.array(array)).to(like.device, dtype)
    return weights


def _turn_kernel(layer: Layer, kernel: np.ndarray) -> np.ndarray:
    """[…, in, out] as [out, in, …], or of a transposed convolution as [in, out, …]."""
    if isinstance(layer.module, ConvTranspose):
        kernel = np.flip(kernel, tuple(range(kernel.ndim - 2)))
        return np.moveaxis(kernel, (-2, -1), (0, 1))
    return np.moveaxis(kernel, (-1, -2), (0, 1))


def our_kernel(layer: Layer, weight: torch.Tensor) -> np.ndarray:
    """The kernel, or its gradient, as this library holds it."""
    array = weight.detach().float().cpu().numpy()
    turn = torch_transpose_kernel if isinstance(layer.module, ConvTranspose) else torch_kernel
    return turn(array)


def torch_layer(layer: Layer, *, train: bool) -> Callable[..., torch.Tensor]:
    """A function of weights, image and, if one is joined, coarse image."""
    module = layer.module
    if isinstance(module, Conv):
        return lambda weights, *images: _conv(layer, weights, *images)
    if isinstance(module, ConvTranspose):
        return lambda weights, x: _conv_transpose(module, weights, x)
    if isinstance(module, BatchNorm):
        return lambda weights, x: _batch_norm(module, weights, x, train)
    return lambda weights, x: functional.instance_norm(x, eps=module.epsilon)  # type: ignore[attr-defined]


def _conv(
    layer: Layer, weights: Tensors, x: torch.Tensor, coarse: torch.Tensor | None = None
) -> torch.Tensor:
    if coarse is not None:
        # As the U-Net of Biomedisa does.
        x = torch.cat([functional.interpolate(coarse, size=x.shape[2:]), x], 1)
    pads = explicit_pads(layer)
    if all(a == b for a, b in pads):
        padding: Sequence[int] = [a for a, _ in pads]
    else:
        x = functional.pad(x, [n for pair in reversed(pads) for n in pair])
        padding = [0] * len(pads)
    run: Any = functional.conv2d if x.ndim == 4 else functional.conv3d
    stride = layer.module.stride  # type: ignore[attr-defined]
    return run(x, weights['kernel'], weights.get('bias'), stride=stride, padding=padding)


def _conv_transpose(module: ConvTranspose, weights: Tensors, x: torch.Tensor) -> torch.Tensor:
    """PyTorch's `padding` takes away from k − 1 zeros before; behind, it adds, or we crop."""
    sides = zip(module.kernel_size, module.padding, strict=True)
    padding, behind = zip(*((k - 1 - a, b - a) for k, (a, b) in sides), strict=True)
    run: Any = functional.conv_transpose2d if x.ndim == 4 else functional.conv_transpose3d
    added = [max(n, 0) for n in behind]
    x = run(x, weights['kernel'], weights['bias'], stride=2, padding=padding, output_padding=added)
    for axis, n in enumerate(behind, start=2):
        x = x.narrow(axis, 0, x.shape[axis] + min(n, 0))
    return x


def _batch_norm(module: BatchNorm, weights: Tensors, x: torch.Tensor, train: bool) -> torch.Tensor:
    return functional.batch_norm(
        x,
        weights['mean'],
        weights['var'],
        weights['scale'],
        weights['bias'],
        training=train,
        momentum=1 - module.momentum,
        eps=module.epsilon,
    )
