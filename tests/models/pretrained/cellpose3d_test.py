"""Weights of Cellpose3D: the published outputs, flows turned, and files that do not fit."""

from __future__ import annotations

import functools
import json

import jax
import numpy as np
import pytest

from sxt_jax.core.errors import InputError
from sxt_jax.models import Cellpose3DNet
from sxt_jax.models.pretrained import load_cellpose3d
from tests.models.pretrained import published3d

FIXTURE = 'cellpose3d_unet_small.npz'
_save = functools.partial(published3d.save, prefix='network.')


@pytest.fixture(scope='module')
def fixture():
    return published3d.read_fixture(FIXTURE)[0]


@pytest.fixture(scope='module')
def tensors():
    return published3d.read_fixture(FIXTURE)[1]


def _published(heads):
    """Our heads as the published output [b, 4, z, y, x]."""
    channels = np.concatenate([heads['foreground'], -heads['flows']], axis=-1)
    return np.moveaxis(channels, -1, 1)


def _apply(loaded, x):
    return jax.jit(loaded.model.apply)(loaded.variables, np.moveaxis(x, 1, -1))


@pytest.mark.parametrize('prefix', ['network.', 'module.network.', ''])
def test_reproduces_the_published_network(fixture, tensors, tmp_path, prefix):
    loaded = load_cellpose3d(_save(tmp_path / 'weights.npz', tensors, prefix=prefix))
    assert loaded.model == Cellpose3DNet(features=8)
    if not prefix:
        heads = _apply(loaded, fixture['input'])
        np.testing.assert_allclose(_published(heads), fixture['output'], atol=1e-4)


# Bottoms of very few voxels are left out: instance norm then divides by almost nothing, and float32
# differs from float64 by more than 1e-4, in PyTorch too.
def test_reproduces_another_width_and_other_sides(tmp_path):
    features, n_channels, sides = 5, 3, (16, 8, 32)
    shapes = published3d.cellpose3d_shapes(features, n_channels)
    tensors = published3d.random_tensors(shapes, seed=features)
    x = np.random.default_rng(1).random((1, n_channels, *sides), np.float32)
    loaded = load_cellpose3d(_save(tmp_path / 'weights.npz', tensors))
    expected = published3d.cellpose3d(tensors, x[0].astype(float))
    np.testing.assert_allclose(_published(_apply(loaded, x))[0], expected, atol=1e-4)
    assert loaded.metadata['n_channels'] == n_channels


def test_the_numpy_network_is_the_published_one(fixture, tensors):
    found = published3d.cellpose3d(tensors, fixture['input'][0].astype(float))
    np.testing.assert_allclose(found, fixture['output'][0], atol=1e-6)


def test_only_the_flows_are_turned(tensors, tmp_path):
    loaded = load_cellpose3d(_save(tmp_path / 'weights.npz', tensors))
    head = loaded.variables['params']['head']
    signs = np.array([1, -1, -1, -1])
    published = tensors['out.6.weight'][..., 0, 0, 0].T
    np.testing.assert_array_equal(head['kernel'][0, 0, 0], published * signs)
    np.testing.assert_array_equal(head['bias'], tensors['out.6.bias'] * signs)
    assert 'sign' in loaded.metadata['heads']['flows']


def test_metadata_says_how_to_use_it(tensors, tmp_path):
    metadata = load_cellpose3d(_save(tmp_path / 'weights.npz', tensors)).metadata
    assert json.loads(json.dumps(metadata)) == metadata
    assert metadata['format'] == 'cellpose3d'
    assert metadata['intensity']['low_percent'] == 2.0
    assert metadata['intensity']['high_percent'] == 98.0
    assert (metadata['patch'], metadata['overlap']) == ([64, 128, 128], [8, 16, 16])
    assert set(metadata['heads']) == {'foreground', 'flows'}


@pytest.mark.parametrize('nested', [True, False])
def test_a_torch_file_gives_the_same(tensors, tmp_path, nested):
    torch = pytest.importorskip('torch')
    state = {f'network.{name}': torch.from_numpy(t) for name, t in tensors.items()}
    path = tmp_path / 'epoch=999.ckpt'
    # The second is a file as PyTorch wrote them before 1.6.
    saved = {'epoch': 999, 'state_dict': state} if nested else state
    torch.save(saved, path, _use_new_zipfile_serialization=nested)
    found = load_cellpose3d(path)
    expected = load_cellpose3d(_save(tmp_path / 'weights.npz', tensors))
    jax.tree.map(np.testing.assert_array_equal, found.variables, expected.variables)
    assert (found.model, found.metadata) == (expected.model, expected.metadata)


def _renamed(tensors):
    return {f'other.{name}': tensor for name, tensor in tensors.items()}


def _without(lost):
    return lambda tensors: {name: t for name, t in tensors.items() if name != lost}


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda t: {**t, 'c9.0.weight': t['c7.0.weight']}, r"too many, first 'c9\.0\.weight'"),
        (_without('u2.3.bias'), r"no tensor 'u2\.3\.bias'"),
        (
            _without('c1.2.weight'),
            r"no tensor 'c1\.2\.weight'",
        ),
        (lambda t: {**t, 'c1.2.weight': t['c1.2.bias']}, r"'c1\.2\.weight' of shape \(8,\)"),
        (lambda t: {**t, 'd2.0.weight': t['c3.0.weight']}, r"'d2\.0\.weight' of shape \(16, 16, 3"),
        (lambda t: {**t, 'out.6.bias': t['out.6.bias'][:3]}, r"'out\.6\.bias' of shape \(3,\)"),
        (lambda t: {**t, 'c4.0.bias': t['c4.0.bias'] * np.nan}, r"NaN or infinity .*'c4\.0\.bias'"),
        (_renamed, r"another network \(the first is 'other\.c1\.0\.weight'\)"),
        (lambda t: {}, 'no tensors at all'),
    ],
)
def test_says_which_tensor_does_not_fit(tensors, tmp_path, change, message):
    path = _save(tmp_path / 'wrong.npz', change(tensors), prefix='')
    with pytest.raises(InputError, match=message) as error:
        load_cellpose3d(path)
    assert 'wrong.npz' in str(error.value)
    assert '\n' not in str(error.value)


def test_says_which_file_is_broken(tensors, tmp_path):
    whole = _save(tmp_path / 'weights.npz', tensors).read_bytes()
    cut = tmp_path / 'cut.npz'
    for size in (0, 10, len(whole) // 2, len(whole) - 10):
        cut.write_bytes(whole[:size])
        with pytest.raises(InputError, match=r'cut\.npz'):
            load_cellpose3d(cut)
    with pytest.raises(InputError, match='no such file'):
        load_cellpose3d(tmp_path / 'nowhere.ckpt')


def test_says_which_torch_file_is_broken(tensors, tmp_path):
    torch = pytest.importorskip('torch')
    path = tmp_path / 'weights.ckpt'
    torch.save({name: torch.from_numpy(t) for name, t in tensors.items()}, path)
    whole = path.read_bytes()
    for damaged in (b'', whole[:-1000], b'<html>' + whole[6:]):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r'weights\.ckpt'):
            load_cellpose3d(path)
    torch.save([1, 2], path)
    with pytest.raises(InputError, match=r'weights\.ckpt.* a saved list'):
        load_cellpose3d(path)
