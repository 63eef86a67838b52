"""Transposed convolutions against XLA's, forwards and backwards."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from sxt_jax.ops import conv_cpu
from sxt_jax.ops.conv_transpose import conv_transpose
from tests.ops.gradients import check_map_and_gradients


def _normal(seed, shape, dtype=jnp.float32):
    return jax.random.normal(jax.random.key(seed), shape, dtype)


def _oracle(x, kernel, padding):
    n = x.ndim - 2
    spec = ('NHWC', 'HWIO', 'NHWC') if n == 2 else ('NDHWC', 'DHWIO', 'NDHWC')
    spread = lax.pad(x, 0.0, [(0, 0, 0), *((a, b, 1) for a, b in padding), (0, 0, 0)])
    return lax.conv_general_dilated(spread, kernel, (1,) * n, 'VALID', dimension_numbers=spec)


@pytest.mark.parametrize('shape', [(2, 3, 4, 5, 3), (2, 5, 4, 3), (1, 1, 1, 2)])
@pytest.mark.parametrize(
    'pad', [(1, 1), (2, 1), (1, 2), (2, 2), (3, 2), (0, 2), (1, 3), (4, 0), (4, -1)]
)
def test_equals_xla_forwards_and_backwards(shape, pad):
    _check(shape, pad, 4)


@pytest.mark.parametrize('shape', [(1, 2, 2, 2, 3), (2, 3, 2, 3)])
@pytest.mark.parametrize('pad', [(2, 1), (1, 2), (0, 2), (4, -1)])
def test_small_images_equal_xla_forwards_and_backwards(monkeypatch, shape, pad):
    monkeypatch.setattr(conv_cpu, '_LEAST_KERNEL_NUMBERS', 0)
    n_features = math.prod(shape[:-1])
    assert conv_cpu.is_of_columns(jnp.ones(shape), jnp.ones((3, n_features)))
    _check(shape, pad, n_features)


@pytest.mark.parametrize('pad', [(2, 1), (1, 2), (4, -1)])
def test_stacked_gradients_in_2d(monkeypatch, pad):
    for limit in ('_STACKED_PIXELS', '_STACKED_CHANNELS', '_LEAST_TILE'):
        monkeypatch.setattr(conv_cpu, limit, 0)
    assert conv_cpu.is_stacked2d(jnp.ones((2, 10, 8, 4)))
    _check((2, 5, 4, 3), pad, 4)


def _check(shape, pad, n_features):
    n, side = len(shape) - 2, sum(pad)
    x, kernel = _normal(0, shape), _normal(1, (side,) * n + (shape[-1], n_features))
    out = check_map_and_gradients(
        lambda x, k: conv_transpose(x, k, padding=(pad,) * n),
        lambda x, k: _oracle(x, k, (pad,) * n),
        x,
        kernel,
    )
    assert out.shape == (shape[0], *(2 * s for s in shape[1:-1]), n_features)


def test_tap_lands_on_its_voxel():
    kernel = jnp.arange(8.0).reshape(2, 2, 2, 1, 1)
    out = conv_transpose(jnp.ones((1, 1, 1, 1, 1)), kernel, padding=((1, 1),) * 3)
    np.testing.assert_array_equal(out[0, ..., 0], kernel[::-1, ::-1, ::-1, 0, 0])


def test_bfloat16_sums_in_float32():
    x, kernel = _normal(0, (1, 8, 8, 64), jnp.bfloat16), _normal(1, (3, 3, 64, 4), jnp.bfloat16)
    out = conv_transpose(x, kernel, padding=((2, 1),) * 2)
    assert out.dtype == jnp.bfloat16
    expected = _oracle(x.astype(jnp.float32), kernel.astype(jnp.float32), ((2, 1),) * 2)
    np.testing.assert_allclose(out.astype(jnp.float32), expected, rtol=2**-7, atol=0.2)


@pytest.mark.parametrize('padding', [((1, 1),) * 2, ((2, 1),), ((2, 2), (2, 1))])
def test_says_which_padding_does_not_fit(padding):
    with pytest.raises(ValueError, match='before'):
        conv_transpose(jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 2)), padding=padding)


def test_a_kernel_without_taps_for_every_phase_is_told():
    with pytest.raises(ValueError, match='at least 2'):
        conv_transpose(jnp.ones((1, 4, 4, 2)), jnp.ones((1, 1, 2, 2)), padding=((0, 1),) * 2)
