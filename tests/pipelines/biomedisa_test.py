"""An imported model of Biomedisa gives the labels that Biomedisa gives.

What Biomedisa does from image to labels is here in numpy, after its own code and apart from ours:
OpenCV's grids, gray values, mirrored margins, sums of probabilities over strided patches.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from sxt_jax.core.volume import Volume
from sxt_jax.inference.biomedisa import MirroredBeyond, padded_shape
from sxt_jax.io import read_volume, write_volume
from sxt_jax.pipelines.import_weights import Options, import_weights
from sxt_jax.pipelines.segment_volume import Options as SegmentOptions
from sxt_jax.pipelines.segment_volume import probability_path, segment_files
from tests.models.pretrained.biomedisa_models import (
    predict_patches,
    published_weights,
    random_weights,
    write_model,
)
from tests.ops import opencv

SCALE = (40, 32, 64)
LABELS = np.array([0, 2, 5], np.uint8)


def _normalised(image, *, normalise, patch_normalization):
    """Gray values [z, y, x] of a channel."""
    if not patch_normalization:
        image = (image - image.min()) / (image - image.min()).max()
    if normalise:
        image = np.clip((image - image.mean()) / image.std() * 0.17 + 0.31, 0, 1)
    return image


def _with_ghosts(image, patch):
    """Mirrored at the end to whole patches."""
    for axis, side in enumerate(patch):
        n, rest = image.shape[axis], -image.shape[axis] % side
        mirrored = np.flip(image.take(range(n - rest, n), axis), axis)
        image = np.concatenate([image, mirrored], axis)
    return image


def _sum_of_probs(image, weights, *, patch, stride, residual, patch_normalization):
    starts = [range(0, n - p + 1, stride) for n, p in zip(image.shape[:3], patch, strict=True)]
    total = 0.0
    for corner in itertools.product(*starts):
        box = tuple(slice(a, a + p) for a, p in zip(corner, patch, strict=True))
        x = image[box]
        if patch_normalization:
            x = (x - x.mean((0, 1, 2))) / np.maximum(x.std((0, 1, 2)), 1e-6)
        logits = predict_patches(weights, x[None], residual=residual)[0]
        probs = np.exp(logits - logits.max(-1, keepdims=True))
        total = total + np.zeros((*image.shape[:3], probs.shape[-1]))
        total[box] += probs / probs.sum(-1, keepdims=True)
    return total


def biomedisa(
    image, weights, *, patch, stride, scaling=1, normalise=1, patch_normalization=0, residual=False
):
    """Label values of an image [z, y, x, c]."""
    channels = list(np.moveaxis(image.astype(np.float32), 3, 0))
    if scaling:
        channels = [opencv.resize_volume(c, SCALE) for c in channels]
    options = {'normalise': normalise, 'patch_normalization': patch_normalization}
    gray = np.stack([_normalised(c, **options) for c in channels], -1).astype(np.float32)
    total = _sum_of_probs(
        _with_ghosts(gray, patch),
        weights,
        patch=patch,
        stride=stride,
        residual=residual,
        patch_normalization=patch_normalization,
    )
    classes = total.argmax(-1).astype(np.uint8)[tuple(slice(n) for n in gray.shape[:3])]
    return LABELS[opencv.resize_classes(classes, image.shape[:3]) if scaling else classes]


def _image(*shape, seed=0):
    """Blurred a little, so that there are regions of one class."""
    image = np.random.default_rng(seed).random(shape)
    for axis in range(3):
        image = image + np.roll(image, 1, axis) + np.roll(image, 2, axis)
    return (2000 * image).astype(np.uint16)


def _balanced(weights, image, *, normalise, patch_normalization=0, **_):
    """Weights with a head under which all classes are found."""
    channels = np.moveaxis(image[:24, :24, :24].astype(np.float32), 3, 0)
    gray = [_normalised(c, normalise=normalise, patch_normalization=0) for c in channels]
    if patch_normalization:
        gray = [(c - c.mean()) / c.std() for c in gray]
    logits = predict_patches(weights, np.stack(gray, -1)[None], residual=True)
    return {**weights, 'conv_4_1/bias': weights['conv_4_1/bias'] - logits.mean((0, 1, 2, 3))}


def _import(tmp_path, weights, *, patch, stride, n_channels=1, scaling=1, normalise=1, **meta):
    z, y, x = SCALE
    model = write_model(
        tmp_path / 'model.h5',
        weights,
        configuration=np.array([n_channels, x, y, z, normalise, 0, 1]),
        normalization=np.array([[0.31] * n_channels, [0.17] * n_channels]),
        labels=LABELS,
        patch_size=np.array(patch),
        scaling=scaling,
        **meta,
    )
    options = Options(overlap=[side - stride for side in patch])
    return import_weights('biomedisa', model, tmp_path / 'W', options=options)


def _segment(tmp_path, image, **options):
    axes = 'zyxc' if image.shape[3] > 1 else 'zyx'
    path = tmp_path / 'in' / 'image.h5'
    path.parent.mkdir()
    write_volume(path, Volume(image if 'c' in axes else image[..., 0], axes=axes))
    options = SegmentOptions(**options)
    (outcome,) = segment_files(tmp_path / 'W', path, tmp_path / 'out', options=options)
    assert not outcome.error
    return outcome.labels


@pytest.mark.parametrize('shape', [(47, 30, 80), (52, 37, 70)])
def test_gives_biomedisas_labels(tmp_path, shape):
    """Grids that shrink to the working grid along some axes, and along all."""
    how = {'patch': (32, 32, 32), 'stride': 16}
    weights, image = published_weights(), _image(*shape, 1)
    _import(tmp_path, weights, **how)
    path = _segment(tmp_path, image, probabilities=True)
    found, expected = read_volume(path).data, biomedisa(image, weights, **how)
    assert found.dtype == np.uint8
    assert len(np.unique(expected)) == 3
    assert np.mean(found == expected) > 0.9999  # but where two classes are equally probable
    probs = read_volume(probability_path(path)).data
    assert probs.shape == (*shape, 3)
    np.testing.assert_allclose(probs.sum(-1), 1, atol=1e-5)


@pytest.mark.parametrize(
    'how',
    [
        {'scaling': 0, 'normalise': 0, 'patch_normalization': 1},
        {'scaling': 0, 'normalise': 1, 'patch_normalization': 1},
        {'scaling': 0, 'normalise': 0},
        {'scaling': 1, 'normalise': 0},
    ],
)
def test_gives_biomedisas_labels_in_its_other_modes(tmp_path, how):
    """Residual, two channels; the stride does not divide the patch."""
    how = {'patch': (24, 12, 20), 'stride': 10, **how}
    image = _image(31, 25, 40, 2)
    weights = _balanced(random_weights((2, 3), 2, 3, residual=True), image, **how)
    _import(tmp_path, weights, n_channels=2, **how)
    found = read_volume(_segment(tmp_path, image)).data
    expected = biomedisa(image, weights, residual=True, **how)
    assert len(np.unique(expected)) > 1
    assert np.mean(found == expected) > 0.9999


def test_volumes_are_mirrored_to_what_the_patches_reach():
    assert padded_shape((256, 240, 30), tile=(64, 64, 64), overlap=(32, 32, 32)) == (256, 256, 64)
    # Of 48 voxels, two whole patches of 24, those of stride 10 reach 44.
    assert padded_shape((31, 44, 48), tile=(24,) * 3, overlap=(14,) * 3) == (44, 44, 54)
    data = np.random.default_rng(0).random((5, 4, 3, 2))
    mirrored = MirroredBeyond(data, (8, 4, 7))
    expected = np.pad(data, [(0, 3), (0, 0), (0, 4), (0, 0)], mode='symmetric')
    np.testing.assert_array_equal(mirrored[:], expected)
    index = (slice(4, 7), slice(1, 3), slice(0, 6), slice(0, 1))
    np.testing.assert_array_equal(mirrored[index], expected[index])
    np.testing.assert_array_equal(mirrored[6:8], expected[6:8])
