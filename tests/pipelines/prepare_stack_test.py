"""Stacks are aligned, cropped and evened: against the stack before it was disturbed."""

import csv

import numpy as np
import pytest
from scipy import ndimage

from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import Volume
from sxt_jax.io import read_volume, write_volume
from sxt_jax.pipelines.prepare_stack import Options, prepare_stack

DEPTH, SIDE, RIM = 12, 96, 12


@pytest.fixture(scope='module')
def scene():
    """[z, y, x] uint8 that changes slowly along z, with a rim that shifts bring into view."""
    noise = np.random.default_rng(0).normal(size=(DEPTH, SIDE + 2 * RIM, SIDE + 2 * RIM))
    smooth = ndimage.gaussian_filter(noise, (3, 2, 2))
    return np.clip(127 + 40 * smooth / smooth.std(), 0, 255).astype(np.uint8)


@pytest.fixture(scope='module')
def shifts():
    walk = np.cumsum(np.random.default_rng(1).integers(-2, 3, (DEPTH, 2)), axis=0)
    return np.clip(walk - walk[0], -RIM, RIM)


def seen(scene, shifts):
    """What a microscope sees whose field moves: what lay at p is at p + shift."""
    corners = RIM - shifts
    pairs = zip(scene, corners, strict=True)
    return np.stack([s[y : y + SIDE, x : x + SIDE] for s, (y, x) in pairs])


def written(path, data, **facts):
    write_volume(path, Volume(data, (8.0, 4.0, 4.0), **facts))
    return path


def truth(scene, box):
    (top, left), (bottom, right) = box
    return scene[:, RIM + top : RIM + bottom, RIM + left : RIM + right]


def test_slices_are_moved_back(scene, shifts, tmp_path):
    source = written(tmp_path / 'a.tif', seen(scene, shifts))
    prepared = prepare_stack(source, tmp_path / 'b.zarr', options=Options(max_shift=16))
    np.testing.assert_array_equal(prepared.moves, -shifts)
    result = read_volume(tmp_path / 'b.zarr')
    np.testing.assert_array_equal(result.data, truth(scene, prepared.box))
    assert result.voxel_size_nm == (8.0, 4.0, 4.0)
    sizes = SIDE - np.ptp(shifts, axis=0)
    assert result.shape == (DEPTH, *sizes)
    rows = list(csv.DictReader((tmp_path / 'b.zarr.shifts.csv').open()))
    assert [int(row['moved_x_px']) for row in rows] == list(-shifts[:, 1])
    assert rows[0]['agreement'] == ''
    assert float(rows[1]['agreement']) > 0.3


@pytest.mark.parametrize('kind', ['noise', 'black', 'gray'])
def test_a_slice_that_is_not_recognised_displaces_no_others(scene, shifts, tmp_path, kind):
    stack = seen(scene, shifts)
    noise = np.random.default_rng(2).integers(0, 255, (SIDE, SIDE))
    stack[5] = {'noise': noise, 'black': 0, 'gray': 90}[kind]
    prepared = prepare_stack(written(tmp_path / 'a.tif', stack), tmp_path / 'b.tif')
    others = np.arange(DEPTH) != 5
    np.testing.assert_array_equal(prepared.moves[others], -shifts[others])


def test_drift_may_stay(scene, tmp_path):
    jitter = np.zeros((DEPTH, 2), int)
    jitter[6] = (3, 0)
    drift = np.stack([np.zeros(DEPTH, int), np.arange(DEPTH)], 1)
    source = written(tmp_path / 'a.tif', seen(scene, drift + jitter))
    all_moved = prepare_stack(source, tmp_path / 'b.tif')
    np.testing.assert_array_equal(all_moved.moves, -(drift + jitter))
    kept = prepare_stack(source, tmp_path / 'c.tif', options=Options(keep_drift=3))
    assert np.abs(kept.moves[:, 1]).max() <= 2  # at the ends
    assert kept.moves[6, 0] in (-3, -2)


