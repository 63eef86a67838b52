"""Labels from hit fields that were smoothed by mean-curvature flow.

Every label's field φ moves by 0.01 · |∇φ| times the mean curvature of its level surfaces, over and
over; then the label of the highest field wins. Outside of the volume every field is 0.

A block of slices goes through all iterations while it is in the caches. Each needs a slice on
either side, so the block moves down by one slice an iteration; of the block before, two slices for
each iteration are all that is still needed. Nothing is computed twice, and no field is ever held
as a whole. The iterations are cut into stages that work on different blocks at the same time.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sxt_jax.core.box import Box
from sxt_jax.core.errors import InputError
from sxt_jax.labelling.votes import find_winners

_STEP = 0.01
_EPSILON = 1e-10  # of squared hits a voxel
_STAGE = 8  # iterations, at least
# Voxels of a block, its fewest and most slices, and the bytes for everything. On CPUs a block stays
# in the caches; on GPUs it keeps all cores busy.
_CPU = (2**19, 4, 16, 3 * 2**28)
_GPU = (2**23, 8, 32, 2**31)
_MOST_CUTS = 16  # along an axis
_Shift = Callable[[int, int, int], jax.Array]


def smooth_labels(
    hits: np.ndarray,
    ids: Sequence[int] | np.ndarray,
    *,
    n_iterations: int,
    published: bool = False,
    memory_bytes: int | None = None,
    on_slab: Callable[[int, int], Any] | None = None,
) -> np.ndarray:
    """The label of the highest field in each voxel, after mean-curvature flow of all of them.

    As `smooth` of Biomedisa (github.com/biomedisa/biomedisa), where 100 iterations are usual.
    Around single hits the explicit steps overshoot below 0, and a label that was never there would
    win over them with its field of 0: only fields above 0 can win here, and where none is, the
    label with most hits stays.

    Args:
      hits: [k, z, y, x] hits of k labels, integers, in memory or in a file.
      ids: the k labels. The first of equally high fields wins.
      n_iterations: at least 1.
      published: as the released code, whose xz and yz cross terms have the wrong sign, and where
        the highest field wins, also below 0.
      memory_bytes: what may be taken beyond hits and labels, 0.8 GB by default on CPUs. Volumes
        that need more are smoothed in parts that overlap, with the same result.
      on_slab: called with the number of voxels whose field is done since the last call, and with
        the number there will be (those of all labels).

    Returns:
      [z, y, x] labels, of the dtype of `ids`.

    Raises:
      InputError: hits are not k volumes of integers, not as many ids, or a number out of range.
    """
    ids = np.asarray(ids)
    _check(hits, ids, n_iterations)
    labels = np.empty(hits.shape[1:], ids.dtype)
    sign = np.float32(-1 if published else 1)
    floor = np.float32(-np.inf if published else 0)
    budget = memory_bytes if memory_bytes is not None else _limits()[-1]
    for core in _cut(labels.shape, n_iterations, budget):
        flow = _Flow.around(core, labels.shape, n_iterations)
        for box, number in flow.highest(hits, sign, floor, on_slab):
            known = number < len(hits)
            labels[box.slices] = ids[np.where(known, number, 0)]
            if not known.all():
                most = find_winners(hits[(slice(None), *box.slices)], ids)
                labels[box.slices] = np.where(known, labels[box.slices], most)
    return labels


@functools.partial(jax.jit, static_argnames='published')
def curvature_step(field: jax.Array, *, published: bool = False) -> jax.Array:
    """One explicit step of mean-curvature flow, φ + 0.01 · |∇φ| κ, in central differences.

    Args:
      field: [z, y, x] float32, 0 outside.
      published: with the cross terms of the released code.

    Returns:
      [z, y, x] float32.
    """
    padded = jnp.pad(field, 1)

    def shift(*offset: int) -> jax.Array:
        start = [1 + o for o in offset]
        return jax.lax.slice(
            padded, start, [a + n for a, n in zip(start, field.shape, strict=True)]
        )

    return _moved(shift, np.float32(-1 if published else 1))


def _moved(at: _Shift, sign: jax.Array | np.float32) -> jax.Array:
    """The field after a step; `at(z, y, x)` is the field that many voxels further.

    (φ_xx (φ_y² + φ_z²) + … − 2 φ_x φ_y φ_xy − …) / (φ_x² + φ_y² + φ_z² + ε). Differences are not
    divided by 2 and 4, what is made of them is: all of these are powers of 2, which are exact.
    """
    here = at(0, 0, 0)

    def along(z: int, y: int, x: int) -> tuple[jax.Array, jax.Array]:
        before, after = at(-z, -y, -x), at(z, y, x)
        return before - after, before - 2 * here + after

    (dz, dzz), (dy, dyy), (dx, dxx) = along(1, 0, 0), along(0, 1, 0), along(0, 0, 1)
    dxy = at(0, -1, -1) + at(0, 1, 1) - at(0, -1, 1) - at(0, 1, -1)
    dxz = at(-1, 0, -1) + at(1, 0, 1) - at(-1, 0, 1) - at(1, 0, -1)
    dyz = at(-1, -1, 0) + at(1, 1, 0) - at(-1, 1, 0) - at(1, -1, 0)
    dx2, dy2, dz2 = dx * dx, dy * dy, dz * dz
    straight = dxx * (dy2 + dz2) + dyy * (dx2 + dz2) + dzz * (dx2 + dy2)
    mixed = dx * dy * dxy + sign * (dx * dz * dxz + dy * dz * dyz)
    length = dx2 + dy2 + dz2 + np.float32(4 * _EPSILON)
    return here + np.float32(_STEP) * (straight - np.float32(0.5) * mixed) / length


def _limits() -> tuple[int, int, int, int]:
    return _CPU if jax.default_backend() == 'cpu' else _GPU


@dataclasses.dataclass(frozen=True)
class _Plane:
    """A slice as a row of voxels that fits one of a few compiled programs.

    Each row of the image is followed by one voxel that is 0, so that neighbours are always the same
    number of voxels away. It stays 0, as do the rows and slices next to the image: the field's
    gradient is at right angles to them, and with a single derivative other than 0 nothing moves.
    """

    sides: tuple[int, int]  # y, x

    @property
    def stride(self) -> int:
        """Voxels from a row of the image to the next."""
        return self.sides[1] + 1

    @functools.cached_property
    def length(self) -> int:
        """Voxels, rounded up by at most 3 %."""
        voxels = max(128, self.sides[0] * self.stride)
        unit = 2 ** (voxels.bit_length() - 6)
        return -(-voxels // unit) * unit

    @property
    def margin(self) -> int:
        """Zeros before and after, for the neighbours of the first and last row."""
        return max(128, 2 ** (self.stride).bit_length())

    @functools.cached_property
    def depth(self) -> int:
        """Slices of a block."""
        voxels, fewest, most, _ = _limits()
        return int(np.clip(2 ** round(math.log2(voxels / self.length)), fewest, most))

    @property
    def stage(self) -> int:
        """Iterations of a stage: whole blocks of slices, so that blocks end where a volume ends."""
        return -(-_STAGE // self.depth) * self.depth

    def rows(self, block: np.ndarray) -> np.ndarray:
        """The image's part of [n, length] as [n, y, x], no copy."""
        y, x = self.sides
        return block[:, : y * self.stride].reshape(-1, y, self.stride)[:, :, :x]


