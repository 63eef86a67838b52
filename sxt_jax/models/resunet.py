"""The ResUNet of the FIB-SEM paper (Machireddy et al. 2023): a 2-D residual U-Net."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from sxt_jax.core.errors import InputError
from sxt_jax.models.blocks import BatchNorm, Conv, ConvTranspose
from sxt_jax.models.heads import MapNetwork
from sxt_jax.models.sides import check_image
from sxt_jax.ops.pool import upsample

ENCODER = (2, 4, 8, 8)  # channels of the four encoder blocks, in widths
BRIDGE = 16
DECODER = (8, 4, 2, 1)


class ResidualBlock(nn.Module):
    """Twice [batch norm → ReLU → convolution 3×3], and a shortcut (Machireddy et al., figure 1C).

    The shortcut is a 1×1 convolution and a batch norm, as in the authors' released code (see
    `ResUNet`).

    Attributes:
      features: output channels.
      stride: of the first convolution and of the shortcut.
      first: for the block that sees the image: without the first batch norm and ReLU.
      norm_momentum: of `BatchNorm`.
      dtype: compute dtype.
    """

    features: int
    stride: int = 1
    first: bool = False
    norm_momentum: float = 0.99
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        norm: dict[str, Any] = {'momentum': self.norm_momentum, 'dtype': self.dtype}
        y = x
        if not self.first:
            y = nn.relu(BatchNorm(name='norm_1', **norm)(y, train=train))
        y = Conv(self.features, (3, 3), self.stride, dtype=self.dtype, name='conv_1')(y)
        y = nn.relu(BatchNorm(name='norm_2', **norm)(y, train=train))
        y = Conv(self.features, (3, 3), dtype=self.dtype, name='conv_2')(y)
        shortcut = Conv(self.features, (1, 1), self.stride, dtype=self.dtype, name='shortcut')(x)
        return y + BatchNorm(name='shortcut_norm', **norm)(shortcut, train=train)


class ResUNet(MapNetwork):
    """Residual encoder of strided blocks, bridge and residual decoder.

    Batch norm of the image and a first residual block at full resolution; four encoder blocks with
    a stride of 2; the bridge block; four decoder blocks, each after up-sampling, a 2×2 convolution
    that halves the channels, and concatenation with the skip of its size; a 1×1 convolution.

    The paper's text leaves some of it open; the authors' released code (resunet_without_pool of
    github.com/machiredd/FIB-SEM-Segmentation) decides: the batch norm of the image, the first
    block (so that the last decoder block has a skip of full resolution), the width of 64, the
    channels 2, 4, 8, 8 and 16 times that (the fourth encoder block does not double them), biases
    and Keras' constants of batch norm. Text and code differ in the up-sampling, see `up`. A map
    that goes through a sigmoid there is `n_labels=2` here, see `models.heads`.

    37,429,188 trainable and 37,449,798 parameters in all with the defaults and 1 channel. The
    number of input channels is taken from the first image.

    Attributes:
      n_labels, heads: of `MapNetwork`.
      width: channels of the first block, 64 as published.
      up: 'nearest': up-sampling, then the 2×2 convolution, as in the paper; 'transposed': 3×3
        transposed convolution, ReLU, batch norm, as in the released code.
      norm_momentum: share of the running statistics that a training step keeps; runs of a few
        hundred steps need less than the published one.
      dtype: compute dtype; parameters, statistics and heads are float32.
    """

    width: int = 64
    up: str = 'nearest'
    norm_momentum: float = 0.99
    dtype: Any = jnp.float32

    @property
    def halo(self) -> tuple[int, int]:
        """How many pixels away along (y, x) an input pixel can still change an output pixel.

        The longest way leads to greater indices: there the strided convolutions (on an even side
        padded behind only) reach 2 pixels of the level they read, and the 2×2 ones 1 of theirs.
        """
        spacings = (1, 2, 4, 8)
        strided = sum(2 * s for s in spacings)
        plain = 2 * 1 + sum(2 * s for s in spacings) + 2 * 16  # first, encoder's second, bridge
        decoder = sum((3 if self.up == 'nearest' else 2) * s for s in spacings)
        return (strided + plain + decoder,) * 2

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> dict[str, jax.Array]:
        """Maps of every pixel.

        Args:
          x: [b, y, x, c] image; sides are multiples of 16.
          train: use the statistics of this batch, and update the running ones (`batch_stats`).

        Returns:
          'logits': [b, y, x, n_labels] float32; or 'mask' and 'boundary': [b, y, x, 1] float32,
          after their sigmoid.

        Raises:
          InputError: the sides are not such multiples, or no such field.
        """
        self._check(x)
        options: dict[str, Any] = {'norm_momentum': self.norm_momentum, 'dtype': self.dtype}
        x = BatchNorm(self.norm_momentum, dtype=self.dtype, name='image_norm')(x, train=train)
        x = ResidualBlock(self.width, first=True, name='first', **options)(x, train=train)
        skips = []  # [b, y, x, w], then with sides / 2, / 4, / 8 and 2w, 4w, 8w channels
        for i, factor in enumerate(ENCODER):
            skips.append(x)
            block = ResidualBlock(factor * self.width, stride=2, name=f'encoder_{i}', **options)
            x = block(x, train=train)
        bridge = ResidualBlock(BRIDGE * self.width, name='bridge', **options)
        x = bridge(x, train=train)  # [b, y/16, x/16, 16w]
        for i, factor in zip(reversed(range(4)), DECODER, strict=True):
            x = self._upsample(x, factor * self.width, f'up_{i}', train)
            x = jnp.concatenate([x, skips[i]], axis=-1)
            block = ResidualBlock(factor * self.width, name=f'decoder_{i}', **options)
            x = block(x, train=train)
        maps = Conv(self.n_maps, (1, 1), dtype=self.dtype, name='head')(x)  # [b, y, x, n_maps]
        return self.split(maps)

    def _upsample(self, x: jax.Array, features: int, name: str, train: bool) -> jax.Array:
        if self.up == 'nearest':
            return Conv(features, (2, 2), dtype=self.dtype, name=name)(upsample(x, (2, 2)))
        # Padding of Keras' Conv2DTranspose(3, strides=2, padding='same').
        grow = ConvTranspose(features, (3, 3), ((2, 1), (2, 1)), dtype=self.dtype, name=name)
        norm = BatchNorm(self.norm_momentum, dtype=self.dtype, name=f'{name}_norm')
        return norm(nn.relu(grow(x)), train=train)

    def _check(self, x: jax.Array) -> None:
        if self.width < 1:
            raise InputError('resunet.width', f'{self.width}', 'at least 1')
        if self.up not in ('nearest', 'transposed'):
            raise InputError('resunet.up', repr(self.up), "'nearest' or 'transposed'")
        check_image('resunet', x, self.side_multiple)
