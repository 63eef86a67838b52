import json

import numpy as np
import pytest

from sxt_jax.core.errors import InputError
from sxt_jax.data.intensity import (
    KINDS,
    Intensity,
    NormalisedArray,
    fit_intensity,
    measure_affine,
    measure_statistics,
)


def _volume(seed=0, shape=(7, 9, 11), dtype=np.float32):
    return (np.random.default_rng(seed).gamma(3, 50, shape) + 10).astype(dtype)


def _normalise(kind, data, first=None):
    intensity = fit_intensity(kind, data if first is None else first)
    return measure_affine(intensity, data).apply(data)


def test_statistics_are_those_of_numpy_whatever_the_slabs(monkeypatch):
    data = _volume(shape=(13, 6, 5, 2))
    monkeypatch.setattr(
        'sxt_jax.core.volume.slabs.__kwdefaults__', {'max_bytes': 2 * 6 * 5 * 2 * 8}
    )
    found = measure_statistics(data)
    flat = data.reshape(-1, 2).astype(np.float64)
    np.testing.assert_allclose(found.mean, flat.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.std, flat.std(0), rtol=1e-12)
    np.testing.assert_array_equal(found.minimum, flat.min(0))
    np.testing.assert_array_equal(found.maximum, flat.max(0))


def test_each_kind_reaches_what_it_promises():
    data = _volume(dtype=np.uint16)
    np.testing.assert_array_equal(_normalise('none', data), data)
    unit = _normalise('unit', data)
    assert unit.min() == 0
    assert unit.max() == pytest.approx(1, abs=1e-6)
    standard = _normalise('standard', data)
    assert standard.mean() == pytest.approx(0, abs=1e-5)
    assert standard.std() == pytest.approx(1, abs=1e-5)
    low, high = np.percentile(_normalise('percentile', data), (2, 98))
    assert (low, high) == pytest.approx((0, 1), abs=1e-5)


def test_reference_gives_every_volume_the_first_ones_mean_and_sd():
    first, other = _volume(0), 3 * _volume(1) - 40
    scaled = (first - first.min()) / (first.max() - first.min())
    np.testing.assert_allclose(_normalise('reference', first), scaled, atol=1e-5)
    moved = _normalise('reference', other, first)
    assert moved.mean() == pytest.approx(scaled.mean(), abs=1e-5)
    assert moved.std() == pytest.approx(scaled.std(), abs=1e-5)


@pytest.mark.parametrize('kind', [k for k in KINDS if k != 'none'])
def test_normalised_values_do_not_depend_on_the_files_scale(kind):
    data = _volume()
    np.testing.assert_allclose(
        _normalise(kind, data), _normalise(kind, 5 * data + 3), rtol=1e-3, atol=1e-4
    )


def test_reading_lazily_equals_normalising_the_whole():
    data = _volume(shape=(6, 5, 4, 2))
    affine = measure_affine(Intensity('standard'), data)
    part = (slice(2, 5), slice(None), slice(1, 3), slice(None))
    np.testing.assert_array_equal(NormalisedArray(data, affine)[part], affine.apply(data)[part])


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_bad_voxels_are_refused(bad):
    data = _volume()
    data[1, 2, 3] = bad
    with pytest.raises(InputError, match=r'a\.tif: 1 or more voxels are NaN'):
        measure_affine(Intensity('unit'), data, name='a.tif')


def test_constant_images_and_unknown_kinds_are_refused():
    with pytest.raises(InputError, match='constant image'):
        measure_affine(Intensity('none'), np.full((3, 3, 3), 7))
    with pytest.raises(InputError, match='unknown kind'):
        Intensity('fancy')


def test_survives_json():
    intensity = fit_intensity('reference', _volume())
    assert Intensity.from_dict(intensity.to_dict()) == intensity


def test_normalised_values_are_cut_where_asked():
    data = _volume()
    plain = measure_affine(Intensity('standard'), data).apply(data)
    cut = measure_affine(Intensity('standard', clip=True), data).apply(data)
    assert plain.min() < 0 < 1 < plain.max()
    np.testing.assert_array_equal(cut, np.clip(plain, 0, 1))


def test_percentiles_can_be_others():
    data = _volume()
    low, high = np.percentile(data, (1, 99))
    found = measure_affine(Intensity('percentile', percentiles=(1.0, 99.0)), data).apply(data)
    np.testing.assert_allclose(found, (data - low) / (high - low), rtol=1e-4, atol=1e-5)


def test_what_the_oldest_checkpoints_lack_is_not_told_where_it_is_as_then():
    assert set(Intensity('percentile').to_dict()) == {'kind', 'mean', 'std'}
    changed = Intensity('percentile', clip=True, percentiles=(1.0, 99.0))
    assert Intensity.from_dict(json.loads(json.dumps(changed.to_dict()))) == changed


def test_each_slice_has_its_own_mean_and_sd():
    """Also where a part is read, and where a slice has no contrast."""
    rng = np.random.default_rng(0)
    for shape in ((5, 6, 7), (5, 6, 7, 2)):
        data = rng.random(shape) * np.arange(5).reshape(5, *[1] * (len(shape) - 1)) + 100
        affine = measure_affine(Intensity('slice'), data)
        found = affine.apply(data)
        mean, std = (f(data, axis=(1, 2), keepdims=True) for f in (np.mean, np.std))
        np.testing.assert_allclose(found[1:], (data - mean)[1:] / std[1:], atol=1e-3)
        np.testing.assert_allclose(found[0], 0, atol=1e-3)
        lazy = NormalisedArray(data, affine)
        part = (slice(1, 3), slice(2, 5), slice(0, 4))
        np.testing.assert_array_equal(lazy[part], found[part])
        np.testing.assert_array_equal(lazy[2:4], found[2:4])
    with pytest.raises(InputError, match='no slice has any contrast'):
        measure_affine(Intensity('slice'), np.ones((2, 3, 3)) * np.arange(2)[:, None, None])
    data[1, 2, 3] = np.nan
    with pytest.raises(InputError, match='NaN'):
        measure_affine(Intensity('slice'), data)
