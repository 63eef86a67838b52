"""How much of the time that files take is hidden when a volume is segmented from file to file?

    python -m benchmarks.overlap [--smoke] [--full]

A volume is read, segmented and written by what `launch.segment` calls for a file, from OME-Zarr to
OME-Zarr and from TIFF to TIFF, both compressed: the whole. Its parts alone are: reading, in the
pieces and the order in which the whole asks for them, thrown away; computing, from an array in
memory, labels thrown away; and writing labels that are in memory, in the slabs in which they come.

    hidden = (reading + computing + writing − whole) / (reading + writing)

is the share of the time of files that is overlapped: 1 if the whole takes as long as computing, 0
if one thing is done after the other. It cannot be more than 'attainable': the whole cannot be
faster than its longest part, nor than all processor time over all cores. Computing on a CPU keeps
all cores busy, so what unpacks and packs there waits, or makes computing wait; on an accelerator
the cores are free for it. The first of the passes over the file finds the least and the greatest
gray value, which the network needs before its first tile, so it is never hidden. Of each thing the
fastest run counts: what else a machine does takes time, and never gives any.

Files are read from the disk as far as the system lets go of their pages; Zarr's cache of unpacked
chunks is kept smaller than the volume, as it is for volumes larger than memory. On accelerators the
network is the ACSeg U-Net, of random weights; on a CPU it is a mean of 3³ voxels, since beside a
real one the time of files would be lost in the noise.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import (
    Case,
    Record,
    add_result_options,
    describe,
    device_name,
    keep_records,
    run_cases,
)
from benchmarks.streaming_memory import bright
from benchmarks.tiled_inference import PUBLISHED_FILTERS
from sxt_jax.core.devices import compute_dtype, is_accelerated, make_device_mesh
from sxt_jax.core.volume import Volume
from sxt_jax.data.classes import Classes
from sxt_jax.data.intensity import Intensity
from sxt_jax.inference import keep_classes, make_apply_fn
from sxt_jax.inference.apply import ApplyFn
from sxt_jax.io import open_volume, open_writer, read_volume, zarr
from sxt_jax.models import UNet3D
from sxt_jax.pipelines.ensemble import predict_classes
from sxt_jax.pipelines.segment_volume import segment_file
from sxt_jax.pipelines.segmenter import Segmenter

QUESTION = 'overlap'
FORMATS = {'OME-Zarr': '.zarr', 'TIFF': '.tif'}
PARTS = ('reading', 'computing', 'writing')
VOXEL_SIZE_NM = (20.0, 20.0, 20.0)
CLASSES = Classes(('background', 'bright'), (0, 1))


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What is segmented.

    Attributes:
      shape: (z, y, x) of the volume.
      filters: of the U-Net; none: the mean of 3³ voxels in its place.
      tile: side of the tiles.
      overlap: of neighbouring tiles, at least.
    """

    shape: tuple[int, int, int]
    filters: tuple[int, ...]
    tile: int
    overlap: int


def choose_sizes(kind: str) -> Sizes:
    """Sizes for this machine, 'smoke', 'default' or 'full'."""
    if kind == 'smoke':
        return Sizes((40, 48, 40), (), 16, 4)
    if not is_accelerated():
        side = 344 if kind == 'default' else 1016  # of whole tiles
        return Sizes((side,) * 3, (), 64, 8)
    side = 512 if kind == 'default' else 2048
    return Sizes((side,) * 3, PUBLISHED_FILTERS, 64, 16)


def make_network(sizes: Sizes, image: np.ndarray) -> tuple[ApplyFn, Any]:
    """A function of tiles that finds both classes in an image, and its variables."""
    if not sizes.filters:
        return bright, None
    model = UNet3D(filters=sizes.filters, dtype=compute_dtype('auto'))
    corner = image[(slice(sizes.tile),) * 3].astype(np.float32)
    tile = (corner / image.max())[None, ..., None]
    variables = jax.device_get(jax.jit(model.init)(jax.random.key(0), tile))
    logits = jax.jit(model.apply)(variables, tile)['logits']
    variables['params']['head']['bias'] -= np.mean(logits, axis=(0, 1, 2, 3))
    return make_apply_fn(model), variables


