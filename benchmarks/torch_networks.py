"""The published networks in PyTorch, to compare with (see `against_torch`, `slice_latency`).

Layers bear the names of this library's variables, so that one set of weights serves both. Arrays
are [b, c, z, y, x], or [b, c, y, x], as in PyTorch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
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


class Bottleneck(nn.Module):
    """Convolution with half the channels between two of width 1."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 3, *, bias: bool = False) -> None:
        super().__init__()
        inner = max(1, c_out // 2)
        self.reduce = nn.Conv2d(c_in, inner, 1, bias=bias)
        even = kernel % 2 == 0  # where Keras pads one more behind than before
        self.pad = nn.ZeroPad2d((0, 1, 0, 1)) if even else nn.Identity()
        padding = (kernel - 1) // 2
        self.conv = nn.Conv2d(inner, inner, kernel, padding=padding, bias=bias)
        self.expand = nn.Conv2d(inner, c_out, 1, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[b, c_in, y, x] → [b, c_out, y, x]."""
        return self.expand(self.conv(self.pad(self.reduce(x))))


class Stages(nn.Module):
    """What encoder and decoders of the double decoder have in common."""

    def add(self, name: str, c_in: int, c_out: int, *, bias: bool = False) -> None:
        """A bottleneck `…conv…` with its norm `…norm…` at the place of the braces of `name`."""
        self.add_module(name.format('conv'), Bottleneck(c_in, c_out, bias=bias))
        self.add_module(name.format('norm'), nn.BatchNorm2d(c_out, eps=1e-3, momentum=0.01))

    def add_block(self, name: str, c_in: int, c_out: int) -> int:
        """Two bottlenecks with norms, the second of which sees the input too; channels given."""
        self.add(f'{name}_{{}}_0', c_in, c_out)
        self.add_module(f'{name}_conv_1', Bottleneck(c_out, c_out))
        self.add_module(f'{name}_norm_1', nn.BatchNorm2d(c_in + c_out, eps=1e-3, momentum=0.01))
        return c_in + c_out

    def activate(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """Norm and ReLU."""
        return torch.relu_(self.get_submodule(name)(x))

    def run(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """What `add` made."""
        x = self.get_submodule(name.format('conv'))(x)
        return self.activate(name.format('norm'), x)

    def run_block(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """What `add_block` made."""
        y = self.get_submodule(f'{name}_conv_1')(self.run(f'{name}_{{}}_0', x))
        return self.activate(f'{name}_norm_1', torch.cat([x, y], 1))


class SliceEncoder(Stages):
    """Four stages of a block and a pooling."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.add('first_{}', 1, width, bias=True)
        c = width
        for i in range(4):
            c = self.add_block(f'stage_{i}_0', c, width * 2**i)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """[b, 1, y, x] → [b, 16 w, y / 16, x / 16], and what went into the poolings."""
        x, skips = self.run('first_{}', x), []
        for i in range(4):
            x = self.run_block(f'stage_{i}_0', x)
            skips.append(x)
            x = functional.max_pool2d(x, 2)
        return x, skips


class SliceDecoder(Stages):
    """Four stages of a transposed convolution and blocks, then a bottleneck."""

    def __init__(self, width: int, *, blocks: int, skips: bool) -> None:
        super().__init__()
        self.blocks, self.skips = blocks, skips
        c = 48 * width
        for i, f in enumerate(width * 2 ** (3 - i) for i in range(4)):
            self.add_module(f'up_{i}', nn.ConvTranspose2d(c, f, 3, stride=2))
            c = f + 2 * f * skips
            for j in range(blocks):
                c = self.add_block(f'stage_{i}_{j}', c, f)
        self.add('last_{}', c, width)

    def forward(self, x: torch.Tensor, skips: Sequence[torch.Tensor]) -> torch.Tensor:
        """[b, 48 w, y / 16, x / 16] → [b, w, y, x]."""
        for i in range(4):
            x = self.get_submodule(f'up_{i}')(x)[:, :, :-1, :-1]  # Keras' 'same'
            x = torch.cat([skips[-1 - i], x], 1) if self.skips else x
            for j in range(self.blocks):
                x = self.run_block(f'stage_{i}_{j}', x)
        return self.run('last_{}', x)


class DoubleDecoder(Stages):
    """deep_sxt's network (Dyhr et al. 2023), with the label alone or the image as well."""

    def __init__(self, width: int, heads: Sequence[str]) -> None:
        super().__init__()
        self.heads = tuple(heads)
        self.encoder = SliceEncoder(width)
        for i, j in itertools.product(range(3), range(4)):
            c_in = 16 * width
            self.add_module(f'neck_{i}_conv_{j}', Bottleneck(c_in, 16 * width, i + 1))
            norm = nn.BatchNorm2d(16 * width, eps=1e-3, momentum=0.01)
            self.add_module(f'neck_{i}_norm_{j}', norm)
        if 'image' in heads:
            self.image_decoder = SliceDecoder(width, blocks=1, skips=False)
            for i, c_out in enumerate((width, width, 1)):
                self.add_module(f'image_head_conv_{i}', Bottleneck(width, c_out, bias=True))
        if 'label' in heads:
            self.label_decoder = SliceDecoder(width, blocks=2, skips=True)
            self.label_head_norm = nn.BatchNorm2d(width, eps=1e-3, momentum=0.01)
            self.label_head_conv = Bottleneck(width, width, bias=True)
            self.label_head_last = nn.Conv2d(width, 1, 1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """[b, 1, y, x] → head name → [b, 1, y, x]."""
        x, skips = self.encoder(x)
        branches = []
        for i in range(3):
            y = x
            for j in range(4):
                y = self.run(f'neck_{i}_{{}}_{j}', y)
            branches.append(y)
        x = torch.cat(branches, 1)
        return {name: getattr(self, name)(x, skips) for name in self.heads}

    def image(self, x: torch.Tensor, skips: Sequence[torch.Tensor]) -> torch.Tensor:
        """[b, 48 w, y / 16, x / 16] → [b, 1, y, x]."""
        x = self.image_decoder(x, skips)
        for i in range(3):
            x = self.get_submodule(f'image_head_conv_{i}')(x)
        return x

    def label(self, x: torch.Tensor, skips: Sequence[torch.Tensor]) -> torch.Tensor:
        """Likewise."""
        x = self.label_head_norm(self.label_decoder(x, skips))
        return torch.tanh(self.label_head_last(self.label_head_conv(x)))


def from_variables(network: nn.Module, variables: Mapping[str, Any]) -> None:
    """Give a network of convolutions and batch norms the weights of ours."""
    for path, layer in network.named_modules():
        if not isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d)):
            continue
        params = _get(variables['params'], path)
        if isinstance(layer, nn.BatchNorm2d):
            state = _get(variables['batch_stats'], path)
            named = {'weight': params['scale'], 'bias': params['bias']}
            named |= {'running_mean': state['mean'], 'running_var': state['var']}
        else:
            kernel = np.asarray(params['kernel'])
            if isinstance(layer, nn.ConvTranspose2d):
                weight = np.moveaxis(np.flip(kernel, (0, 1)), (-2, -1), (0, 1))
            else:
                weight = np.moveaxis(kernel, (-1, -2), (0, 1))
            named = {'weight': weight} | ({'bias': params['bias']} if 'bias' in params else {})
        tensors = {n: torch.from_numpy(np.array(a, np.float32)) for n, a in named.items()}
        missing = set(layer.state_dict()) - set(tensors) - {'num_batches_tracked'}
        if missing:
            raise ValueError(f'{path} has no {sorted(missing)}')
        layer.load_state_dict(tensors, strict=False)


def _get(tree: Mapping[str, Any], path: str) -> Any:
    for name in path.split('.'):
        tree = tree[name]
    return tree


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
