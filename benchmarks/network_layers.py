"""The published networks and their layers: shapes, arithmetic and the least memory traffic.

What `roofline` and `layers` measure. A network is traced without computing anything, and every
convolution and normalisation that it calls is written down with the shapes it gets. Arithmetic is
that of the convolutions, a product and a sum being two; products with the zeros around an image and
between the voxels of a spread-out one are not counted, and taps that see the same voxel of a
repeated image are added up first, so that it is the least that a direct convolution needs.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from benchmarks.tiled_inference import PUBLISHED_FILTERS
from sxt_jax.core.devices import is_accelerated
from sxt_jax.models import Cellpose3DNet, DoubleDecoder, ResUNet, UNet3D
from sxt_jax.models.blocks import BatchNorm, Conv, ConvTranspose, InstanceNorm

SIZES = ('smoke', 'small', 'full')
KINDS = ('forward', 'step')
Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Network:
    """A network and what it is given.

    Attributes:
      title: as in tables.
      model: in the type that suits the device.
      shapes: kind → [b, (z,) y, x, 1] of the image: one forward pass, one training step.
    """

    title: str
    model: nn.Module
    shapes: Mapping[str, Shape]

    @property
    def dtype(self) -> np.dtype[Any]:
        """What is computed in."""
        return jnp.dtype(self.model.dtype)  # type: ignore[attr-defined]


def default_size() -> str:
    """The papers' sizes on accelerators, small ones on a CPU."""
    return 'full' if is_accelerated() else 'small'


def _acseg(size: str, dtype: Any) -> Network:
    filters = (4, 8) if size == 'smoke' else PUBLISHED_FILTERS
    side = {'smoke': 8, 'small': 32, 'full': 64}[size]
    batch = {'smoke': 2, 'small': 1, 'full': 24 if is_accelerated() else 2}[size]
    shapes = {'forward': (1, *(side,) * 3, 1), 'step': (batch, *(side,) * 3, 1)}
    return Network('ACSeg U-Net', UNet3D(2, filters, dtype=dtype), shapes)


def _ncxt(size: str, dtype: Any) -> Network:
    filters = (4, 8) if size == 'smoke' else (32, 64, 128)
    side = {'smoke': 8, 'small': 32, 'full': 64}[size]
    model = UNet3D(3, filters, norm='instance', up='transposed', dtype=dtype)
    return Network('NCXT U-Net', model, dict.fromkeys(KINDS, (1, *(side,) * 3, 1)))


def _cellpose3d(size: str, dtype: Any) -> Network:
    patch = {'smoke': (8, 8, 8), 'small': (32, 64, 64), 'full': (64, 128, 128)}[size]
    model = Cellpose3DNet(2 if size == 'smoke' else 16, dtype=dtype)
    return Network('Cellpose3D', model, dict.fromkeys(KINDS, (1, *patch, 1)))


def _double_decoder(size: str, dtype: Any) -> Network:
    # Dyhr et al. segment slices of 1324×1284, which are made multiples of 16, and train on 256².
    forward, step = {
        'smoke': ((16, 16), (16, 16)),
        'small': ((128, 128), (128, 128)),
        'full': ((1328, 1296), (256, 256)),
    }[size]
    model = DoubleDecoder(2 if size == 'smoke' else 64, ('label',), dtype=dtype)
    shapes = {'forward': (1, *forward, 1), 'step': (1, *step, 1)}
    return Network('double decoder, label', model, shapes)


def _fibsem(size: str, dtype: Any) -> Network:
    side, batch = {'smoke': (16, 1), 'small': (128, 1), 'full': (512, 5)}[size]
    model = ResUNet(width=2 if size == 'smoke' else 64, dtype=dtype)
    shapes = {'forward': (1, side, side, 1), 'step': (batch, side, side, 1)}
    return Network('fibsem ResUNet', model, shapes)


NETWORKS: dict[str, Callable[[str, Any], Network]] = {
    'acseg': _acseg,
    'ncxt': _ncxt,
    'cellpose3d': _cellpose3d,
    'double_decoder': _double_decoder,
    'fibsem': _fibsem,
}


