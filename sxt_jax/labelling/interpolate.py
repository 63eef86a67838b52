"""Smart interpolation: dense 3-D labels from a few labelled slices (Lösel et al. 2020)."""

from __future__ import annotations

import dataclasses
import os
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from sxt_jax.core.box import Box
from sxt_jax.core.devices import is_accelerated
from sxt_jax.core.errors import InputError
from sxt_jax.core.memory import free_host_bytes
from sxt_jax.core.volume import ArrayLike, slabs
from sxt_jax.labelling.gray import GrayLevels
from sxt_jax.labelling.random_walk import Starts, add_hits
from sxt_jax.labelling.smoothing import smooth_labels
from sxt_jax.labelling.starts import find_starts, given_voxels
from sxt_jax.labelling.votes import SURE, box_of_hits, elect, measure_uncertainty

PERCENTILES = (0.1, 99.9)
_SMOOTHING_BYTES = 2**28


@dataclasses.dataclass(frozen=True)
class Interpolation:
    """Dense labels, and how sure they are.

    Attributes:
      labels: [z, y, x] in the smallest unsigned type, uint8, uint16 or uint32.
      uncertainty: [z, y, x] uint8, in 255ths: 0 where all walks agree, 254 where two labels tie,
        255 where no walk came.
      hits: [k, z, y, x] int32 how often walks of the k labels entered each voxel; None where not
        kept.
      ids: the k labels, background (0) included.
      n_walks: walks of each start that were made; fewer than asked for where labels had settled.
    """

    labels: np.ndarray
    uncertainty: np.ndarray
    hits: np.ndarray | None
    ids: tuple[int, ...]
    n_walks: int


def interpolate(
    image: ArrayLike,
    sparse_labels: np.ndarray,
    *,
    key: jax.Array,
    n_walks: int = 10,
    n_steps: int = 400,
    axes: str = 'z',
    smooth: int = 0,
    published_smoothing: bool = False,
    keep_slices: bool = False,
    settled: float = 0.0,
    unlabelled: int | None = None,
    percentiles: tuple[float, float] = PERCENTILES,
    device_mesh: Mesh | None = None,
    keep_hits: bool = True,
    scratch: str | Path | None = None,
    on_walks: Callable[[int, int], Any] | None = None,
) -> Interpolation:
    """Label all voxels by random walks from the voxels of labelled slices.

    From each of these `n_walks` walkers set out that prefer gray values like that of their start
    (see `random_walk`); the label whose walkers entered a voxel most often has it. Memory: 4 bytes
    a voxel and label for the hits, 2 for labels and uncertainty, 2 for gray levels unless the image
    is a uint8 array, some 50 bytes a voxel of labelled slices, and what a block takes.

    Args:
      key: randomness; the same key gives the same result on any number of devices.
      image: [z, y, x] of any type, in memory or lazily read; types other than uint8 are brought to
        the gray values 0 … 255 (see `GrayLevels`).
      sparse_labels: [z, y, x] integers; 0 is background in labelled slices, voxels with negative
        labels are left out.
      n_walks: walks of each voxel of a labelled slice.
      n_steps: steps of a walk. Published: 4000; 400 are as accurate at a tenth of the cost.
      axes: 'z', labelled slices are xy; 'zyx', they are xy, xz and yz.
      smooth: iterations of mean-curvature smoothing of the hits; published: 100. About 30 help
        cells and nuclei, what is a few voxels wide suffers (`benchmarks.interpolation_accuracy`).
      published_smoothing: as the released code does it (see `smooth_labels`).
      keep_slices: labelled slices stay exactly as given.
      settled: make fewer walks where a doubling of their number changed the label of less than this
        share of the labelled voxels; 0: all.
      unlabelled: value of voxels without a label, in slices of which others are labelled; None: a
        slice of nothing but 0 is an unlabelled one.
      percentiles: gray values of image types other than uint8 that become 0 and 255; published:
        0 and 100.
      device_mesh: devices that share the walks; None: all of this process.
      keep_hits: whether to return them.
      scratch: folder for a file that holds the hits, where they do not fit in memory.
      on_walks: called with the number of walks that ended just now, and of all there will be.

    Raises:
      InputError: shapes or types do not fit, NaN voxels, no labelled slice, numbers out of range.
    """
    numbers = {'n_walks': n_walks, 'n_steps': n_steps, 'smooth': smooth, 'settled': settled}
    _check(image, sparse_labels, **numbers)
    levels = _hold(image, GrayLevels(image, percentiles=percentiles), scratch)
    starts = find_starts(levels, sparse_labels, axes=axes, unlabelled=unlabelled)
    if not any(starts):
        raise InputError('sparse labels', 'no labelled slice', 'a label above 0')
    ids = tuple(starts)
    labels = np.zeros(sparse_labels.shape, np.min_scalar_type(max(ids)))
    hits = _make_array((len(ids), *labels.shape), np.int32, scratch)
    devices = None if device_mesh is None else device_mesh.local_devices
    walk = _AllWalks(levels, starts, hits, key, n_steps, devices, on_walks)
    made = _until_settled(walk, labels, n_walks, settled)
    uncertainty = measure_uncertainty(hits)
    if smooth:
        # Where no walk came within the reach of the iterations the field stays 0.
        box = box_of_hits(hits).grow(smooth).intersect(Box.of_shape(labels.shape))
        near = hits[(slice(None), *box.slices)]
        values = np.asarray(ids, labels.dtype)
        labels[box.slices] = smooth_labels(
            near,
            values,
            n_iterations=smooth,
            published=published_smoothing,
            memory_bytes=_smoothing_bytes(hits, scratch),
        )
    if keep_slices:
        for index, given in given_voxels(sparse_labels, axes=axes, unlabelled=unlabelled):
            uncertainty[index][given] = SURE
            labels[index][given] = sparse_labels[index][given]
    return Interpolation(labels, uncertainty, hits if keep_hits else None, ids, made)


