"""A config is looked over before any work is done, and again before a run goes on."""

import copy

import numpy as np
import pytest

from configs import acseg, common, stack
from sxt_jax.core.errors import InputError
from sxt_jax.data.datasets import Example
from sxt_jax.pipelines.check_config import (
    check_config,
    check_isotropy,
    check_resumed,
    working_shape,
)
from sxt_jax.pipelines.slice_data import split_labelled
from sxt_jax.pipelines.train_network import _dividing_devices
from sxt_jax.pipelines.training_data import hold_out


def smoke():
    config = acseg.get_config('smoke')
    config.data.train = 'DATA'
    return config


def changed(get_config, **fields):
    config = get_config()
    config.update_from_flattened_dict(fields)
    return config


@pytest.mark.parametrize(
    ('batch_size', 'accumulate', 'n_devices'),
    [(8, 1, 8), (24, 1, 8), (24, 2, 6), (4, 1, 4), (7, 1, 7), (11, 1, 1)],
)
def test_a_batch_goes_to_as_many_devices_as_share_it_evenly(batch_size, accumulate, n_devices):
    config = changed(smoke, batch_size=batch_size, accumulate=accumulate)
    check_config(config)
    assert _dividing_devices(config).size == n_devices


@pytest.mark.parametrize(
    ('field', 'value'),
    [
        ('batch_size', 0), ('batch_size', 9), ('epochs', 0), ('accumulate', -1), ('seed', -1),
        ('checkpoint.evaluate_every', 0), ('checkpoint.keep', 0), ('checkpoint.patience', -1),
        ('checkpoint.every_steps', -1), ('data.steps_per_epoch', -1),
        ('data.validation_fraction', 1.0), ('data.validation_fraction', float('nan')),
        ('data.foreground_probability', 1.5), ('optimizer.learning_rate', 0.0),
        ('optimizer.learning_rate', float('nan')), ('augmentation.noise', float('inf')),
        ('augmentation.elastic_points', 0), ('optimizer.momentum', -3.0),
        ('model.norm_momentum', 1.0), ('loss.dice', -1.0),
        ('data.folds', 1), ('data.folds', -2), ('data.fold', 1), ('data.fold', -1),
    ],
)  # fmt: skip
def test_numbers_that_make_no_run_are_named(field, value):
    with pytest.raises(InputError, match=rf'^config\.{field}: '):
        check_config(changed(smoke, **{'accumulate': 2, field: value}))


def test_what_is_held_out_is_a_fold_or_a_fraction():
    examples = [Example(str(i), np.zeros((4, 4, 4, 1)), np.zeros((4, 4, 4))) for i in range(5)]
    held = []
    for fold in range(3):
        config = changed(smoke, **{'data.folds': 3, 'data.fold': fold})
        check_config(config)
        held += [e.name for e in hold_out(config, examples)[1]]
        assert split_labelled(config, examples)[1:] == (hold_out(config, examples)[1], [])
    assert sorted(held) == sorted(e.name for e in examples)
    assert len(hold_out(changed(smoke, **{'data.validation_fraction': 0.4}), examples)[1]) == 2
    for name, value in (('validation', 'DIR'), ('labelled_slices', 7)):
        with pytest.raises(InputError, match=f'2, with config.data.{name}={value}'):
            check_config(changed(smoke, **{'data.folds': 2, f'data.{name}': value}))


@pytest.mark.parametrize(
    ('field', 'value'),
    [
        ('data.train', ''), ('data.intensity', 'loud'), ('inference.blend', 'none'),
        ('initial.scope', 'most'), ('frozen', '('), ('compute_dtype', 'int8'),
        ('optimizer.name', 'magic'), ('optimizer.schedule', 'magic'), ('data.sampling', 'all'),
        ('data.classes', 'a=1,b=1'), ('data.classes', 'a'), ('data.classes', 'a=--1'),
        ('data.classes', 'a=²'), ('augmentation.flip_axes', 'w'),
        ('inference.batch_size', 0), ('model.name', 'unet4d'), ('model.pool_sizes', ((2, 2, 2),)),
    ],
)  # fmt: skip
def test_choices_that_there_are_not_are_named(field, value):
    with pytest.raises(InputError, match=field.split('.')[-1]):
        check_config(changed(smoke, **{field: value}))


