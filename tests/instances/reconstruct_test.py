"""Reconstruction: the published results, better ones by default, and cells of awkward kinds."""

from __future__ import annotations

import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from sxt_jax.core.errors import InputError
from sxt_jax.instances import Recipe, labels_to_flows, reconstruct
from sxt_jax.metrics import average_precision, matched_dice

FIXTURE = pathlib.Path(__file__).parents[1] / 'fixtures' / 'cellpose3d_instances.npz'
BASE = {'min_diameter': 6, 'max_diameter': 60, 'max_flow_error': 0.5}
RECIPES = {
    'base': BASE,
    'no_smoothing_no_normalise': BASE
    | {'smoothing': 0.0, 'normalise': False, 'max_flow_error': 0.8},
    'inverted': BASE,
    'strict': BASE
    | {
        'max_flow_error': 0.285,
        'min_axis_ratio': 0.485,
        'threshold': 0.8,
        'min_foreground_share': 0.93,
        'max_diameter': 28,
    },
}


SHAPE = (40, 44, 48)  # of most cells, so that few programs serve them


def read_published():
    """What the released code made of a volume: all arrays, and its foreground and flows."""
    with np.load(FIXTURE) as file:
        arrays = dict(file)
    foreground = arrays['fg_map'].astype(np.float32) / 256
    flows = -np.stack([arrays[f'flow_{axis}'] for axis in 'xyz'], -1).astype(np.float32) / 256
    return arrays, foreground, flows


@pytest.fixture(scope='module')
def published():
    return read_published()


@pytest.mark.parametrize('name', RECIPES)
def test_published_steps_give_the_published_instances(published, name):
    arrays, foreground, flows = published
    recipe = Recipe.published(**RECIPES[name])
    found = np.asarray(reconstruct(foreground, flows, cell_radius=3, recipe=recipe))
    expected = arrays[f'instances_{name}']
    assert (np.bincount(found.ravel()) > 100).sum() == (np.bincount(expected.ravel()) > 100).sum()
    assert np.mean(found == expected) > 0.998


def test_default_is_better_than_the_published_one(published):
    arrays, foreground, flows = published
    found = np.asarray(reconstruct(foreground, flows, cell_radius=8))
    ours, theirs = (
        matched_dice(labels, arrays['true_labels']).mean
        for labels in (found, arrays['instances_base'])
    )
    assert ours > theirs
    assert found.max() == arrays['true_labels'].max()


def _ball(shape, centre, radius):
    grid = np.indices(shape)
    centre = np.reshape(centre, (-1, *(1,) * len(shape)))
    return np.square(grid - centre).sum(0) <= radius**2


def _reconstruct(labels, *, cell_radius=6.0, kind='tanh', noise=0.0, **options):
    flows = np.asarray(labels_to_flows(labels, kind=kind))
    flows = flows + np.random.default_rng(0).normal(0, noise, flows.shape).astype(np.float32)
    return np.asarray(reconstruct(labels > 0, flows, cell_radius=cell_radius, **options))


def _same(found, labels):
    assert average_precision(found, labels, thresholds=(0.9,)).ap[0] == 1
    assert ((found > 0) <= (labels > 0)).all()


@pytest.mark.parametrize('kind', ['heat', 'tanh', 'span'])
@pytest.mark.parametrize('noise', [0.0, 0.3])
def test_sparse_cells_are_all_found(kind, noise):
    labels = np.zeros(SHAPE, np.int32)
    centres = [(9, 9, 9), (9, 30, 10), (30, 10, 30), (28, 32, 36), (10, 20, 38)]
    for i, centre in enumerate(centres, 1):
        labels[_ball(labels.shape, centre, 7)] = i
    _same(_reconstruct(labels, kind=kind, noise=noise), labels)


def test_cells_in_a_plane():
    labels = np.zeros((60, 64), np.int32)
    for i, centre in enumerate([(12, 14), (14, 27), (40, 20), (44, 48)], 1):
        labels[_ball(labels.shape, centre, 8) & (labels == 0)] = i
    _same(_reconstruct(labels, cell_radius=8, kind='heat'), labels)


