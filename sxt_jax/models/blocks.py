"""Blocks that the networks share, for 2-D and 3-D alike.

Parameters are float32 whatever the compute dtype; statistics of normalisations are float32.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from sxt_jax.ops.conv import Padding, conv
from sxt_jax.ops.conv_joined import conv_joined
from sxt_jax.ops.conv_transpose import conv_transpose

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
    def __call__(self, x: jax.Array, coarse: jax.Array | None = None) -> jax.Array:
        """Convolution of x; with `coarse`, of both joined, see `ops.conv_joined`."""
        n_coarse = 0 if coarse is None else coarse.shape[-1]
        shape = (*self.kernel_size, n_coarse + x.shape[-1], self.features)
        kernel = self.param('kernel', glorot_uniform, shape, jnp.float32).astype(self.dtype)
        x = x.astype(self.dtype)
        if coarse is None:
            x = conv(x, kernel, stride=self.stride, padding=self.padding)
        elif (self.stride, self.padding) == (1, 'SAME'):
            x = conv_joined(coarse.astype(self.dtype), x, kernel)
        else:
            raise ValueError('a coarse image is joined with stride 1 and padding SAME only')
        if self.use_bias:
            bias = self.param('bias', nn.initializers.zeros, (self.features,), jnp.float32)
            x = x + bias.astype(self.dtype)
        return x


class ConvTranspose(nn.Module):
    """Transposed convolution of stride 2, which doubles every side; 2-D or 3-D.

    Attributes:
      features: output channels.
      kernel_size: per spatial axis; kernels are held as they are correlated.
      padding: (before, after) per axis around the spread-out image, see `ops.conv_transpose`.
      dtype: compute dtype.
    """

    features: int
    kernel_size: Sequence[int]
    padding: Sequence[tuple[int, int]]
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param('kernel', glorot_uniform, shape, jnp.float32)
        bias = self.param('bias', nn.initializers.zeros, (self.features,), jnp.float32)
        x = conv_transpose(x.astype(self.dtype), kernel.astype(self.dtype), padding=self.padding)
        return x + bias.astype(self.dtype)


class BatchNorm(nn.Module):
    """Batch normalisation, by default with the constants of Keras: eps 1e-3, momentum 0.99.

    The statistics are those of the whole batch, also where it is split over devices (the mean of a
    sharded array under `jax.jit` is global). The variance is computed about the mean, in two
    passes: after a ReLU the mean square can exceed it a thousand times, which costs float32 three
    digits in the one-pass formula.

    Attributes:
      momentum: share of the running statistics that a step keeps.
      epsilon: added to the variance.
      unbiased: the running variance follows the batch variance times N / (N − 1), as in PyTorch
        and in the fused 2-D layer of legacy Keras; otherwise the biased one that normalises.
      dtype: of the output.
    """

    momentum: float = 0.99
    epsilon: float = 1e-3
    unbiased: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        shape = (x.shape[-1],)
        scale = self.param('scale', nn.initializers.ones, shape, jnp.float32)
        bias = self.param('bias', nn.initializers.zeros, shape, jnp.float32)
        mean = self.variable('batch_stats', 'mean', jnp.zeros, shape, jnp.float32)
        var = self.variable('batch_stats', 'var', jnp.ones, shape, jnp.float32)
        if not train:
            return _normalise(x, mean.value, var.value, self.epsilon, scale, bias, self.dtype)
        axes = tuple(range(x.ndim - 1))
        y, *moments = _normalise_itself(x, scale, bias, axes, self.epsilon, self.dtype)
        batch_mean, batch_var = (jnp.ravel(m) for m in moments)
        if not self.is_initializing():
            n = x.size // x.shape[-1]
            correction = n / max(n - 1, 1) if self.unbiased else 1.0
            mean.value = self._follow(mean.value, batch_mean)
            var.value = self._follow(var.value, correction * batch_var)
        return y

    def _follow(self, running: jax.Array, batch: jax.Array) -> jax.Array:
        return self.momentum * running + (1 - self.momentum) * batch


class InstanceNorm(nn.Module):
    """Each channel of each example moved to mean 0 and (biased) variance 1; no weights.

    Attributes:
      epsilon: added to the variance; that of PyTorch.
      dtype: of the output.
    """

    epsilon: float = 1e-5
    dtype: Dtype = jnp.float32

    def __call__(self, x: jax.Array) -> jax.Array:
        axes = tuple(range(1, x.ndim - 1))
        one, zero = jnp.ones(x.shape[-1]), jnp.zeros(x.shape[-1])
        return _normalise_itself(x, one, zero, axes, self.epsilon, self.dtype)[0]


def _normalise(
    x: jax.Array,
    mean: jax.Array,
    var: jax.Array,
    epsilon: float,
    scale: jax.Array,
    bias: jax.Array,
    dtype: Dtype,
) -> jax.Array:
    y = (x.astype(jnp.float32) - mean) * (lax.rsqrt(var + epsilon) * scale) + bias
    return y.astype(dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _normalise_itself(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    axes: tuple[int, ...],
    epsilon: float,
    dtype: Dtype,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The image normalised by its own statistics over `axes`; these, which carry no gradient.

    Two passes over the image, and two in the gradient, which keeps nothing but the image: derived
    automatically it keeps two more images, and on a CPU every page of fresh memory costs more than
    the arithmetic on it.

    Returns:
      Image in `dtype`; mean and biased variance in float32, with the axes kept.
    """
    mean = jnp.mean(x.astype(jnp.float32), axes, keepdims=True)
    var = jnp.mean(jnp.square(x.astype(jnp.float32) - mean), axes, keepdims=True)
    return _normalise(x, mean, var, epsilon, scale, bias, dtype), mean, var