@functools.partial(jax.jit, static_argnames='margin', donate_argnames='before')
def _iterate(
    block: jax.Array,
    before: jax.Array,
    stride: jax.Array,
    n_iterations: jax.Array,
    sign: jax.Array,
    *,
    margin: int,
) -> tuple[jax.Array, jax.Array]:
    """Take a block through a stage.

    Args:
      block: [n, length] slices of the field.
      before: [iterations, 2, length] for each iteration, the two slices before those it is given.
      stride: of the rows of the image.
      n_iterations: of this stage.
      sign: of the cross terms with z.

    Returns:
      The block, one slice lower for each iteration; and `before` for the next block.
    """
    n, length = block.shape

    def iteration(i: jax.Array, held: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        source, block, before = held
        source = jax.lax.dynamic_update_slice(source, before[i], (0, margin))
        source = jax.lax.dynamic_update_slice(source, block, (2, margin))
        # Taken from `source`, so that `before[i]` was read when it is written: in place, no copy.
        last = source[None, n:, margin : margin + length]
        before = jax.lax.dynamic_update_slice(before, last, (i, 0, 0))

        def shift(z: int, y: int, x: int) -> jax.Array:
            start = (1 + z, margin + y * stride + x)
            return jax.lax.dynamic_slice(source, start, (n, length))

        return source, _moved(shift, sign), before

    source = jnp.zeros((n + 2, length + 2 * margin), block.dtype)
    _, block, before = jax.lax.fori_loop(0, n_iterations, iteration, (source, block, before))
    return block, before


@functools.partial(jax.jit, donate_argnames=('highest', 'which'))
def _compare(
    field: jax.Array, highest: jax.Array, which: jax.Array, k: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The highest field so far and whose it is, after that of label k."""
    better = field > highest
    return jnp.where(better, field, highest), jnp.where(better, k, which)


@dataclasses.dataclass(frozen=True)
class _Flow:
    """Fields that flow in a part of the volume, so far that those of its core are exact."""

    core: Box
    region: Box  # the core and what reaches it
    n_iterations: int

    @classmethod
    def around(cls, core: Box, shape: Sequence[int], n_iterations: int) -> _Flow:
        return cls(core, core.grow(n_iterations).intersect(Box.of_shape(shape)), n_iterations)

    @functools.cached_property
    def plane(self) -> _Plane:
        return _Plane((self.region.shape[1], self.region.shape[2]))

    def highest(
        self,
        hits: np.ndarray,
        sign: np.float32,
        floor: np.float32,
        on_slab: Callable[[int, int], Any] | None,
    ) -> Iterator[tuple[Box, np.ndarray]]:
        """The core box by box, with the number of the label with the highest field above `floor`.

        Where there is none, the number is that of labels.
        """
        number = np.min_scalar_type(len(hits))
        kept: dict[int, tuple[jax.Array, jax.Array]] = {}
        for k, of in enumerate(hits):
            for b, field in self._blocks(of[self.region.slices], sign):
                if not self._box(b).size:
                    continue
                if k == 0:
                    nobody = jnp.full(field.shape, len(hits), number)
                    kept[b] = jnp.full_like(field, floor), nobody
                kept[b] = _compare(field, *kept[b], number.type(k))
                if on_slab is not None:
                    on_slab(self._box(b).size, hits.size)
        for b, (_, which) in kept.items():
            box = self._box(b)
            corner = (self.region.start[0] + self._first(b), *self.region.start[1:])
            here = box.shift([-a for a in corner])
            yield box, self.plane.rows(np.asarray(which))[here.slices]

    def _first(self, b: int) -> int:
        """The slice of the region that comes out as the first of block b."""
        return b * self.plane.depth - self.n_iterations

    def _box(self, b: int) -> Box:
        """The voxels of the core that come out in block b."""
        block = Box.of_shape((self.plane.depth, *self.region.shape[1:]), (self._first(b), 0, 0))
        return block.shift(self.region.start).intersect(self.core)

    def _stages(self) -> list[_Stage]:
        """The iterations in stages, and the blocks that each has to work on."""
        depth, end = self.plane.depth, self.region.shape[0]
        core = [c - self.region.start[0] for c in (self.core.start[0], self.core.stop[0])]
        stages = []
        for done in range(0, self.n_iterations, self.plane.stage):
            n = min(self.plane.stage, self.n_iterations - done)
            left = self.n_iterations - done
            lowest = max(0, core[0] - left)
            beyond = min(end, core[1] + left - n)
            blocks = range((lowest + done) // depth, -(-(beyond + done + n) // depth))
            stages.append(_Stage(done, n, blocks))
        return stages

    def _load(self, field: np.ndarray, b: int) -> jax.Array:
        block = np.zeros((self.plane.depth, self.plane.length), np.float32)
        near = field[b * self.plane.depth : (b + 1) * self.plane.depth]
        self.plane.rows(block)[: len(near)] = near
        return jnp.asarray(block)

    def _blocks(self, field: np.ndarray, sign: np.float32) -> Iterator[tuple[int, jax.Array]]:
        """The blocks of the field after all iterations, from the first slices to the last."""
        plane, stages = self.plane, self._stages()
        before = [jnp.zeros((plane.stage, 2, plane.length), jnp.float32) for _ in stages]
        made: dict[int, jax.Array] = {}  # by stage

        for tick in range(stages[-1].blocks.stop + len(stages) - 1):
            given, made = made, {}
            for s, stage in enumerate(stages):
                b = tick - s
                if b not in stage.blocks:
                    continue
                block = self._load(field, b) if s == 0 else given.pop(s - 1, None)
                if block is None:  # past the end of the stage before
                    block = jnp.zeros((plane.depth, plane.length), jnp.float32)
                n, stride = np.int32(stage.n), np.int32(plane.stride)
                made[s], before[s] = _iterate(
                    block, before[s], stride, n, sign, margin=plane.margin
                )
            # Queued so far: all stages run at the same time. No more than a block of each at once.
            jax.block_until_ready(list(made.values()))
            if (last := len(stages) - 1) in made:
                yield tick - last, made.pop(last)


@dataclasses.dataclass(frozen=True)
class _Stage:
    done: int  # iterations before it
    n: int
    blocks: range


def _cut(shape: Sequence[int], n_iterations: int, budget: int) -> list[Box]:
    """Parts of the volume that take no more memory than that, with the least work in all.

    If there is no way to, those that take the least.
    """
    choices = (range(1, min(n, _MOST_CUTS) + 1) for n in shape)
    parts = min(
        (_Parts(tuple(shape), counts, n_iterations) for counts in itertools.product(*choices)),
        key=lambda parts: (max(parts.bytes, budget), parts.work, parts.bytes),
    )
    return parts.cores()


@dataclasses.dataclass(frozen=True)
class _Parts:
    """A way to cut a volume."""

    shape: tuple[int, ...]
    counts: tuple[int, ...]  # of parts along each axis
    n_iterations: int

    @functools.cached_property
    def core(self) -> tuple[int, ...]:
        return tuple(-(-n // m) for n, m in zip(self.shape, self.counts, strict=True))

    @functools.cached_property
    def plane(self) -> _Plane:
        """A slice of a part, with what reaches its core."""
        wide = (c + 2 * self.n_iterations for c in self.core[1:])
        y, x = (min(n, m) for n, m in zip(self.shape[1:], wide, strict=True))
        return _Plane((y, x))

    @property
    def bytes(self) -> int:
        """Of all the slices of the iterations, the blocks of the stages, and the highest field."""
        stages = -(-self.n_iterations // self.plane.stage)
        slices = 2 * self.plane.stage * stages + (stages + 6) * self.plane.depth
        kept = self.core[0] + 2 * self.plane.depth
        return self.plane.length * (4 * slices + (4 + 2) * kept)

    @property
    def work(self) -> int:
        """Voxels in an iteration, on the average: every cut adds those that reach over it."""
        cuts = [m - 1 for m in self.counts]
        added = (self.n_iterations * factor for factor in (1, 2, 2))
        return math.prod(n + c * m for n, c, m in zip(self.shape, cuts, added, strict=True))

    def cores(self) -> list[Box]:
        starts = (range(0, n, c) for n, c in zip(self.shape, self.core, strict=True))
        whole = Box.of_shape(self.shape)
        return [Box.of_shape(self.core, at).intersect(whole) for at in itertools.product(*starts)]


def _check(hits: np.ndarray, ids: np.ndarray, n_iterations: int) -> None:
    if hits.ndim != 4 or hits.dtype.kind not in 'iu' or 0 in hits.shape:
        found = f'{hits.dtype} of shape {hits.shape}'
        raise InputError('hits', found, 'integers [k, z, y, x], none of them 0')
    if ids.shape != hits.shape[:1] or ids.dtype.kind not in 'iu':
        raise InputError('ids', f'{ids.dtype} of shape {ids.shape}', f'{len(hits)} integers')
    if n_iterations < 1:
        raise InputError('n_iterations', f'{n_iterations}', 'at least 1')
