"""Tilt series and reconstruction: blur, misalignment, noise, missing wedge, quantitative LAC."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import ndimage

from sxt_jax.core.errors import InputError
from sxt_jax.data import phantom
from sxt_jax.data.phantom import classes, optics

from .phantom_scene_test import SMALL

IDEAL = phantom.ImagingParameters(
    n_views=90, photons_per_pixel=None, zone_plate_nm=None, jitter_px=0.0, filter_name='ramp'
)
EMPTY = phantom.SceneParameters(shape=(32, 20, 32), voxel_size_nm=50.0, container='none')


def _series(absorption: np.ndarray, imaging: phantom.ImagingParameters, **scene) -> np.ndarray:
    parameters = dataclasses.replace(EMPTY, shape=absorption.shape, **scene)
    return phantom.tilt_series(
        np.random.default_rng(0), absorption, scene=parameters, imaging=imaging
    )


def _point(shape: tuple[int, int, int], index: tuple[int, int, int]) -> np.ndarray:
    absorption = np.full(shape, EMPTY.absorption.ice, np.float32)
    absorption[index] += 20
    return absorption


def _spread(profile: np.ndarray) -> float:
    """Standard deviation of a peak, in pixels."""
    weight = np.maximum(profile, 0)
    place = np.arange(profile.size)
    mean = (weight * place).sum() / weight.sum()
    return float(np.sqrt((weight * (place - mean) ** 2).sum() / weight.sum()))


def test_simulate_is_seeded_and_complete():
    imaging = phantom.ImagingParameters(n_views=24)
    first = phantom.simulate(11, scene=SMALL, imaging=imaging)
    again = phantom.simulate(11, scene=SMALL, imaging=imaging)
    other = phantom.simulate(12, scene=SMALL, imaging=imaging)
    for name in ('image', 'labels', 'instances', 'organelles', 'absorption'):
        volume = getattr(first, name)
        assert volume.shape == SMALL.shape
        assert volume.voxel_size_nm == (100.0,) * 3
        np.testing.assert_array_equal(volume.data, getattr(again, name).data)
        assert (volume.data != getattr(other, name).data).any()
    assert first.image.dtype == np.float32
    assert np.isfinite(first.image.data).all()
    assert first.labels.class_names[4] == 'mitochondria'
    assert first.tilt_series.shape[0] == first.tilt_deg.size == 24
    np.testing.assert_allclose(first.tilt_deg, np.arange(24) * 7.5)


def test_full_rotation_without_noise_returns_the_absorption():
    found = phantom.simulate(3, scene=SMALL, imaging=IDEAL)
    image, true, labels = found.image.data, found.absorption.data, found.labels.data
    for class_id in np.unique(labels):
        here = labels == class_id
        if class_id == classes.BACKGROUND:  # ice away from the bright wall
            here = ndimage.binary_erosion(here, iterations=2, border_value=0)
        assert image[here].mean() == pytest.approx(true[here].mean(), rel=0.1), class_id
    for class_id in (classes.CYTOPLASM, classes.NUCLEUS, classes.BEAD):
        here = ndimage.binary_erosion(labels == class_id)
        assert image[here].mean() == pytest.approx(true[here].mean(), rel=0.02)
    assert np.corrcoef(image.ravel(), true.ravel())[0, 1] > 0.98


def test_sirt_returns_the_absorption_and_nothing_negative():
    imaging = dataclasses.replace(IDEAL, method='sirt', n_views=60, n_iterations=40)
    found = phantom.simulate(3, scene=SMALL, imaging=imaging)
    assert found.image.data.min() >= 0
    for class_id in (classes.CYTOPLASM, classes.NUCLEUS, classes.BEAD):
        here = ndimage.binary_erosion(found.labels.data == class_id)
        true = found.absorption.data[here].mean()
        assert found.image.data[here].mean() == pytest.approx(true, rel=0.05)


def test_beer_lambert_along_an_axis():
    absorption = np.random.default_rng(0).uniform(0.1, 1, (32, 20, 32)).astype(np.float32)
    series = _series(absorption, dataclasses.replace(IDEAL, n_views=2))
    depth = (absorption - EMPTY.absorption.ice).sum(0) * 0.05  # view 0: along z, µm
    margin = (series.shape[2] - 32) // 2
    np.testing.assert_allclose(series[0][:, margin:-margin], depth, atol=1e-4)


@pytest.mark.parametrize('around', [0.0, 1.0])
def test_noise_falls_with_the_square_root_of_the_photons(around):
    depths = np.full((2, 60, 60), 0.7, np.float32)
    spread = {}
    for photons in (500.0, 2000.0, 8000.0):
        noisy = optics.photon_noise(
            np.random.default_rng(1), depths, photons=photons, surrounding_depth=np.full(2, around)
        )
        spread[photons] = noisy.std()
        expected = 1 / np.sqrt(photons * np.exp(-0.7 - around))
        assert noisy.std() == pytest.approx(expected, rel=0.05)
        assert noisy.mean() == pytest.approx(0.7, abs=3 * expected**2)
    assert spread[500.0] / spread[8000.0] == pytest.approx(4, rel=0.06)


def test_noise_of_the_image_falls_with_the_square_root_of_the_photons():
    absorption = np.full((32, 20, 32), EMPTY.absorption.ice, np.float32)
    spread = []
    for photons in (1000.0, 16000.0):
        imaging = dataclasses.replace(IDEAL, photons_per_pixel=photons)
        image = phantom.reconstruct(_series(absorption, imaging), scene=EMPTY, imaging=imaging)
        spread.append(float(np.asarray(image)[8:24, :, 8:24].std()))
    assert spread[0] / spread[1] == pytest.approx(4, rel=0.1)


def test_black_pixels_stay_finite():
    noisy = optics.photon_noise(
        np.random.default_rng(0),
        np.full((1, 4, 4), 40.0),
        photons=100.0,
        surrounding_depth=np.zeros(1),
    )
    np.testing.assert_allclose(noisy, np.log(100), rtol=1e-6)


def test_misalignment_moves_views():
    point = _point((32, 20, 32), (16, 8, 20))
    still = _series(point, IDEAL)
    shaken = _series(point, dataclasses.replace(IDEAL, jitter_px=1.5))
    moved = []
    for a, b in zip(still, shaken, strict=True):
        y0, u0 = np.array(ndimage.center_of_mass(np.maximum(a, 0)))
        y1, u1 = np.array(ndimage.center_of_mass(np.maximum(b, 0)))
        moved.append((y1 - y0, u1 - u0))
    expected = np.random.default_rng(0).normal(0, 1.5, (90, 2))
    np.testing.assert_allclose(moved, expected, atol=0.05)


def test_blur_grows_with_defocus_as_the_optics_say():
    shape = (96, 24, 24)
    imaging = dataclasses.replace(IDEAL, n_views=2, zone_plate_nm=40.0, n_depth_slabs=9)
    spreads = {}
    for z in (48, 4):
        view = _series(_point(shape, (z, 12, 12)), imaging)[0]
        spreads[z] = _spread(view.sum(0)), _spread(view.sum(1))
    for z, (along_u, along_y) in spreads.items():
        sigma_px = optics.blur_sigma_nm(imaging, np.array([(z - 47.5) * 50.0]))[0] / 50
        assert along_u == pytest.approx(along_y, rel=0.02)
        # Linear interpolation between pixels adds up to 1/4 px².
        assert sigma_px * 0.95 < along_u < np.sqrt(sigma_px**2 + 0.3)
    assert spreads[4][0] > 1.2 * spreads[48][0]


def test_in_focus_resolution_is_about_the_outermost_zone():
    for zone in (25.0, 60.0):
        imaging = phantom.ImagingParameters(zone_plate_nm=zone)
        in_focus, off = optics.blur_sigma_nm(imaging, np.array([0.0, 5000.0]))
        assert 2.3548 * in_focus == pytest.approx(zone, rel=0.05)
        assert off > in_focus
    assert optics.blur_sigma_nm(IDEAL, np.array([0.0, 5000.0])).tolist() == [0, 0]


def test_missing_wedge_elongates_along_the_beam():
    centre = (24, 8, 24)
    z, y, x = (np.arange(n) - c for n, c in zip((48, 16, 48), centre, strict=True))
    distance = np.sqrt(z[:, None, None] ** 2 + y[:, None] ** 2 + x**2)
    absorption = (0.111 + np.clip(4.5 - distance, 0, 1)).astype(np.float32)
    scene = dataclasses.replace(EMPTY, shape=(48, 16, 48), container='grid')
    ratio = {}
    for tilt_range in (180.0, 130.0, 100.0):
        imaging = dataclasses.replace(
            IDEAL, n_views=61, tilt_range_deg=tilt_range, method='sirt', n_iterations=20
        )
        series = _series(absorption, imaging, container='grid')
        image = np.asarray(phantom.reconstruct(series, scene=scene, imaging=imaging)) - 0.111
        ratio[tilt_range] = _spread(image[12:37, 8, 24]) / _spread(image[24, 8, 12:37])
    assert ratio[180.0] == pytest.approx(1, abs=0.03)
    assert ratio[180.0] + 0.1 < ratio[130.0] < ratio[100.0] - 0.05


def test_ice_of_a_grid_costs_photons_but_leaves_no_mark():
    absorption = np.full((32, 20, 32), EMPTY.absorption.ice, np.float32)
    imaging = dataclasses.replace(IDEAL, n_views=41, tilt_range_deg=130.0, photons_per_pixel=1000.0)
    series = _series(absorption, imaging, container='grid')
    assert abs(series.mean()) < 0.01
    thickness_um = 32 * 0.05
    upright = 1 / np.sqrt(1000 * np.exp(-0.111 * thickness_um))
    tilted = 1 / np.sqrt(1000 * np.exp(-0.111 * thickness_um / np.cos(np.deg2rad(65))))
    assert series[20].std() == pytest.approx(upright, rel=0.06)
    assert series[0].std() == pytest.approx(tilted, rel=0.06)


def test_presets():
    t_cell = phantom.t_cell(4, shape=(48, 48, 48))
    assert {'cells', 'nucleus'} <= set(t_cell.objects['class_name'].tolist())
    assert (t_cell.labels.data == classes.CAPILLARY).any()
    inside = t_cell.instances.data == 1
    ice = (t_cell.labels.data == 0) & (t_cell.absorption.data > 0.1)
    ice = ndimage.binary_erosion(ice, iterations=2)
    assert t_cell.image.data[inside].mean() > 1.5 * t_cell.image.data[ice].mean()
    adherent = phantom.adherent_cell(4, shape=(24, 48, 48))
    assert adherent.image.shape == (24, 48, 48)
    np.testing.assert_allclose(adherent.tilt_deg, np.arange(-65, 66), atol=1e-9)
    assert adherent.image.data.min() >= 0


@pytest.mark.parametrize(
    'field',
    [
        {'n_views': 1},
        {'tilt_range_deg': 200.0},
        {'photons_per_pixel': 0.0},
        {'n_depth_slabs': 0},
        {'method': 'art'},
        {'filter_name': 'box'},
    ],
)
def test_bad_imaging_parameters_are_refused(field):
    with pytest.raises(InputError, match=next(iter(field))):
        dataclasses.replace(IDEAL, **field)