def make_network(name: str, size: str) -> Network:
    """One of `NETWORKS` at one of `SIZES`, in bfloat16 on accelerators."""
    return NETWORKS[name](size, jnp.bfloat16 if is_accelerated() else jnp.float32)


@dataclasses.dataclass(frozen=True)
class Layer:
    """A convolution or normalisation as a network calls it.

    Attributes:
      module: `Conv`, `ConvTranspose`, `BatchNorm` or `InstanceNorm`, by itself.
      inputs: shapes [b, (z,) y, x, c] of the image and, if one is joined, of the coarse one.
      output: shape of the result.
      is_first: whether it sees the network's image, whose gradient nobody asks for.
    """

    module: nn.Module
    inputs: tuple[Shape, ...]
    output: Shape
    is_first: bool = False

    @property
    def dtype(self) -> np.dtype[Any]:
        """What is computed in."""
        return jnp.dtype(self.module.dtype)  # type: ignore[attr-defined]

    @property
    def is_norm(self) -> bool:
        """Whether it is a normalisation."""
        return isinstance(self.module, (BatchNorm, InstanceNorm))

    @property
    def name(self) -> str:
        """Such as 'conv 3×3×3, 32 → 64, 1×16×16×16': channels, and batch and sides it gets."""
        module, (image, *coarse) = self.module, self.inputs
        sides = '×'.join(map(str, image[:-1]))
        if isinstance(module, (BatchNorm, InstanceNorm)):
            kind = 'batch' if isinstance(module, BatchNorm) else 'instance'
            return f'{kind} norm, {image[-1]}, {sides}'
        assert isinstance(module, (Conv, ConvTranspose))
        kernel = '×'.join(map(str, module.kernel_size))
        kind = 'transposed' if isinstance(module, ConvTranspose) else 'conv'
        if isinstance(module, Conv) and module.stride != 1:
            kernel += f' / {module.stride}'
        c_in = f'{coarse[0][-1]} up + {image[-1]}' if coarse else f'{image[-1]}'
        return f'{kind} {kernel}, {c_in} → {module.features}, {sides}'


class Trace(NamedTuple):
    """What is known of a network without computing anything.

    Attributes:
      layers: all that are called, in their order; the same one more than once.
      variables: their shapes and types.
    """

    layers: tuple[Layer, ...]
    variables: Any


