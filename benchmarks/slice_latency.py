"""How long does the published network of deep_sxt take for a slice?

    python -m benchmarks.slice_latency [--smoke] [--size=1324x1284] [--only=SUBSTRING]

Dyhr et al. (2023) report less than 5 minutes for 350 slices of 1324 × 1284 pixels, from file to
file, which is 857 ms a slice, and 2 s for a slice of 1664 × 1664, on an RTX 3090. Here slices of
noise go the way of `launch.segment`, from host memory to classes in host memory, files left out: 16
a run on an accelerator, one on a CPU. The first case and baseline is what it does by default, the
label alone of whole slices. The others: the image as well; chunks of 592 with an overlap of 192;
four quarter turns (accelerators only: a CPU takes four times as long); the network alone, on slices
that are on the device already; the same way without a network, which tells what the host does; and
PyTorch on the CPU, where it is installed. It all computes in bfloat16 on accelerators. Weights are
random.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from benchmarks.harness import (
    Case,
    Record,
    add_result_options,
    describe,
    device_name,
    keep_records,
    run_cases,
)
from sxt_jax.core.devices import is_accelerated, make_device_mesh, replicated, split_batch
from sxt_jax.core.tiles import make_grid
from sxt_jax.core.volume import Volume
from sxt_jax.data.classes import Classes
from sxt_jax.data.intensity import Intensity
from sxt_jax.inference import keep_classes, make_apply_fn, predict_volume
from sxt_jax.inference.apply import ApplyFn, ModelFn
from sxt_jax.inference.batch import compile_network
from sxt_jax.inference.whole_slices import padded_side, slice_tiling
from sxt_jax.models import DoubleDecoder
from sxt_jax.pipelines.retile import retile
from sxt_jax.pipelines.segmenter import Segmenter, predict_image

QUESTION = 'slice_latency'
PAPER_MS = {(1324, 1284): 857.0, (1664, 1664): 2000.0}  # RTX 3090
SMOKE_SIZE = (270, 250)
OVERLAP = (0, 192, 192)  # as wide as the network sees, or wider
Labels = Callable[[], Any]  # an array, on the host or a device


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all cases of a size share.

    Attributes:
      gray: [z, y, x] float32, the slices.
      model: with both heads.
      variables: of it, on the host.
      chunk: (z, y, x) sides of chunks, more than `OVERLAP`.
    """

    gray: np.ndarray
    model: DoubleDecoder
    variables: Mapping[str, Any]
    chunk: tuple[int, int, int]

    @property
    def chunks(self) -> dict[str, Any]:
        return {'tile': self.chunk, 'overlap': OVERLAP}

    def apply_fn(self, *heads: str) -> ModelFn:
        return make_apply_fn(self.model.clone(heads=heads))


@dataclasses.dataclass(frozen=True)
class NoNetwork:
    """The slice itself as its label: what is left is the work around the network."""

    side_multiple: tuple[int, int, int]

    def __call__(self, variables: Any, tiles: jax.Array) -> dict[str, jax.Array]:
        return {'label': jnp.tanh(tiles)}


