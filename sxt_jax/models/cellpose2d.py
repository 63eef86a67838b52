"""The 2-D network of Cellpose 1 (Stringer et al. 2021, Nature Methods 18, 100–106)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from sxt_jax.core.errors import InputError
from sxt_jax.models.blocks import BatchNorm, Conv
from sxt_jax.models.sides import check_image
from sxt_jax.ops.pool import max_pool, upsample

FLOW_SCALE = 5.0  # the published network is trained on, and gives, five times the unit flow
_TINY = 1e-24  # below every square sum of features, so that a blank image has no NaN gradient


class Cellpose2D(nn.Module):
    """Residual U-Net whose decoder is told the style of the image.

    Four double residual blocks down and four up, pre-activated (norm → ReLU → convolution 3); the
    skip is added to the decoder, not concatenated. The style is the mean of the deepest features
    over the image, as a unit vector; a linear map of it is added inside every decoder block.
    Facts beyond the paper are those of the published implementation, cellpose 1.0.2 and 2.2.3
    (`resnet_torch.CPnet`, residual and style on, concatenation off), which has 6,600,843 trainable
    parameters with 2 input channels. The number of input channels is taken from the first image.

    With `mutable=['intermediates']` the style is given as well: 'style' [b, features[-1]].

    Attributes:
      features: channels of each level, from full resolution to the bottom.
      norm_momentum: share of the running statistics that a training step keeps; 0.95 in
        Cellpose 3.
      dtype: compute dtype; parameters, statistics, style and heads are float32.
    """

    features: Sequence[int] = (32, 64, 128, 256)
    norm_momentum: float = 0.9
    dtype: Any = jnp.float32

    @property
    def n_dims(self) -> int:
        """Spatial axes of an input."""
        return 2

    @property
    def head_activations(self) -> dict[str, None]:
        """What turns each head into its meaning: nothing, they are what they are called."""
        return {'foreground': None, 'foreground_logit': None, 'flows': None}

    @property
    def side_multiple(self) -> tuple[int, int]:
        """What the (y, x) sides of an input must be multiples of."""
        side = 2 ** (len(self.features) - 1)
        return side, side

    @property
    def halo(self) -> tuple[int, int]:
        """How many pixels away along (y, x) an input pixel can change an output pixel directly.

        Through the style every pixel changes all others a little, however far away. Every level
        has eight convolutions of radius 1 at its own pixel spacing; pooling and up-sampling
        between them shift by less than one bottom pixel in all.
        """
        bottom = 2 ** (len(self.features) - 1)
        reach = 8 * (2 * bottom - 1) + bottom - 1
        return reach, reach

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> dict[str, jax.Array]:
        """Foreground and flows of every pixel.

        Args:
          x: [b, y, x, c] image; sides are multiples of `side_multiple`. Published weights take
            c = 2: cytoplasm and nucleus (0 where there is none).
          train: use the statistics of this batch, and update the running ones (`batch_stats`).

        Returns:
          'foreground': [b, y, x, 1] float32, probability that the pixel is of a cell.
          'foreground_logit': [b, y, x, 1] float32, the same before the sigmoid, which is what is
            published as cell probability, averaged over views, and trained by cross-entropy.
          'flows': [b, y, x, 2] float32, (y, x) towards the centre of the cell, trained to have
            length 1 in cells and 0 elsewhere: the published output divided by `FLOW_SCALE`. The
            published loss is ½ · `FLOW_SCALE`² · mean square error of these + cross-entropy.

        Raises:
          InputError: the sides are not such multiples, or there are no features.
        """
        self._check(x)
        options: dict[str, Any] = {'norm_momentum': self.norm_momentum, 'dtype': self.dtype}
        x = x.astype(self.dtype)  # [b, y, x, c]
        skips = []
        for i, features in enumerate(self.features):
            x = max_pool(x, (2, 2)) if i else x
            x = _ResidualBlock(features, name=f'down_{i}', **options)(x, train=train)
            skips.append(x)  # [b, y / 2^i, x / 2^i, features[i]]
        style = _style(x)  # [b, features[-1]]
        self.sow('intermediates', 'style', style, reduce_fn=lambda _, new: new, init_fn=lambda: ())
        for i in reversed(range(len(self.features))):
            block = _ResidualBlock(self.features[i], name=f'up_{i}', **options)
            x = block(x, skips[i], style, train=train)  # [b, y / 2^i, x / 2^i, features[i]]
            x = upsample(x, (2, 2)) if i else x
        y = _NormConv(3, 1, name='head', **options)(x, train=train).astype(jnp.float32)
        logit = y[..., 2:]
        return {
            'foreground': nn.sigmoid(logit),  # [b, y, x, 1]
            'foreground_logit': logit,  # [b, y, x, 1]
            'flows': y[..., :2] / FLOW_SCALE,  # [b, y, x, 2]
        }

    def _check(self, x: jax.Array) -> None:
        if not self.features or min(self.features) < 1:
            raise InputError('cellpose2d.features', f'{self.features}', 'positive numbers')
        check_image('cellpose2d', x, self.side_multiple)


def _style(x: jax.Array) -> jax.Array:
    """Mean of the features [b, y, x, c] over the image as a unit vector [b, c], float32."""
    mean = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
    return mean * jax.lax.rsqrt(jnp.maximum(jnp.sum(mean**2, -1, keepdims=True), _TINY))


class _NormConv(nn.Module):
    """[add a linear map of the style →] batch norm [→ ReLU] → convolution."""

    features: int
    kernel_size: int
    relu: bool = True
    norm_momentum: float = 0.9
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, style: jax.Array | None = None, *, train: bool) -> jax.Array:
        if style is not None:
            x = x + nn.Dense(x.shape[-1], dtype=self.dtype, name='style')(style)[:, None, None]
        norm = BatchNorm(self.norm_momentum, 1e-5, unbiased=True, dtype=self.dtype, name='norm')
        x = norm(x, train=train)
        x = nn.relu(x) if self.relu else x
        return Conv(self.features, (self.kernel_size,) * 2, dtype=self.dtype, name='conv')(x)


class _ResidualBlock(nn.Module):
    """Four convolutions in two residual pairs; the decoder's take a skip and the style."""

    features: int
    norm_momentum: float = 0.9
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        skip: jax.Array | None = None,
        style: jax.Array | None = None,
        *,
        train: bool,
    ) -> jax.Array:
        def step(x: jax.Array, name: str, style: jax.Array | None = style, **fields: Any) -> Any:
            fields = {'kernel_size': 3, 'norm_momentum': self.norm_momentum, **fields}
            conv = _NormConv(self.features, dtype=self.dtype, name=name, **fields)
            return conv(x, style, train=train)

        y = step(x, 'conv_0', style=None)
        y = y if skip is None else y + skip
        shortcut = step(x, 'shortcut', style=None, kernel_size=1, relu=False)
        x = shortcut + step(y, 'conv_1')
        return x + step(step(x, 'conv_2'), 'conv_3')