@pytest.mark.parametrize(
    ('field', 'value'),
    [
        ('data.patch', (32, 32)), ('data.patch', (30, 32, 32)), ('data.patch', (32, 32, 'a')),
        ('data.patch', (0, 32, 32)), ('data.stride', (0, 1, 1)), ('inference.tile', (9, 8, 8)),
        ('inference.overlap', (32, 0, 0)),
    ],
)  # fmt: skip
def test_patches_and_tiles_that_do_not_fit_are_named(field, value):
    with pytest.raises(InputError, match=rf'^config\.{field}: '):
        check_config(changed(smoke, **{field: value}))


def test_working_shapes():
    assert working_shape(stack.get_config()) is None
    assert working_shape(acseg.get_config()) == (256, 256, 256)
    assert working_shape(changed(acseg.get_config, **{'data.working_shape': (None,)})) is None
    with pytest.raises(InputError, match='working_shape'):
        working_shape(changed(acseg.get_config, **{'data.working_shape': (64, 64)}))


@pytest.mark.parametrize(
    ('voxel_size_nm', 'option', 'patch', 'named'),
    [
        ((30.0, 20.0, 20.0), {'swap_axes': True}, (8, 8, 8), True),
        ((30.0, 20.0, 20.0), {'swap_axes': True}, (4, 8, 8), False),
        ((20.0, 20.0, 30.0), {'rotate_90': True}, (4, 8, 8), True),
        ((20.0, 20.0, 30.0), {'rotate_degrees': 5.0}, (4, 8, 8), True),
        ((30.0, 20.0, 20.0), {'rotate_90': True, 'elastic_voxels': 2.0}, (8, 8, 8), False),
        ((20.0, 20.1, 20.0), {'swap_axes': True}, (8, 8, 8), False),
        (None, {'swap_axes': True}, (8, 8, 8), False),
    ],
)
def test_anisotropic_voxels_where_isotropy_is_assumed(voxel_size_nm, option, patch, named):
    config = common.get_config()
    config.data.patch = patch
    config.augmentation.update(option)
    voxels = np.zeros((8, 8, 8))
    examples = [Example('thing', voxels[..., None], voxels, voxel_size_nm)]
    if not named:
        check_isotropy(config, examples)
        return
    with pytest.raises(InputError, match=r'thing: voxels of .* nm \(z, y, x\) with --config\.aug'):
        check_isotropy(config, examples)


DESCRIPTION = {
    'classes': {'names': ['background', 'a'], 'values': [0, 1]},
    'volumes': {'train': ['cell 8×8×8 0a'], 'validation': []},
    'intensity': {'kind': 'unit'},
    'n_channels': 1,
    'config': {
        'epochs': 3,
        'data': {'train': 'D', 'patch': [8, 8, 8]},
        'optimizer': {'learning_rate': 0.1},
        'inference': {'tile': [8, 8, 8]},
    },
}


@pytest.mark.parametrize(
    ('path', 'value', 'free'),
    [
        (('config', 'epochs'), 5, True),
        (('config', 'data', 'train'), 'E', True),
        (('config', 'inference', 'tile'), [16, 16, 16], True),
        (('config', 'a field of later versions'), 1, True),
        (('config', 'optimizer', 'learning_rate'), 0.5, False),
        (('config', 'data', 'patch'), [16, 16, 16], False),
        (('classes', 'names'), ['background', 'b'], False),
        (('intensity', 'kind'), 'standard', False),
        (('volumes', 'validation'), ['cell 8×8×8 0a'], False),
        (('n_channels',), 2, False),
    ],
)
def test_a_run_goes_on_only_as_the_experiment_it_is(path, value, free):
    now = copy.deepcopy(DESCRIPTION)
    place = now
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    if free:
        check_resumed(DESCRIPTION, now, workdir='W')
        return
    named = path[0] if path[0] != 'config' else '.'.join(path)
    with pytest.raises(InputError, match=rf'^W: {named} is now .*; expected .*began') as error:
        check_resumed(DESCRIPTION, now, workdir='W')
    assert '--workdir' in str(error.value)
