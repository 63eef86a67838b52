"""TransUNet (Chen et al. 2021): ResNet stem, transformer encoder, convolutional decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from sxt_jax.core.errors import InputError
from sxt_jax.models.blocks import BatchNorm, Conv, glorot_uniform
from sxt_jax.models.heads import MapNetwork
from sxt_jax.models.sides import check_image
from sxt_jax.models.transformer import Encoder, PositionEmbedding, check_fields
from sxt_jax.ops.bilinear import upsample_bilinear
from sxt_jax.ops.conv import conv


class StandardizedConv(nn.Module):
    """Convolution without bias whose kernel has mean 0 and variance 1 for each output channel.

    Weight standardisation (Qiao et al. 2019), computed in float32.

    Attributes:
      features: output channels.
      side: of the square kernel; padding side // 2 all round.
      stride: steps along both axes.
      dtype: compute dtype.
    """

    features: int
    side: int
    stride: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.side, self.side, x.shape[-1], self.features)
        kernel = self.param('kernel', glorot_uniform, shape, jnp.float32)
        mean = jnp.mean(kernel, (0, 1, 2), keepdims=True)
        variance = jnp.mean(jnp.square(kernel - mean), (0, 1, 2), keepdims=True)
        kernel = (kernel - mean) * jax.lax.rsqrt(variance + 1e-5)
        padding = ((self.side // 2,) * 2,) * 2
        return conv(
            x.astype(self.dtype), kernel.astype(self.dtype), stride=self.stride, padding=padding
        )


class Bottleneck(nn.Module):
    """Residual block of ResNet-50: 1×1, 3×3 (strided), 1×1, each with group norm.

    Attributes:
      features: channels inside; four times as many come out.
      stride: of the 3×3 convolution and the shortcut.
      groups: of the group norms; the shortcut's has one for every channel, as published.
      dtype: compute dtype.
    """

    features: int
    stride: int = 1
    groups: int = 32
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        out = 4 * self.features
        y = x
        for i, (features, side, stride) in enumerate(
            ((self.features, 1, 1), (self.features, 3, self.stride), (out, 1, 1)), start=1
        ):
            y = StandardizedConv(features, side, stride, self.dtype, name=f'conv_{i}')(y)
            y = _group_norm(self.groups, f'norm_{i}', self.dtype)(y)
            y = nn.relu(y) if i < 3 else y
        if self.stride != 1 or x.shape[-1] != out:
            x = StandardizedConv(out, 1, self.stride, self.dtype, name='shortcut')(x)
            x = _group_norm(out, 'shortcut_norm', self.dtype, epsilon=1e-5)(x)
        return nn.relu(x + y)


def _group_norm(groups: int, name: str, dtype: Any, epsilon: float = 1e-6) -> nn.GroupNorm:
    """Group norm whose variance is never negative."""
    return nn.GroupNorm(groups, None, epsilon, dtype=dtype, use_fast_variance=False, name=name)


class Stem(nn.Module):
    """ResNet-50 up to its third stage, as in the hybrid R50-ViT (Dosovitskiy et al. 2021).

    Attributes:
      width: channels of the first convolution.
      n_blocks: residual blocks of the three stages.
      groups: of the group norms.
      dtype: compute dtype.
    """

    width: int = 64
    n_blocks: Sequence[int] = (3, 4, 9)
    groups: int = 32
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
        """[b, y/16, x/16, 16w] of an image [b, y, x, c], and skips: sides / 8, / 4 and / 2."""
        sides = x.shape[1:3]
        x = StandardizedConv(self.width, 7, 2, self.dtype, name='conv')(x)
        x = nn.relu(_group_norm(self.groups, 'norm', self.dtype)(x))
        skips = [x]  # [b, y/2, x/2, w]
        # Without padding, as published: one pixel less than half the sides.
        x = nn.max_pool(x, (3, 3), (2, 2), 'VALID')
        for stage, n_blocks in enumerate(self.n_blocks):
            for i in range(n_blocks):
                stride = 2 if stage > 0 and i == 0 else 1
                width = self.width * 2**stage
                name = f'stage_{stage}_block_{i}'
                x = Bottleneck(width, stride, self.groups, self.dtype, name=name)(x)
            if stage < 2:
                skips.append(_fill_up(x, [n // (4 * 2**stage) for n in sides]))
        return x, skips[::-1]


def _fill_up(x: jax.Array, sides: Sequence[int]) -> jax.Array:
    """Zeros behind the last pixels up to the sides wanted."""
    behind = [(0, m - n) for n, m in zip(x.shape[1:3], sides, strict=True)]
    return jnp.pad(x, ((0, 0), *behind, (0, 0)))


class TransUNet(MapNetwork):
    """R50-ViT-B/16 encoder with the cascaded up-sampler ('CUP') as decoder.

    A ResNet stem makes a grid of sides / 16, whose pixels are the tokens of a ViT; the decoder
    doubles their grid four times, three times joined by a skip of the stem. As in the released code
    (github.com/Beckschen/TransUNet) images of one channel are repeated to three, so that
    ImageNet's first kernel fits. Position embeddings are for the 512×512 tiles of the FIB-SEM
    paper; the TransUNet paper's images of 224×224 need `grid=(14, 14)`. A map that goes through a
    sigmoid in the FIB-SEM paper is `n_labels=2` here, see `models.heads`.

    105,277,081 trainable parameters with 9 labels and a grid of 14×14, as in the TransUNet paper;
    105,911,970 with the defaults. Images of other than 1 channel are taken as they are.

    Attributes:
      n_labels, heads: of `MapNetwork`.
      grid: (y, x) of the position embeddings: sides of the training tiles / 16.
      stem_width: channels of the stem's first convolution.
      stem_blocks: residual blocks of the stem's three stages.
      groups: of the stem's group norms; divides `stem_width`.
      hidden: channels of a token.
      n_layers: of the encoder.
      n_heads: of attention.
      mlp_dim: channels inside the encoder's multi-layer perceptrons.
      decoder_filters: channels of the convolution of the encoder's output, then of the four blocks.
      dropout: rate in the encoder with `train`.
      norm_momentum: share of the decoder's running statistics that a training step keeps.
      dtype: compute dtype; parameters, statistics and heads are float32.
    """

    grid: Sequence[int] = (32, 32)
    stem_width: int = 64
    stem_blocks: Sequence[int] = (3, 4, 9)
    groups: int = 32
    hidden: int = 768
    n_layers: int = 12
    n_heads: int = 12
    mlp_dim: int = 3072
    decoder_filters: Sequence[int] = (512, 256, 128, 64, 16)
    dropout: float = 0.1
    norm_momentum: float = 0.9
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> dict[str, jax.Array]:
        """Maps of every pixel.

        Args:
          x: [b, y, x, c] image; sides are multiples of 16.
          train: use the statistics of this batch, update the running ones (`batch_stats`), and
            drop out (needs an rng 'dropout' unless `dropout` is 0).

        Returns:
          'logits': [b, y, x, n_labels] float32; or 'mask' and 'boundary': [b, y, x, 1] float32,
          after their sigmoid.

        Raises:
          InputError: the sides are not such multiples, or fields do not fit.
        """
        self._check(x)
        x = jnp.broadcast_to(x, (*x.shape[:3], 3)) if x.shape[-1] == 1 else x
        stem = Stem(self.stem_width, self.stem_blocks, self.groups, self.dtype, name='stem')
        y, skips = stem(x.astype(self.dtype))  # [b, y/16, x/16, 16 stem_width]
        y = Conv(self.hidden, (1, 1), dtype=self.dtype, name='patches')(y)
        tokens = PositionEmbedding(self.grid, align_corners=True, name='positions')(y)
        encoder = Encoder(
            self.n_layers,
            self.n_heads,
            self.mlp_dim,
            self.dropout,
            dtype=self.dtype,
            name='encoder',
        )
        y = encoder(tokens.reshape(y.shape[0], -1, self.hidden), train=train).reshape(y.shape)
        y = self._block(y, self.decoder_filters[0], 'bottom', train)
        for i, features in enumerate(self.decoder_filters[1:]):
            y = upsample_bilinear(y, align_corners=True)  # sides / 8, / 4, / 2, whole
            y = jnp.concatenate([y, skips[i]], axis=-1) if i < len(skips) else y
            y = self._block(y, features, f'decoder_{i}_conv_1', train)
            y = self._block(y, features, f'decoder_{i}_conv_2', train)
        maps = Conv(self.n_maps, (3, 3), dtype=self.dtype, name='head')(y)  # [b, y, x, n_maps]
        return self.split(maps)

    def _block(self, y: jax.Array, features: int, name: str, train: bool) -> jax.Array:
        conv3 = Conv(features, (3, 3), use_bias=False, dtype=self.dtype, name=name)
        norm = BatchNorm(
            self.norm_momentum, 1e-5, unbiased=True, dtype=self.dtype, name=f'{name}_norm'
        )
        return nn.relu(norm(conv3(y), train=train))

    def _check(self, x: jax.Array) -> None:
        check_fields(
            'transunet',
            hidden=self.hidden,
            n_heads=self.n_heads,
            grid=self.grid,
            dropout=self.dropout,
        )
        if self.groups < 1 or self.stem_width < 1 or self.stem_width % self.groups:
            raise InputError(
                'transunet.groups', f'{self.groups}', f'a divisor of stem_width, {self.stem_width}'
            )
        for field, n in (('stem_blocks', 3), ('decoder_filters', 5)):
            numbers = getattr(self, field)
            if len(numbers) != n or min(numbers) < 1:
                raise InputError(f'transunet.{field}', f'{tuple(numbers)}', f'{n} positive numbers')
        check_image('transunet', x, self.side_multiple)