@dataclasses.dataclass(frozen=True)
class _AllWalks:
    """Walks of all labels over an image."""

    levels: ArrayLike
    starts: Mapping[int, Starts]
    hits: np.ndarray
    key: jax.Array
    n_steps: int
    devices: Sequence[jax.Device] | None
    on_walks: Callable[[int, int], Any] | None

    def add(self, walks: range, *, n_walks: int) -> None:
        """Add the hits of these of `n_walks` walks of each start."""
        total = n_walks * sum(len(starts.voxels) for starts in self.starts.values())
        lock = threading.Lock()

        def tell(n: int) -> None:
            with lock:
                if self.on_walks is not None:
                    self.on_walks(n, total)

        for (label, starts), hits in zip(self.starts.items(), self.hits, strict=True):
            seed = jax.random.bits(jax.random.fold_in(self.key, label), dtype=np.uint32)
            add_hits(
                hits,
                self.levels,
                starts,
                seed=int(seed),
                walks=walks,
                n_steps=self.n_steps,
                devices=self.devices,
                on_walks=tell,
            )


def _until_settled(walk: _AllWalks, labels: np.ndarray, n_walks: int, settled: float) -> int:
    """Set the labels that walks elect; how many there were of each start."""
    ids, made = tuple(walk.starts), 0
    while made < n_walks:
        upto = min(n_walks, max(1, 2 * made)) if settled else n_walks
        walk.add(range(made, upto), n_walks=n_walks)
        made = upto
        changed = elect(walk.hits, ids, labels)
        if changed < settled * np.count_nonzero(labels):
            break
    return made


def _hold(image: ArrayLike, levels: GrayLevels, scratch: str | Path | None) -> ArrayLike:
    """Gray levels, read and scaled once: blocks overlap, and files may be slow to read in parts."""
    if isinstance(image, np.ndarray) and image.dtype == np.uint8:
        return levels
    held, z = _make_array(tuple(levels.shape), levels.dtype, scratch), 0
    for slab in slabs(levels):
        held[z : z + len(slab)] = slab
        z += len(slab)
    return held


def _make_array(shape: tuple[int, ...], dtype: Any, scratch: str | Path | None) -> np.ndarray:
    """Zeros; in a file without a name, that goes when they are let go, or in memory."""
    if scratch is None:
        return np.zeros(shape, dtype)
    n_bytes = np.dtype(dtype).itemsize * int(np.prod(shape))
    with tempfile.TemporaryFile(dir=scratch) as file:
        if hasattr(os, 'posix_fallocate'):
            # A disk that fills up later would end the process without a word.
            os.posix_fallocate(file.fileno(), 0, n_bytes)
        else:
            file.truncate(n_bytes)
        return np.memmap(file, dtype, 'r+', shape=shape)


def _smoothing_bytes(hits: np.ndarray, scratch: str | Path | None) -> int | None:
    """More than the default only where there is plenty of memory, for it saves overlaps."""
    free = free_host_bytes()
    if scratch is not None or is_accelerated() or free is None:
        return None
    return max(_SMOOTHING_BYTES, min(hits.nbytes // 2, free // 4))


def _check(image: ArrayLike, sparse_labels: np.ndarray, **numbers: float) -> None:
    if sparse_labels.shape != tuple(image.shape):
        found = f'{list(sparse_labels.shape)}'
        raise InputError('sparse labels', found, f'the shape of the image, {list(image.shape)}')
    if sparse_labels.dtype.kind not in 'iu' or sparse_labels.max(initial=0) >= 2**32:
        found = f'{sparse_labels.dtype}, at most {sparse_labels.max(initial=0)}'
        raise InputError('sparse labels', found, 'integers below 2³²')
    least = {'n_walks': 1, 'n_steps': 1}
    for name, number in numbers.items():
        if number < least.get(name, 0):
            raise InputError(name, f'{number}', f'{least.get(name, 0)} or more')