def make_setting(size: tuple[int, int], *, n_slices: int, smoke: bool) -> Setting:
    """Slices of noise of some pixels' grain, and the network."""
    rng = np.random.default_rng(0)
    coarse = rng.normal(size=(n_slices, *(-(-side // 8) for side in size)))
    gray = np.kron(coarse, np.ones((1, 8, 8)))[:, : size[0], : size[1]]
    gray = (gray + rng.normal(size=gray.shape)).astype(np.float32)
    dtype = jnp.bfloat16 if is_accelerated() else jnp.float32
    model = DoubleDecoder(width=4 if smoke else 64, dtype=dtype)
    chunk = (1, 240, 240) if smoke else (1, 592, 592)
    return Setting(gray, model, draw_variables(model), chunk)


def draw_variables(model: DoubleDecoder) -> dict[str, Any]:
    """Random weights that keep signals of one size from layer to layer."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 16, 16, 1))))

    def draw(path: Any, wanted: jax.ShapeDtypeStruct) -> np.ndarray:
        *_, layer, name = (key.key for key in path)
        if name != 'kernel':
            return np.full(wanted.shape, float(name in ('scale', 'var')), np.float32)
        # ReLUs behind `expand` take half of the power; `up` sees a quarter of its taps at once.
        power = 2 if layer == 'expand' else 4 if layer.startswith('up_') else 1
        scale = np.sqrt(power / np.prod(wanted.shape[:-1]))
        return rng.normal(scale=scale, size=wanted.shape).astype(np.float32)

    variables: dict[str, Any] = jax.tree_util.tree_map_with_path(draw, shapes)
    return variables


def one_device() -> Mesh:
    """The first of the devices."""
    return make_device_mesh(jax.devices()[:1])


def standardised(gray: np.ndarray) -> np.ndarray:
    """Each slice with mean 0 and SD 1, as published."""
    return (gray - gray.mean((1, 2), keepdims=True)) / gray.std((1, 2), keepdims=True)


def make_segmenter(setting: Setting, apply_fn: ApplyFn) -> Segmenter:
    """What `load_segmenter` makes of a checkpoint of such a network."""
    return Segmenter(
        apply_fn=apply_fn,
        variables=setting.variables,
        classes=Classes(('background', 'membrane'), (0, 1)),
        intensity=Intensity('slice'),
        n_channels=1,
        working_shape=None,
        tiling={**setting.chunks, 'blend': 'cosine', 'batch_size': None},
        voxel_size_nm=None,
        device_mesh=one_device(),
        has_label=True,
        whole_slices=True,
    )


def segmented(segmenter: Segmenter, gray: np.ndarray) -> Labels:
    """A function that gives the classes [z, y, x] of slices, as `launch.segment` does."""
    image = Volume(gray, (10.0,) * 3)

    def run() -> np.ndarray:
        slabs = predict_image(segmenter, image, name='slices', finish=keep_classes)
        return np.concatenate([heads['classes'] for _, heads in slabs])

    return run


def with_image(setting: Setting) -> Callable[[], dict[str, np.ndarray]]:
    """A function that gives both heads of whole slices."""
    apply_fn, mesh = setting.apply_fn('image', 'label'), one_device()

    def run() -> dict[str, np.ndarray]:
        gray = standardised(setting.gray)
        tile, overlap = slice_tiling(
            apply_fn, setting.variables, gray.shape, **setting.chunks, device_mesh=mesh
        )
        options: Any = {'tile': tile, 'overlap': overlap, 'device_mesh': mesh}
        return predict_volume(apply_fn, setting.variables, gray, **options)

    return run


def alone(setting: Setting, apply_fn: ModelFn) -> Labels:
    """A function that gives the labels [z, y, x, 1] of slices on a device, left there."""
    sides = [padded_side(n, 16) for n in setting.gray.shape[1:]]
    pads = [(0, n - m) for n, m in zip(sides, setting.gray.shape[1:], strict=True)]
    slices = np.pad(standardised(setting.gray), [(0, 0), *pads], 'reflect')
    mesh = one_device()
    tiles = [jax.device_put(s[None, None, ..., None], split_batch(mesh)) for s in slices]
    variables = jax.device_put(setting.variables, replicated(mesh))
    network = compile_network(apply_fn, mesh)
    return lambda: jnp.concatenate([network(variables, tile)['label'][:, 0] for tile in tiles])


def by_torch(setting: Setting) -> Labels | None:
    """Likewise in PyTorch, on the CPU, with sides of multiples of 16; None: not installed."""
    try:
        import torch
    except ImportError:
        return None
    from benchmarks import torch_networks

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    network = torch_networks.DoubleDecoder(setting.model.width, ('label',)).eval()
    torch_networks.from_variables(network, setting.variables)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    pads = [(0, -n % 16) for n in setting.gray.shape[1:]]
    slices = np.pad(standardised(setting.gray), [(0, 0), *pads], 'reflect')
    batches = torch.from_numpy(slices)[:, None, None].unbind()

    def run() -> np.ndarray:
        with torch.inference_mode():
            return np.concatenate([network(b)['label'][:, 0, ..., None].numpy() for b in batches])

    return run


def make_checks(setting: Setting) -> dict[str, Callable[[Any], None]]:
    """Of 'classes', 'label' and 'heads' in the corner of the first slice that only one chunk sees.

    They are compared with a float32 network run by hand on that chunk; what is beyond it does not
    reach the corner of whole slices either.
    """
    side = setting.chunk[1]
    grid = make_grid(
        setting.gray.shape, **setting.chunks, align=setting.apply_fn('label').side_multiple
    )
    corner = min(  # of a small slice, what is far from the padding behind it
        starts[1] if len(starts) > 1 else min(side, n) - OVERLAP[1]
        for starts, n in zip(grid.starts[1:], setting.gray.shape[1:], strict=True)
    )
    assert corner > 0
    assert setting.model.halo[0] <= OVERLAP[1]
    seen = standardised(setting.gray[:1])[:, :side, :side]
    pads = [(0, -n % 16) for n in seen.shape[1:]]
    seen = np.pad(seen, [(0, 0), *pads], 'reflect')[..., None]
    model = setting.model.clone(dtype=jnp.float32)
    with jax.default_matmul_precision('float32'):
        heads = jax.jit(model.apply)(setting.variables, seen)
    place = (0, slice(corner), slice(corner))
    expected = {name: np.asarray(head)[*place, 0] for name, head in heads.items()}
    # Bfloat16 keeps eight bits, and a signal passes some sixty convolutions.
    tolerance = 0.3 if is_accelerated() else 2e-3

    def label(found: Any) -> None:
        assert len(found) == len(setting.gray)
        np.testing.assert_allclose(found[*place, 0], expected['label'], atol=tolerance)

    def both(found: Mapping[str, np.ndarray]) -> None:
        label(found['label'])
        scale = np.abs(expected['image']).max()
        np.testing.assert_allclose(
            found['image'][*place, 0], expected['image'], atol=tolerance * scale
        )

    def classes(found: np.ndarray) -> None:
        assert found.shape == setting.gray.shape
        sure = np.abs(expected['label']) > tolerance
        assert sure.mean() > 0.5
        np.testing.assert_array_equal(found[place][sure], (expected['label'] > 0)[sure])

    return {'classes': classes, 'label': label, 'heads': both}


def flop_per_pixel(setting: Setting, heads: Sequence[str]) -> float:
    """What the program says before it is compiled, as compiled ones hide calls of libraries."""
    tile = jax.ShapeDtypeStruct((1, *setting.chunk, 1), 'float32')
    cost = jax.jit(setting.apply_fn(*heads)).lower(setting.variables, tile).cost_analysis()
    assert cost is not None
    return float(cost['flops']) / math.prod(setting.chunk)


def make_cases(size: tuple[int, int], *, smoke: bool) -> list[Case]:
    """Ways to segment slices of a size, the default first."""
    n_slices = 2 if smoke else 16 if is_accelerated() else 1
    setting = make_setting(size, n_slices=n_slices, smoke=smoke)
    checks = make_checks(setting)
    label, shape = setting.apply_fn('label'), setting.gray.shape
    whole = (1, *(padded_side(n, 16) for n in size))
    grid = make_grid(shape, **setting.chunks, align=label.side_multiple)
    segmenter = make_segmenter(setting, label)
    torch_run = None if is_accelerated() else by_torch(setting)
    paper_ms = PAPER_MS.get(size)
    both = ('image', 'label')
    rates = {(): 0.0} | {h: flop_per_pixel(setting, h) for h in (both, both[1:])}

    def case(
        name: str, run: Any, check: str | None, heads: Any, tile: Any = whole, n_tiles: float = 1
    ) -> Case:
        flop = rates[tuple(heads)] * math.prod(tile) * n_tiles
        facts = {'model': 'deep_sxt', 'width': setting.model.width, 'tile': list(tile)}
        facts |= {'tiles_per_slice': n_tiles, 'flop_per_slice': flop, 'paper_ms': paper_ms}
        wanted = checks[check] if check else lambda _: None
        dtype = jnp.dtype(setting.model.dtype).name if heads else 'float32'
        return Case(name, run, wanted, n_slices, 'slices/s', shape, dtype, facts)

    in_chunks = dataclasses.replace(segmenter, whole_slices=False)
    empty = dataclasses.replace(segmenter, apply_fn=NoNetwork(label.side_multiple))
    gray, one = setting.gray, ('label',)
    chunked = math.prod(map(len, grid.starts[1:]))
    cases = [
        case('label, whole slices', segmented(segmenter, gray), 'classes', one),
        case('label and image, whole slices', with_image(setting), 'heads', both),
        case('label, chunks', segmented(in_chunks, gray), 'classes', one, setting.chunk, chunked),
        case('the network alone, on the device', alone(setting, label), 'label', one),
        case('all but the network', segmented(empty, gray), None, ()),
    ]
    if is_accelerated():
        turned = segmented(retile(segmenter, rotate=True), gray)
        cases.append(case('label, whole slices, quarter turns', turned, None, one, n_tiles=4))
    if torch_run is not None:
        sides = (1, *(n + -n % 16 for n in size))
        cases.append(case('PyTorch, the network alone', torch_run, 'label', one, sides))
    return cases


def table_rows(records: Sequence[Record]) -> list[tuple[str, ...]]:
    """Heads and rows of a table: a way to segment slices of a size a row, the newest of each."""
    newest = {
        (r['platform'], r['device'], *r['shape'][1:], r['case']): r
        for r in records
        if r['benchmark'] == QUESTION and not r['smoke'] and r['repeats']
    }
    heads = ('slice', 'way', 'type', 'device', 'seconds', 'range', 'paper (RTX 3090)', 'TFLOP',
             'TFLOP/s', 'compilation', 'load')  # fmt: skip
    return [heads, *(_row(record) for record in newest.values())]


def _row(record: Record) -> tuple[str, ...]:
    facts, n = record['facts'], record['shape'][0]
    seconds, flop = record['run_s'] / n, facts['flop_per_slice']
    low, high = (s / n for s in record['run_s_range'])
    return (
        '×'.join(map(str, record['shape'][1:])),
        record['case'],
        record['dtype'],
        device_name(record),
        f'{seconds:.3g}',
        f'{low:.3g} – {high:.3g}',
        f'{facts["paper_ms"] / 1000:.3g}' if facts['paper_ms'] else '',
        f'{flop / 1e12:.2f}' if flop else '',
        f'{flop / seconds / 1e12:.3g}' if flop else '',
        f'{record["compile_s"]:.1f} s' if 'PyTorch' not in record['case'] else '',
        f'{record["load"]:.1f}',
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog=f'python -m benchmarks.{QUESTION}')
    add_result_options(parser)
    parser.add_argument('--repeats', type=int, default=3, help='timed runs per case')
    parser.add_argument('--size', help='one size, such as 1324x1284')
    parser.add_argument('--only', default='', help='the default and ways with this in their name')
    options = parser.parse_args()
    sizes = [SMOKE_SIZE] if options.smoke else list(PAPER_MS)
    if options.size:
        y, x = map(int, options.size.split('x'))
        sizes = [(y, x)]
    for size in sizes:
        first, *others = make_cases(size, smoke=options.smoke)
        cases = [first, *(case for case in others if options.only in case.name)]
        repeats = 1 if options.smoke else options.repeats
        records = run_cases(QUESTION, cases, repeats=repeats, smoke=options.smoke)
        for record in records:
            rate = record['facts']['flop_per_slice'] * record['rate'] / 1e9
            print(f'{describe(record)}, {rate:.0f} GFLOP/s', flush=True)
        keep_records(records, options.results, smoke=options.smoke)


if __name__ == '__main__':
    main()
