"""The transformer encoder of ViT (Dosovitskiy et al. 2021), which TransUNet and SETR share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from sxt_jax.core.errors import InputError
from sxt_jax.ops.bilinear import resize_bilinear

NORM_EPSILON = 1e-6
POSITION_STDDEV = 0.02


def check_fields(
    where: str, *, hidden: int, n_heads: int, grid: Sequence[int], dropout: float
) -> None:
    """Refuses fields of a network with transformer that do not fit each other.

    Args:
      where: the network, for the error.
      hidden: channels of a token.
      n_heads: of attention.
      grid: (y, x) of the position embeddings.
      dropout: rate.

    Raises:
      InputError: names the field.
    """
    if n_heads < 1 or hidden < 1 or hidden % n_heads:
        raise InputError(f'{where}.hidden', f'{hidden}', f'a multiple of n_heads, {n_heads}')
    if len(grid) != 2 or min(grid) < 1:
        raise InputError(f'{where}.grid', f'{tuple(grid)}', 'two positive numbers (y, x)')
    if not 0 <= dropout < 1:
        raise InputError(f'{where}.dropout', f'{dropout}', 'a rate in [0, 1)')


class PositionEmbedding(nn.Module):
    """A learned vector for every place, added to the token there.

    Images of another size get the grid interpolated to theirs, as is published for fine-tuning at
    another size; here on every call, so that one set of parameters serves all sizes.

    Attributes:
      grid: (y, x) tokens of the images that the network is made for.
      align_corners: how to interpolate, see `ops.bilinear`.
    """

    grid: Sequence[int]
    align_corners: bool

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """[b, y, x, c] tokens, with the vectors of their places added."""
        initial = nn.initializers.normal(POSITION_STDDEV)
        shape = (1, *self.grid, tokens.shape[-1])
        table = self.param('table', initial, shape, jnp.float32)
        if tokens.shape[1:3] != tuple(self.grid):
            table = resize_bilinear(table, tokens.shape[1:3], align_corners=self.align_corners)
        return tokens + table.astype(tokens.dtype)


class EncoderLayer(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); exact GELU.

    Attributes:
      n_heads: of attention.
      mlp_dim: channels inside the multi-layer perceptron.
      dropout: rate behind both of its layers.
      attention_dropout: rate behind the attention's last layer.
      dtype: compute dtype; softmax and norm statistics are float32.
    """

    n_heads: int
    mlp_dim: int
    dropout: float = 0.0
    attention_dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens: jax.Array, *, train: bool) -> jax.Array:
        attention = nn.MultiHeadDotProductAttention(
            self.n_heads,
            dtype=self.dtype,
            kernel_init=nn.initializers.xavier_uniform(),
            force_fp32_for_softmax=True,
            name='attention',
        )
        y = attention(layer_norm('attention_norm', self.dtype)(tokens))
        tokens = tokens + self._drop(y, self.attention_dropout, train)
        y = layer_norm('mlp_norm', self.dtype)(tokens)
        y = nn.gelu(self._dense(self.mlp_dim, 'mlp_1')(y), approximate=False)
        y = self._dense(tokens.shape[-1], 'mlp_2')(self._drop(y, self.dropout, train))
        return tokens + self._drop(y, self.dropout, train)

    def _dense(self, features: int, name: str) -> nn.Dense:
        initial = nn.initializers.xavier_uniform()
        return nn.Dense(features, dtype=self.dtype, kernel_init=initial, name=name)

    def _drop(self, x: jax.Array, rate: float, train: bool) -> jax.Array:
        return nn.Dropout(rate, deterministic=not train)(x)


class Encoder(nn.Module):
    """Layers one after the other, and a last norm.

    Attributes:
      n_layers: how many.
      n_heads: of attention.
      mlp_dim: channels inside the multi-layer perceptrons.
      dropout: rate, of the tokens that come in too.
      attention_dropout: rate behind each attention's last layer.
      dtype: compute dtype.
    """

    n_layers: int
    n_heads: int
    mlp_dim: int
    dropout: float = 0.0
    attention_dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens: jax.Array, *, train: bool) -> jax.Array:
        """[b, n, c] tokens."""
        tokens = nn.Dropout(self.dropout, deterministic=not train)(tokens)
        for i in range(self.n_layers):
            layer = EncoderLayer(
                self.n_heads,
                self.mlp_dim,
                self.dropout,
                self.attention_dropout,
                self.dtype,
                name=f'layer_{i}',
            )
            tokens = layer(tokens, train=train)
        return layer_norm('norm', self.dtype)(tokens)


def layer_norm(name: str, dtype: Any) -> nn.LayerNorm:
    """Layer norm with the constant of ViT and a variance that is never negative.

    Args:
      name: of the module.
      dtype: of its output.
    """
    return nn.LayerNorm(NORM_EPSILON, dtype=dtype, use_fast_variance=False, name=name)
