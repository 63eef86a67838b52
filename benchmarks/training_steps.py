"""How fast does the published ACSeg U-Net train?

    python -m benchmarks.training_steps [--smoke]

One case is the training step of this library, the baseline the same step with XLA's own
convolutions everywhere (on accelerators the two are one). A step is forward pass, backward pass and
SGD with Nesterov momentum on a global batch of 64³ patches: 24 as published on accelerators, in
bfloat16; 2 on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from benchmarks.harness import Case, main
from benchmarks.tiled_inference import PUBLISHED_FILTERS
from configs.acseg import get_config
from sxt_jax.core.devices import (
    compute_dtype,
    is_accelerated,
    make_device_mesh,
    split_batch,
)
from sxt_jax.models import UNet3D
from sxt_jax.ops.conv_cpu import lax_conv
from sxt_jax.ops.pool import upsample
from sxt_jax.training.objectives import Objective, make_segmentation_loss
from sxt_jax.training.optimizers import make_optimizer
from sxt_jax.training.state import create_state
from sxt_jax.training.step import make_train_step


class OneBatch:
    """The same random patches at every step, of two classes.

    Args:
      batch_size: patches.
      patch: their sides (z, y, x); z is 1 for networks of slices.
    """

    steps_per_epoch = 1

    def __init__(self, batch_size: int, patch: Sequence[int]) -> None:
        rng = np.random.default_rng(0)
        shape = (batch_size, *patch)
        self._batch = {
            'image': rng.random((*shape, 1), np.float32),
            'labels': rng.integers(0, 2, shape, np.int16),
        }

    def batch(self, step: int, rows: slice = slice(None)) -> dict[str, np.ndarray]:
        """Those rows of the batch, whatever the step."""
        return {name: values[rows] for name, values in self._batch.items()}


@contextmanager
def xla_convolutions() -> Iterator[None]:
    """Networks traced inside use `lax.conv_general_dilated` for every convolution."""

    def plain(x: jax.Array, kernel: jax.Array, *, stride: int, padding: Any) -> jax.Array:
        window = kernel.shape[:-2]
        strides = (stride,) * len(window)
        if isinstance(padding, str):
            padding = jax.lax.padtype_to_pads(x.shape[1:-1], window, strides, padding)
        return lax_conv(x, kernel, strides, padding)

    def joined(coarse: jax.Array, x: jax.Array, kernel: jax.Array) -> jax.Array:
        factors = [n // m for n, m in zip(x.shape[1:-1], coarse.shape[1:-1], strict=True)]
        together = jnp.concatenate([upsample(coarse, factors), x], axis=-1)
        return plain(together, kernel, stride=1, padding='SAME')

    with (
        mock.patch('sxt_jax.models.blocks.conv', plain),
        mock.patch('sxt_jax.models.blocks.conv_joined', joined),
    ):
        yield


def train_steps(
    model: nn.Module,
    stream: OneBatch,
    *,
    loss: Mapping[str, float],
    optimizer: Any,
    n_steps: int,
) -> tuple[Callable[[], dict[str, np.ndarray]], dict[str, Any]]:
    """Steps from the same start.

    Args:
      model: the network.
      stream: of the batch.
      loss: weights of its terms.
      optimizer: the config's group of that name.
      n_steps: of a run.

    Returns:
      A function that does the steps and gives loss and gradient norm of each, and the first
      variables, on the host.
    """
    objective = Objective(
        name='supervised',
        stream=stream,
        loss=make_segmentation_loss(loss),
        optimizer=make_optimizer(optimizer, n_steps=n_steps),
    )
    device_mesh = make_device_mesh()
    key = jax.random.key(0)
    shape = stream.batch(0)['image'].shape[1:]
    if getattr(model, 'n_dims', 3) == 3:  # else a slice is the batch
        shape = (1, *shape)
    first = create_state(key, model, [objective], input_shape=shape, device_mesh=device_mesh)
    step = make_train_step(model, objective, device_mesh=device_mesh)
    batch = jax.device_put(stream.batch(0), split_batch(device_mesh))

    def run() -> dict[str, np.ndarray]:
        state = jax.tree.map(jnp.copy, first)
        seen = []
        for _ in range(n_steps):
            state, metrics = step(state, batch, key)
            seen.append(metrics)
        on_host = jax.device_get(seen)
        return {k: np.array([m[k] for m in on_host]) for k in ('loss', 'gradient_norm')}

    return run, jax.device_get({'params': first.params, 'batch_stats': first.batch_stats})


def make_cases(smoke: bool) -> Sequence[Case]:
    """XLA's convolutions and ours, at a size that suits the machine."""
    filters: Sequence[int] = (4, 8) if smoke else PUBLISHED_FILTERS
    side, n_steps = (16, 2) if smoke else (64, 10 if is_accelerated() else 1)
    batch_size = 24 if is_accelerated() and not smoke else max(2, jax.device_count())
    model = UNet3D(filters=tuple(filters), dtype=compute_dtype('auto'))
    stream, optimizer = OneBatch(batch_size, (side,) * 3), get_config().optimizer

    def steps() -> Callable[[], dict[str, np.ndarray]]:
        loss = {'cross_entropy': 1.0}
        return train_steps(model, stream, loss=loss, optimizer=optimizer, n_steps=n_steps)[0]

    def with_xla() -> Callable[[], dict[str, np.ndarray]]:
        run = steps()

        def traced() -> dict[str, np.ndarray]:
            with xla_convolutions():
                return run()

        return traced

    plain, ours = with_xla(), steps()
    expected = plain()
    tolerance = 5e-2 if is_accelerated() else 1e-3

    def check(found: dict[str, np.ndarray]) -> None:
        for name, values in expected.items():
            np.testing.assert_allclose(found[name], values, rtol=tolerance, err_msg=name)

    def case(name: str, run: Callable[[], Any], *, compiles: bool) -> Case:
        shape = (batch_size, side, side, side)
        dtype = jnp.dtype(model.dtype).name
        facts = {'model': 'ACSeg U-Net', 'filters': list(filters)}
        return Case(name, run, check, n_steps, 'steps/s', shape, dtype, facts, compiles)

    # That of XLA gave the answer before.
    return [case("XLA's convolutions", plain, compiles=False), case('ours', ours, compiles=True)]


if __name__ == '__main__':
    main('training_steps', make_cases)
