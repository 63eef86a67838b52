"""Convolutions against XLA's own, forwards and backwards."""

from __future__ import annotations

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from sxt_jax.core import devices
from sxt_jax.ops import conv_cpu, stacked_cpu
from sxt_jax.ops.conv import conv
from tests.ops.gradients import check_map_and_gradients


def _normal(seed, shape, dtype=jnp.float32):
    return jax.random.normal(jax.random.key(seed), shape, dtype)


def _oracle(x, kernel, stride, padding):
    n = x.ndim - 2
    spec = ('NHWC', 'HWIO', 'NHWC') if n == 2 else ('NDHWC', 'DHWIO', 'NDHWC')
    strides = (stride,) * n if isinstance(stride, int) else stride
    if not isinstance(padding, str):  # XLA:CPU's gradients are wrong with unusual padding
        x = lax.pad(x, 0.0, [(0, 0, 0), *((a, b, 0) for a, b in padding), (0, 0, 0)])
        padding = 'VALID'
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=spec)


CASES = [
    ((2, 8, 9, 7, 3), (3, 3, 3, 3, 5), 1, 'SAME'),
    ((1, 7, 6, 5, 1), (3, 3, 3, 1, 4), 1, 'VALID'),
    ((2, 8, 9, 7, 16), (3, 3, 3, 16, 20), 1, 'SAME'),  # as one product
    ((1, 7, 6, 5, 24), (2, 4, 3, 24, 24), 1, 'VALID'),
    ((1, 5, 6, 7, 16), (3, 1, 2, 16, 17), 1, ((2, 0), (1, 3), (0, 4))),
    ((1, 6, 7, 8, 16), (3, 3, 3, 16, 16), 1, ((-1, 1), (0, -2), (1, -1))),
    ((1, 6, 5, 7, 2), (1, 3, 3, 2, 3), 1, 'SAME'),
    ((1, 6, 5, 7, 2), (2, 4, 3, 2, 3), 1, 'SAME'),
    ((1, 5, 6, 7, 2), (3, 1, 2, 2, 3), 1, ((2, 0), (1, 3), (0, 4))),
    ((2, 8, 6, 10, 2), (4, 4, 4, 2, 3), 2, ((1, 1), (1, 1), (1, 1))),
    ((1, 7, 9, 5, 2), (3, 3, 3, 2, 3), (1, 2, 2), 'SAME'),
    ((2, 6, 5, 7, 3), (1, 1, 1, 3, 4), 1, 'SAME'),
    ((2, 2, 2, 3, 3), (3, 3, 3, 3, 5), 1, 'SAME'),  # smaller than the kernel
    ((2, 6, 5, 7, 6), (2, 4, 3, 6, 2), 1, 'SAME'),  # gradient stacked in place of the image
    ((1, 5, 6, 7, 6), (3, 1, 2, 6, 2), 1, ((2, 0), (1, 3), (0, -1))),
    ((1, 6, 5, 7, 3), (1, 1, 1, 3, 4), 2, 'SAME'),
    ((2, 9, 7, 3), (3, 3, 3, 5), 1, 'SAME'),
    ((2, 9, 8, 3), (2, 2, 3, 5), 2, 'SAME'),
    ((2, 9, 8, 3), (1, 1, 3, 5), 1, 'SAME'),
    ((1, 8, 9, 2), (1, 1, 2, 3), 1, ((-1, 1), (0, -2))),
    ((2, 3, 2, 3, 64), (3, 3, 3, 64, 80), 1, 'SAME'),  # as one product of columns
    ((2, 5, 4, 130), (3, 3, 130, 128), 1, 'SAME'),
    ((1, 5, 4, 150), (4, 2, 150, 128), 1, ((2, 0), (1, 1))),
    ((1, 64, 65, 16), (3, 3, 16, 18), 1, 'SAME'),  # gradient of the kernel as of a section
    ((1, 132, 135, 16), (3, 2, 16, 3), 2, 'SAME'),
    ((1, 131, 65, 16), (3, 3, 16, 3), 1, 'SAME'),  # of a height that no tile divides
]


@pytest.mark.parametrize(('shape', 'kernel_shape', 'stride', 'padding'), CASES)
def test_equals_xla_forwards_and_backwards(shape, kernel_shape, stride, padding):
    x, kernel = _normal(0, shape), _normal(1, kernel_shape)
    check_map_and_gradients(
        lambda x, k: conv(x, k, stride=stride, padding=padding),
        lambda x, k: _oracle(x, k, stride, padding),
        x,
        kernel,
    )