def test_without_cropping_the_size_stays(scene, shifts, tmp_path):
    source = written(tmp_path / 'a.tif', seen(scene, shifts))
    prepare_stack(source, tmp_path / 'b.tif', options=Options(crop=False))
    result = read_volume(tmp_path / 'b.tif').data
    assert result.shape == (DEPTH, SIDE, SIDE)
    y, z = shifts[-1][0], DEPTH - 1
    inner = result[z, 12:-12, 12:-12]
    np.testing.assert_array_equal(inner, scene[z, RIM + 12 : -RIM - 12, RIM + 12 : -RIM - 12])
    assert (result[z, SIDE - y :] == 0).all() if y > 0 else (result[z, :-y] == 0).all()


def test_padding_is_found_and_cropped_and_not_counted(scene, tmp_path):
    stack = np.maximum(scene[:, RIM:-RIM, RIM:-RIM], 1)
    stack[3, :7] = 0
    stack[8, :, -5:] = 0
    source = written(tmp_path / 'a.tif', stack)
    options = Options(align=False, padding=0, contrast='match', contrast_slices=np.inf)
    prepared = prepare_stack(source, tmp_path / 'b.tif', options=options)
    assert prepared.box == ((7, 0), (SIDE, SIDE - 5))
    assert read_volume(tmp_path / 'b.tif').data.min() > 0


@pytest.mark.parametrize('kind', ['match', 'equalise'])
def test_contrast_becomes_even(scene, kind, tmp_path):
    stack = scene[:, RIM:-RIM, RIM:-RIM].astype(float)
    gains = np.where(np.arange(DEPTH) % 2, 1.0, 0.6)
    uneven = np.rint(stack * gains[:, None, None]).astype(np.uint8)
    options = Options(align=False, contrast=kind, contrast_slices=5)
    prepare_stack(written(tmp_path / 'a.tif', uneven), tmp_path / 'b.tif', options=options)
    means = read_volume(tmp_path / 'b.tif').data.mean((1, 2))
    assert np.ptp(uneven.mean((1, 2))) > 30
    assert np.ptp(means) < 6


def test_other_gray_values(scene, shifts, tmp_path):
    stack = seen(scene, shifts).astype(np.float32) / 100 - 1
    source = written(tmp_path / 'a.mrc', stack)
    prepared = prepare_stack(source, tmp_path / 'b.zarr')
    np.testing.assert_array_equal(prepared.moves, -shifts)
    with pytest.raises(InputError, match='float32, whose gray levels cannot be counted'):
        prepare_stack(source, tmp_path / 'c.zarr', options=Options(contrast='match'))
    stack[4, 3, 3] = np.nan
    with pytest.raises(InputError, match='slice 4: NaN'):
        prepare_stack(written(tmp_path / 'd.npy', stack), tmp_path / 'e.zarr')
    assert not (tmp_path / 'e.zarr').exists()


def test_bad_input(scene, tmp_path):
    source = written(tmp_path / 'a.tif', scene)
    for options, message in (
        (Options(contrast='flat'), 'contrast'),
        (Options(max_shift=0), 'max_shift'),
        (Options(keep_drift=-1), 'keep_drift'),
        (Options(keep_drift=np.inf), 'keep_drift'),
        (Options(contrast_slices=0), 'contrast_slices'),
        (Options(padding=300), 'padding'),
    ):
        with pytest.raises(InputError, match=message):
            prepare_stack(source, tmp_path / 'b.tif', options=options)
    with pytest.raises(InputError, match='a file of the input'):
        prepare_stack(source, source)
    with pytest.raises(InputError, match='the suffix'):
        prepare_stack(source, tmp_path / 'b.foo')
    one = written(tmp_path / 'one.tif', scene[:1])
    assert prepare_stack(one, tmp_path / 'c.tif').moves.tolist() == [[0, 0]]
    black = written(tmp_path / 'black.tif', np.zeros_like(scene))
    with pytest.raises(InputError, match='nothing but padding'):
        prepare_stack(black, tmp_path / 'd.tif', options=Options(padding=0))
    assert not (tmp_path / 'd.tif').exists()
