"""The 3-D U-Net of Cellpose3D (Eschweiler and Stegmaier 2021)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from sxt_jax.core.errors import InputError
from sxt_jax.models.blocks import Conv, ConvTranspose, InstanceNorm
from sxt_jax.models.sides import check_image

N_LEVELS = 4
_SIDE_MULTIPLE = 2 ** (N_LEVELS - 1)


class Cellpose3DNet(nn.Module):
    """Foreground and gradient maps: a U-Net with strided convolutions, three levels down and up.

    The published network has 1,980,980 parameters. All but the first three convolutions and the
    last are followed by instance norm, so results depend a little on the tile around a voxel; the
    biases before it have no effect and are kept because the published weights have them.

    Attributes:
      features: channels of full resolution; twice, four and eight times as many below.
      dtype: compute dtype; parameters, statistics and heads are float32.
    """

    features: int = 16
    dtype: Any = jnp.float32

    @property
    def n_dims(self) -> int:
        """Spatial axes of an input."""
        return 3

    @property
    def head_activations(self) -> dict[str, str | None]:
        """What still has to be applied to each head: nothing."""
        return {'foreground': None, 'flows': None}

    @property
    def side_multiple(self) -> tuple[int, int, int]:
        """What the (z, y, x) sides of an input must be multiples of."""
        return (_SIDE_MULTIPLE,) * 3

    @property
    def halo(self) -> tuple[int, int, int]:
        """How many voxels away along (z, y, x) an input voxel can still change an output voxel.

        Through the convolutions, that is: the statistics of instance norm, which all voxels change
        a little, are left out. What an output voxel sees is followed backwards through the bottom.
        """
        reach = 0
        for voxel in range(_SIDE_MULTIPLE):
            first, last = voxel - 2, voxel + 2  # of full resolution, before the final block
            for _ in range(N_LEVELS - 1):
                first, last = (first - 2) // 2, (last + 3) // 2  # before decoder and up
            first, last = first - 2, last + 2
            for _ in range(N_LEVELS - 1):
                first, last = 2 * first - 1 - 2, 2 * last + 2 + 2  # before down and encoder
            reach = max(reach, voxel - first, last - voxel)
        return (reach,) * 3

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> dict[str, jax.Array]:
        """Foreground and flows of every voxel.

        Args:
          x: [b, z, y, x, c] image; sides are multiples of `side_multiple`.
          train: changes nothing here; instance norm always uses the image at hand.

        Returns:
          'foreground': [b, z, y, x, 1] and 'flows': [b, z, y, x, 3] (z, y, x), both float32 after
          tanh, between −1 and 1.

        Raises:
          InputError: the sides are not such multiples, or `features` is too small.
        """
        self._check(x)
        f = self.features
        x = x.astype(self.dtype)  # [b, z, y, x, c]
        skips = []
        for i in range(N_LEVELS - 1):
            width = 2**i * f
            x = _Twice(width // 2, width, i > 0, self.dtype, name=f'encoder_{i}')(x)
            skips.append(x)  # [b, z/2ⁱ, y/2ⁱ, x/2ⁱ, 2ⁱ·f]
            down = Conv(width, (4, 4, 4), 2, ((1, 1),) * 3, dtype=self.dtype, name=f'down_{i}')
            x = _activate(down(x), norm=i > 0)
        x = _Twice(4 * f, 8 * f, dtype=self.dtype, name='bottom')(x)  # [b, z/8, y/8, x/8, 8·f]
        for i in reversed(range(N_LEVELS - 1)):
            x = _Double(dtype=self.dtype, name=f'up_{i}')(x)
            x = jnp.concatenate([x, skips[i]], axis=-1)  # [b, z/2ⁱ, y/2ⁱ, x/2ⁱ, 3·2ⁱ·f]
            x = _Twice(2**i * f, 2**i * f, dtype=self.dtype, name=f'decoder_{i}')(x)
        x = _Twice(f, f, dtype=self.dtype, name='final')(x)  # [b, z, y, x, f]
        x = Conv(4, (1, 1, 1), dtype=self.dtype, name='head')(x)
        x = jnp.tanh(x.astype(jnp.float32))  # [b, z, y, x, 4]
        return {'foreground': x[..., :1], 'flows': x[..., 1:]}

    def _check(self, x: jax.Array) -> None:
        if self.features < 2:
            raise InputError('cellpose3d.features', f'{self.features}', 'at least 2')
        check_image('cellpose3d', x, self.side_multiple)


class _Twice(nn.Module):
    """Two convolutions 3 wide, to `inner` and to `features` channels."""

    inner: int
    features: int
    norm: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for name, width in (('conv_1', self.inner), ('conv_2', self.features)):
            x = Conv(width, (3, 3, 3), dtype=self.dtype, name=name)(x)
            x = _activate(x, norm=self.norm)
        return x


class _Double(nn.Module):
    """Twice the sides: a transposed convolution 3 wide, then one 1 wide; channels as before."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        up = ConvTranspose(width, (3, 3, 3), ((1, 2),) * 3, dtype=self.dtype, name='transposed')
        x = _activate(up(x), norm=True)
        return _activate(Conv(width, (1, 1, 1), dtype=self.dtype, name='conv')(x), norm=True)


def _activate(x: jax.Array, *, norm: bool) -> jax.Array:
    if norm:
        x = InstanceNorm(dtype=x.dtype)(x)
    return nn.leaky_relu(x, 0.2)
