"""Batch sizes: halved when the devices run out of memory, explained when one tile does not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sxt_jax.core.devices import make_device_mesh
from sxt_jax.core.errors import InputError
from sxt_jax.inference import batch, predict_volume

ONE_DEVICE = {'device_mesh': make_device_mesh(jax.devices()[:1])}
OPTIONS = {'tile': 8, 'overlap': 2, **ONE_DEVICE}


class Limited:
    """A network that runs out of memory with more than `most` tiles at once."""

    def __init__(self, most):
        self.most, self.tried = most, []

    def __call__(self, variables, tiles):
        self.tried.append(tiles.shape[0])
        if tiles.shape[0] > self.most:
            raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 1 TB')
        return {'out': tiles + 1}


@pytest.fixture
def image():
    return np.random.default_rng(0).random((20, 20, 20), np.float32)


def test_the_batch_is_halved_until_it_fits_and_nothing_is_lost(image, caplog):
    network = Limited(3)
    with caplog.at_level('WARNING', logger='absl'):
        out = predict_volume(network, None, image, batch_size=16, **OPTIONS)
    np.testing.assert_allclose(out['out'][..., 0], image + 1, atol=1e-6)
    assert [n for n in dict.fromkeys(network.tried) if n > 1] == [16, 8, 4, 2]
    assert 'going on with 2' in caplog.text


def test_a_batch_that_fails_later_is_run_again(image):
    calls = []

    def fails_in_the_middle(tiles):
        calls.append(tiles.shape[0])
        if len(calls) == 3:
            raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: fragmented')
        return tiles + 1

    out = Patched(fails_in_the_middle).predict(image, batch_size=4, **OPTIONS)
    np.testing.assert_allclose(out['out'][..., 0], image + 1, atol=1e-6)
    assert calls[:3] == [4, 4, 4]
    assert set(calls[3:]) == {2}


class Patched:
    """Prediction with a network that is called anew for every batch, as on a device."""

    def __init__(self, function):
        self.function = function

    def predict(self, image, **options):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                'sxt_jax.inference.tiled.compile_network',
                lambda apply_fn, device_mesh: lambda v, tiles: {'out': self.function(tiles)},
            )
            return predict_volume(lambda v, tiles: {'out': tiles}, None, image, **options)


def test_a_tile_that_does_not_fit_is_explained(image):
    def too_large(tiles):
        raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory')

    with pytest.raises(InputError, match=r'tile: a single tile of \(8, 8, 8\).*smaller tile'):
        Patched(too_large).predict(image, batch_size=4, **OPTIONS)


def test_other_errors_are_not_taken_for_memory(image):
    def broken(tiles):
        raise jax.errors.JaxRuntimeError('INTERNAL: something else')

    with pytest.raises(jax.errors.JaxRuntimeError, match='something else'):
        Patched(broken).predict(image, batch_size=4, **OPTIONS)


def test_without_known_memory_every_device_gets_one_tile():
    device_mesh = make_device_mesh()
    network = batch.compile_network(Limited(99), device_mesh)
    n = batch.find_batch_size(network, None, tile=(8, 8, 8), n_channels=1, device_mesh=device_mesh)
    assert n == 8


@pytest.mark.parametrize(('free', 'expected'), [(2**40, 64), (30 * 2**20, 8), (2**10, 1)])
def test_known_memory_decides(monkeypatch, free, expected):
    monkeypatch.setattr(batch, '_free_bytes', lambda device_mesh: free)
    device_mesh = make_device_mesh(jax.devices()[:1])
    network = batch.compile_network(widens, device_mesh)
    variables = jnp.ones((1, 4))
    n = batch.find_batch_size(
        network, variables, tile=(32, 32, 64), n_channels=1, device_mesh=device_mesh
    )
    assert n == expected


@pytest.mark.parametrize(('n_tiles', 'expected'), [(1, 1), (27, 32), (32, 32), (1000, 64)])
def test_a_batch_is_no_larger_than_what_there_is_to_do(monkeypatch, n_tiles, expected):
    monkeypatch.setattr(batch, '_free_bytes', lambda device_mesh: 2**40)
    device_mesh = make_device_mesh(jax.devices()[:1])
    network = batch.compile_network(widens, device_mesh)
    options = {'tile': (32, 32, 64), 'n_channels': 1, 'device_mesh': device_mesh}
    found = batch.find_batch_size(network, jnp.ones((1, 4)), n_tiles=n_tiles, **options)
    assert found == expected
    none_left = batch.find_batch_size(network, jnp.ones((1, 4)), reserved_bytes=2**41, **options)
    assert none_left == 1


def test_a_batch_the_compiler_refuses_is_not_taken(monkeypatch):
    monkeypatch.setattr(batch, '_free_bytes', lambda device_mesh: 2**40)
    device_mesh = make_device_mesh(jax.devices()[:1])
    network = batch.compile_network(Limited(2), device_mesh)
    options = {'tile': (32, 32, 64), 'n_channels': 1, 'device_mesh': device_mesh}
    assert batch.find_batch_size(network, None, **options) == 2


def widens(variables, tiles):
    """Needs 0.25 MiB of input and 1 MiB of output a tile of 32 × 32 × 64 voxels."""
    return {'out': tiles @ variables}
