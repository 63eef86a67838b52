"""Stages applied in turn, with networks whose answers are known."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from sxt_jax.core.devices import make_device_mesh
from sxt_jax.core.volume import Volume
from sxt_jax.data import stage_maps
from sxt_jax.data.binning import bin_mean
from sxt_jax.data.classes import Classes
from sxt_jax.data.intensity import Intensity
from sxt_jax.inference import add_classes
from sxt_jax.ops.resample import resize
from sxt_jax.pipelines.retile import retile
from sxt_jax.pipelines.segmenter import Segmenter, predict_image

SHAPE = (25, 22, 30)
Z, Y, X = np.indices(SHAPE)
BALL = ((Z - 8) ** 2 + (Y - 8) ** 2 + (X - 9) ** 2 < 25).astype(np.float32)


def bright(variables, tiles):
    """Class 1 where the gray value is high."""
    p = tiles[..., :1]
    return {'probs': jnp.concatenate([1 - p, p], -1)}


def doubtful(variables, tiles):
    """Halfway between what is given and 1/2."""
    return {'probs': 0.5 * tiles[..., 1:] + 0.25}


def make_segmenter(apply_fn, **fields):
    return Segmenter(
        apply_fn=apply_fn,
        variables={},
        classes=Classes(('background', 'ball'), (0, 1)),
        intensity=Intensity(),
        n_channels=1,
        working_shape=None,
        tiling={'tile': (8, 8, 8), 'overlap': (4, 4, 4), 'blend': 'cosine', 'batch_size': None},
        voxel_size_nm=None,
        device_mesh=make_device_mesh(),
        **fields,
    )


def predict(segmenter):
    rows = list(predict_image(segmenter, Volume(BALL), name='ball', finish=add_classes))
    assert [z for z, _ in rows] == [0, *np.cumsum([len(h['probs']) for _, h in rows])[:-1]]
    return np.concatenate([heads['probs'] for _, heads in rows])


COARSE = make_segmenter(bright, binning=(2, 2, 2))


def enlarged(bins):
    """On the voxels of the file; the last bins reach beyond it."""
    large = np.asarray(resize(bins, [2 * n for n in bins.shape]))
    return large[tuple(slice(n) for n in SHAPE)]


def test_a_network_of_volumes_sees_bins_and_answers_voxels():
    expected = enlarged(bin_mean(BALL, (2, 2, 2)))
    np.testing.assert_allclose(predict(COARSE)[..., 1], expected, atol=1e-5)


@pytest.mark.parametrize('in_memory', [True, False])
def test_a_later_stage_sees_the_bytes_of_the_earlier(in_memory, monkeypatch):
    monkeypatch.setattr(stage_maps, 'fits_in_memory', lambda n: in_memory)
    found = predict(make_segmenter(doubtful, earlier=COARSE))
    bins = np.rint(255 * bin_mean(BALL, (2, 2, 2))) / 255
    np.testing.assert_allclose(found[..., 1], 0.5 * enlarged(bins) + 0.25, atol=2e-3)


def test_bins_may_differ_from_stage_to_stage_and_grids_be_fixed():
    middle = make_segmenter(doubtful, earlier=COARSE, binning=(1, 2, 2))
    assert predict(middle).shape == (*SHAPE, 2)
    fixed = make_segmenter(bright)
    fixed = dataclasses.replace(fixed, working_shape=(16, 16, 16))
    found = predict(make_segmenter(doubtful, earlier=fixed))
    small = np.rint(255 * np.asarray(resize(BALL, (16, 16, 16)))) / 255
    expected = 0.5 * np.asarray(resize(small, SHAPE)) + 0.25
    np.testing.assert_allclose(found[..., 1], expected, atol=2e-3)


def test_a_surface_stage_leaves_what_is_far_from_the_surface():
    surface = make_segmenter(doubtful, earlier=COARSE, surface_voxels=1)
    found, before = predict(surface)[..., 1], predict(make_segmenter(bright, earlier=COARSE))
    before = enlarged(np.rint(255 * bin_mean(BALL, (2, 2, 2))) / 255)
    classes = np.rint(255 * bin_mean(BALL, (2, 2, 2))) > 127
    edge = ndimage.maximum_filter(classes, 3) != ndimage.minimum_filter(classes, 3)
    edge = np.kron(edge, np.ones((2, 2, 2), bool))[tuple(slice(n) for n in SHAPE)]
    far = ndimage.distance_transform_cdt(~edge) > 8
    assert far.any()
    np.testing.assert_allclose(found[far], before[far], atol=2e-3)
    np.testing.assert_allclose(found[edge], 0.5 * before[edge] + 0.25, atol=0.13)
    assert np.abs(found - before)[edge].max() > 0.1


def test_all_stages_are_turned_and_blended_alike_but_tiles_are_of_the_last():
    segmenter = retile(
        make_segmenter(doubtful, earlier=COARSE), tile=(16, 16, 16), blend='constant', rotate=True
    )
    assert (segmenter.tiling['tile'], segmenter.earlier.tiling['tile']) == ((16,) * 3, (8,) * 3)
    assert segmenter.earlier.tiling['blend'] == segmenter.tiling['blend'] == 'constant'
    assert type(segmenter.apply_fn) is type(segmenter.earlier.apply_fn)
