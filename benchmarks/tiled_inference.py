"""How fast is the published ACSeg U-Net applied to a volume, tile by tile?

    python -m benchmarks.tiled_inference [--smoke]

64³ tiles at stride 32, constant weights, as published (Erozan et al. 2024). The baseline is the
loop that one writes first: cut a tile in NumPy, run the compiled network on it, add the answer to a
NumPy array. Both compute in bfloat16 on accelerators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import Case, main
from sxt_jax.core.devices import is_accelerated
from sxt_jax.core.tiles import make_grid
from sxt_jax.inference import make_apply_fn, predict_volume
from sxt_jax.models import UNet3D

PUBLISHED_FILTERS = (32, 64, 128, 256, 512)
Predict = Callable[[], np.ndarray]


def naive_loop(
    apply_fn: Any, variables: Any, image: np.ndarray, *, n_labels: int, tile: int, overlap: int
) -> Predict:
    """One tile after the other, summed on the host."""
    grid = make_grid(image.shape, tile=(tile,) * 3, overlap=(overlap,) * 3)
    network = jax.jit(apply_fn)

    def run() -> np.ndarray:
        total = np.zeros((*image.shape, n_labels), np.float32)
        weights = np.zeros((*image.shape, 1), np.float32)
        for box in grid.tiles():
            probs = np.asarray(network(variables, image[box.slices][None, ..., None])['probs'][0])
            total[box.slices] += probs
            weights[box.slices] += 1
        return total / weights

    return run


def tiled(apply_fn: Any, variables: Any, image: np.ndarray, *, tile: int, overlap: int) -> Predict:
    """The library's way."""

    def run() -> np.ndarray:
        options: Any = {'tile': tile, 'overlap': overlap, 'blend': 'constant'}
        return predict_volume(apply_fn, variables, image, **options)['probs']

    return run


def check_corners(
    apply_fn: Any, variables: Any, image: np.ndarray, *, tile: int, step: int, tolerance: float
) -> Callable[[np.ndarray], None]:
    """Where only the first or the last tile reaches, the answer is that tile's; all sum to 1."""

    def check(probs: np.ndarray) -> None:
        np.testing.assert_allclose(probs.sum(-1), 1, atol=1e-3)
        network = jax.jit(apply_fn)
        first, last = (slice(tile),) * 3, (slice(-tile, None),) * 3
        own_first, own_last = (slice(step),) * 3, (slice(-step, None),) * 3
        for box, own in ((first, own_first), (last, own_last)):
            expected = np.asarray(network(variables, image[box][None, ..., None])['probs'][0])
            np.testing.assert_allclose(probs[own], expected[own], atol=tolerance)

    return check


def make_cases(smoke: bool) -> Sequence[Case]:
    """The loop and the library, on a volume that suits the machine."""
    filters: tuple[int, ...] = (4, 8) if smoke else PUBLISHED_FILTERS
    tile = 16 if smoke else 64
    shape = (16, 32, 40) if smoke else (256,) * 3 if is_accelerated() else (64, 128, 128)
    dtype = jnp.bfloat16 if is_accelerated() else jnp.float32
    model = UNet3D(filters=filters, dtype=dtype)
    key = jax.random.key(0)
    variables = jax.jit(model.init)(key, jnp.zeros((1, tile, tile, tile, 1)))
    image = np.asarray(jax.random.normal(key, shape))
    apply_fn = make_apply_fn(model)
    options = {'tile': tile, 'overlap': tile // 2}
    check = check_corners(
        apply_fn, variables, image, tile=tile, step=tile // 2,
        tolerance=3e-2 if is_accelerated() else 1e-4,
    )  # fmt: skip

    def case(name: str, run: Predict) -> Case:
        facts = {'model': 'ACSeg U-Net', 'filters': list(filters), **options}
        work = image.size / 1e6
        return Case(name, run, check, work, 'Mvoxel/s', shape, jnp.dtype(dtype).name, facts)

    return [
        case(
            'loop over tiles',
            naive_loop(apply_fn, variables, image, n_labels=model.n_labels, **options),
        ),
        case('predict_volume', tiled(apply_fn, variables, image, **options)),
    ]


if __name__ == '__main__':
    main('tiled_inference', make_cases)
