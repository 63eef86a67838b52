"""Blocks that the networks share, for 2-D and 3-D alike.

Parameters are float32 whatever the compute dtype; statistics of normalisations are float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from sxt_jax.ops.conv import Padding, conv

Dtype = Any


def glorot_uniform(key: jax.Array, shape: Sequence[int], dtype: Dtype = jnp.float32) -> jax.Array:
    """Kernel drawn evenly from ±√(6 / (fan in + fan out)) (Glorot and Bengio 2010).

    Args:
      key: randomness.
      shape: [(kz,) ky, kx, c_in, c_out].
      dtype: of the result.
    """
    taps = math.prod(shape[:-2])
    limit = math.sqrt(6 / (taps * (shape[-2] + shape[-1])))
    # Drawn flat: XLA:CPU compiles a random array of rank 5 in 2 s, of rank 1 in 0.3 s (2026-11-21),
    # and a network has twenty.
    return jax.random.uniform(key, (math.prod(shape),), dtype, -limit, limit).reshape(shape)


class Conv(nn.Module):
    """Convolution with bias; 2-D or 3-D by the length of `kernel_size`.

    Kernels start as in Keras, by `glorot_uniform`.

    Attributes:
      features: output channels.
      kernel_size: per spatial axis.
      stride: steps, the same for all axes.
      padding: 'SAME', 'VALID' or (before, after) per axis.
      use_bias: whether there is a bias.
      dtype: compute dtype.
    """

    features: int
    kernel_size: Sequence[int]
    stride: int = 1
    padding: Padding = 'SAME'
    use_bias: bool = True
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param('kernel', glorot_uniform, shape, jnp.float32)
        x = conv(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            stride=self.stride,
            padding=self.padding,
        )
        if self.use_bias:
            bias = self.param('bias', nn.initializers.zeros, (self.features,), jnp.float32)
            x = x + bias.astype(self.dtype)
        return x


class BatchNorm(nn.Module):
    """Batch normalisation with the conventions of Keras: eps 1e-3, momentum 0.99.

    The statistics are those of the whole batch, also where it is split over devices (the mean of a
    sharded array under `jax.jit` is global). The variance is computed about the mean, in two
    passes: after a ReLU the mean square can exceed it a thousand times, which costs float32 three
    digits in the one-pass formula. The running variance follows the biased batch variance.

    Attributes:
      dtype: of the output.
      momentum: share of the running statistics that a step keeps.
    """

    dtype: Dtype = jnp.float32
    momentum: float = 0.99

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        return nn.BatchNorm(
            use_running_average=not train,
            momentum=self.momentum,
            epsilon=1e-3,
            use_fast_variance=False,
            dtype=self.dtype,
            name='batch',
        )(x)


class DoubleBlock(nn.Module):
    """Twice [convolution 3 → ReLU → batch norm → ReLU], as in the published U-Net of Biomedisa.

    The residual variant: conv → ReLU → norm → ReLU → conv → norm, plus a 1-wide convolution
    without bias of the input, → ReLU.

    Attributes:
      features: output channels.
      residual: whether the input is added.
      n_dims: 2 or 3.
      norm_momentum: of `BatchNorm`.
      dtype: compute dtype.
    """

    features: int
    residual: bool = False
    n_dims: int = 3
    norm_momentum: float = 0.99
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        kernel = (3,) * self.n_dims
        norm: dict[str, Any] = {'dtype': self.dtype, 'momentum': self.norm_momentum}
        y = Conv(self.features, kernel, dtype=self.dtype, name='conv_1')(x)
        y = BatchNorm(name='norm_1', **norm)(nn.relu(y), train=train)
        y = Conv(self.features, kernel, dtype=self.dtype, name='conv_2')(nn.relu(y))
        if not self.residual:
            return nn.relu(BatchNorm(name='norm_2', **norm)(nn.relu(y), train=train))
        shortcut = Conv(
            self.features, (1,) * self.n_dims, use_bias=False, dtype=self.dtype, name='shortcut'
        )(x)
        return nn.relu(BatchNorm(name='norm_2', **norm)(y, train=train) + shortcut)
