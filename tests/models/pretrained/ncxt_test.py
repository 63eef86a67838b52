"""Weights of the NCXT's U-Net: the published outputs, other sizes, and files that do not fit."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

from sxt_jax.core.errors import InputError
from sxt_jax.models import UNet3D
from sxt_jax.models.pretrained import load_ncxt
from tests.models.pretrained import published3d

FIXTURE = 'ncxt_unet_small.npz'


@pytest.fixture(scope='module')
def fixture():
    return published3d.read_fixture(FIXTURE)[0]


@pytest.fixture(scope='module')
def tensors():
    return published3d.read_fixture(FIXTURE)[1]


def _logits(loaded, x):
    """[b, n_labels, z, y, x] of an image [b, c, z, y, x]."""
    heads = jax.jit(loaded.model.apply)(loaded.variables, np.moveaxis(x, 1, -1))
    return np.moveaxis(heads['logits'], -1, 1)


def test_reproduces_the_published_network(fixture, tensors, tmp_path):
    loaded = load_ncxt(published3d.save(tmp_path / 'weights.npz', tensors))
    assert loaded.model == UNet3D(n_labels=3, filters=(8, 16, 32), norm='instance', up='transposed')
    found = _logits(loaded, fixture['input'])[:, :, ::2, ::3, ::3]
    np.testing.assert_allclose(found, fixture['logits'], atol=1e-4)


@pytest.mark.parametrize(
    ('filters', 'n_labels', 'n_channels', 'sides', 'norm'),
    [
        ((2, 3, 4, 6), 2, 1, (16, 16, 16), 'instance'),
        ((5, 2), 4, 3, (4, 6, 8), 'instance'),
        ((3, 5), 2, 1, (4, 6, 8), 'none'),
        ((4,), 2, 1, (3, 4, 5), 'instance'),
    ],
)
def test_reproduces_other_depths_widths_and_sides(
    tmp_path, filters, n_labels, n_channels, sides, norm
):
    shapes = published3d.ncxt_shapes(filters, n_labels, n_channels)
    tensors = published3d.random_tensors(shapes, seed=len(filters))
    x = np.random.default_rng(1).random((1, n_channels, *sides), np.float32)
    loaded = load_ncxt(published3d.save(tmp_path / 'weights.npz', tensors), norm=norm)
    expected = published3d.ncxt(tensors, x[0].astype(float), norm=norm == 'instance')
    np.testing.assert_allclose(_logits(loaded, x)[0], expected, atol=1e-4)
    assert (loaded.model.filters, loaded.model.n_labels) == (filters, n_labels)


def test_the_numpy_network_is_the_published_one(fixture, tensors):
    found = published3d.ncxt(tensors, fixture['input'][0].astype(float), norm=True)
    np.testing.assert_allclose(found[:, ::2, ::3, ::3], fixture['logits'][0], atol=1e-5)


def test_can_take_absorption_coefficients_as_files_hold_them(tmp_path):
    tensors = published3d.random_tensors(published3d.ncxt_shapes((2, 3), 2, 2), seed=0)
    path = published3d.save(tmp_path / 'weights.npz', tensors)
    lac, probability = np.random.default_rng(0).random((2, 1, 1, 4, 4, 4), np.float32)
    published = load_ncxt(path)
    folded = load_ncxt(path, takes_lac=True)
    assert (published.metadata['gray_factor'], folded.metadata['gray_factor']) == (100, 1)
    expected = _logits(published, np.concatenate([100 * lac, probability], 1))
    found = _logits(folded, np.concatenate([lac, probability], 1))
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_metadata_says_how_to_use_it(tensors, tmp_path):
    path = published3d.save(tmp_path / 'weights.npz', tensors)
    metadata = load_ncxt(path, class_names=('void', 'cell', 'lipid')).metadata
    assert json.loads(json.dumps(metadata)) == metadata
    assert (metadata['format'], metadata['n_channels']) == ('ncxt', 2)
    assert metadata['class_names'] == ['void', 'cell', 'lipid']
    assert metadata['ignore_label'] == 3
    assert load_ncxt(path).metadata['class_names'] is None
    with pytest.raises(InputError, match=r"3 classes.*\('void', 'cell'\)"):
        load_ncxt(path, class_names=('void', 'cell'))


def test_fields_that_tensors_do_not_tell(tensors, tmp_path):
    path = published3d.save(tmp_path / 'weights.npz', tensors, 'module.')
    loaded = load_ncxt(path, norm='none', dropout=0.2, dtype='bfloat16')
    assert (loaded.model.norm, loaded.model.dropout) == ('none', 0.2)
    assert loaded.model.dtype == 'bfloat16'
    with pytest.raises(InputError, match=r"'batch'.*'instance' or 'none'"):
        load_ncxt(path, norm='batch')


def test_a_torch_file_gives_the_same(tensors, tmp_path):
    torch = pytest.importorskip('torch')
    path = tmp_path / '12345_best.weights'  # named as the published code does
    torch.save({name: torch.from_numpy(t) for name, t in tensors.items()}, path)
    found = load_ncxt(path)
    expected = load_ncxt(published3d.save(tmp_path / 'weights.npz', tensors))
    jax.tree.map(np.testing.assert_array_equal, found.variables, expected.variables)
    assert (found.model, found.metadata) == (expected.model, expected.metadata)


def _renamed(tensors):
    return {f'other.{name}': tensor for name, tensor in tensors.items()}


def _without(lost):
    return lambda tensors: {name: t for name, t in tensors.items() if lost not in name}


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda t: {**t, 'conv_last.bias': t['conv_final.bias']}, r"too many, first 'conv_last"),
        (_without('down_convs.0.block2.conv.bias'), r"no tensor 'down_convs\.0\.block2\.conv\.b"),
        (_without('down_convs.1'), r"no tensor 'down_convs\.1\.block1\.conv\.weight'"),
        (_without('up_convs.1'), r"no tensor 'up_convs\.1\.block1\.conv\.bias'"),
        (_without('conv_final.weight'), r"no tensor 'conv_final\.weight'"),
        (
            lambda t: {**t, 'up_convs.0.upconv.weight': t['up_convs.1.upconv.weight']},
            r"'up_convs\.0\.upconv\.weight' of shape \(16, 8, 2, 2, 2\)",
        ),
        (
            lambda t: {**t, 'down_convs.0.block1.conv.weight': t['conv_final.bias']},
            r"'down_convs\.0\.block1\.conv\.weight' of shape \(3,\)",
        ),
        (_renamed, r"another network \(the first is 'other\."),
        (lambda t: {}, 'no tensors at all'),
    ],
)
def test_says_which_tensor_does_not_fit(tensors, tmp_path, change, message):
    path = published3d.save(tmp_path / 'wrong.npz', change(tensors))
    with pytest.raises(InputError, match=message) as error:
        load_ncxt(path)
    assert 'wrong.npz' in str(error.value)
    assert '\n' not in str(error.value)