def test_nothing_and_one_cell_and_one_at_the_border():
    labels = np.zeros(SHAPE, np.int32)
    found = _reconstruct(labels)
    assert found.dtype == np.int32
    assert not found.any()
    labels[_ball(labels.shape, (10, 10, 10), 6)] = 7
    np.testing.assert_array_equal(_reconstruct(labels), labels > 0)
    labels = np.where(_ball(labels.shape, (0, 2, 47), 8), 3, 0).astype(np.int32)
    np.testing.assert_array_equal(_reconstruct(labels), labels > 0)


def test_two_cells_joined_by_one_voxel_stay_two():
    labels = np.zeros(SHAPE, np.int32)
    labels[_ball(labels.shape, (10, 10, 9), 7)] = 1
    labels[_ball(labels.shape, (10, 10, 25), 7)] = 2
    labels[10, 10, 17] = 2
    assert ndimage.label(labels)[1] == 1
    _same(_reconstruct(labels, kind='heat'), labels)


def test_a_bent_cell_is_one():
    labels = np.zeros((30, 40), np.int32)
    ring = _ball(labels.shape, (15, 18), 13) & ~_ball(labels.shape, (15, 18), 7)
    labels[ring & (np.indices(labels.shape)[1] < 22)] = 1
    found = _reconstruct(labels, kind='heat', cell_radius=6)
    _same(found, labels)


def test_anisotropic_voxels():
    shape = (16, 48, 48)
    grid = np.indices(shape) * np.array([3, 1, 1]).reshape(3, 1, 1, 1)
    labels = np.zeros(shape, np.int32)
    for i, centre in enumerate([(12, 12, 12), (12, 13, 31), (33, 30, 24)], 1):
        inside = np.square(grid - np.reshape(centre, (3, 1, 1, 1))).sum(0) <= 100
        labels[inside & (labels == 0)] = i
    flows = labels_to_flows(labels, kind='heat')
    found = reconstruct(labels > 0, flows, cell_radius=10, voxel_size=(3, 1, 1))
    _same(np.asarray(found), labels)


def test_more_than_65536_instances():
    labels = np.zeros((84, 160, 160), np.int32)
    labels[::2, ::2, ::2] = np.arange(1, 42 * 80 * 80 + 1).reshape(42, 80, 80)
    foreground, flows = labels > 0, np.zeros((*labels.shape, 3), np.float32)
    recipe = Recipe(min_diameter=0, smoothing=0)
    found = np.asarray(reconstruct(foreground, flows, cell_radius=0.5, recipe=recipe))
    np.testing.assert_array_equal(found, labels)


def test_instances_are_removed_by_size():
    labels = np.zeros(SHAPE, np.int32)
    for i, (centre, radius) in enumerate([((8, 8, 8), 2), ((8, 24, 10), 5), ((18, 15, 27), 10)], 1):
        labels[_ball(labels.shape, centre, radius)] = i
    for limits, kept in (
        ({}, (2, 3)),
        ({'min_diameter': 2.0}, (1, 2, 3)),
        ({'max_diameter': 14.0}, (2,)),
    ):
        found = _reconstruct(labels, recipe=Recipe(**limits))
        np.testing.assert_array_equal(found > 0, np.isin(labels, kept))


@pytest.mark.parametrize(
    ('change', 'told'),
    [
        (lambda f, v: (f, np.where(np.arange(3) == 1, np.nan, v)), 'NaN or infinity'),
        (lambda f, v: (np.where(np.arange(8) == 1, np.nan, f), v), 'foreground: NaN'),
        (lambda f, v: (f[1:], v), 'foreground'),
        (lambda f, v: (f, v[..., :2]), 'foreground'),
    ],
)
def test_what_is_wrong_is_told(change, told):
    foreground, flows = change(np.ones((6, 7, 8), bool), np.zeros((6, 7, 8, 3), np.float32))
    with pytest.raises(InputError, match=told):
        reconstruct(jnp.asarray(foreground), jnp.asarray(flows), cell_radius=3)
    for options in ({'cell_radius': 0}, {'cell_radius': 3, 'voxel_size': (1, 1)}):
        with pytest.raises(InputError, match='expected'):
            reconstruct(np.ones((6, 7, 8), bool), np.zeros((6, 7, 8, 3)), **options)
