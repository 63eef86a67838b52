"""Bilinear interpolation in both conventions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sxt_jax.ops.bilinear import resize_bilinear, upsample_bilinear


@pytest.mark.parametrize(
    ('align_corners', 'expected'),
    [(False, [0, 0.75, 2.25, 3]), (True, [0, 1, 2, 3])],
)
def test_two_pixels_become_four(align_corners, expected):
    x = jnp.asarray([0.0, 3.0]).reshape(1, 1, 2, 1)
    doubled = upsample_bilinear(x, align_corners=align_corners)
    assert doubled.shape == (1, 2, 4, 1)
    np.testing.assert_allclose(doubled[0, :, :, 0], [expected, expected], atol=1e-6)


@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('sides', [(1, 1), (3, 5), (8, 2)])
def test_doubling_is_resizing_to_twice_the_sides(sides, align_corners):
    x = np.random.default_rng(0).normal(size=(2, *sides, 3)).astype(np.float32)
    doubled = upsample_bilinear(jnp.asarray(x), align_corners=align_corners)
    resized = resize_bilinear(jnp.asarray(x), [2 * n for n in sides], align_corners=align_corners)
    np.testing.assert_allclose(doubled, resized, atol=1e-6)


def test_a_ramp_stays_one_between_fixed_corners():
    ramp = jnp.broadcast_to(jnp.linspace(-1, 1, 5)[None, :, None, None], (1, 5, 4, 1))
    resized = resize_bilinear(ramp, (9, 4), align_corners=True)
    np.testing.assert_allclose(resized[0, :, 2, 0], np.linspace(-1, 1, 9), atol=1e-6)


@pytest.mark.parametrize('align_corners', [False, True])
def test_equals_pytorch(align_corners):
    torch = pytest.importorskip('torch')
    x = np.random.default_rng(1).normal(size=(2, 6, 5, 3)).astype(np.float32)
    for sides in ((12, 10), (7, 3), (1, 11)):
        ours = resize_bilinear(jnp.asarray(x), sides, align_corners=align_corners)
        theirs = torch.nn.functional.interpolate(
            torch.tensor(x).permute(0, 3, 1, 2),
            size=sides,
            mode='bilinear',
            align_corners=align_corners,
        )
        np.testing.assert_allclose(ours, theirs.permute(0, 2, 3, 1), atol=1e-5)


def test_keeps_the_dtype_and_has_a_gradient():
    x = jnp.ones((1, 2, 3, 1), jnp.bfloat16)
    assert upsample_bilinear(x, align_corners=True).dtype == jnp.bfloat16
    weights = jnp.arange(24.0).reshape(1, 4, 6, 1)
    gradient = jax.grad(lambda a: jnp.sum(weights * upsample_bilinear(a, align_corners=False)))(
        jnp.ones((1, 2, 3, 1))
    )
    # All weight goes somewhere: each new pixel's shares add up to 1.
    assert float(gradient.sum()) == pytest.approx(float(weights.sum()))
