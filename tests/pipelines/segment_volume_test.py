"""Which files become which results; the network is a threshold with a known answer."""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from sxt_jax.core.devices import make_device_mesh
from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import Volume
from sxt_jax.data.classes import Classes
from sxt_jax.data.intensity import Intensity
from sxt_jax.io import read_volume, write_volume
from sxt_jax.pipelines import segment_volume
from sxt_jax.pipelines.segment_volume import (
    Options,
    Segmenter,
    label_path,
    probability_path,
    segment_files,
)

SIZE = (60.0, 30.0, 25.0)


def bright(variables, tiles):
    return {'probs': jnp.concatenate([1 - tiles, tiles], axis=-1)}


@pytest.fixture(autouse=True)
def _network(monkeypatch):
    segmenter = Segmenter(
        apply_fn=bright,
        variables=None,
        classes=Classes(('background', 'cell'), (0, 5)),
        intensity=Intensity('unit'),
        n_channels=1,
        working_shape=None,
        tiling={'tile': 8, 'overlap': 0, 'blend': 'constant', 'batch_size': 8},
        voxel_size_nm=SIZE,
        device_mesh=make_device_mesh(),
    )
    monkeypatch.setattr(segment_volume, 'load_segmenter', lambda *_, **__: segmenter)


def image(path, seed=0, shape=(9, 10, 11)):
    path.parent.mkdir(exist_ok=True)
    gray = np.random.default_rng(seed).random(shape).astype(np.float32)
    gray.flat[:2] = 0, 1
    write_volume(path, Volume(gray, SIZE))
    return np.where(gray > 0.5, 5, 0)


def segment(tmp_path, **options):
    outcomes = segment_files('W', tmp_path / 'in', tmp_path / 'out', options=Options(**options))
    assert not [outcome.error for outcome in outcomes if outcome.error]
    return outcomes


def test_files_of_one_stem_in_many_formats_keep_their_results_apart(tmp_path):
    names = ['b.tif', 'b.mrc', 'b.rec', 'b.nrrd', 'b.h5', 'b.zarr', 'b.npy']
    truths = {name: image(tmp_path / 'in' / name, i) for i, name in enumerate(names)}
    outcomes = segment(tmp_path, probabilities=True)
    assert {o.labels.name for o in outcomes} == set(names)
    for outcome in outcomes:
        labels = read_volume(outcome.labels)
        np.testing.assert_array_equal(labels.data, truths[outcome.source.name])
        np.testing.assert_allclose(labels.voxel_size_nm, SIZE, rtol=1e-6)
        probs = read_volume(probability_path(outcome.labels))
        np.testing.assert_allclose(probs.data.sum(-1), 1, atol=1e-6)
        np.testing.assert_array_equal(5 * np.argmax(probs.data, -1), labels.data)
    assert len({probability_path(o.labels) for o in outcomes}) == len(names)


def test_results_go_to_a_folder_not_to_the_name_of_a_file(tmp_path):
    write_volume(tmp_path / 'a.tif', Volume(np.zeros((2, 3, 4), np.uint8)))
    with pytest.raises(InputError, match=r'b\.tif: the name of a file; expected a folder'):
        segment_files(tmp_path / 'none', tmp_path / 'a.tif', tmp_path / 'b.tif')
    assert not (tmp_path / 'b.tif').exists()


def test_labels_that_would_replace_each_other_are_refused_before_any_work(tmp_path):
    image(tmp_path / 'in' / 'a.tif')
    for i in range(2):
        image(tmp_path / 'in' / 'a' / f's{i}.tif', shape=(1, 10, 11))
    with pytest.raises(InputError, match=r'its a\.tif would replace that of'):
        segment(tmp_path)
    assert not (tmp_path / 'out').exists()


def test_what_is_there_and_intact_is_skipped_when_asked(tmp_path):
    truth = image(tmp_path / 'in' / 'a.tif')
    image(tmp_path / 'in' / 'b.tif', 1)
    assert not any(o.skipped for o in segment(tmp_path))
    kept = tmp_path / 'out' / 'b.tif'
    before = kept.stat().st_mtime_ns
    damaged = tmp_path / 'out' / 'a.tif'
    damaged.write_bytes(damaged.read_bytes()[:100])
    assert [o.skipped for o in segment(tmp_path, skip_existing=True)] == [False, True]
    np.testing.assert_array_equal(read_volume(damaged).data, truth)
    assert kept.stat().st_mtime_ns == before
    assert not any(o.skipped for o in segment(tmp_path))


@pytest.mark.parametrize('suffix', ['.tif', '.h5', '.nrrd', '.zarr', '.npy', '.mrc'])
def test_classes_and_instances_are_not_taken_for_each_other(tmp_path, suffix):
    name = f'a{suffix}'
    image(tmp_path / 'in' / name)
    segment(tmp_path)
    wanted = Options(instances=True, cell_radius=3, skip_existing=True)
    folders = 'W', tmp_path / 'in', tmp_path / 'out'
    (outcome,) = segment_files(*folders, options=wanted)
    told = {'error': '', 'skipped': True}  # an MRC file does not show what it holds
    if suffix != '.mrc':
        assert f'{name}: holds labels of classes, not instances' in outcome.error
        told = {'error': f'{name}: holds instances, not labels of classes', 'skipped': False}
    instances = np.arange(9 * 10 * 11, dtype=np.uint16).reshape(9, 10, 11)
    write_volume(tmp_path / 'out' / name, Volume(instances, SIZE))
    (outcome,) = segment_files(*folders, options=Options(skip_existing=True))
    assert told['error'] in outcome.error
    assert outcome.skipped == told['skipped']
    (outcome,) = segment_files(*folders, options=wanted)
    assert outcome.skipped


def test_probabilities_are_results_as_well(tmp_path):
    image(tmp_path / 'in' / 'a.tif')
    segment(tmp_path)
    (outcome,) = segment(tmp_path, skip_existing=True, probabilities=True)
    assert not outcome.skipped
    (outcome,) = segment(tmp_path, skip_existing=True, probabilities=True)
    assert outcome.skipped
    image(tmp_path / 'in' / 'a.probabilities.tif')
    with pytest.raises(InputError, match=r'its a\.probabilities\.tif would replace that of'):
        segment(tmp_path, probabilities=True)


def test_labels_of_read_only_formats_pair_with_their_sources():
    names = {'a.am': 'a.tif', 'b.nhdr': 'b.tif', 'stack.1': 'stack.1.tif', 'c.mrc': 'c.mrc'}
    for source, expected in names.items():
        assert label_path(Path('in') / source, Path('out')) == Path('out') / expected


@pytest.mark.parametrize('options', [{'clean': -1}, {'fill': 1.5}, {'clean': float('nan')}])
def test_shares_out_of_range_are_told_once(tmp_path, options):
    image(tmp_path / 'in' / 'a.tif')
    with pytest.raises(InputError, match=f'{next(iter(options))}: .*a share of 0 … 1'):
        segment(tmp_path, **options)
    assert not (tmp_path / 'out').exists()


def test_a_data_set_is_named_for_those_that_have_several(tmp_path):
    import h5py

    truth = image(tmp_path / 'in' / 'a.tif')
    with h5py.File(tmp_path / 'in' / 'b.h5', 'w') as file:
        file['t0/channel0'] = read_volume(tmp_path / 'in' / 'a.tif').data
        file['other'] = np.zeros((3, 4, 5))
    for outcome in segment(tmp_path, dataset='t0/channel0'):
        np.testing.assert_array_equal(read_volume(outcome.labels).data, truth)
