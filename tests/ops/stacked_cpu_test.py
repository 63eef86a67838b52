"""Stacked products against XLA's convolutions, over kernels, strides and paddings at random."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from sxt_jax.ops import stacked_cpu


def _oracle(x, kernel, strides, pads):
    x = lax.pad(x, 0.0, [(0, 0, 0), *((a, b, 0) for a, b in pads), (0, 0, 0)])
    spec = ('NDHWC', 'DHWIO', 'NDHWC')
    return lax.conv_general_dilated(x, kernel, strides, 'VALID', dimension_numbers=spec)


@pytest.mark.parametrize(
    'seed', [pytest.param(i, marks=[pytest.mark.slow] if i >= 10 else []) for i in range(24)]
)
def test_equals_xla_forwards_and_backwards(monkeypatch, seed):
    rng = np.random.default_rng(seed)
    monkeypatch.setattr(stacked_cpu, '_LEAST_VOXELS', int(rng.choice([1, 20, 10**6])))
    monkeypatch.setattr(stacked_cpu, '_NUMBERS', 0)
    kernel_sides = rng.integers(1, 5, 3).tolist()
    strides = rng.integers(1, 4, 3).tolist()
    pads = [tuple(rng.integers(0, k, 2).tolist()) for k in kernel_sides]
    sides = [
        int(rng.integers(max(1, k - sum(p)), k + 9))
        for k, p in zip(kernel_sides, pads, strict=True)
    ]
    keys = jax.random.split(jax.random.key(seed), 3)
    x = jax.random.normal(keys[0], (2, *sides, 3))
    kernel = jax.random.normal(keys[1], (*kernel_sides, 3, 4))
    out_sides = stacked_cpu.output_sides(x.shape, kernel.shape, strides, pads)
    g = jax.random.normal(keys[2], (2, *out_sides, 4))

    @jax.jit  # one program compiles faster than its parts
    def both(x, kernel, g):
        expected, pull = jax.vjp(lambda x, k: _oracle(x, k, strides, pads), x, kernel)
        ours = (
            stacked_cpu.conv(x, kernel, strides, pads),
            stacked_cpu.input_gradient(kernel, g, sides, strides, pads),
            stacked_cpu.kernel_gradient(x, g, kernel_sides, strides, pads),
        )
        return ours, (expected, *pull(g))

    for found, wanted in zip(*both(x, kernel, g), strict=True):
        assert found.shape == wanted.shape
        atol = 2e-6 * max(float(jnp.abs(wanted).max()), 1e-3)
        np.testing.assert_allclose(found, wanted, atol=atol)


@pytest.mark.parametrize('pad', [(0, 0), (2, 1), (-2, 3), (3, -2), (-1, -2)])
@pytest.mark.parametrize('size', [2, 4, 9])
def test_window_is_what_a_padded_copy_holds(pad, size):
    x = np.arange(1.0, 8.0)
    padded = np.pad(x, [tuple(max(p, 0) for p in pad)])
    padded = padded[max(-pad[0], 0) : len(padded) - max(-pad[1], 0)]
    for start in range(len(padded) - size + 1):
        found = stacked_cpu.window(jnp.asarray(x), jnp.int32(start), size, pad, axis=0)
        np.testing.assert_array_equal(found, padded[start : start + size])
