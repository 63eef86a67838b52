"""SETR (Zheng et al. 2021): a pure transformer encoder with a simple convolutional decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from sxt_jax.core.errors import InputError
from sxt_jax.models.blocks import BatchNorm, Conv
from sxt_jax.models.heads import MapNetwork
from sxt_jax.models.sides import check_image
from sxt_jax.models.transformer import (
    POSITION_STDDEV,
    Encoder,
    PositionEmbedding,
    check_fields,
)
from sxt_jax.ops.bilinear import resize_bilinear, upsample_bilinear

PATCH = 16  # sides of the squares that become tokens
DECODERS = ('pup', 'naive')


class SETR(MapNetwork):
    """Squares of 16×16 pixels as tokens of a ViT, and a decoder from their grid to the pixels.

    Defaults: 'T-Large' (ViT-L/16) with the decoder by progressive up-sampling, position embeddings
    for the 512×512 tiles of the FIB-SEM paper. 'T-Base': `hidden=768, n_layers=12, n_heads=12,
    mlp_dim=3072`. As in the released code (github.com/fudan-zvg/SETR) there is a class token,
    which only the encoder sees. Its auxiliary heads, for losses in training only, and its third
    decoder (multi-level aggregation) are not here. A map that goes through a sigmoid in the FIB-SEM
    paper is `n_labels=2` here, see `models.heads`.

    307,757,570 trainable parameters with the defaults and 1 channel; 309,596,947, as the released
    code has without its auxiliary heads, with the 19 labels, 3 channels and 768×768 images of the
    paper's table 2 (which says 318.31 M). The number of input channels is taken from the first
    image.

    Attributes:
      n_labels, heads: of `MapNetwork`.
      grid: (y, x) of the position embeddings: sides of the training tiles / 16.
      hidden: channels of a token.
      n_layers: of the encoder.
      n_heads: of attention.
      mlp_dim: channels inside the encoder's multi-layer perceptrons.
      decoder: 'pup': four times [3×3 convolution → batch norm → ReLU], each doubled in size (the
        last one after the classifying 1×1 convolution); 'naive': 1×1 convolution → batch norm →
        ReLU → 1×1 convolution → 16 times the size.
      decoder_width: channels of the decoder's convolutions.
      dropout: rate in the encoder with `train`.
      norm_momentum: share of the running statistics that a training step keeps.
      dtype: compute dtype; parameters, statistics and heads are float32.
    """

    grid: Sequence[int] = (32, 32)
    hidden: int = 1024
    n_layers: int = 24
    n_heads: int = 16
    mlp_dim: int = 4096
    decoder: str = 'pup'
    decoder_width: int = 256
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
        embed = Conv(self.hidden, (PATCH, PATCH), PATCH, dtype=self.dtype, name='patches')
        tokens = PositionEmbedding(self.grid, align_corners=False, name='positions')(embed(x))
        grid = tokens.shape  # [b, y/16, x/16, hidden]
        tokens = self._with_class_token(tokens.reshape(grid[0], -1, self.hidden))
        encoder = Encoder(
            self.n_layers,
            self.n_heads,
            self.mlp_dim,
            self.dropout,
            attention_dropout=self.dropout,
            dtype=self.dtype,
            name='encoder',
        )
        tokens = encoder(tokens, train=train)  # [b, 1 + n, hidden]
        y = tokens[:, 1:].reshape(grid)
        decode = self._progressive if self.decoder == 'pup' else self._naive
        return self.split(decode(y, train))

    def _with_class_token(self, tokens: jax.Array) -> jax.Array:
        """[b, n, hidden] → [b, 1 + n, hidden]; as published, it has a place of its own."""
        initial, shape = nn.initializers.normal(POSITION_STDDEV), (1, 1, self.hidden)
        token = self.param('class_token', initial, shape, jnp.float32)
        token = token + self.param('class_position', initial, shape, jnp.float32)
        token = jnp.broadcast_to(token.astype(tokens.dtype), (tokens.shape[0], 1, self.hidden))
        return jnp.concatenate([token, tokens], axis=1)

    def _progressive(self, y: jax.Array, train: bool) -> jax.Array:
        for i in range(4):
            y = self._block(y, 3, i, train)  # [b, y/16, x/16, w], then / 8, / 4, / 2
            if i < 3:
                y = upsample_bilinear(y, align_corners=False)
        maps = Conv(self.n_maps, (1, 1), dtype=self.dtype, name='head')(y)
        return upsample_bilinear(maps, align_corners=False)  # [b, y, x, n_maps]

    def _naive(self, y: jax.Array, train: bool) -> jax.Array:
        y = self._block(y, 1, 0, train)  # [b, y/16, x/16, w]
        maps = Conv(self.n_maps, (1, 1), dtype=self.dtype, name='head')(y)
        sides = PATCH * maps.shape[1], PATCH * maps.shape[2]
        return resize_bilinear(maps, sides, align_corners=False)  # [b, y, x, n_maps]

    def _block(self, y: jax.Array, side: int, i: int, train: bool) -> jax.Array:
        conv = Conv(self.decoder_width, (side, side), dtype=self.dtype, name=f'decoder_{i}')
        norm = BatchNorm(
            self.norm_momentum, 1e-5, unbiased=True, dtype=self.dtype, name=f'decoder_{i}_norm'
        )
        return nn.relu(norm(conv(y), train=train))

    def _check(self, x: jax.Array) -> None:
        check_fields(
            'setr',
            hidden=self.hidden,
            n_heads=self.n_heads,
            grid=self.grid,
            dropout=self.dropout,
        )
        if self.decoder not in DECODERS:
            raise InputError('setr.decoder', repr(self.decoder), f'one of {DECODERS}')
        check_image('setr', x, self.side_multiple)
