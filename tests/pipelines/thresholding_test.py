"""Baselines by threshold."""

import numpy as np
import pytest

from sxt_jax.core.errors import InputError
from sxt_jax.pipelines.thresholding import adaptive, otsu


@pytest.fixture(name='truth')
def _truth() -> np.ndarray:
    z, y, x = np.ogrid[:20, :24, :28]
    return (z - 10) ** 2 + (y - 12) ** 2 + (x - 14) ** 2 < 49


@pytest.mark.parametrize('sign', [1, -1])
def test_otsu_finds_either_side(truth: np.ndarray, sign: int) -> None:
    noise = np.random.default_rng(0).normal(0, 0.05, truth.shape)
    assert (otsu(sign * truth + noise) == truth).all()


def test_the_side_can_be_given(truth: np.ndarray) -> None:
    image = truth.astype(np.float32)
    assert (otsu(image, foreground='brighter') == truth).all()
    assert (otsu(image, foreground='darker') == ~truth).all()


def test_adaptive_follows_a_gradient_that_defeats_otsu(truth: np.ndarray) -> None:
    small = np.zeros_like(truth)
    small[5:15:5, 4:22:6, 3:26:6] = True
    image = small + np.linspace(0, 6, truth.shape[2])
    found = adaptive(image, foreground='brighter')
    assert found[small].all()
    assert not (otsu(image, foreground='brighter')[small]).all()


@pytest.mark.parametrize('method', [otsu, adaptive])
@pytest.mark.parametrize(
    'image',
    [np.ones((4, 4, 4)), np.ones((4, 4)), np.full((4, 4, 4), np.nan), np.ones((4, 4, 4, 2))],
)
def test_bad_images(method, image: np.ndarray) -> None:
    with pytest.raises(InputError, match='some name'):
        method(image, name='some name')


def test_bad_side(truth: np.ndarray) -> None:
    with pytest.raises(InputError, match='foreground'):
        otsu(truth, foreground='lighter')