def make_segmenter(sizes: Sizes, image: np.ndarray) -> Segmenter:
    """What `load_segmenter` makes of a checkpoint."""
    apply_fn, variables = make_network(sizes, image)
    tiling = {'tile': sizes.tile, 'overlap': sizes.overlap, 'blend': 'cosine', 'batch_size': None}
    return Segmenter(
        apply_fn=apply_fn,
        variables=variables,
        classes=CLASSES,
        intensity=Intensity('unit'),
        n_channels=1,
        working_shape=None,
        tiling=tiling,
        voxel_size_nm=VOXEL_SIZE_NM,
        device_mesh=make_device_mesh(),
    )


def make_image(shape: tuple[int, int, int]) -> np.ndarray:
    """[z, y, x] uint16: noise of 8 voxels' grain and of one."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 4000, [-(-n // 8) for n in shape], np.uint16)
    image = np.empty(shape, np.uint16)
    for z in range(shape[0]):
        gray = np.kron(coarse[z // 8], np.ones((8, 8), np.uint16))[: shape[1], : shape[2]]
        image[z] = gray + rng.integers(0, 256, shape[1:], np.uint16)
    return image


class Watched:
    """An array in memory that keeps the windows that were asked for."""

    def __init__(self, array: np.ndarray) -> None:
        self.shape, self.dtype, self._array = array.shape, array.dtype, array
        self.windows: list[Any] = []

    def __getitem__(self, window: Any) -> np.ndarray:
        self.windows.append(window)
        return self._array[window]


def passes(windows: Sequence[Any]) -> list[list[Any]]:
    """Windows of a volume, each pass over it by itself: it begins with slice 0."""
    found: list[list[Any]] = []
    for window in windows:
        slices = window[0] if isinstance(window, tuple) else window
        if not found or slices.start in (0, None):
            found.append([])
        found[-1].append(window)
    return found


def digest(window: np.ndarray) -> int:
    """A number that tells windows apart, of some of their rows."""
    return int(window[:, ::16].sum(dtype=np.int64))


@dataclasses.dataclass(frozen=True)
class Work:
    """What all cases share.

    Attributes:
      sizes: what is segmented.
      segmenter: the network.
      image: in memory.
      passes: the windows of the image that it asks for.
      slabs: first slice and labels of what it finds, in order.
    """

    sizes: Sizes
    segmenter: Segmenter
    image: Volume
    passes: Sequence[Sequence[Any]]
    slabs: Sequence[tuple[int, np.ndarray]]

    @property
    def labels(self) -> np.ndarray:
        """[z, y, x] found in memory."""
        return np.concatenate([slab for _, slab in self.slabs])


def make_work(sizes: Sizes) -> Work:
    """The labels are predicted in memory once, which compiles all there is to compile."""
    data = make_image(sizes.shape)
    segmenter = make_segmenter(sizes, data)
    watched = Watched(data)
    slabs = list(compute(segmenter, Volume(watched, VOXEL_SIZE_NM)))
    return Work(sizes, segmenter, Volume(data, VOXEL_SIZE_NM), passes(watched.windows), slabs)


def compute(segmenter: Segmenter, image: Volume) -> Iterator[tuple[int, np.ndarray]]:
    """First slice and labels of consecutive slabs, as they are written."""
    values = CLASSES.labels(np.arange(len(CLASSES)))
    for z, heads in predict_classes(segmenter, image, name='volume', finish=keep_classes):
        yield z, values[heads['classes']]


def write(path: Path, shape: Sequence[int], dtype: Any, slabs: Any) -> None:
    """A file of slabs, as labels are written."""
    options: Any = {'shape': shape, 'dtype': dtype, 'voxel_size_nm': VOXEL_SIZE_NM}
    with open_writer(path, **options) as writer:
        for z, slab in slabs:
            writer.write(z, slab)


def forget(path: Path) -> None:
    """Let the system drop the pages of a file or folder that it keeps in memory, where it can."""
    zarr._read_context.cache_clear()
    if not hasattr(os, 'posix_fadvise'):
        return
    for file in [path] if path.is_file() else [p for p in path.rglob('*') if p.is_file()]:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


@contextmanager
def small_cache(n_bytes: int) -> Iterator[None]:
    """Zarr keeps no more unpacked chunks than that."""
    n_bytes = min(n_bytes, zarr._CACHE_BYTES)
    try:
        with mock.patch.object(zarr, '_CACHE_BYTES', n_bytes):
            zarr._read_context.cache_clear()
            yield
    finally:
        zarr._read_context.cache_clear()


def read(work: Work, path: Path, seconds: list[list[float]]) -> list[int]:
    """Digests of all windows; the time of each pass is added to `seconds`."""
    forget(path)
    data, found, taken = open_volume(path).data, [], []
    for windows in work.passes:
        start = time.perf_counter()
        found += [digest(np.asarray(data[window])) for window in windows]
        taken.append(time.perf_counter() - start)
    seconds.append(taken)
    return found


def make_cases(work: Work, folder: Path, seconds: Mapping[str, list[list[float]]]) -> list[Case]:
    """Computing alone, then for each format reading, writing and the whole.

    Args:
      work: what is done.
      folder: for the files.
      seconds: by format, where the times of the passes of each run of reading go.
    """
    labels, image = work.labels, work.image
    digests = [digest(image.data[w]) for windows in work.passes for w in windows]
    shape = image.shape
    facts = {'filters': list(work.sizes.filters), **work.segmenter.tiling}

    def case(part: str, run: Callable[[], Any], check: Any, format_: str = '') -> Case:
        name = f'{part}, {format_}' if format_ else part
        told = {**facts, 'part': part, 'format': format_}
        amount = image.data.size / 1e6
        dtype = jnp.dtype(compute_dtype('auto' if work.sizes.filters else 'float32')).name
        return Case(name, run, check, amount, 'Mvoxel/s', shape, dtype, told, compiles=False)

    def check_read(found: Sequence[int]) -> None:
        assert list(found) == digests

    def check_computed(n: int) -> None:
        assert n == shape[0]

    def of_format(name: str, suffix: str) -> list[Case]:
        source = folder / f'image{suffix}'
        alone, whole = folder / f'alone{suffix}', folder / f'whole{suffix}'
        write(source, shape, image.dtype, [(0, image.data)])

        def segment() -> None:
            forget(source)
            segment_file(work.segmenter, source, whole)

        return [
            case('reading', lambda: read(work, source, seconds[name]), check_read, name),
            case(
                'writing',
                lambda: write(alone, shape, labels.dtype, work.slabs),
                lambda _: check_labels(alone, labels),
                name,
            ),
            case('whole', segment, lambda _: check_labels(whole, labels), name),
        ]

    def computed() -> int:
        return sum(len(slab) for _, slab in compute(work.segmenter, image))

    return [
        case('computing', computed, check_computed),
        *(c for name, suffix in FORMATS.items() for c in of_format(name, suffix)),
    ]


def check_labels(path: Path, expected: np.ndarray) -> None:
    """A file holds these labels, which are not all one."""
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(read_volume(path).data, expected)


def measure(sizes: Sizes, folder: Path, *, repeats: int, smoke: bool) -> list[Record]:
    """Records of all parts and wholes; the latter with what is hidden."""
    work = make_work(sizes)
    seconds: dict[str, list[list[float]]] = {name: [] for name in FORMATS}
    with small_cache(work.image.data.nbytes // 4):
        cases = make_cases(work, folder, seconds)
        records = run_cases(QUESTION, cases, repeats=repeats, smoke=smoke)
    for name, runs in seconds.items():
        parts = {
            record['facts']['part']: record
            for record in records
            if record['facts']['format'] in ('', name)
        }
        passes_s = [min(times) for times in zip(*runs, strict=True)]
        parts['whole']['facts'] |= {**tell_overlap(parts), 'passes_s': passes_s}
    return records


def tell_overlap(parts: Mapping[str, Record]) -> Record:
    """What is hidden of the time of files, and what could be.

    Args:
      parts: records of the `PARTS` and of the 'whole'.

    Returns:
      'hidden' and 'attainable', shares; 'cores', how many computing alone keeps busy; the times
      of the parts and the whole; and 'limit', what keeps the whole from being faster: its longest
      part, 'cores' if all processor time over the cores is longer, or 'order' if it takes a tenth
      longer than both, since things wait for each other.
    """
    times = {part: min(record['run_s_range']) for part, record in parts.items()}
    whole, files = times.pop('whole'), times['reading'] + times['writing']
    n_cores = parts['whole']['n_cores']
    longest = max(times, key=lambda part: times[part])
    processor_s = sum(parts[part]['cpu_s'] for part in PARTS) / n_cores
    least = max(times[longest], processor_s)
    limit = longest if times[longest] >= processor_s else 'cores'
    return {
        'hidden': (sum(times.values()) - whole) / files,
        'attainable': (sum(times.values()) - least) / files,
        'cores': parts['computing']['cpu_s'] / parts['computing']['run_s'],
        'limit': limit if whole <= 1.1 * least else 'order',
        **{f'{part}_s': seconds for part, seconds in times.items()},
        'whole_s': whole,
    }


HEADS = ('files', 'volume', 'network', 'device', 'reading', 'passes', 'computing', 'cores',
         'writing', 'whole', 'rate', 'hidden', 'attainable', 'limit')  # fmt: skip


def table_rows(records: Sequence[Record]) -> list[tuple[str, ...]]:
    """Heads and rows of a table: a format a row, the newest of each kind."""
    newest = {
        (r['platform'], r['device'], *r['shape'], r['facts']['format']): r
        for r in records
        if r['benchmark'] == QUESTION and not r['smoke'] and 'hidden' in r['facts']
    }
    return [HEADS, *(_row(record) for record in newest.values())]


def _row(record: Record) -> tuple[str, ...]:
    facts = record['facts']
    return (
        facts['format'],
        '×'.join(map(str, record['shape'])),
        'ACSeg U-Net' if facts['filters'] else 'mean of 3³ voxels',
        device_name(record),
        f'{facts["reading_s"]:.2f} s',
        ' + '.join(f'{seconds:.2f} s' for seconds in facts['passes_s']),
        f'{facts["computing_s"]:.2f} s',
        f'{facts["cores"]:.1f} of {record["n_cores"]}',
        f'{facts["writing_s"]:.2f} s',
        f'{facts["whole_s"]:.2f} s',
        f'{record["rate"]:.3g} {record["unit"]}',
        f'{facts["hidden"]:.0%}',
        f'{facts["attainable"]:.0%}',
        facts['limit'],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    add_result_options(parser)
    parser.add_argument('--full', action='store_true', help='sizes for large machines')
    parser.add_argument('--repeats', type=int, default=3, help='timed runs of each')
    parser.add_argument('--folder', type=Path, help='for the files; default: one of the system')
    args = parser.parse_args()
    sizes = choose_sizes('smoke' if args.smoke else 'full' if args.full else 'default')
    repeats = 1 if args.smoke else args.repeats
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        records = measure(sizes, Path(folder), repeats=repeats, smoke=args.smoke)
    for record in records:
        facts = record['facts']
        told = ''
        if 'hidden' in facts:
            told = f'; {facts["hidden"]:.0%} of the time of files is hidden, '
            told += f'{facts["attainable"]:.0%} are attainable; limit: {facts["limit"]}'
        print(f'{describe(record)}{told}')
    keep_records(records, args.results, smoke=args.smoke)


if __name__ == '__main__':
    main()
