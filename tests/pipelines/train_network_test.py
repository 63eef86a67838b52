"""What the training run makes of its config."""

import pytest

from configs import common
from sxt_jax.core.errors import InputError
from sxt_jax.pipelines.train_network import _check_config, _dividing_devices


@pytest.mark.parametrize(
    ('batch_size', 'accumulate', 'n_devices'),
    [(8, 1, 8), (24, 1, 8), (24, 2, 6), (4, 1, 4), (7, 1, 7), (11, 1, 1)],
)
def test_a_batch_goes_to_as_many_devices_as_share_it_evenly(batch_size, accumulate, n_devices):
    config = common.get_config()
    config.batch_size, config.accumulate = batch_size, accumulate
    _check_config(config)
    assert _dividing_devices(config).size == n_devices


@pytest.mark.parametrize(
    ('field', 'value'), [('batch_size', 0), ('epochs', 0), ('accumulate', -1), ('accumulate', 3)]
)
def test_counts_that_make_no_run_are_named(field, value):
    config = common.get_config()
    config.batch_size = 8
    config[field] = value
    with pytest.raises(InputError, match=rf'config\.({field}|batch_size)'):
        _check_config(config)
