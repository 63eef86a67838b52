"""How long does what the papers time take here, from file to file and as published?

    python -m benchmarks.papers [--smoke] [--full] [--only=SUBSTRING]

Networks are the published ones with random weights, in bfloat16 on accelerators; what they see is
noise. On a CPU, and without --full, a share of the published work is done and the time scaled to
the whole by what was done of it: slices of a sixteenth of the pixels, 4 of 343 patches. What is
measured:

- deep_sxt: two slices (--full: 350) from an MRC file to a TIFF file of classes;
- acseg: a tomogram, resized to the working grid and back, from file to file;
- fibsem: training steps of five tiles; slices to maps and cells: the network, from file to file,
  and the splitting of simulated tissue by mask, boundary and optical flow, and tracking; tracking
  by itself, islands and all.

Answers are checked against networks run by hand on a part, losses against their formula, cells
against the true ones. The table (`benchmarks.report`) sets these beside the papers' times, and with
them those of `benchmarks.slice_latency` and `training_steps`. Training steps are those alone, of a
batch that is on the device: nothing is read, cut, changed or validated, as in the papers' times.
Papers tell limits ("within 1 min") and not all that they timed, so factors are at most what stands
there.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from skimage import measure

from benchmarks import slice_latency
from benchmarks.cell_propagation import simulate_maps, split
from benchmarks.harness import (
    Case,
    Record,
    add_result_options,
    describe,
    device_name,
    keep_records,
    run_cases,
)
from benchmarks.tiled_inference import PUBLISHED_FILTERS, naive_loop
from benchmarks.training_steps import OneBatch, train_steps
from configs import acseg, fibsem
from sxt_jax.core.devices import compute_dtype, is_accelerated, make_device_mesh
from sxt_jax.core.tiles import make_grid
from sxt_jax.core.volume import Volume
from sxt_jax.data.cell_maps import FOUND
from sxt_jax.data.classes import Classes
from sxt_jax.data.intensity import Intensity
from sxt_jax.data.phantom import tissue
from sxt_jax.inference import make_apply_fn
from sxt_jax.inference.apply import ModelFn
from sxt_jax.io import read_volume, write_volume
from sxt_jax.models import ResUNet, UNet3D
from sxt_jax.pipelines.segment_volume import Options, probability_path, segment_file
from sxt_jax.pipelines.segmenter import Segmenter
from sxt_jax.plots.figures import GRAY, colour, new_figure
from sxt_jax.propagation import Recipe, link, relabel

QUESTION = 'papers'
VOXEL_NM = (10.0,) * 3


@dataclasses.dataclass(frozen=True)
class Published:
    """What a paper timed.

    Attributes:
      name: of the row.
      told: the time, as the paper has it.
      seconds: shortest and longest that it may be.
      hardware: that it names.
      work: of the whole, in any unit.
    """

    name: str
    told: str
    seconds: tuple[float, float]
    hardware: str
    work: float


_DEEP_SXT, _FIBSEM = (1324, 1284), (1912, 5634)
_N_PATCHES = 7**3  # of 64³ at stride 32 in 256³
# A fifth of the 43 tomograms validates.
_ACSEG_PATCHES = 200 * 34 * _N_PATCHES
_HOUR, _UNTOLD = 3600.0, 'not told'
SLICE = Published(
    'deep_sxt, a slice of 1324×1284', '< 0.857 s (350 in < 5 min)', (0.857,) * 2, 'RTX 3090', 1
)
LARGE_SLICE = Published('deep_sxt, a slice of 1664×1664', '2 s', (2.0,) * 2, 'RTX 3090', 1)
TOMOGRAM = Published(
    'deep_sxt, 350 slices of 1324×1284, file to file', '< 5 min', (300,) * 2, 'RTX 3090',
    350 * math.prod(_DEEP_SXT),
)  # fmt: skip
LONG_TOMOGRAM = dataclasses.replace(
    TOMOGRAM,
    name='deep_sxt, 500 slices of 1324×1284, file to file',
    told='8 min',
    seconds=(480.0,) * 2,
    work=500 * math.prod(_DEEP_SXT),
)
CAPILLARY = Published(
    'acseg, a tomogram of 472×472×491, file to file', 'within 1 min', (60.0,) * 2, _UNTOLD,
    _N_PATCHES,
)  # fmt: skip
ACSEG_TRAINING = Published(
    'acseg, the training steps of 200 epochs', '33 h, all of the training', (33 * _HOUR,) * 2,
    _UNTOLD, _ACSEG_PATCHES,
)  # fmt: skip
FIBSEM_TRAINING = Published(
    'fibsem, 5,000 training steps', '4 h, all of the training', (4 * _HOUR,) * 2, 'P100',
    5000 * 5 * 512**2,
)  # fmt: skip
CELLS = Published(
    'fibsem, maps and cells of 757 slices of 5634×1912, their smallest stack',
    '2 – 3 h, the stack not told', (2 * _HOUR, 3 * _HOUR), _UNTOLD, 757 * math.prod(_FIBSEM),
)  # fmt: skip
TRACKING = Published(
    'fibsem, tracking and relabelling of a slice of 5634×1912',
    '1 min, the size not told', (60.0,) * 2, _UNTOLD, math.prod(_FIBSEM),
)  # fmt: skip
ROWS = (
    SLICE, LARGE_SLICE, TOMOGRAM, LONG_TOMOGRAM, CAPILLARY, ACSEG_TRAINING, FIBSEM_TRAINING, CELLS,
    TRACKING,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Size:
    """How much of the published work is done.

    Attributes:
      slices: (n, y, x) of deep_sxt.
      capillary: (z, y, x) voxels of the file of acseg.
      working: and its working grid.
      tile: side of the tiles of the networks of volumes.
      patch: side of the five tiles a training step of fibsem.
      stack: (z, y, x) of fibsem; one slice is labelled.
      narrow: whether networks are too.
    """

    slices: tuple[int, int, int]
    capillary: tuple[int, int, int]
    working: tuple[int, int, int]
    tile: int
    patch: int
    stack: tuple[int, int, int]
    narrow: bool = False


SIZES = {
    'full': Size((350, *_DEEP_SXT), (472, 472, 491), (256,) * 3, 64, 512, (9, *_FIBSEM)),
    'small': Size((2, 331, 321), (118, 176, 184), (64, 96, 96), 64, 128, (3, 239, 704)),
    'smoke': Size((1, 260, 250), (30, 40, 36), (16, 32, 24), 16, 32, (3, 64, 96), narrow=True),
}


def _case(
    published: Published, work: float, run: Callable[[], Any], check: Callable[[Any], None],
    shape: Sequence[int], **facts: Any,
) -> Case:  # fmt: skip
    """A run that does so much of the published work."""
    facts |= {'row': published.name, 'share': work / published.work}
    dtype = jnp.dtype(compute_dtype('auto')).name
    return Case(published.name, run, check, facts['share'], 'of the whole/s', shape, dtype, facts)


def deep_sxt_case(size: Size, folder: Path) -> Case:
    """Slices of an MRC file to classes in a TIFF file, as `launch.segment` does it."""
    n_slices, *sides = size.slices
    setting = slice_latency.make_setting((sides[0], sides[1]), n_slices=n_slices, smoke=size.narrow)
    segmenter = slice_latency.make_segmenter(setting, setting.apply_fn('label'))
    source, target = folder / 'slices.mrc', folder / 'slices.tif'
    write_volume(source, Volume(setting.gray, VOXEL_NM))
    check = slice_latency.make_checks(setting)['classes']
    work = float(math.prod(size.slices))
    return _case(TOMOGRAM, work, _to_file(segmenter, source, target), check, size.slices)


def _to_file(segmenter: Segmenter, source: Path, target: Path) -> Callable[[], np.ndarray]:
    def run() -> np.ndarray:
        segment_file(segmenter, source, target)
        return np.asarray(read_volume(target).data)

    return run


def acseg_case(size: Size, folder: Path) -> Case:
    """A tomogram to classes on its own grid, by way of the working grid."""
    filters = (4, 8) if size.narrow else PUBLISHED_FILTERS
    model = UNet3D(filters=filters, dtype=compute_dtype('auto'))
    tile, overlap = size.tile, size.tile // 2
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, tile, tile, tile, 1)))
    image = np.asarray(jax.random.normal(jax.random.key(1), size.capillary))
    apply_fn = make_apply_fn(model)
    tiling = {'tile': (tile,) * 3, 'overlap': (overlap,) * 3, 'blend': 'constant'}
    segmenter = _make_segmenter(
        apply_fn, variables, Classes(('background', 'cell'), (0, 1)), Intensity('none'),
        tiling={**tiling, 'batch_size': acseg.get_config().inference.batch_size},
        working_shape=size.working,
    )  # fmt: skip
    source, target = folder / 'capillary.tif', folder / 'cells.tif'
    write_volume(source, Volume(image, VOXEL_NM))

    def check(found: np.ndarray) -> None:
        resized = np.asarray(jax.image.resize(image, size.working, 'linear', antialias=False))
        predict = naive_loop(apply_fn, variables, resized, n_labels=2, tile=tile, overlap=overlap)
        probs = jax.image.resize(predict(), (*size.capillary, 2), 'linear', antialias=False)
        margin = np.asarray(probs[..., 1] - probs[..., 0])
        sure = np.abs(margin) > (3e-2 if is_accelerated() else 1e-4)
        assert sure.mean() > 0.5
        np.testing.assert_array_equal(found[sure], (margin > 0)[sure])

    n_tiles = math.prod((n - tile) // overlap + 1 for n in size.working)
    facts = {'working': list(size.working), 'tiles': n_tiles}
    run = _to_file(segmenter, source, target)
    return _case(CAPILLARY, float(n_tiles), run, check, size.capillary, **facts)


def _make_segmenter(
    apply_fn: ModelFn, variables: Any, classes: Classes, intensity: Intensity, **options: Any
) -> Segmenter:
    return Segmenter(
        apply_fn=apply_fn,
        variables=jax.device_get(variables),
        classes=classes,
        intensity=intensity,
        n_channels=1,
        voxel_size_nm=VOXEL_NM,
        device_mesh=make_device_mesh(),
        **{'working_shape': None, **options},
    )


def fibsem_training_case(size: Size) -> Case:
    """Training steps of five tiles each, with the published loss."""
    n_steps = 10 if is_accelerated() else 1
    config = fibsem.get_config()
    stream = OneBatch(config.batch_size, (1, size.patch, size.patch))
    model = ResUNet(n_labels=2, width=4 if size.narrow else 64, dtype=compute_dtype('auto'))
    loss = {'dice_squared': 1.0}
    run, first = train_steps(model, stream, loss=loss, optimizer=config.optimizer, n_steps=n_steps)

    def check(found: Mapping[str, np.ndarray]) -> None:
        batch = stream.batch(0)
        network = model.clone(dtype=jnp.float32)
        heads, _ = jax.jit(
            functools.partial(network.apply, train=True, mutable=['batch_stats'])
        )(first, batch['image'][:, 0])  # fmt: skip
        probs = np.asarray(jax.nn.softmax(heads['logits']), np.float64)[..., 1]
        true = batch['labels'][:, 0] == 1
        dice = 2 * (probs * true).sum() / ((probs**2).sum() + (true**2).sum())
        np.testing.assert_allclose(found['loss'][0], 1 - dice, rtol=3e-2)
        assert np.isfinite(found['gradient_norm']).all()

    shape = (config.batch_size, 1, size.patch, size.patch)
    return _case(FIBSEM_TRAINING, float(n_steps * math.prod(shape)), run, check, shape)


def fibsem_cells_case(size: Size, folder: Path) -> Case:
    """Slices to maps, file to file, and the cells of simulated tissue from its maps."""
    config = fibsem.get_config('cells')
    model = ResUNet(heads='cells', width=4 if size.narrow else 64, dtype=compute_dtype('auto'))
    side = min(512, *(n // 16 * 16 for n in size.stack[1:])) if not size.narrow else 64
    tile, overlap = (1, side, side), (0, side // 4, side // 4)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 1)))
    apply_fn = make_apply_fn(model)
    segmenter = _make_segmenter(
        apply_fn, variables, FOUND, Intensity('slice'), has_maps=True,
        tiling={'tile': tile, 'overlap': overlap, 'blend': config.inference.blend,
                'batch_size': None},
    )  # fmt: skip
    starts = make_grid(size.stack, tile=tile, overlap=overlap).starts[1:]
    # Where no other tile reaches:
    own = tuple(slice(along[1] if len(along) > 1 else side) for along in starts)
    image, truth = tiled_tissue(size.stack)
    maps = simulate_maps(image, truth, seed=0)
    source, target = folder / 'stack.tif', folder / 'classes.tif'
    write_volume(source, Volume(image, VOXEL_NM))
    middle = len(image) // 2

    def run() -> tuple[np.ndarray, np.ndarray]:
        segment_file(segmenter, source, target, options=Options(probabilities=True))
        found = np.asarray(read_volume(probability_path(target)).data)
        return found, split(image, {middle: truth[middle]}, maps, Recipe())

    def check(answer: tuple[np.ndarray, np.ndarray]) -> None:
        found, cells = answer
        seen = slice_latency.standardised(image[:1].astype(np.float32))[:, :side, :side]
        heads = jax.jit(apply_fn)(variables, seen[None, ..., None])
        expected = np.concatenate([heads[name][0, 0] for name in ('mask', 'boundary')], -1)
        difference = 255 * expected[own] - found[0][own]
        assert np.abs(difference).max() < (8 if is_accelerated() else 1)
        rest = np.arange(len(image)) != middle
        assert (cells[rest] == truth[rest]).mean() > 0.9

    work = float(math.prod(size.stack))
    return _case(CELLS, work, run, check, size.stack, tile=list(tile))


def tracking_case(size: Size) -> Case:
    """Which regions of slices are of one cell, islands too, and the slices with its number."""
    _, truth = tiled_tissue(size.stack)
    regions = np.stack([measure.label(cells, connectivity=1) for cells in truth]).astype(np.int32)
    middle = len(truth) // 2
    labelled = {middle: truth[middle]}

    def run() -> np.ndarray:
        tracks = link(regions, cells=labelled)
        return np.stack([np.asarray(found) for found in relabel(regions, tracks)])

    def check(found: np.ndarray) -> None:
        known = np.isin(truth, truth[middle]) & (truth > 0)
        assert (found == truth)[known].mean() > 0.95

    return _case(TRACKING, float(math.prod(size.stack)), run, check, size.stack)


def tiled_tissue(shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A simulated stack beside itself, until it is so large, and its cells [z, y, x] int32."""
    depth, side = max(16, shape[0]), 256
    part = tissue(0, shape=(depth, min(side, shape[1]), min(side, shape[2])), voxel_size_nm=55.0)
    image, ids = (np.asarray(v.data)[: shape[0]] for v in (part.image, part.instances))
    counts = [-(-n // m) for n, m in zip(shape[1:], image.shape[1:], strict=True)]
    above = int(ids.max()) + 1
    rows = []
    for i in range(counts[0]):
        numbers = (
            np.where(ids > 0, ids + above * (i * counts[1] + j), 0) for j in range(counts[1])
        )
        rows.append(np.concatenate(list(numbers), 2))
    box = tuple(slice(n) for n in shape)
    return np.tile(image, (1, *counts))[box], np.concatenate(rows, 1)[box].astype(np.int32)


def make_cases(size: Size, folder: Path) -> Iterator[Case]:
    """All of them, one after the other: what one holds is free when the next is made."""
    yield deep_sxt_case(size, folder)
    yield acseg_case(size, folder)
    yield fibsem_training_case(size)
    yield fibsem_cells_case(size, folder)
    yield tracking_case(size)


def measured(records: Iterable[Record]) -> Iterator[tuple[Published, Record, float]]:
    """What was timed of the rows: the row, the record, and the seconds for the whole."""
    by_name = {row.name: row for row in ROWS}
    for r in records:
        if r.get('smoke') or 'run_s' not in r:
            continue
        kind, case, seconds = r['benchmark'], r['case'], r['run_s']
        if kind == QUESTION:
            row = by_name[r['facts']['row']]
            yield row, r, seconds / r['facts']['share']
            if row == TOMOGRAM:
                yield LONG_TOMOGRAM, r, seconds / r['facts']['share'] * 500 / 350
        elif kind == 'slice_latency' and case == 'label, whole slices':
            for row, sides in ((SLICE, [1324, 1284]), (LARGE_SLICE, [1664, 1664])):
                if r['shape'][1:] == sides:
                    yield row, r, seconds / r['shape'][0]
        elif kind == 'training_steps' and case == 'ours' and r['shape'][1:] == [64] * 3:
            yield ACSEG_TRAINING, r, _ACSEG_PATCHES / (r['rate'] * r['shape'][0])


def newest_measured(records: Sequence[Record]) -> list[tuple[Published, Record, float]]:
    """Of every row on each device what did most of the work, the newest; rows in order."""
    found = sorted(measured(records), key=lambda one: _share(one[1]))  # stable: then the newest
    newest = {(row.name, *_device_key(r)): (row, r, seconds) for row, r, seconds in found}
    order = {row.name: i for i, row in enumerate(ROWS)}
    return [newest[key] for key in sorted(newest, key=lambda key: (order[key[0]], *key[1:]))]


def _share(record: Record) -> float:
    """How much of the published work was done."""
    if record['benchmark'] == 'training_steps':
        return record['shape'][0] / _ACSEG_PATCHES
    return record['facts']['share'] if record['benchmark'] == QUESTION else 1.0


def _device_key(record: Record) -> tuple[str, str, str]:
    return record['platform'], record['device'], str(record['n_cores'])


def table_rows(records: Sequence[Record]) -> list[tuple[str, ...]]:
    """Heads and rows: what a paper timed, and the newest of ours on each device."""
    heads = ('what', 'paper', 'its hardware', 'device', 'type', 'measured', 'in', 'range',
             'for the whole', 'times faster, at most')  # fmt: skip
    return [heads, *(_row(*found) for found in newest_measured(records))]


def figure(records: Sequence[Record]) -> Figure:
    """Seconds of the papers, and ours for the whole by device, on a logarithmic axis."""
    found = newest_measured(records)
    names = [row.name for row in ROWS]
    drawn = new_figure(7.2, 0.4 * len(names) + 1)
    axes = drawn.subplots()
    for place, row in enumerate(ROWS):
        label = 'paper' if place == 0 else None
        axes.plot(row.seconds, [place] * 2, 'o-', color=GRAY, lw=3, ms=7, label=label)
    for i, device in enumerate(dict.fromkeys(device_name(record) for _, record, _ in found)):
        ours = [(s, names.index(row.name)) for row, r, s in found if device_name(r) == device]
        axes.plot(*zip(*ours, strict=True), 'D', color=colour(i), ms=6, label=f'here, {device}')
        scaled = [(s, names.index(row.name)) for row, r, s in found
                  if device_name(r) == device and _share(r) < 1]  # fmt: skip
        if scaled:
            axes.plot(*zip(*scaled, strict=True), 'D', color=colour(i), mfc='white', ms=6,
                      label=f'scaled, {device}')  # fmt: skip
    axes.set(xscale='log', xlabel='seconds', yticks=range(len(names)), yticklabels=names)
    axes.invert_yaxis()
    axes.grid(axis='x', lw=0.4)
    drawn.legend(loc='outside lower center', ncols=3, frameon=False, fontsize=8)
    return drawn


def _row(row: Published, record: Record, seconds: float) -> tuple[str, ...]:
    return (
        row.name,
        row.told,
        row.hardware,
        device_name(record),
        record['dtype'],
        '×'.join(map(str, record['shape'])),
        duration(record['run_s']),
        ' – '.join(map(duration, record['run_s_range'])),
        duration(seconds),
        ' – '.join(dict.fromkeys(f'{paper_s / seconds:.2g}' for paper_s in row.seconds)),
    )


def duration(seconds: float) -> str:
    """Seconds to three digits, or minutes or hours where those are more than one and a half."""
    for unit, length in (('h', 3600.0), ('min', 60.0)):
        if seconds >= 1.5 * length:
            return f'{seconds / length:.3g} {unit}'
    return f'{seconds:.3g} s'


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog=f'python -m benchmarks.{QUESTION}')
    add_result_options(parser, smoke='tiny sizes, nothing kept')
    parser.add_argument('--full', action='store_true', help="the papers' sizes, on a CPU too")
    parser.add_argument('--only', default='', help='rows with this in their name')
    parser.add_argument('--repeats', type=int, default=3, help='timed runs a row')
    options = parser.parse_args()
    name = 'smoke' if options.smoke else 'full' if options.full or is_accelerated() else 'small'
    with tempfile.TemporaryDirectory() as work:
        for case in make_cases(SIZES[name], Path(work)):
            if options.only not in case.name:
                continue
            repeats = 1 if options.smoke else options.repeats
            records = run_cases(QUESTION, [case], repeats=repeats, smoke=options.smoke)
            for _, record, seconds in measured([{**r, 'smoke': False} for r in records]):
                print(f'{describe(record)}; the whole: {duration(seconds)}', flush=True)
            keep_records(records, options.results, smoke=options.smoke)


if __name__ == '__main__':
    main()
