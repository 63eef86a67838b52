"""Averages of several networks, whatever their tiles, grids and gray values, by known answers."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sxt_jax.core.devices import make_device_mesh
from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import Volume
from sxt_jax.data.cell_maps import FOUND
from sxt_jax.data.classes import Classes
from sxt_jax.data.intensity import Intensity
from sxt_jax.io import read_volume, write_volume
from sxt_jax.pipelines import segment_volume
from sxt_jax.pipelines.ensemble import in_step, list_checkpoints
from sxt_jax.pipelines.segment_volume import Options, probability_path, segment_files
from sxt_jax.pipelines.segmenter import Segmenter

SHAPE = (9, 10, 12)


@dataclasses.dataclass(frozen=True)
class Share:
    """The probability of the class is a share of the gray value; or both maps of cells are."""

    share: float
    maps: bool = False

    def __call__(self, variables, tiles):
        found = self.share * tiles
        if self.maps:
            return {'mask': found, 'boundary': found / 2}
        return {'probs': jnp.concatenate([1 - found, found], axis=-1)}


def network(apply_fn, depth=4, **fields):
    known = {
        'apply_fn': apply_fn, 'variables': np.float32(0), 'intensity': Intensity('unit'),
        'n_channels': 1, 'classes': Classes(('background', 'cell'), (0, 5)),
        'working_shape': None,
        'tiling': {'tile': (depth, 8, 8), 'overlap': (depth // 2, 2, 2), 'blend': 'cosine',
                   'batch_size': 4},
        'voxel_size_nm': None, 'device_mesh': make_device_mesh(jax.devices()[:1]),
    }  # fmt: skip
    return Segmenter(**{**known, **fields})


NETWORKS = {
    'A': network(Share(2.0), intensity=Intensity()),  # files hold half the gray value
    'B': network(Share(0.9), depth=6),
    'C': network(Share(0.2), depth=8),
    'whole': network(Share(1.0), depth=4, working_shape=SHAPE),
    'maps': network(Share(0.8, maps=True), classes=FOUND, has_maps=True),
    'weak': network(Share(0.3, maps=True), depth=6, classes=FOUND, has_maps=True),
    'other': network(Share(1.0), classes=Classes(('background', 'cell'), (0, 6))),
    'colour': network(Share(1.0), n_channels=3),
}


@pytest.fixture(name='gray')
def _gray(tmp_path, monkeypatch):
    monkeypatch.setattr(segment_volume, 'load_segmenter', lambda name, **_: NETWORKS[name])
    gray = np.random.default_rng(0).random(SHAPE).astype(np.float32)
    gray.flat[:2] = 0, 1
    write_volume(tmp_path / 'a.npy', Volume(gray / 2))
    return gray


def segment(tmp_path, names):
    (outcome,) = segment_files(
        names, tmp_path / 'a.npy', tmp_path / 'out', options=Options(probabilities=True)
    )
    assert not outcome.error
    labels, probs = read_volume(outcome.labels), read_volume(probability_path(outcome.labels))
    return labels.data, probs.data


def test_probabilities_are_averaged_in_whatever_slabs_and_order(tmp_path, gray):
    labels, probs = segment(tmp_path, 'A,B,C')
    assert probs.dtype == np.float32
    np.testing.assert_allclose(probs[..., 1], 0.7 * gray, atol=1e-6)
    np.testing.assert_array_equal(labels, np.where(probs[..., 1] > probs[..., 0], 5, 0))
    majority = np.where(0.9 * gray > 0.5, 5, 0)
    assert (labels != majority).mean() > 0.1
    for names in itertools.permutations('ABC'):
        again = segment(tmp_path, ','.join(names))
        np.testing.assert_array_equal(again[0], labels)
        np.testing.assert_array_equal(again[1], probs)


@pytest.mark.parametrize('name', ['B', 'maps', 'whole'])
def test_the_mean_of_a_network_with_itself_is_what_it_finds(tmp_path, gray, name):
    alone, three = segment(tmp_path, name), segment(tmp_path, f'{name},{name}, {name}')
    for one, mean in zip(alone, three, strict=True):
        assert one.dtype == mean.dtype
        np.testing.assert_array_equal(one, mean)


def test_members_may_work_on_other_grids(tmp_path, gray):
    _, probs = segment(tmp_path, 'whole,C')
    np.testing.assert_allclose(probs[..., 1], 0.6 * gray, atol=1e-6)


def test_maps_of_cells_are_averaged(tmp_path, gray):
    labels, maps = segment(tmp_path, 'maps,weak')
    mask = 255 * 0.55 * gray
    assert np.abs(maps[..., 0] - mask).max() <= 1.01  # written, averaged, and written again
    sure = np.abs(mask - 127.5) > 1
    np.testing.assert_array_equal(labels[sure], (mask > 127.5)[sure])


def test_one_network_takes_its_own_way(tmp_path, gray, monkeypatch):
    from sxt_jax.pipelines import ensemble

    monkeypatch.setattr(ensemble, 'in_step', None)
    _, probs = segment(tmp_path, 'A')
    np.testing.assert_allclose(probs[..., 1], gray, atol=1e-6)


@pytest.mark.parametrize(
    ('names', 'options', 'told'),
    [
        ('A,other', {}, 'other: finds background=0, cell=6; expected background=0, cell=5 as A'),
        ('maps,A', {}, 'A: finds background=0, cell=5; expected maps of cells as maps finds'),
        ('A,colour', {}, 'colour: takes 3 channels; expected 1 as A'),
        ('A,,B', {}, "'A,,B'; expected one, or several as A,B,C"),
        ('A,B', {'instances': True, 'cell_radius': 3}, 'flows of several networks are not'),
    ],
)
def test_what_cannot_be_averaged_is_told(tmp_path, gray, names, options, told):
    with pytest.raises(InputError, match=told):
        segment_files(names, tmp_path / 'a.npy', tmp_path / 'out', options=Options(**options))


def test_slabs_are_cut_where_any_stream_is():
    whole = np.arange(20).reshape(10, 2)
    cuts = ([3, 4, 9], [], [5])
    streams = [iter(np.split(whole, cut)) for cut in cuts]
    starts = []
    for z, slabs in in_step(streams):
        starts.append(z)
        for slab in slabs:
            np.testing.assert_array_equal(slab, whole[z : z + len(slabs[0])])
    assert starts == [0, 3, 4, 5, 9]
    with pytest.raises(AssertionError, match='different depth'):
        list(in_step([iter([whole]), iter([whole[:9]])]))


def test_a_folder_with_a_comma_in_its_name_is_one_checkpoint(tmp_path):
    folder = tmp_path / 'a,b'
    folder.mkdir()
    assert list_checkpoints(str(folder)) == [str(folder)]
    assert list_checkpoints(folder) == [folder]
    assert list_checkpoints('a, b') == ['a', 'b']
