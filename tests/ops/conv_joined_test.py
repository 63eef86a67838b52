"""Convolution of a coarse and a fine image against repeating and joining them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sxt_jax.ops import conv_joined as module
from sxt_jax.ops.conv_joined import conv_joined
from tests.ops.gradients import check_map_and_gradients


def _normal(seed, shape, dtype=jnp.float32):
    return jax.random.normal(jax.random.key(seed), shape, dtype)


def _oracle(coarse, x, kernel):
    for axis in range(1, x.ndim - 1):
        coarse = jnp.repeat(coarse, x.shape[axis] // coarse.shape[axis], axis)
    joined = jnp.concatenate([coarse, x], -1)
    spec = ('NHWC', 'HWIO', 'NHWC') if x.ndim == 4 else ('NDHWC', 'DHWIO', 'NDHWC')
    return jax.lax.conv_general_dilated(
        joined, kernel, (1,) * (x.ndim - 2), 'SAME', dimension_numbers=spec
    )


CASES = [
    ((2, 2, 3, 4), (2, 2, 2), (3, 3, 3), 3, 2),
    ((1, 3, 2, 4), (2, 2, 2), (1, 1, 1), 3, 2),
    ((1, 3, 2, 4), (2, 2, 2), (1, 3, 2), 2, 1),
    ((1, 3, 2, 4), (2, 2, 2), (3, 3, 3), 32, 16),
    ((1, 3, 2, 4), (1, 2, 2), (3, 3, 3), 3, 2),
    ((1, 3, 2), (2, 3), (3, 3), 3, 2),
]


@pytest.mark.parametrize(('coarse_shape', 'factors', 'sides', 'n_coarse', 'n_fine'), CASES)
def test_equals_joined_forwards_and_backwards(
    monkeypatch, coarse_shape, factors, sides, n_coarse, n_fine
):
    monkeypatch.setattr(module, '_LEAST_VOXELS', 1)
    coarse = _normal(0, (*coarse_shape, n_coarse))
    fine = [n * f for n, f in zip(coarse_shape[1:], factors, strict=True)]
    x, kernel = (
        _normal(1, (coarse_shape[0], *fine, n_fine)),
        _normal(2, (*sides, n_coarse + n_fine, 5)),
    )
    check_map_and_gradients(conv_joined, _oracle, coarse, x, kernel)


def test_nothing_is_joined_on_a_cpu_and_everything_elsewhere():
    coarse, x, kernel = (
        _normal(0, (1, 8, 8, 8, 4)),
        _normal(1, (1, 16, 16, 16, 2)),
        _normal(2, (3, 3, 3, 6, 2)),
    )
    traced = jax.jit(conv_joined).trace(coarse, x, kernel)
    joined = 'tensor<1x16x16x16x6xf32>'
    assert joined not in traced.lower(lowering_platforms=('cpu',)).as_text()
    assert joined in traced.lower(lowering_platforms=('cuda',)).as_text()


def test_bfloat16_sums_in_float32():
    arrays = (
        _normal(0, (1, 8, 8, 8, 32)),
        _normal(1, (1, 16, 16, 16, 16)),
        _normal(2, (3, 3, 3, 48, 4)),
    )
    arrays = [a.astype(jnp.bfloat16) for a in arrays]
    expected = _oracle(*(a.astype(jnp.float32) for a in arrays))
    out, pull = jax.vjp(jax.jit(conv_joined), *arrays)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(jnp.float32), expected, rtol=2**-8, atol=1e-3)
    assert [d.dtype for d in pull(out)] == [jnp.bfloat16] * 3


@pytest.mark.parametrize(
    ('coarse', 'x', 'told'),
    [
        ((1, 2, 2, 2, 3), (1, 5, 4, 4, 3), 'whole factors'),
        ((2, 2, 2, 2, 3), (1, 4, 4, 4, 3), 'whole factors'),
        ((1, 2, 2, 3), (1, 4, 4, 4, 3), 'whole factors'),
        ((1, 2, 2, 2, 2), (1, 4, 4, 4, 3), 'has 5 channels, the kernel takes 6'),
    ],
)
def test_what_does_not_fit_is_told(coarse, x, told):
    with pytest.raises(ValueError, match=told):
        conv_joined(jnp.zeros(coarse), jnp.zeros(x), jnp.zeros((3, 3, 3, 6, 2)))
