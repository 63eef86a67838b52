"""The 3-D U-Net, in the forms of ACSeg (Erozan et al. 2024) and of the NCXT (Ekman et al. 2020).

| | ACSeg, which is that of Biomedisa | NCXT |
|---|---|---|
| filters | 32, 64, 128, 256, 512 | 32, 64, 128 (yeast: 64, 128, 256, 512, 1024) |
| norm | 'batch' | 'instance' |
| up | 'nearest' | 'transposed' |
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from sxt_jax.core.errors import InputError
from sxt_jax.models.blocks import Conv, ConvTranspose, DoubleBlock
from sxt_jax.models.sides import check_image
from sxt_jax.ops.pool import max_pool

NORMS = ('batch', 'instance', 'none')
UPS = ('nearest', 'transposed')


class UNet3D(nn.Module):
    """Encoder and decoder of double blocks, joined at every level.

    The defaults are ACSeg's; with 2 labels and 1 channel they make 23,538,210 trainable parameters.
    NCXT's network with 3 labels has 1,355,427. The number of input channels is taken from the first
    image.

    Attributes:
      n_labels: classes, background included.
      filters: channels of each level, from full resolution to the bottom.
      residual: residual double blocks.
      norm: 'batch', 'instance' or 'none', see `DoubleBlock`. Instance norm takes its statistics
        from each image as it is given, so results depend on the tile around a voxel.
      up: how the decoder doubles the grid: 'nearest' neighbour, or 'transposed' convolution with
        kernel and stride 2, which needs factors of 2.
      dropout: share of the channels that training drops after every convolution of the blocks;
        takes randomness named 'dropout'.
      pool_sizes: (z, y, x) factors between levels, one fewer than `filters`; None: 2 along every
        axis. Thin stacks can use (1, 2, 2).
      norm_momentum: share of the running statistics of batch norm that a training step keeps;
        runs of a few hundred steps need less than the published one.
      dtype: compute dtype; parameters, statistics and logits are float32.
    """

    n_labels: int = 2
    filters: Sequence[int] = (32, 64, 128, 256, 512)
    residual: bool = False
    norm: str = 'batch'
    up: str = 'nearest'
    dropout: float = 0.0
    pool_sizes: Sequence[Sequence[int]] | None = None
    norm_momentum: float = 0.99
    dtype: Any = jnp.float32

    @property
    def n_dims(self) -> int:
        """Spatial axes of an input."""
        return 3

    @property
    def head_activations(self) -> dict[str, str]:
        """What turns each head into its meaning."""
        return {'logits': 'softmax'}

    @property
    def factors(self) -> tuple[tuple[int, int, int], ...]:
        """(z, y, x) pooling factors, level by level.

        Raises:
          InputError: fields do not fit each other.
        """
        self._check_fields()
        n_levels = len(self.filters)
        if n_levels < 1 or min(self.filters) < 1 or self.n_labels < 1:
            raise InputError(
                'unet3d', f'filters {self.filters}, n_labels {self.n_labels}', 'positive numbers'
            )
        factors = ((2, 2, 2),) * (n_levels - 1) if self.pool_sizes is None else self.pool_sizes
        if len(factors) != n_levels - 1 or any(len(f) != 3 or min(f) < 1 for f in factors):
            raise InputError(
                'unet3d.pool_sizes',
                f'{self.pool_sizes}',
                f'{n_levels - 1} triples (z, y, x) of factors, one fewer than filters',
            )
        if self.up == 'transposed' and any(set(f) != {2} for f in factors):
            raise InputError(
                'unet3d.up', f"'transposed' with pool_sizes {self.pool_sizes}", 'all 2, or nearest'
            )
        return tuple((int(z), int(y), int(x)) for z, y, x in factors)

    @property
    def side_multiple(self) -> tuple[int, int, int]:
        """What the (z, y, x) sides of an input must be multiples of."""
        z = y = x = 1
        for fz, fy, fx in self.factors:
            z, y, x = z * fz, y * fy, x * fx
        return z, y, x

    @property
    def halo(self) -> tuple[int, int, int]:
        """How many voxels away along (z, y, x) an input voxel can still change an output voxel.

        Every level has four convolutions of radius 1 (the bottom two) at its own voxel spacing;
        pooling and up-sampling between them shift by less than one bottom voxel in all (also by
        transposed convolution: with kernel = stride no two voxels overlap). The statistics of
        instance norm, which all voxels change a little, are left out.
        """
        halo = []
        for axis in range(3):
            spacing, reach = 1, 0
            for factors in self.factors:
                reach += 4 * spacing
                spacing *= factors[axis]
            halo.append(reach + 2 * spacing + spacing - 1)
        return halo[0], halo[1], halo[2]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> dict[str, jax.Array]:
        """Logits of every voxel.

        Args:
          x: [b, z, y, x, c] image; sides are multiples of `side_multiple`.
          train: use the statistics of this batch, and update the running ones (`batch_stats`).

        Returns:
          'logits': [b, z, y, x, n_labels] float32.

        Raises:
          InputError: the sides are not such multiples.
        """
        check_image('unet3d', x, self.side_multiple)
        options: dict[str, Any] = {
            'residual': self.residual,
            'norm': self.norm,
            'norm_momentum': self.norm_momentum,
            'dropout': self.dropout,
            'dtype': self.dtype,
        }
        x = x.astype(self.dtype)  # [b, z, y, x, c]
        skips = []
        for i, factors in enumerate(self.factors):
            x = DoubleBlock(self.filters[i], name=f'encoder_{i}', **options)(x, train=train)
            skips.append(x)
            x = max_pool(x, factors)  # [b, z/f, y/f, x/f, filters[i]]
        bottom = len(self.filters) - 1
        x = DoubleBlock(self.filters[bottom], name=f'encoder_{bottom}', **options)(x, train=train)
        for i in reversed(range(bottom)):
            block = DoubleBlock(self.filters[i], name=f'decoder_{i}', **options)
            if self.up == 'nearest':
                x = block(skips[i], x, train=train)  # the sides of level i
            else:
                x = block(jnp.concatenate([self._up(x, i), skips[i]], axis=-1), train=train)
        logits = Conv(self.n_labels, (1, 1, 1), dtype=self.dtype, name='head')(x)
        return {'logits': logits.astype(jnp.float32)}  # [b, z, y, x, n_labels]

    def _up(self, x: jax.Array, level: int) -> jax.Array:
        layer = ConvTranspose(
            self.filters[level], (2, 2, 2), ((1, 1),) * 3, dtype=self.dtype, name=f'up_{level}'
        )
        return layer(x)

    def _check_fields(self) -> None:
        if self.norm not in NORMS:
            raise InputError('unet3d.norm', repr(self.norm), f'one of {NORMS}')
        if self.up not in UPS:
            raise InputError('unet3d.up', repr(self.up), f'one of {UPS}')
        if not 0 <= self.dropout < 1:
            raise InputError('unet3d.dropout', f'{self.dropout}', 'a share of at least 0, below 1')
