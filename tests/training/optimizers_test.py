import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs.acseg import get_config
from sxt_jax.core.errors import InputError
from sxt_jax.training.optimizers import OPTIMIZERS, SCHEDULES, make_optimizer, make_schedule


def test_published_optimizer_is_that_of_keras_written_out():
    """Keras: v ← m·v − η·g; p ← p + m·v − η·g, η = 0.01 / (1 + 1e-6·step)."""
    optimizer = make_optimizer(get_config().optimizer, n_steps=10)
    params = jnp.array([1.0, -2.0, 3.0])
    state = optimizer.init(params)
    expected, velocity = np.array(params, np.float64), np.zeros(3)
    for step in range(20):
        gradient = np.cos(expected + step)
        rate = 0.01 / (1 + 1e-6 * step)
        velocity = 0.9 * velocity - rate * gradient
        updates, state = optimizer.update(jnp.asarray(gradient, jnp.float32), state, params)
        params = optax.apply_updates(params, updates)
        expected = expected + 0.9 * velocity - rate * gradient
    np.testing.assert_allclose(params, expected, atol=1e-5)


def test_schedules():
    config = dict(get_config().optimizer) | {'learning_rate': 0.5, 'warmup_steps': 10, 'decay': 0.1}

    def rate(kind, step):
        return float(make_schedule({**config, 'schedule': kind}, n_steps=110)(step))

    for kind in SCHEDULES:
        assert rate(kind, 0) == 0
        assert rate(kind, 5) == pytest.approx(0.25)
        assert rate(kind, 10) == pytest.approx(0.5)
    assert rate('constant', 100) == pytest.approx(0.5)
    assert rate('inverse_time', 20) == pytest.approx(0.5 / 2)
    assert rate('cosine', 60) == pytest.approx(0.25)
    assert rate('cosine', 110) == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_each_optimizer_goes_downhill(name):
    config = dict(get_config().optimizer) | {'name': name, 'learning_rate': 0.05, 'clip_norm': 1.0}
    optimizer = make_optimizer(config, n_steps=100)
    params = jnp.array([3.0, -4.0])
    state = optimizer.init(params)
    for _ in range(100):
        updates, state = optimizer.update(2 * params, state, params)
        params = optax.apply_updates(params, updates)
    assert float(jnp.sum(params**2)) < 0.9 * 25


def test_unknown_names():
    config = dict(get_config().optimizer)
    with pytest.raises(InputError, match=r'optimizer\.name'):
        make_optimizer({**config, 'name': 'magic'}, n_steps=1)
    with pytest.raises(InputError, match=r'optimizer\.schedule'):
        make_optimizer({**config, 'schedule': 'magic'}, n_steps=1)
