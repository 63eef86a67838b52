"""How fast are components, closing, distances and smoothing, against scikit-image and SciPy?

    python -m benchmarks.voxel_operations [--smoke]

On a mask of touching cells, as instances are made of: connected components by all 26 neighbours,
closing with a ball, distances to the mask up to a limit, and Gaussian smoothing of an image. The
baselines compute on one core of the host (closing by distances, scikit-image's fastest way);
results are equal, those of smoothing to rounding.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage
from skimage import measure, morphology

from benchmarks.harness import Case, add_result_options, describe, keep_records, run_cases
from benchmarks.scenes import SHAPE, SMOKE_SHAPE, make_cells
from sxt_jax.ops.components import connected_components
from sxt_jax.ops.distance import squared_distance
from sxt_jax.ops.filters import gaussian_filter
from sxt_jax.ops.morphology import close

QUESTION = 'voxel_operations'
RADIUS, SIGMA = 6.0, 1.5


def groups(smoke: bool) -> Iterator[list[Case]]:
    """Baseline and ours, of each operation."""
    shape, n_cells = (SMOKE_SHAPE, 4) if smoke else (SHAPE, 300)
    cells = make_cells(shape, n_cells)
    outlines = morphology.dilation(cells, morphology.ball(1)) != cells
    mask = (cells > 0) & ~outlines  # cells apart from each other
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32) + mask
    on_device, gray = jax.device_put(mask), jax.device_put(image)
    equal = np.testing.assert_array_equal

    def pair(
        name: str, theirs: Callable[[], Any], ours: Callable[[], Any],
        compare: Callable[[Any, Any], None] = equal,
    ) -> list[Case]:  # fmt: skip
        expected = theirs()

        def check(found: Any) -> None:
            compare(np.asarray(found), expected)

        make = functools.partial(Case, check=check, work=mask.size / 1e6, unit='Mvoxel/s',
                                 shape=shape)  # fmt: skip
        return [
            make(f'{name}: baseline', theirs, dtype=str(expected.dtype), compiles=False),
            make(f'{name}: ours', ours, dtype=str(expected.dtype)),
        ]

    yield pair(
        'components, scikit-image',
        lambda: measure.label(mask, connectivity=3).astype(np.int32),
        lambda: connected_components(on_device),
    )
    yield pair(
        'closing with a ball, scikit-image',
        lambda: morphology.isotropic_closing(mask, RADIUS),
        lambda: close(on_device, RADIUS),
    )
    beyond = int(RADIUS**2) + 1
    yield pair(
        'distances up to 6 voxels, SciPy',
        lambda: np.minimum(np.rint(ndimage.distance_transform_edt(~mask) ** 2), beyond).astype(int),
        lambda: squared_distance(on_device, limit=RADIUS),
    )
    smooth = jax.jit(functools.partial(gaussian_filter, sigma=SIGMA))
    close_to = functools.partial(np.testing.assert_allclose, atol=1e-4)
    yield pair(
        'Gaussian smoothing, SciPy',
        lambda: ndimage.gaussian_filter(image, SIGMA),
        lambda: jnp.asarray(smooth(gray)),
        close_to,
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog=f'python -m benchmarks.{QUESTION}')
    add_result_options(parser)
    parser.add_argument('--repeats', type=int, default=3, help='timed runs per case')
    options = parser.parse_args()
    for cases in groups(options.smoke):
        repeats = 1 if options.smoke else options.repeats
        records = run_cases(QUESTION, cases, repeats=repeats, smoke=options.smoke)
        print(*map(describe, records), sep='\n', flush=True)
        keep_records(records, options.results, smoke=options.smoke)


if __name__ == '__main__':
    main()
