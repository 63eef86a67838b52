"""The simulated FIB-SEM stack: cells in contact with islands in slices, and lines that fade."""

import dataclasses

import numpy as np
import pytest
from scipy import ndimage

from sxt_jax.core.errors import InputError
from sxt_jax.data.phantom import (
    MicroscopeParameters,
    boundaries_of,
    simulate_stack,
    tissue_parameters,
)
from sxt_jax.data.phantom.classes import FILOPODIUM, MITOCHONDRION, NUCLEUS
from sxt_jax.data.phantom.tissue import packed_bodies

SCENE = dataclasses.replace(
    tissue_parameters((24, 64, 64), voxel_size_nm=220.0),
    n_mitochondria=(2, 4),
    n_filopodia=(6, 10),
    n_lipid_droplets=(0, 1),
    n_vacuoles=(0, 1),
    texture=0.0,
)
CLEAR = MicroscopeParameters(faint_contacts=0.0, noise=0.0, blur_px=0.0, brightness_variation=0.0)


@pytest.fixture(scope='module')
def stacks():
    """The same tissue: with all contacts seen, with none seen, and with noise."""
    faint = dataclasses.replace(CLEAR, faint_contacts=1.0)
    looks = (CLEAR, faint, MicroscopeParameters())
    return [simulate_stack(3, scene=SCENE, microscope=look) for look in looks]


def touching(instances: np.ndarray) -> np.ndarray:
    """[k, 2] pairs of cells that are neighbours along y or x."""
    pairs = [
        np.stack([instances[:, 1:].ravel(), instances[:, :-1].ravel()], 1),
        np.stack([instances[..., 1:].ravel(), instances[..., :-1].ravel()], 1),
    ]
    found = np.sort(np.concatenate(pairs), 1)
    return np.unique(found[(found[:, 0] > 0) & (found[:, 0] != found[:, 1])], axis=0)


def test_cells_touch_and_their_filopodia_are_islands_in_slices(stacks):
    instances, labels = stacks[0].instances.data, stacks[0].labels.data
    n_cells = instances.max()
    assert n_cells >= 4
    assert len(touching(instances)) >= n_cells / 2
    assert 0.3 < (instances > 0).mean() < 0.9
    islands = 0
    for cell in range(1, n_cells + 1):
        mask = instances == cell
        pieces, n = ndimage.label(mask, np.ones((3, 3, 3)))
        sizes = np.bincount(pieces.ravel())[1:]
        assert n == 0 or sizes.max() > 0.95 * sizes.sum()
        islands += sum(max(0, ndimage.label(plane)[1] - 1) for plane in mask)
    assert islands > 2 * len(instances)
    for class_id in (NUCLEUS, MITOCHONDRION, FILOPODIUM):
        assert (instances[labels == class_id] > 0).all()
        assert (labels == class_id).any()


def test_boundaries_are_where_the_cell_ends_in_its_slice():
    instances = np.zeros((1, 5, 6), np.int32)
    instances[0, 1:4, 1:4], instances[0, 1:4, 4:] = 1, 2
    expected = np.zeros((5, 6), bool)
    expected[1:4, 1:] = True
    expected[2, 2] = expected[2, 5] = False
    np.testing.assert_array_equal(boundaries_of(instances)[0], expected)
    np.testing.assert_array_equal(boundaries_of(np.swapaxes(instances, 1, 2))[0], expected.T)


def test_lines_fade_between_cells_only(stacks):
    clear, faint, _ = (stack.image.data.astype(int) for stack in stacks)
    instances, boundaries = stacks[0].instances.data, stacks[0].boundaries.data
    np.testing.assert_array_equal(boundaries, boundaries_of(instances))
    contact = np.zeros(instances.shape, bool)
    for axis in (1, 2):
        a, b = np.moveaxis(instances, axis, 0)[1:], np.moveaxis(instances, axis, 0)[:-1]
        met = (a != b) & (a > 0) & (b > 0)
        np.moveaxis(contact, axis, 0)[1:] |= met
        np.moveaxis(contact, axis, 0)[:-1] |= met
    # One voxel around contacts belongs to them.
    near = ndimage.binary_dilation(contact, np.ones((1, 3, 3)))
    np.testing.assert_array_equal(clear[~near], faint[~near])
    assert (clear[contact] < 60).all()
    assert np.median(faint[contact]) > 120
    assert clear[boundaries].max() < 60 < clear[(instances > 0) & ~boundaries].mean()
    assert clear[instances == 0].mean() > clear[instances > 0].mean()


def test_the_same_seed_gives_the_same_bits(stacks):
    again = simulate_stack(3, scene=SCENE, microscope=MicroscopeParameters())
    np.testing.assert_array_equal(again.image.data, stacks[2].image.data)
    np.testing.assert_array_equal(again.organelles.data, stacks[0].organelles.data)
    means = stacks[2].image.data.mean((1, 2))
    assert means.std() > 1  # slices differ in brightness
    assert again.image.voxel_size_nm == (220.0,) * 3
    other = packed_bodies(np.random.default_rng(4), SCENE)[0].centre
    assert not np.allclose(other, packed_bodies(np.random.default_rng(3), SCENE)[0].centre)


def test_cells_press_on_each_other_but_do_not_share_their_middle():
    bodies = packed_bodies(np.random.default_rng(0), SCENE)
    centres = np.stack([body.centre for body in bodies])
    apart = np.linalg.norm(centres[:, None] - centres, axis=-1)[~np.eye(len(bodies), dtype=bool)]
    assert apart.min() >= 0.87 * 6000
    assert (apart < 6600).sum() > len(bodies) / 2  # some touch


def test_a_share_above_all_is_refused():
    with pytest.raises(InputError, match='faint_contacts'):
        MicroscopeParameters(faint_contacts=1.5)
