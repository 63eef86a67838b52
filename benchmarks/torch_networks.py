"""The published 3-D networks in PyTorch, to compare this library with (see `against_torch`).

Layers bear the names of this library's variables, so that one set of weights serves both. Arrays
are [b, c, z, y, x], as in PyTorch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from sxt_jax.models.pretrained.tensors import torch_kernel, torch_transpose_kernel

Activation = Callable[[torch.Tensor], torch.Tensor]


class BatchNormBlock(nn.Module):
    """Twice [convolution 3³ → ReLU → batch norm → ReLU], as in Biomedisa."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv_1 = nn.Conv3d(c_in, c_out, 3, padding=1)
        self.norm_1 = nn.BatchNorm3d(c_out, eps=1e-3, momentum=0.01)
        self.conv_2 = nn.Conv3d(c_out, c_out, 3, padding=1)
        self.norm_2 = nn.BatchNorm3d(c_out, eps=1e-3, momentum=0.01)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[b, c_in, z, y, x] → [b, c_out, z, y, x]."""
        x = torch.relu(self.norm_1(torch.relu(self.conv_1(x))))
        return torch.relu(self.norm_2(torch.relu(self.conv_2(x))))


class InstanceNormBlock(nn.Module):
    """Twice [convolution 3³ → instance norm → activation]."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        inner: int | None = None,
        *,
        norm: Activation = functional.instance_norm,
        activation: Activation = torch.relu,
    ) -> None:
        super().__init__()
        self.conv_1 = nn.Conv3d(c_in, inner or c_out, 3, padding=1)
        self.conv_2 = nn.Conv3d(inner or c_out, c_out, 3, padding=1)
        self.norm, self.activation = norm, activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[b, c_in, z, y, x] → [b, c_out, z, y, x]."""
        x = self.activation(self.norm(self.conv_1(x)))
        return self.activation(self.norm(self.conv_2(x)))


class UNet(nn.Module):
    """U-Net of Biomedisa (nearest up-sampling) or of the NCXT (transposed convolutions)."""

    def __init__(
        self, filters: Sequence[int], n_labels: int, block: type[nn.Module], *, transposed: bool
    ) -> None:
        super().__init__()
        self.n_levels, self.transposed = len(filters), transposed
        for i, (c_in, c_out) in enumerate(zip((1, *filters), filters, strict=False)):
            self.add_module(f'encoder_{i}', block(c_in, c_out))
        for i, (c_out, below) in enumerate(itertools.pairwise(filters)):
            if transposed:
                self.add_module(f'up_{i}', nn.ConvTranspose3d(below, c_out, 2, stride=2))
            c_up = c_out if transposed else below
            self.add_module(f'decoder_{i}', block(c_up + c_out, c_out))
        self.head = nn.Conv3d(filters[0], n_labels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[b, 1, z, y, x] → [b, n_labels, z, y, x]."""
        skips = []
        for i in range(self.n_levels - 1):
            x = self.get_submodule(f'encoder_{i}')(x)
            skips.append(x)
            x = functional.max_pool3d(x, 2)
        x = self.get_submodule(f'encoder_{self.n_levels - 1}')(x)
        for i in reversed(range(self.n_levels - 1)):
            if self.transposed:
                x = self.get_submodule(f'up_{i}')(x)
            else:
                x = functional.interpolate(x, scale_factor=2)
            x = self.get_submodule(f'decoder_{i}')(torch.cat([x, skips[i]], 1))
        return self.head(x)


def _leaky(x: torch.Tensor) -> torch.Tensor:
    return functional.leaky_relu(x, 0.2)


def _same(x: torch.Tensor) -> torch.Tensor:
    return x


class Doubling(nn.Module):
    """Transposed convolution 3³, then one of 1³, each with instance norm and activation."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.transposed = nn.ConvTranspose3d(c, c, 3, stride=2, padding=1, output_padding=1)
        self.conv = nn.Conv3d(c, c, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[b, c, z, y, x] → [b, c, 2z, 2y, 2x]."""
        x = _leaky(functional.instance_norm(self.transposed(x)))
        return _leaky(functional.instance_norm(self.conv(x)))


class Cellpose3D(nn.Module):
    """U-Net of Cellpose3D (Eschweiler and Stegmaier 2021)."""

    def __init__(self, features: int) -> None:
        super().__init__()
        widths = [features * 2**i for i in range(4)]

        def block(c_in: int, inner: int, c_out: int, norm: Activation) -> nn.Module:
            return InstanceNormBlock(c_in, c_out, inner, norm=norm, activation=_leaky)

        normal = functional.instance_norm
        for i, f in enumerate(widths[:3]):
            c_in = widths[i - 1] if i else 1
            self.add_module(f'encoder_{i}', block(c_in, f // 2, f, normal if i else _same))
            self.add_module(f'down_{i}', nn.Conv3d(f, f, 4, stride=2, padding=1))
            self.add_module(f'up_{i}', Doubling(widths[i + 1]))
            self.add_module(f'decoder_{i}', block(3 * f, f, f, normal))
        self.bottom = block(widths[2], widths[2], widths[3], normal)
        self.final = block(features, features, features, normal)
        self.head = nn.Conv3d(features, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[b, 1, z, y, x] → [b, 4, z, y, x]: foreground, flows along z, y, x."""
        skips = []
        for i in range(3):
            x = self.get_submodule(f'encoder_{i}')(x)
            skips.append(x)
            x = self.get_submodule(f'down_{i}')(x)
            x = _leaky(functional.instance_norm(x) if i else x)
        x = self.bottom(x)
        for i in reversed(range(3)):
            x = torch.cat([self.get_submodule(f'up_{i}')(x), skips[i]], 1)
            x = self.get_submodule(f'decoder_{i}')(x)
        return torch.tanh(self.head(self.final(x)))


def to_variables(network: nn.Module) -> dict[str, Any]:
    """The variables of our network of the same layers: 'params' and, with batch norm, its state."""
    variables: dict[str, Any] = {'params': {}}
    for path, layer in network.named_modules():
        if isinstance(layer, nn.ConvTranspose3d):
            params = {'kernel': torch_transpose_kernel(_array(layer.weight))}
        elif isinstance(layer, nn.Conv3d):
            params = {'kernel': torch_kernel(_array(layer.weight))}
        elif isinstance(layer, nn.BatchNorm3d):
            params = {'scale': _array(layer.weight)}
            state = {'mean': _array(layer.running_mean), 'var': _array(layer.running_var)}
            _put(variables.setdefault('batch_stats', {}), path, state)
        else:
            continue
        _put(variables['params'], path, {**params, 'bias': _array(layer.bias)})
    return variables


def _array(tensor: torch.Tensor | None) -> Any:
    assert tensor is not None
    return tensor.detach().cpu().numpy().copy()


def _put(tree: dict[str, Any], path: str, leaves: dict[str, Any]) -> None:
    *parents, name = path.split('.')
    for parent in parents:
        tree = tree.setdefault(parent, {})
    tree[name] = leaves
