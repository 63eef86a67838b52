"""How 3-D transposed convolution of stride 2 is computed on a CPU: phases of slabs.

The output voxels of one parity along x are channels of those of the other (a third more products
for a kernel 3 wide, but matrices twice as wide and no interleaving), and the four phases along z
and y are put together while a slab is in the caches: a pass over an image of fresh memory costs
more than the arithmetic.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from sxt_jax.ops import conv_cpu

Padding = Sequence[tuple[int, int]]

# Input voxels handled at once; each makes eight.
_VOXELS = 4096


class Taps(NamedTuple):
    """The kernel taps that output voxels 2·i + parity see along one axis.

    Attributes:
      first: taps first, first + 2, … of the kernel.
      n: so many.
      shift: tap first + 2·t falls on image voxel i + shift + t.
    """

    first: int
    n: int
    shift: int

    @property
    def pads(self) -> tuple[int, int]:
        """Zeros that this phase needs around the image; negative where it leaves voxels out."""
        return -self.shift, self.n - 1 + self.shift


def taps_of(parity: int, before: int, side: int) -> Taps:
    """Taps of a phase.

    Tap k of output voxel 2i + p falls on place 2i + p − before + k of the spread-out image, which
    holds image voxel i + (p − before + k) / 2 where that is whole.
    """
    first = (before - parity) % 2
    return Taps(first, len(range(first, side, 2)), (parity - before + first) // 2)


def conv_transpose(x: jax.Array, kernel: jax.Array, padding: Padding) -> jax.Array:
    """See `ops.conv_transpose`; x is [b, z, y, x, c_in], and no phase may leave voxels out."""
    taps, kernels, pads = _taps(kernel, padding), _phase_kernels(kernel, padding), _pads(padding)
    b, n_z, n_y, n_x, _ = x.shape
    c_out = kernel.shape[-1]
    depth = _depth(x.shape)

    def slab(i: jax.Array) -> jax.Array:
        before, after = pads[0]
        sections = conv_cpu.window(x, i * depth, depth + before + after, pads[0], axis=1)
        rows = []
        for pz, py in itertools.product((0, 1), repeat=2):
            start = before + taps[0][pz].shift
            part = sections[:, start : start + depth + taps[0][pz].n - 1]
            around = ((0, 0), taps[1][py].pads, pads[2])
            rows.append(conv_cpu.depth_taps(part, kernels[pz, py], (1, 1, 1), around))
        phases = jnp.stack(rows, 2).reshape(b, depth, 2, 2, n_y, n_x, 2 * c_out)
        phases = phases.transpose(0, 1, 2, 4, 3, 5, 6)
        return phases.reshape(b, 2 * depth, 2 * n_y, 2 * n_x, c_out)

    return _by_slabs(slab, n_z // depth)


def input_gradient(
    x: jax.Array, kernel: jax.Array, gradient: jax.Array, padding: Padding
) -> jax.Array:
    """Convolutions of the phases of the gradient with mirrored kernels, added."""
    taps, kernels, pads = _taps(kernel, padding), _phase_kernels(kernel, padding), _pads(padding)
    phases = _split(gradient)
    depth = _depth(x.shape)

    def slab(i: jax.Array) -> jax.Array:
        before, after = pads[0]
        sections = conv_cpu.window(
            phases, i * depth, depth + before + after, (after, before), axis=1
        )
        total = jnp.zeros((), jnp.float32)
        for pz, py in itertools.product((0, 1), repeat=2):
            along_z, along_y = taps[0][pz], taps[1][py]
            start = after - along_z.pads[1]
            part = sections[:, start : start + depth + along_z.n - 1, pz, :, py]
            mirrored = jnp.flip(kernels[pz, py], (0, 1, 2)).swapaxes(3, 4)
            around = ((0, 0), along_y.pads[::-1], pads[2][::-1])
            total = total + conv_cpu.depth_taps(part, mirrored, (1, 1, 1), around)
        return total

    return _by_slabs(slab, x.shape[1] // depth)


def kernel_gradient(
    x: jax.Array, kernel: jax.Array, gradient: jax.Array, padding: Padding
) -> jax.Array:
    """The gradient of every phase's kernel, put where its taps came from."""
    taps, pads, phases = _taps(kernel, padding), _pads(padding), _split(gradient)
    kernels, back = jax.vjp(lambda kernel: _phase_kernels(kernel, padding), kernel)
    found = {
        (pz, py): conv_cpu.kernel_gradient(
            x,
            kernels[pz, py],
            phases[:, :, pz, :, py],
            strides=(1, 1, 1),
            pads=(taps[0][pz].pads, taps[1][py].pads, pads[2]),
        )
        for pz, py in kernels
    }
    return back(found)[0]


def _taps(kernel: jax.Array, padding: Padding) -> list[tuple[Taps, Taps]]:
    """Those of both parities, axis by axis."""
    pairs = zip(padding, kernel.shape, strict=False)
    return [(taps_of(0, before, k), taps_of(1, before, k)) for (before, _), k in pairs]


def _pads(padding: Padding) -> list[tuple[int, int]]:
    """Zeros around the image that serve both parities, axis by axis."""
    pads = []
    for before, after in padding:
        both = [taps_of(parity, before, before + after).pads for parity in (0, 1)]
        pads.append((max(a for a, _ in both), max(b for _, b in both)))
    return pads


def _phase_kernels(kernel: jax.Array, padding: Padding) -> dict[tuple[int, int], jax.Array]:
    """Kernels [taps z, taps y, taps x of both parities, c_in, 2·c_out] by parity along z and y."""
    taps, (before, after) = _taps(kernel, padding), _pads(padding)[2]
    along_x = []
    for t in taps[2]:
        fill = (before - t.pads[0], after - t.pads[1])
        taken = kernel[:, :, t.first :: 2]
        along_x.append(jnp.pad(taken, ((0, 0), (0, 0), fill, (0, 0), (0, 0))))
    both = jnp.concatenate(along_x, -1)
    return {
        (pz, py): both[taps[0][pz].first :: 2, taps[1][py].first :: 2]
        for pz, py in itertools.product((0, 1), repeat=2)
    }


def _split(image: jax.Array) -> jax.Array:
    """[b, 2z, 2y, 2x, c] → [b, z, 2, y, 2, x, 2·c], which moves nothing."""
    b, z, y, x, c = image.shape
    return image.reshape(b, z // 2, 2, y // 2, 2, x // 2, 2 * c)


def _depth(shape: Sequence[int]) -> int:
    return conv_cpu.largest_divisor(shape[1], _VOXELS // (shape[0] * shape[2] * shape[3]))


def _by_slabs(slab, n_slabs: int) -> jax.Array:  # type: ignore[no-untyped-def]
    """What a function of the slab's number gives, along z."""
    if n_slabs == 1:
        return slab(0)
    shape = jax.eval_shape(slab, 0).shape

    def add_slab(i: jax.Array, out: jax.Array) -> jax.Array:
        return lax.dynamic_update_slice_in_dim(out, slab(i), i * shape[1], axis=1)

    whole = (shape[0], n_slabs * shape[1], *shape[2:])
    return lax.fori_loop(0, n_slabs, add_slab, jnp.zeros(whole, jnp.float32))