def _normalise_forward(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    axes: tuple[int, ...],
    epsilon: float,
    dtype: Dtype,
) -> tuple[tuple[jax.Array, jax.Array, jax.Array], tuple[jax.Array, ...]]:
    y, mean, var = _normalise_itself(x, scale, bias, axes, epsilon, dtype)
    return (y, mean, var), (x, scale, mean, var)


def _normalise_backward(
    axes: tuple[int, ...],
    epsilon: float,
    dtype: Dtype,
    residuals: tuple[jax.Array, ...],
    gradients: tuple[jax.Array, ...],
) -> tuple[jax.Array, jax.Array, jax.Array]:
    # Ioffe and Szegedy 2015, section 3, collected by the two means that it needs.
    x, scale, mean, var = residuals
    gradient = gradients[0].astype(jnp.float32)
    rate = lax.rsqrt(var + epsilon)
    normal = (x.astype(jnp.float32) - mean) * rate
    of_bias = jnp.mean(gradient, axes, keepdims=True)
    of_scale = jnp.mean(gradient * normal, axes, keepdims=True)
    of_x = (gradient - of_bias - normal * of_scale) * (rate * scale)
    n = x.size // mean.size
    rest = tuple(range(x.ndim - 1))
    return of_x.astype(x.dtype), n * jnp.sum(of_scale, rest), n * jnp.sum(of_bias, rest)


_normalise_itself.defvjp(_normalise_forward, _normalise_backward)


class DoubleBlock(nn.Module):
    """Two convolutions 3 wide, each with its normalisation and ReLU.

    | norm | each of the two | as in |
    |---|---|---|
    | batch | conv → ReLU → batch norm → ReLU | Biomedisa |
    | instance | conv → instance norm → ReLU | NCXT |
    | none | conv → ReLU | NCXT |

    The residual variant adds a 1-wide convolution without bias of the input before the last ReLU,
    and has no ReLU between the second convolution and its norm.

    Attributes:
      features: output channels.
      residual: whether the input is added.
      n_dims: 2 or 3.
      norm: one of the table.
      norm_momentum: of batch norm.
      dropout: share of the channels that training sets to 0 right after each convolution; whole
        channels, since neighbouring voxels tell each other's values (Tompson et al. 2015).
      dtype: compute dtype.
    """

    features: int
    residual: bool = False
    n_dims: int = 3
    norm: str = 'batch'
    norm_momentum: float = 0.99
    dropout: float = 0.0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, coarse: jax.Array | None = None, *, train: bool) -> jax.Array:
        """What becomes of an image.

        Args:
          x: [b, (z,) y, x, c].
          coarse: [b, (z/f,) y/f, x/f, c'] channels that stand before those of `x`, each voxel
            repeated; whole factors.
          train: see `BatchNorm` and `dropout`.

        Returns:
          [b, (z,) y, x, features].
        """
        relu_before_norm = nn.relu if self.norm == 'batch' else lambda y: y
        y = self._conv(x, 'conv_1', train=train, coarse=coarse)
        y = nn.relu(self._norm(relu_before_norm(y), 'norm_1', train=train))
        y = self._conv(y, 'conv_2', train=train)
        if not self.residual:
            return nn.relu(self._norm(relu_before_norm(y), 'norm_2', train=train))
        shortcut = Conv(
            self.features, (1,) * self.n_dims, use_bias=False, dtype=self.dtype, name='shortcut'
        )(x, coarse)
        return nn.relu(self._norm(y, 'norm_2', train=train) + shortcut)

    def _conv(
        self, x: jax.Array, name: str, *, train: bool, coarse: jax.Array | None = None
    ) -> jax.Array:
        y = Conv(self.features, (3,) * self.n_dims, dtype=self.dtype, name=name)(x, coarse)
        spatial_axes = tuple(range(1, y.ndim - 1))
        return nn.Dropout(self.dropout, spatial_axes, deterministic=not train)(y)

    def _norm(self, y: jax.Array, name: str, *, train: bool) -> jax.Array:
        if self.norm == 'batch':
            norm = BatchNorm(momentum=self.norm_momentum, dtype=self.dtype, name=name)
            return norm(y, train=train)
        if self.norm == 'instance':
            return InstanceNorm(dtype=self.dtype, name=name)(y)
        return y
