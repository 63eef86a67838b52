"""The published 3-D networks in PyTorch, to compare this library with (`against_torch`).

Layers bear the names of this library's variables (the U-Nets) or of the published files
(Cellpose3D), so that `state_dict` can be filled from one set of weights. Arrays are
[b, c, z, y, x], as in PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional


class BiomedisaBlock(nn.Module):
    """Twice [convolution 3³ → ReLU → batch norm → ReLU]."""

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
    """Twice [convolution 3³ → instance norm → ReLU]."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv_1 = nn.Conv3d(c_in, c_out, 3, padding=1)
        self.conv_2 = nn.Conv3d(c_out, c_out, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[b, c_in, z, y, x] → [b, c_out, z, y, x]."""
        x = torch.relu(functional.instance_norm(self.conv_1(x)))
        return torch.relu(functional.instance_norm(self.conv_2(x)))


class UNet(nn.Module):
    """U-Net of Biomedisa (nearest up-sampling) or of NCXT (transposed convolutions)."""

    def __init__(
        self,
        filters: Sequence[int],
        n_labels: int,
        block: type[nn.Module],
        *,
        transposed: bool,
    ) -> None:
        super().__init__()
        self.n_levels, self.transposed = len(filters), transposed
        for i, (c_in, c_out) in enumerate(zip((1, *filters), filters, strict=False)):
            self.add_module(f'encoder_{i}', block(c_in, c_out))
        for i, (c_out, below) in enumerate(zip(filters, filters[1:], strict=False)):
            if transposed:
                self.add_module(f'up_{i}', nn.ConvTranspose3d(below, c_out, 2, stride=2))
            c_up = c_out if transposed else below
            self.add_module(f'decoder_{i}', block(c_up + c_out, c_out))
        self.head = nn.Conv3d(filters[0], n_labels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[b, 1, z, y, x] → [b, n_labels, z, y, x]."""
        skips = []
        for i in range(self.n_levels):
            x = self.get_submodule(f'encoder_{i}')(x)
            if i < self.n_levels - 1:
                skips.append(x)
                x = functional.max_pool3d(x, 2)
        for i in reversed(range(self.n_levels - 1)):
            up = self.get_submodule(f'up_{i}')(x) if self.transposed else nn.Upsample(None, 2)(x)
            x = self.get_submodule(f'decoder_{i}')(torch.cat([up, skips[i]], 1))
        return self.head(x)


class Cellpose3D(nn.Module):
    """U-Net of Cellpose3D (Eschweiler and Stegmaier 2021), tanh at the end."""

    def __init__(self, feat: int, n_heads: int = 4) -> None:
        super().__init__()
        f = [feat, 2 * feat, 4 * feat, 8 * feat]

        def act() -> nn.Module:
            return nn.LeakyReLU(0.2)

        def normed(layer: nn.Module) -> list[nn.Module]:
            return [layer, nn.InstanceNorm3d(layer.out_channels), act()]

        def conv(c_in: int, c_out: int) -> nn.Module:
            return nn.Conv3d(c_in, c_out, 3, padding=1)

        def up(c: int) -> nn.Module:
            spread = nn.ConvTranspose3d(c, c, 3, stride=2, padding=1, output_padding=1)
            return nn.Sequential(*normed(spread), *normed(nn.Conv3d(c, c, 1)))

        def block(c_in: int, c_mid: int, c_out: int) -> nn.Module:
            return nn.Sequential(*normed(conv(c_in, c_mid)), *normed(conv(c_mid, c_out)))

        self.c1 = nn.Sequential(conv(1, feat // 2), act(), conv(feat // 2, feat), act())
        self.d1 = nn.Sequential(nn.Conv3d(f[0], f[0], 4, 2, 1), act())
        self.c2 = block(f[0], f[0], f[1])
        self.d2 = nn.Sequential(*normed(nn.Conv3d(f[1], f[1], 4, 2, 1)))
        self.c3 = block(f[1], f[1], f[2])
        self.d3 = nn.Sequential(*normed(nn.Conv3d(f[2], f[2], 4, 2, 1)))
        self.c4 = block(f[2], f[2], f[3])
        self.u1, self.c5 = up(f[3]), block(f[3] + f[2], f[2], f[2])
        self.u2, self.c6 = up(f[2]), block(f[2] + f[1], f[1], f[1])
        self.u3, self.c7 = up(f[1]), block(f[1] + f[0], f[0], f[0])
        self.out = nn.Sequential(
            *normed(conv(f[0], f[0])), *normed(conv(f[0], f[0])), nn.Conv3d(f[0], n_heads, 1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[b, 1, z, y, x] → [b, 4, z, y, x]: foreground, flows along z, y, x."""
        first = self.c1(x)
        second = self.c2(self.d1(first))
        third = self.c3(self.d2(second))
        x = self.c4(self.d3(third))
        x = self.c5(torch.cat([self.u1(x), third], 1))
        x = self.c6(torch.cat([self.u2(x), second], 1))
        x = self.c7(torch.cat([self.u3(x), first], 1))
        return torch.tanh(self.out(x))