@functools.cache
def trace(model: nn.Module, shape: Shape) -> Trace:
    """Layers and variables of a network for an image of a shape."""
    found: list[Layer] = []

    def note(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        result = call(*args, **kwargs)
        module = context.module
        if isinstance(module, (Conv, ConvTranspose, BatchNorm, InstanceNorm)):
            inputs = tuple(tuple(x.shape) for x in args if x is not None)
            alone = module.clone(parent=None, name=None)
            found.append(Layer(alone, inputs, tuple(result.shape), is_first=not found))
        return result

    def run() -> Any:
        with nn.intercept_methods(note):
            return model.init(jax.random.key(0), jnp.zeros(shape))

    variables = jax.eval_shape(run)
    return Trace(tuple(found), variables)


def flop(layer: Layer) -> float:
    """Products and sums of a forward pass of a layer, 0 of normalisations."""
    module, (image, *coarse) = layer.module, layer.inputs
    if isinstance(module, ConvTranspose):
        pairs = math.prod(
            spread_pairs(n, k, p)
            for n, k, p in zip(image[1:-1], module.kernel_size, module.padding, strict=True)
        )
        return 2.0 * image[0] * pairs * image[-1] * module.features
    if not isinstance(module, Conv):
        return 0.0
    axes = zip(image[1:-1], module.kernel_size, explicit_pads(layer), strict=True)
    pairs = math.prod(tap_pairs(n, k, module.stride, p) for n, k, p in axes)
    products = pairs * image[-1]
    if coarse:
        products += _coarse_pairs(coarse[0], image, tuple(module.kernel_size)) * coarse[0][-1]
    return 2.0 * image[0] * products * module.features


def explicit_pads(layer: Layer) -> list[tuple[int, int]]:
    """(before, after) of each spatial axis of a `Conv`."""
    module, sides = layer.module, layer.inputs[0][1:-1]
    assert isinstance(module, Conv)
    if isinstance(module.padding, str):
        strides = (module.stride,) * len(sides)
        return list(lax.padtype_to_pads(sides, module.kernel_size, strides, module.padding))
    return [(a, b) for a, b in module.padding]


def step_flop(layer: Layer) -> float:
    """Likewise of a forward and backward pass: the gradients of kernel and image take as much."""
    return flop(layer) * (2 if layer.is_first else 3)


def _coarse_pairs(coarse: Shape, image: Shape, kernel: Shape) -> int:
    """Products of an image repeated to the grid of another, taps on the same voxel added up."""
    pairs = 1
    for m, n, k in zip(coarse[1:-1], image[1:-1], kernel, strict=True):
        if n == 2 * m and k > 1:
            # Two voxels of the fine grid see a coarse one: a kernel one tap longer, spread out.
            pairs *= spread_pairs(m, k + 1, ((k - 1) // 2 + 1, k - (k - 1) // 2))
        elif k == 1:
            pairs *= m
        else:
            pairs *= tap_pairs(n, k, 1, ((k - 1) // 2, k // 2))
    return pairs


def tap_pairs(n: int, kernel: int, stride: int, pads: tuple[int, int]) -> int:
    """Pairs of an output and a tap on one of n voxels, along an axis of a convolution."""
    n_out = (n + sum(pads) - kernel) // stride + 1
    places = stride * np.arange(n_out)[:, None] - pads[0] + np.arange(kernel)
    return int(np.sum((places >= 0) & (places < n)))


def spread_pairs(n: int, kernel: int, pads: tuple[int, int]) -> int:
    """Likewise of a transposed convolution of stride 2, see `ops.conv_transpose`."""
    places = np.arange(2 * n)[:, None] - pads[0] + np.arange(kernel)
    return int(np.sum((places >= 0) & (places < 2 * n - 1) & (places % 2 == 0)))


@dataclasses.dataclass(frozen=True)
class Costs:
    """What a forward pass or a training step cannot do without.

    Attributes:
      flop: of the convolutions.
      n_bytes: read and written.
    """

    flop: float
    n_bytes: float


def least_costs(network: Network, kind: str) -> Costs:
    """Of a direct computation that keeps nothing but the results of the convolutions.

    A forward pass reads the weights and the image and writes the result of every convolution once;
    all that follows it is taken to be done on the way. A step of SGD with momentum reads and writes
    weights and momenta; it writes the results, reads them again in the backward pass, and needs
    their gradients once. Its arithmetic is three times that of the forward pass, less the gradient
    of the image, which nobody asks for, where a convolution is the first layer.
    """
    shape = network.shapes[kind]
    layers, variables = trace(network.model, shape)
    n_weights = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables['params']))
    made = sum(
        math.prod(layer.output) * network.dtype.itemsize for layer in layers if not layer.is_norm
    )
    image = 4 * math.prod(shape)
    if kind == 'forward':
        return Costs(sum(map(flop, layers)), 4 * n_weights + image + made)
    return Costs(sum(map(step_flop, layers)), 4 * 4 * n_weights + image + 3 * made)


def draw_variables(model: nn.Module, shape: Shape) -> dict[str, Any]:
    """Random variables on the host that keep signals from growing from layer to layer."""
    return draw_like(trace(model, shape).variables)


def draw_like(shapes: Any, seed: int = 0) -> dict[str, Any]:
    """Random variables of such shapes; scales and variances are 1, biases and means 0."""
    rng = np.random.default_rng(seed)

    def draw(path: Any, wanted: jax.ShapeDtypeStruct) -> np.ndarray:
        name = path[-1].key
        if name != 'kernel':
            return np.full(wanted.shape, float(name in ('scale', 'var')), np.float32)
        scale = 1 / np.sqrt(np.prod(wanted.shape[:-1]))
        return rng.normal(scale=scale, size=wanted.shape).astype(np.float32)

    variables: dict[str, Any] = jax.tree_util.tree_map_with_path(draw, shapes)
    return variables