@pytest.mark.parametrize('n_channels', [2, 16])
@pytest.mark.parametrize('limit', [1, 100, 10**9])
def test_slabs_of_any_size_give_the_same(monkeypatch, limit, n_channels):
    monkeypatch.setattr(conv_cpu, '_FORWARD_VOXELS', limit)
    monkeypatch.setattr(stacked_cpu, '_LEAST_VOXELS', limit)
    monkeypatch.setattr(stacked_cpu, '_NUMBERS', 0)
    c = n_channels
    x, kernel = _normal(0, (1, 12, 5, 4, c)), _normal(1, (3, 3, 3, c, c + 1))
    pads = ((1, 1),) * 3
    out = conv_cpu.conv(x, kernel, (1, 1, 1), pads)
    expected, pull = jax.vjp(lambda x, k: _oracle(x, k, 1, 'SAME'), x, kernel)
    np.testing.assert_allclose(out, expected, atol=1e-4)
    g = _normal(2, expected.shape)
    np.testing.assert_allclose(
        conv_cpu.kernel_gradient(x, kernel, g, strides=(1, 1, 1), pads=pads),
        pull(g)[1],
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize('n_dims', [2, 3])
def test_bfloat16_sums_in_float32(n_dims):
    x = _normal(0, (1, *(8,) * n_dims, 64), jnp.bfloat16)
    kernel = _normal(1, (*(3,) * n_dims, 64, 4), jnp.bfloat16)
    out, pull = jax.vjp(conv, x, kernel)
    assert out.dtype == jnp.bfloat16
    expected = _oracle(x.astype(jnp.float32), kernel.astype(jnp.float32), 1, 'SAME')
    np.testing.assert_allclose(out.astype(jnp.float32), expected, rtol=2**-7, atol=0.2)
    assert [d.dtype for d in pull(out)] == [jnp.bfloat16] * 2


def test_works_under_vmap_and_remat():
    x, kernel = _normal(0, (3, 1, 5, 4, 6, 2)), _normal(1, (3, 3, 3, 2, 3))
    expected = jnp.stack([_oracle(v, kernel, 1, 'SAME') for v in x])
    np.testing.assert_allclose(jax.vmap(lambda v: conv(v, kernel))(x), expected, atol=2e-5)
    loss = jax.checkpoint(lambda k: jnp.sum(jnp.square(conv(x[0], k))))
    oracle = jax.grad(lambda k: jnp.sum(jnp.square(_oracle(x[0], k, 1, 'SAME'))))(kernel)
    np.testing.assert_allclose(jax.grad(loss)(kernel), oracle, rtol=1e-4, atol=1e-3)


def test_split_over_devices_equals_one_device():
    x, kernel = _normal(0, (8, 6, 5, 4, 2)), _normal(1, (3, 3, 3, 2, 3))

    def loss(k, x):
        return jnp.mean(jnp.sin(conv(x, k)))

    expected = jax.value_and_grad(loss)(kernel, x)
    device_mesh = devices.make_device_mesh()
    assert device_mesh.size == 8
    split = jax.device_put(x, devices.split_batch(device_mesh))
    value, gradient = jax.jit(jax.value_and_grad(loss))(kernel, split)
    np.testing.assert_allclose(value, expected[0], atol=1e-6)
    np.testing.assert_allclose(gradient, expected[1], atol=1e-6)


@pytest.mark.parametrize(
    ('shape', 'side', 'padding'),
    [((0, 8, 8, 128), 3, 'SAME'), ((1, 2, 2, 128), 3, 'VALID'), ((1, 2, 2, 128), 4, 'VALID')],
)
def test_nothing_gives_nothing(shape, side, padding):
    x, kernel = jnp.zeros(shape), jnp.ones((side, side, 128, 128))
    expected = _oracle(x, kernel, 1, padding)
    out, pull = jax.vjp(lambda x, k: conv(x, k, padding=padding), x, kernel)
    assert out.shape == expected.shape
    of_x, of_kernel = pull(out)
    assert of_x.shape == shape
    assert of_kernel.shape == kernel.shape
    assert not of_kernel.any()


def test_is_exported_for_any_batch():
    (batch,) = jax.export.symbolic_shape('b')
    kernel = _normal(1, (3, 3, 128, 128))
    shape = jax.ShapeDtypeStruct((batch, 4, 4, 128), jnp.float32)
    exported = jax.export.export(jax.jit(lambda x: conv(x, kernel)))(shape)
    x = _normal(0, (2, 4, 4, 128))
    np.testing.assert_allclose(exported.call(x), _oracle(x, kernel, 1, 'SAME'), atol=1e-3)


def test_other_platforms_get_the_plain_convolution():
    x, kernel = _normal(0, (1, 6, 5, 4, 2)), _normal(1, (3, 3, 3, 2, 3))
    text = jax.jit(conv).trace(x, kernel).lower(lowering_platforms=('cuda',)).as_text()
    assert text.count('stablehlo.convolution') == 1
    assert 'stablehlo.while' not in text


@pytest.mark.parametrize(
    ('x', 'kernel', 'message'),
    [
        (jnp.ones((2, 3, 4)), jnp.ones((3, 3, 4)), 'expected'),
        (jnp.ones((1, 4, 4, 4, 2)), jnp.ones((3, 3, 2, 2)), 'expected'),
        (jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 3, 2)), '2 channels'),
        (jnp.ones((1, 4, 4, 2), jnp.bfloat16), jnp.ones((3, 3, 2, 2)), 'one float dtype'),
        (jnp.ones((1, 4, 4, 2), int), jnp.ones((3, 3, 2, 2), int), 'one float dtype'),
    ],
)
def test_says_what_does_not_fit(x, kernel, message):
    with pytest.raises(ValueError, match=message):
        conv(x, kernel)


def test_wrong_number_of_strides():
    with pytest.raises(ValueError, match='stride'):
        conv(jnp.ones((1, 4, 4, 4, 2)), jnp.ones((3, 3, 3, 2, 2)), stride=(2, 2), padding='VALID')
