"""How fast is dense optical flow, against OpenCV's on the cores of the same machine?

    python -m benchmarks.optical_flow [--smoke] [--sides 1024 4096]

Two images of a texture, one displaced by up to three pixels that are known, so every answer is
compared with the truth, and ours with OpenCV's. OpenCV is a case, and the baseline, where it is
installed. On a CPU, our flow is timed on all cores and as one program in `jit`, which has one.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks.harness import Case, add_result_options, describe, keep_records, run_cases
from sxt_jax.core.devices import is_accelerated
from sxt_jax.ops import farneback

SIDES = (1024, 4096)
SMOKE_SIDES = (128,)
_LARGEST = 3.0  # displacement in pixels
_N_WAVES = 12


def make_pair(side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two images [y, x] uint8, and where in the second one the pixels of the first are."""
    y, x = np.mgrid[:side, :side].astype(np.float32)
    flow = _LARGEST * np.stack([np.sin(x / 150), np.cos(y / 120)], -1)
    return _texture(y + flow[..., 0], x + flow[..., 1]), _texture(y, x), flow


def _texture(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(0)
    total = np.zeros_like(y)
    for frequency in rng.uniform(-0.35, 0.35, (_N_WAVES, 2)).astype(np.float32):
        total += np.cos(frequency[0] * y + frequency[1] * x + np.float32(rng.uniform(0, 6)))
    return np.clip(127 + total * (110 / _N_WAVES**0.5 / 2), 0, 255).round().astype(np.uint8)


def make_cases(side: int) -> list[Case]:
    """OpenCV, where it is installed, and ours."""
    first, second, truth = make_pair(side)
    expected: list[np.ndarray] = []  # what OpenCV finds, for the others
    facts: dict[str, Any] = {}

    def check(answer: Any) -> None:
        found = np.asarray(answer)
        inner = np.s_[side // 8 : -side // 8, side // 8 : -side // 8]
        errors = np.linalg.norm(found - truth, axis=-1)[inner]
        assert np.median(errors) < 0.2, f'median end-point error {np.median(errors):.3f} pixels'
        if expected:
            differences = np.linalg.norm(found - expected[0], axis=-1)
            assert differences.max() < 0.01, f'{differences.max():.3f} pixels from OpenCV'

    def check_opencv(answer: np.ndarray) -> None:
        check(answer)
        expected.append(answer)

    ways: dict[str, tuple[Callable[[], Any], Callable[[Any], None]]] = {}
    if importlib.util.find_spec('cv2'):
        import cv2

        facts['opencv'] = f'{cv2.__version__}, {cv2.getNumThreads()} threads'
        ways['OpenCV (baseline)'] = functools.partial(_opencv, first, second), check_opencv
    ways['ours'] = functools.partial(farneback, first, second), check
    if not is_accelerated():
        ways['ours, in jit'] = functools.partial(jax.jit(farneback), first, second), check
    return [
        Case(
            name,
            run,
            check_it,
            first.size / 1e6,
            'Mpixel/s',
            first.shape,
            facts=facts,
            compiles=not name.startswith('OpenCV'),
        )
        for name, (run, check_it) in ways.items()
    ]


def _opencv(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    import cv2

    start: Any = None  # which its types do not allow
    flow = cv2.calcOpticalFlowFarneback(first, second, start, 0.2, 6, 30, 3, 5, 1.1, 0)
    return flow[..., ::-1]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog='python -m benchmarks.optical_flow')
    add_result_options(parser, smoke='small images, nothing kept')
    parser.add_argument('--sides', type=int, nargs='+', default=SIDES, help='of the images')
    parser.add_argument('--repeats', type=int, default=5, help='timed runs per case')
    options = parser.parse_args()
    sides, repeats = (SMOKE_SIDES, 1) if options.smoke else (options.sides, options.repeats)
    for side in sides:
        records = run_cases('optical_flow', make_cases(side), repeats=repeats, smoke=options.smoke)
        for record in records:
            print(describe(record), flush=True)
        keep_records(records, options.results, smoke=options.smoke)


if __name__ == '__main__':
    main()
