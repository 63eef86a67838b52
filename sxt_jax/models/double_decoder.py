"""The double decoder of deep_sxt (Dyhr et al. 2023): one encoder, an image and a label out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from sxt_jax.core.errors import InputError
from sxt_jax.models.blocks import BatchNorm, Conv, ConvTranspose
from sxt_jax.models.sides import check_image
from sxt_jax.ops.pool import max_pool

HEADS = ('image', 'label')
_PARTS = ('encoder', *HEADS)


class DoubleDecoder(nn.Module):
    """Slices in; the slice again (reconstruction) and the membranes in it (label) out.

    Every convolution is a bottleneck, every block keeps its input beside its result. The published
    network has 76,541,230 parameters, 76,483,502 of them trainable; all its filters are multiples
    of `width`. Names of variables begin with what they belong to: 'encoder', 'neck', 'image_' or
    'label_', so that a branch can be frozen or left out by name.

    Method: Dyhr et al. 2023, fig. 1 and Methods; the bottlenecks and the order of normalisation
    are those of the published implementation.

    Attributes:
      width: filters at full resolution.
      heads: which outputs are computed, of 'image' and 'label'. Variables of a network with both
        serve one with 'label' alone, which saves a quarter of the work.
      encoder_filters: of the first convolution, then of each stage; None: w, w, 2w, 4w, 8w.
      encoder_kernels: their kernel sizes; None: all 3.
      encoder_blocks: residual blocks in a stage.
      encoder_depth: convolutions in a block.
      encoder_add: add the input of a block to its result, where the published network concatenates.
      neck_filters: of every convolution in the neck; None: 16w.
      neck_kernels: kernel sizes of the neck's branches.
      neck_depth: convolutions in a branch.
      neck_add: add the branches rather than concatenate them.
      image_filters: of each stage from the bottom up, then of the last convolution; None: 8w, 4w,
        2w, w, w.
      image_kernels: their kernel sizes, the last also that of the head; None: all 3.
      image_blocks: as of the encoder.
      image_depth: as of the encoder.
      image_add: as of the encoder, and of the skip connections.
      image_skips: whether the encoder's results are handed over at every stage.
      label_filters: as of the image decoder.
      label_kernels: as of the image decoder.
      label_blocks: as of the encoder.
      label_depth: as of the encoder.
      label_add: as of the image decoder.
      label_skips: as of the image decoder.
      norm_momentum: share of the running statistics that a training step keeps.
      dtype: compute dtype; parameters, statistics and heads are float32.
    """

    width: int = 64
    heads: Sequence[str] = HEADS
    encoder_filters: Sequence[int] | None = None
    encoder_kernels: Sequence[int] | None = None
    encoder_blocks: int = 1
    encoder_depth: int = 2
    encoder_add: bool = False
    neck_filters: int | None = None
    neck_kernels: Sequence[int] = (1, 2, 3)
    neck_depth: int = 4
    neck_add: bool = False
    image_filters: Sequence[int] | None = None
    image_kernels: Sequence[int] | None = None
    image_blocks: int = 1
    image_depth: int = 2
    image_add: bool = False
    image_skips: bool = False
    label_filters: Sequence[int] | None = None
    label_kernels: Sequence[int] | None = None
    label_blocks: int = 2
    label_depth: int = 2
    label_add: bool = False
    label_skips: bool = True
    norm_momentum: float = 0.99
    dtype: Any = jnp.float32

    @property
    def n_dims(self) -> int:
        """Spatial axes of an input."""
        return 2

    @property
    def head_activations(self) -> dict[str, None]:
        """What turns each head into its meaning: nothing, tanh is applied here."""
        return dict.fromkeys(self.heads)

    @property
    def side_multiple(self) -> tuple[int, int]:
        """What the (y, x) sides of an input must be multiples of."""
        side = 2 ** (len(self.filters('encoder')) - 1)
        return side, side

    @property
    def halo(self) -> tuple[int, int]:
        """How many pixels away along (y, x) an input pixel can still change an output pixel.

        187 for the published network: a pixel of its neck sees 206, the decoders widen that.
        """
        period = self.side_multiple[0]
        reach = 0
        for head in self.heads:
            for pixel in range(period):
                low, high = self._sees(head, pixel)
                reach = max(reach, pixel - low, high - pixel)
        return reach, reach

    def filters(self, part: str) -> tuple[int, ...]:
        """Of each stage of 'encoder', 'image' or 'label', as the fields say.

        Raises:
          InputError: fields do not fit each other.
        """
        filters = getattr(self, f'{part}_filters')
        if filters is None:
            multiples = (1, 1, 2, 4, 8) if part == 'encoder' else (8, 4, 2, 1, 1)
            filters = tuple(self.width * m for m in multiples)
        if len(filters) < 2 or min(filters) < 1:
            raise InputError(
                f'double_decoder.{part}_filters', f'{filters}', 'at least 2 positive numbers'
            )
        return tuple(filters)

    def kernels(self, part: str) -> tuple[int, ...]:
        """Kernel sizes of each stage of 'encoder', 'image' or 'label', as the fields say."""
        kernels = getattr(self, f'{part}_kernels')
        return (3,) * len(self.filters(part)) if kernels is None else tuple(kernels)

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> dict[str, jax.Array]:
        """Reconstruction and label of every pixel.

        Args:
          x: [b, y, x, c] slices, standardised; sides are multiples of `side_multiple`.
          train: use the statistics of this batch, and update the running ones (`batch_stats`).

        Returns:
          'image': [b, y, x, 1] float32; 'label': [b, y, x, 1] float32, -1 (background) … 1.

        Raises:
          InputError: the sides are not such multiples, or fields do not fit each other.
        """
        self._check(x)
        # [b, y / 2ⁿ, x / 2ⁿ, …], and the results of all n stages
        x, skips = _Encoder(**self._part('encoder'), name='encoder')(x, train=train)
        x = self._neck(x, train=train)  # [b, y / 2ⁿ, x / 2ⁿ, …]
        heads = {'image': self._image, 'label': self._label}
        return {name: heads[name](x, skips, train=train) for name in HEADS if name in self.heads}

    def _neck(self, x: jax.Array, *, train: bool) -> jax.Array:
        features = 16 * self.width if self.neck_filters is None else self.neck_filters
        branches = []
        for i, kernel in enumerate(self.neck_kernels):
            y = x
            for j in range(self.neck_depth):
                name = f'neck_{i}_conv_{j}'
                y = Bottleneck(features, kernel, dtype=self.dtype, name=name)(y)
                y = nn.relu(self._norm(f'neck_{i}_norm_{j}')(y, train=train))
            branches.append(y)
        if self.neck_add:
            return jnp.sum(jnp.stack(branches), 0)
        return jnp.concatenate(branches, axis=-1)

    def _image(self, x: jax.Array, skips: Sequence[jax.Array], *, train: bool) -> jax.Array:
        x = _Decoder(**self._part('image'), name='image_decoder')(x, skips, train=train)
        for i, features in enumerate((self.width, self.width, 1)):
            x = self._head_conv(features, 'image', f'image_head_conv_{i}')(x)
        return x.astype(jnp.float32)  # [b, y, x, 1]

    def _label(self, x: jax.Array, skips: Sequence[jax.Array], *, train: bool) -> jax.Array:
        x = _Decoder(**self._part('label'), name='label_decoder')(x, skips, train=train)
        x = self._norm('label_head_norm')(x, train=train)
        x = self._head_conv(self.width, 'label', 'label_head_conv')(x)
        x = Conv(1, (1, 1), dtype=self.dtype, name='label_head_last')(x)
        return jnp.tanh(x.astype(jnp.float32))  # [b, y, x, 1]

    def _norm(self, name: str) -> BatchNorm:
        return BatchNorm(self.norm_momentum, unbiased=True, dtype=self.dtype, name=name)

    def _head_conv(self, features: int, part: str, name: str) -> Bottleneck:
        kernel = self.kernels(part)[-1]
        return Bottleneck(features, kernel, use_bias=True, dtype=self.dtype, name=name)

    def _part(self, part: str) -> dict[str, Any]:
        """Fields of the encoder or of a decoder."""
        fields = ('blocks', 'depth', 'add') + (('skips',) if part in HEADS else ())
        return {
            'part': part,
            'filters': self.filters(part),
            'kernels': self.kernels(part),
            **{field: getattr(self, f'{part}_{field}') for field in fields},
            'norm_momentum': self.norm_momentum,
            'dtype': self.dtype,
        }

    def _check(self, x: jax.Array) -> None:
        if not self.heads or set(self.heads) - set(HEADS):
            raise InputError('double_decoder.heads', f'{self.heads}', f'some of {HEADS}')
        if self.width < 1 or not self.neck_kernels or self.neck_depth < 1:
            found = f'width {self.width}, neck {self.neck_kernels}, depth {self.neck_depth}'
            raise InputError('double_decoder', found, 'positive numbers')
        n = len(self.filters('encoder'))
        for part in _PARTS:
            if not len(self.filters(part)) == len(self.kernels(part)) == n:
                raise InputError(
                    f'double_decoder.{part}_filters, {part}_kernels',
                    f'{len(self.filters(part))} and {len(self.kernels(part))} numbers',
                    f'{n} each, as many as encoder_filters',
                )
            self._check_part(part)
        check_image('double_decoder', x, self.side_multiple)

    def _check_part(self, part: str) -> None:
        for field in ('blocks', 'depth'):
            value = getattr(self, f'{part}_{field}')
            if value < 1:
                raise InputError(f'double_decoder.{part}_{field}', f'{value}', 'at least 1')
        kernels = self.kernels(part)
        least = 2 if part in HEADS else 1  # a stride of 2 leaves gaps between kernels of 1
        if min(kernels[:-1]) < least or kernels[-1] < 1:
            expected = f'at least {least} for every stage'
            raise InputError(f'double_decoder.{part}_kernels', f'{kernels}', expected)

    def _sees(self, head: str, pixel: int) -> tuple[int, int]:
        """The first and last input pixel along an axis on which an output pixel depends."""
        kernels = self.kernels(head)
        seen = _behind((pixel, pixel), kernels[-1], 4 if head == 'image' else 2)
        per_stage = getattr(self, f'{head}_blocks') * getattr(self, f'{head}_depth')
        for kernel in reversed(kernels[:-1]):
            low, high = _behind(seen, kernel, per_stage)
            (before, _), *_ = _transpose_padding(kernel)
            seen = -((before - low) // 2), (high - before + kernel - 1) // 2
        ends = [_behind(seen, kernel, self.neck_depth) for kernel in self.neck_kernels]
        seen = min(low for low, _ in ends), max(high for _, high in ends)
        kernels = self.kernels('encoder')
        for kernel in reversed(kernels[1:]):
            seen = 2 * seen[0], 2 * seen[1] + 1
            seen = _behind(seen, kernel, self.encoder_blocks * self.encoder_depth)
        return _behind(seen, kernels[0], 1)


def _behind(seen: tuple[int, int], kernel: int, n: int) -> tuple[int, int]:
    """What `n` convolutions see to make the pixels from first to last."""
    return seen[0] - n * ((kernel - 1) // 2), seen[1] + n * (kernel // 2)


def _transpose_padding(kernel: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Of Keras' transposed convolution of stride 2 with 'same'; see `ops.conv_transpose`."""
    before = kernel - 1 - max(kernel - 2, 0) // 2
    return (before, kernel - before), (before, kernel - before)


