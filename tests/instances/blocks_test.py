"""Volumes that are reconstructed block by block: the instances of the whole."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from sxt_jax.core.errors import InputError
from sxt_jax.instances import (
    Recipe,
    labels_to_flows,
    reconstruct,
    reconstruct_by_blocks,
    reconstruct_to_host,
)
from sxt_jax.instances import blocks as module

# All that instances can be judged by, so that each is summed over blocks.
STRICT = Recipe(
    min_diameter=3,
    max_diameter=30,
    max_flow_error=0.6,
    min_axis_ratio=0.3,
    min_foreground_share=0.5,
    split=True,
)


# Blocks of most tests have the same sides, so that few programs serve them.


def _scene(shape, n, *, kind='tanh', radius=9, noise=0.3):
    """Touching cells, some at the border: foreground and noisy flows."""
    rng = np.random.default_rng(0)
    centres = np.stack([rng.uniform(0, side, n) for side in shape], 1)
    place = np.stack(np.indices(shape), -1)
    squares = np.stack([np.square(place - centre).sum(-1) for centre in centres])
    labels = np.where(squares.min(0) <= radius**2, squares.argmin(0) + 1, 0).astype(np.int32)
    flows = np.asarray(labels_to_flows(labels, kind=kind))
    noisy = flows + rng.normal(0, noise, flows.shape).astype(np.float32)
    return (0.9 * (labels > 0)).astype(np.float32), noisy


@pytest.mark.parametrize(
    ('shape', 'n', 'recipe', 'blocks'),
    [
        ((40, 45), 9, Recipe(), [(16, 13), (100, 100)]),
        # By default, `STRICT` is of the anisotropic voxels below alone.
        pytest.param((40, 45), 9, STRICT, [(16, 13)], marks=pytest.mark.slow),
        pytest.param((60, 70), 14, STRICT, [(16, 13), (7, 70)], marks=pytest.mark.slow),
        ((24, 150), 12, Recipe.published(min_diameter=3, max_diameter=60, n_steps=25), [(16, 13)]),
        pytest.param((24, 28, 32), 7, STRICT, [(16, 13, 20)], marks=pytest.mark.slow),
    ],
)
def test_blocks_make_no_difference(shape, n, recipe, blocks):
    foreground, flows = _scene(shape, n)
    whole = np.asarray(reconstruct(foreground, flows, cell_radius=6, recipe=recipe))
    assert whole.max() > 4
    for block in blocks:
        found = reconstruct_by_blocks(foreground, flows, cell_radius=6, recipe=recipe, block=block)
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found, whole)


def test_flows_across_many_blocks_are_followed_to_their_end():
    # A tube whose flows lead from block to block, much further than any halo.
    foreground = np.zeros((9, 150), bool)
    foreground[2:7] = True
    flows = np.zeros((9, 150, 2), np.float32)
    flows[..., 1] = np.clip(140 - np.arange(150), -1, 1)
    recipe = Recipe(n_steps=256)
    found = reconstruct_by_blocks(foreground, flows, cell_radius=3, recipe=recipe, block=(9, 16))
    np.testing.assert_array_equal(found, foreground)


def test_anisotropic_voxels_and_parts_that_are_read_as_needed():
    foreground, flows = _scene((36, 100), 14)

    class Lazy:
        """Like a data set of a file: read by slices, and never all at once."""

        def __init__(self, array):
            self.array, self.shape, self.dtype = array, array.shape, array.dtype

        def __getitem__(self, index):
            part = self.array[index]
            assert part.size < self.array.size
            return part

    options = {'cell_radius': 6.0, 'voxel_size': (2.0, 1.0), 'recipe': STRICT}
    whole = reconstruct(foreground, flows, **options)
    found = reconstruct_by_blocks(Lazy(foreground), Lazy(flows), block=(16, 13), **options)
    np.testing.assert_array_equal(found, whole)


def test_every_block_is_the_same_program():
    foreground, flows = _scene((40, 45), 6, noise=0)
    options = {'cell_radius': 6, 'block': (16, 13), 'recipe': Recipe(n_direct=2)}
    reconstruct_by_blocks(foreground, flows, **options)
    n_programs = module._follow_block._cache_size()
    # Other files have another shape, and other longest flows.
    reconstruct_by_blocks(foreground[:37, :41], 0.7 * flows[:37, :41], **options)
    assert module._follow_block._cache_size() == n_programs


def test_what_is_wrong_is_told():
    foreground, flows = np.ones((6, 7, 8), bool), np.zeros((6, 7, 8, 3), np.float32)
    with pytest.raises(InputError, match='3 positive sides'):
        reconstruct_by_blocks(foreground, flows, cell_radius=3, block=(4, 4))
    flows[5, 5, 5, 1] = np.inf
    with pytest.raises(InputError, match='NaN or infinity'):
        reconstruct_by_blocks(foreground, flows, cell_radius=3, block=(4, 4, 4))
    unknown = np.where(np.arange(8) == 7, np.nan, foreground)
    with pytest.raises(InputError, match='foreground: NaN'):
        reconstruct_by_blocks(unknown, np.zeros_like(flows), cell_radius=3, block=(4, 4, 4))
    with pytest.raises(InputError, match='expected'):
        reconstruct_by_blocks(foreground, flows[..., :2], cell_radius=3)


@pytest.mark.parametrize('known_before', [True, False])
def test_a_device_too_small_for_the_volume_changes_nothing(monkeypatch, known_before):
    foreground, flows = _scene((40, 45), 6)
    whole = np.asarray(reconstruct(foreground, flows, cell_radius=6))

    def fails(*args, **options):
        raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: out of memory')

    told = []
    monkeypatch.setattr(module, 'fits_device', lambda shape: not known_before)
    monkeypatch.setattr(module, 'reconstruct', fails)
    options = {'cell_radius': 6, 'on_block': told.append}
    np.testing.assert_array_equal(reconstruct_to_host(foreground, flows, **options), whole)
    assert told == [1]

    def goes_wrong(*args, **options):
        raise jax.errors.JaxRuntimeError('INTERNAL: something else')

    monkeypatch.setattr(module, 'fits_device', lambda shape: True)
    monkeypatch.setattr(module, 'reconstruct', goes_wrong)
    with pytest.raises(jax.errors.JaxRuntimeError, match='something else'):
        reconstruct_to_host(foreground, flows, **options)


def test_flows_outside_of_the_cells_make_no_halo_longer():
    foreground, flows = _scene((40, 45), 6)
    foreground[0, 0] = 0
    flows[0, 0] = 1e6
    whole = np.asarray(reconstruct(foreground, flows, cell_radius=6))
    found = reconstruct_by_blocks(foreground, flows, cell_radius=6, block=(16, 13))
    np.testing.assert_array_equal(found, whole)
    shape, recipe = (40, 45), Recipe().filled_in(6.0, None)
    volume = module._Volume(foreground, flows, shape, (16, 13), recipe, None)
    assert module._survey(volume).halo < 40


def test_a_block_that_does_not_fit_is_told(monkeypatch):
    def fails(*args, **options):
        raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: out of memory')

    monkeypatch.setattr(module, '_follow_block', fails)
    with pytest.raises(InputError, match=r'block: \(64, 64\), which with 13 voxels around'):
        reconstruct_by_blocks(
            np.ones((6, 7), bool), np.ones((6, 7, 2)), cell_radius=3, block=(64, 64)
        )


def test_room_on_the_device(monkeypatch):
    assert module.fits_device((10, 10, 10))
    assert not module.fits_device((2**11, 2**10, 2**10))
    assert not module.fits_device((2**15, 8))
    monkeypatch.setattr(module, 'free_bytes', lambda device: 10**5)
    assert not module.fits_device((20, 20, 20))
