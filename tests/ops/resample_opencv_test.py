"""Against what OpenCV itself made of volumes, and against its arithmetic in plain loops."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from sxt_jax.ops.resample_opencv import resize_class_rows, resize_image
from tests.ops import opencv

FIXTURE = pathlib.Path(__file__).parents[1] / 'fixtures' / 'opencv_resize.npz'
CASES = range(8)


def _classes_at(classes, shape, *, depth=None):
    depth = depth or shape[0]
    return np.concatenate([
        resize_class_rows(classes, shape, z, min(z + depth, shape[0]), n_classes=3)
        for z in range(0, shape[0], depth)
    ])  # fmt: skip


@pytest.mark.parametrize('case', CASES)
def test_is_what_opencv_makes(case):
    stored = np.load(FIXTURE)
    image, expected = stored[f'{case}/image'], stored[f'{case}/image_resized']
    np.testing.assert_allclose(resize_image(image, expected.shape), expected, atol=3e-6)
    expected = stored[f'{case}/classes_resized']
    np.testing.assert_array_equal(_classes_at(stored[f'{case}/classes'], expected.shape), expected)


@pytest.mark.parametrize('case', CASES)
def test_the_plain_loops_are_what_opencv_makes(case):
    """They stand for OpenCV in other tests."""
    stored = np.load(FIXTURE)
    image = stored[f'{case}/image'].astype(np.float32)
    expected = stored[f'{case}/image_resized']
    np.testing.assert_allclose(opencv.resize_volume(image, expected.shape), expected, atol=3e-6)
    expected = stored[f'{case}/classes_resized']
    found = opencv.resize_classes(stored[f'{case}/classes'], expected.shape)
    np.testing.assert_array_equal(found, expected)


def test_rows_and_slabs_are_parts_of_the_whole(monkeypatch):
    rng = np.random.default_rng(0)
    classes, image = rng.integers(0, 3, (13, 9, 8)).astype(np.uint8), rng.random((13, 9, 8, 2))
    for shape in ((21, 10, 9), (8, 12, 5)):
        np.testing.assert_array_equal(
            _classes_at(classes, shape, depth=4), _classes_at(classes, shape)
        )
        whole = resize_image(image, shape)
        assert whole.shape == (*shape, 2)
        monkeypatch.setattr('sxt_jax.ops.resample_opencv._SLAB_BYTES', 4 * 9 * 8 * 2 * 3)
        np.testing.assert_allclose(resize_image(image, shape), whole, atol=1e-6)
        monkeypatch.undo()


def test_the_same_shape_changes_nothing():
    rng = np.random.default_rng(0)
    classes, image = rng.integers(0, 3, (5, 6, 7)), rng.random((5, 6, 7)).astype(np.float32)
    np.testing.assert_array_equal(resize_image(image, (5, 6, 7)), image)
    np.testing.assert_array_equal(_classes_at(classes, (5, 6, 7)), classes)


def test_shapes_that_do_not_fit_are_told():
    with pytest.raises(ValueError, match=r'expected \[z, y, x'):
        resize_image(np.zeros((4, 4)), (4, 4, 4))
    with pytest.raises(ValueError, match='rows 3 to 5'):
        resize_class_rows(np.zeros((4, 4, 4)), (4, 4, 4), 3, 5, n_classes=2)
