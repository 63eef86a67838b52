"""Weights of Cellpose 1: the published numbers, and files that are something else."""

from __future__ import annotations

import pathlib

import jax
import numpy as np
import pytest

from sxt_jax.core.errors import InputError
from sxt_jax.models.pretrained.cellpose2d import load_cellpose2d

FIXTURE = pathlib.Path(__file__).parents[2] / 'fixtures' / 'cellpose2d_small.npz'


@pytest.fixture(scope='module')
def fixture():
    return dict(np.load(FIXTURE))


@pytest.fixture(scope='module')
def weights(fixture):
    mark = 'weights/'
    return {k.removeprefix(mark): v for k, v in fixture.items() if k.startswith(mark)}


def _saved(path, tensors):
    np.savez(path, **tensors)
    return path


def _published(heads):
    """[b, 3, y, x] as the published network gives it."""
    channels = np.concatenate([5 * heads['flows'], heads['foreground_logit']], axis=-1)
    return np.moveaxis(channels, -1, 1)


def test_reproduces_the_published_network(fixture, weights, tmp_path):
    model, variables, metadata = load_cellpose2d(_saved(tmp_path / 'w.npz', weights))
    x = np.moveaxis(fixture['input'], 1, -1)
    heads, extra = jax.jit(lambda v, x: model.apply(v, x, mutable=['intermediates']))(variables, x)
    np.testing.assert_allclose(_published(heads), fixture['output'], atol=1e-5)
    np.testing.assert_allclose(extra['intermediates']['style'], fixture['style'], atol=1e-6)
    assert model.features == (4, 6, 8, 10)
    assert (metadata['n_channels'], metadata['diameter_px']) == (2, 27.0)
    assert metadata['diameter_of_training_px'] == 33.5
    intermediate = jax.eval_shape(lambda: model.apply(variables, x))
    assert set(intermediate) == set(metadata['heads'])


def test_reproduces_the_published_batch_statistics(fixture, weights, tmp_path):
    model, variables, _ = load_cellpose2d(_saved(tmp_path / 'w.npz', weights))
    x = np.moveaxis(fixture['input'], 1, -1)
    apply = jax.jit(lambda v, x: model.apply(v, x, train=True, mutable=['batch_stats']))
    heads, updates = apply(variables, x)
    np.testing.assert_allclose(_published(heads), fixture['training_output'], atol=2e-5)
    mark = 'training_statistics/'
    after = {k.removeprefix(mark): v for k, v in fixture.items() if k.startswith(mark)}
    _, expected, _ = load_cellpose2d(_saved(tmp_path / 'after.npz', {**weights, **after}))
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5),
        updates['batch_stats'],
        expected['batch_stats'],
    )


def test_reads_what_torch_saves_old_and_new_with_a_prefix(weights, tmp_path):
    torch = pytest.importorskip('torch')
    state = {f'module.{k}': torch.from_numpy(v) for k, v in weights.items() if 'diam' not in k}
    expected = load_cellpose2d(_saved(tmp_path / 'w.npz', weights)).variables
    for name, zipped, diameter in (('cytotorch_0', False, 30.0), ('nucleitorch_3', True, 17.0)):
        torch.save(state, tmp_path / name, _use_new_zipfile_serialization=zipped)
        loaded = load_cellpose2d(tmp_path / name)
        jax.tree.map(np.testing.assert_array_equal, loaded.variables, expected)
        assert loaded.metadata['diameter_px'] == diameter
        assert loaded.metadata['diameter_of_training_px'] is None


FULL = 'upsample.up.res_up_2.conv.conv_1.full.weight'
DOWN = 'downsample.down.res_down_0.conv.conv_0.2.weight'


def _without(name):
    return lambda tensors: {k: v for k, v in tensors.items() if k != name}


@pytest.mark.parametrize(
    ('change', 'told'),
    [
        (_without(FULL), f"no tensor '{FULL}'"),
        (lambda t: {**t, FULL: t[FULL].T}, f"tensor '{FULL}' of shape (10, 8)"),
        (lambda t: {**t, 'other': t[FULL]}, "1 tensors too many, first 'other'"),
        (lambda t: {**t, FULL: t[FULL] * np.nan}, f"NaN or infinity in tensor '{FULL}'"),
        (_without(DOWN), 'the residual network of Cellpose 1'),
        (lambda t: {**t, DOWN: t[DOWN][0]}, f"tensor '{DOWN}' of shape (2, 3, 3)"),
        (lambda t: {**t, 'output.2.weight': t['output.2.weight'][:2]}, "tensor 'output.2.weight'"),
        (lambda t: {'conv.weight': t[FULL]}, "the first is 'conv.weight'"),
        (lambda t: {}, 'none at all'),
    ],
)
def test_names_what_is_wrong_with_a_file(weights, tmp_path, change, told):
    path = _saved(tmp_path / 'w.npz', change(weights))
    with pytest.raises(InputError) as error:
        load_cellpose2d(path)
    assert str(error.value).startswith(f'{path}: ')
    assert told in str(error.value)


def test_says_that_there_is_no_file(tmp_path):
    with pytest.raises(InputError, match='no such file'):
        load_cellpose2d(tmp_path / 'cytotorch_0')