class Bottleneck(nn.Module):
    """Convolution with half the filters between two of width 1; nothing else between them.

    Attributes:
      features: output channels.
      kernel_size: of both axes.
      use_bias: of all three convolutions.
      dtype: compute dtype.
    """

    features: int
    kernel_size: int
    use_bias: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        options: dict[str, Any] = {'use_bias': self.use_bias, 'dtype': self.dtype}
        inner = max(1, self.features // 2)
        x = Conv(inner, (1, 1), name='reduce', **options)(x)
        x = Conv(inner, (self.kernel_size,) * 2, name='conv', **options)(x)
        return Conv(self.features, (1, 1), name='expand', **options)(x)


class _Stages(nn.Module):
    """What encoder and decoders have in common: stages of residual blocks."""

    part: str
    filters: Sequence[int]
    kernels: Sequence[int]
    blocks: int
    depth: int
    add: bool
    norm_momentum: float
    dtype: Any

    def conv(self, i: int, *, name: str, use_bias: bool = False) -> Bottleneck:
        """With the filters and kernel of stage i."""
        return Bottleneck(
            self.filters[i], self.kernels[i], use_bias=use_bias, dtype=self.dtype, name=name
        )

    def activate(self, x: jax.Array, *, name: str, train: bool) -> jax.Array:
        """Batch norm and ReLU."""
        norm = BatchNorm(self.norm_momentum, unbiased=True, dtype=self.dtype, name=name)
        return nn.relu(norm(x, train=train))

    def stage(self, x: jax.Array, i: int, *, name: str, train: bool) -> jax.Array:
        """Residual blocks, each with its input and its result side by side."""
        for j in range(self.blocks):
            y = x
            for k in range(self.depth - 1):
                y = self.conv(i, name=f'{name}_{j}_conv_{k}')(y)
                y = self.activate(y, name=f'{name}_{j}_norm_{k}', train=train)
            y = self.conv(i, name=f'{name}_{j}_conv_{self.depth - 1}')(y)
            x = self.join(x, y)
            x = self.activate(x, name=f'{name}_{j}_norm_{self.depth - 1}', train=train)
        return x

    def join(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """Concatenation, or the sum.

        Raises:
          InputError: the sum of different numbers of channels.
        """
        if not self.add:
            return jnp.concatenate([x, y], axis=-1)
        if x.shape[-1] != y.shape[-1]:
            found = f'a sum of {x.shape[-1]} and {y.shape[-1]} channels'
            raise InputError(f'double_decoder.{self.part}_add', found, 'filters that are the same')
        return x + y


class _Encoder(_Stages):
    """A convolution, then stages of blocks with a pooling by 2 behind each."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, list[jax.Array]]:
        x = self.conv(0, name='first_conv', use_bias=True)(x.astype(self.dtype))  # [b, y, x, f₀]
        x = self.activate(x, name='first_norm', train=train)
        skips = []
        for i in range(1, len(self.filters)):
            x = self.stage(x, i, name=f'stage_{i - 1}', train=train)
            skips.append(x)
            x = max_pool(x, (2, 2), padding='SAME')  # [b, y / 2ⁱ, x / 2ⁱ, …]
        return x, skips


class _Decoder(_Stages):
    """Stages of a transposed convolution and blocks, then a last convolution."""

    skips: bool

    @nn.compact
    def __call__(self, x: jax.Array, skips: Sequence[jax.Array], *, train: bool) -> jax.Array:
        last = len(self.filters) - 1
        for i in range(last):
            kernel = self.kernels[i]
            x = ConvTranspose(
                self.filters[i],
                (kernel, kernel),
                padding=_transpose_padding(kernel),
                dtype=self.dtype,
                name=f'up_{i}',
            )(x)  # twice the sides, filters[i]
            if self.skips:
                x = self.join(skips[-1 - i], x)
            x = self.stage(x, i, name=f'stage_{i}', train=train)
        x = self.conv(last, name='last_conv')(x)  # [b, y, x, filters[-1]]
        return self.activate(x, name='last_norm', train=train)
