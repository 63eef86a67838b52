"""Every config and variant makes a network that trains on its patches."""

import importlib
import inspect
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

import configs
from configs import common
from sxt_jax.core.errors import InputError
from sxt_jax.models import build_model, model_config, slicewise
from sxt_jax.pipelines.cell_map_training import learns_cell_maps
from sxt_jax.pipelines.check_config import check_config
from sxt_jax.pipelines.config_fields import make_sampling
from sxt_jax.pipelines.mask_training import learns_mask
from sxt_jax.pipelines.stage_config import check_cascade, is_cascade, stage_config, stage_names
from sxt_jax.pipelines.training_task import find_task

NAMES = sorted(
    p.stem for p in Path(configs.__path__[0]).glob('*.py') if p.stem not in ('__init__', 'common')
)
VARIANTS = [
    (name, variant)
    for name in NAMES
    for variant in getattr(importlib.import_module(f'configs.{name}'), 'VARIANTS', ('',))
]


def _config(name, variant):
    get_config = importlib.import_module(f'configs.{name}').get_config
    return get_config(variant) if inspect.signature(get_config).parameters else get_config()


@pytest.mark.parametrize(('name', 'variant'), VARIANTS)
def test_config(name, variant):
    config = _config(name, variant)
    module = importlib.import_module(f'configs.{name}')
    assert f'python -m launch.{"demo" if name == "demo" else "train"}' in module.__doc__
    assert config.is_locked
    config.data.train = 'DATA'
    if not is_cascade(config):
        _check_experiment(config)
        return
    check_cascade(config)
    for number, stage in enumerate(stage_names(config)):
        _check_experiment(stage_config(config, stage), n_channels=1 + 3 * (number > 0))


def _check_experiment(config, n_channels=1):
    task = find_task(config, build_model(config.model))
    model = build_model({**config.model, **task.network_fields(3)})
    patch, multiple = tuple(config.data.patch), slicewise.side_multiple(model)
    for sides in (patch, config.inference.tile):
        assert all(s % m == 0 for s, m in zip(sides, multiple, strict=True))
    assert set(config.model) == set(model_config(model)) - {'n_labels', 'dtype'}
    check_config(config)
    image = jnp.zeros(slicewise.input_shape(model, patch, n_channels))
    heads, variables = jax.eval_shape(
        lambda key, x: model.init_with_output(key, x), jax.random.key(0), image
    )
    outputs = {'logits': 3}
    if config.flows.kind:
        outputs = {'foreground': 1, 'flows': image.ndim - 2}
        if slicewise.takes_slices(model):
            outputs['foreground_logit'] = 1
    elif learns_mask(model):
        outputs = dict.fromkeys(config.model.heads, 1)
    elif learns_cell_maps(model):
        outputs = {'mask': 1, 'boundary': 1}
    assert {name: head.shape for name, head in heads.items()} == {
        name: (*image.shape[:-1], n) for name, n in outputs.items()
    }
    assert variables['params']
    assert build_model(model_config(model)) == model
    if config.data.sampling == 'strided':
        assert all(s <= p for s, p in zip(config.data.stride, patch, strict=True))


@pytest.mark.parametrize(('name', 'variant'), VARIANTS)
def test_no_field_is_unknown_to_common(name, variant):
    known = common.get_config()
    for field, value in _config(name, variant).items():
        if field in ('model', 'simulation', 'stages', 'out_of_fold'):
            continue
        assert field in known, field
        if isinstance(value, ConfigDict):
            assert set(value) == set(known[field]), field


def test_the_published_acseg_experiment():
    config = _config('acseg', '')
    model = build_model({**config.model, 'n_labels': 2})
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 16, 1)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes['params'])) == 23_538_210
    assert (config.epochs, config.batch_size) == (200, 24)
    assert config.data.working_shape == (256, 256, 256)
    assert (config.data.patch, config.data.stride) == ((64,) * 3, (32,) * 3)
    assert config.data.validation_fraction == 0.2
    optimizer = config.optimizer
    assert (optimizer.name, optimizer.learning_rate, optimizer.momentum) == ('sgd', 0.01, 0.9)
    assert optimizer.nesterov
    assert (optimizer.schedule, optimizer.decay) == ('inverse_time', 1e-6)
    assert dict(config.loss) == {'cross_entropy': 1.0, 'dice': 0.0, 'dice_squared': 0.0}


def test_the_published_cellpose3d_experiment():
    config = _config('cellpose3d', '')
    model = build_model(config.model)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 16, 16, 1)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes['params'])) == 1_980_980
    assert (config.epochs, config.batch_size) == (1000, 1)
    assert (config.data.patch, config.data.sampling) == ((64, 128, 128), 'each')
    assert (config.data.intensity, config.data.clip) == ('percentile', True)
    optimizer = config.optimizer
    assert (optimizer.name, optimizer.learning_rate, optimizer.schedule) == (
        'radam', 1e-3, 'constant'
    )  # fmt: skip
    assert dict(config.flows) == {'kind': 'tanh', 'foreground_weight': 1.0, 'flow_weight': 1.0}
    assert config.data.exchange_axes == config.distortion.probability == 0.5
    assert dict(config.distortion) == {
        'probability': 0.5, 'anisotropy': 2, 'stretch': 2, 'shrink': 2, 'scale_low': 0.6,
        'scale_high': 1.2, 'noise': 0.1, 'shuffle_windows': 3, 'shuffle_side': 25,
        'inpaint_windows': 3, 'inpaint_side': 15, 'decline': True,
    }  # fmt: skip
    assert _config('cellpose3d', 'heat').flows.kind == 'heat'


def test_the_published_cellpose_experiment():
    config = _config('cellpose2d', '')
    model = build_model(config.model)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 2)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes['params'])) == 6_600_843
    assert (config.epochs, config.batch_size) == (500, 8)
    assert (config.data.patch, config.data.steps_per_epoch) == ((1, 224, 224), 540 // 8)
    optimizer = config.optimizer
    assert (optimizer.name, optimizer.learning_rate, optimizer.momentum) == ('sgd', 0.2, 0.9)
    assert optimizer.warmup_steps == 10 * config.data.steps_per_epoch
    assert dict(config.flows) == {'kind': 'heat', 'foreground_weight': 1.0, 'flow_weight': 1.0}


def test_the_published_deep_sxt_experiment():
    config = _config('deep_sxt', '')
    model = build_model(config.model)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 1)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes['params'])) == 76_483_502
    assert (config.epochs, config.batch_size) == (700, 1)
    assert (config.data.intensity, config.data.patch) == ('slice', (1, 256, 256))
    assert (config.data.sampling, config.data.repeats) == ('each', 6)
    assert config.data.unlabelled_slices == 513
    assert config.data.validation_fraction == 0.1
    augmentation, optimizer = config.augmentation, config.optimizer
    assert (augmentation.flip_axes, augmentation.rotate_90) == ('yx', True)
    assert (optimizer.name, optimizer.learning_rate, optimizer.schedule) == (
        'adam', 1e-4, 'constant'
    )  # fmt: skip
    assert dict(config.mask) == {'label_weight': 0.99, 'ssim_weight': 0.5, 'huber_delta': 0.1}
    assert config.checkpoint.plateau == 'validation/loss'
    assert config.checkpoint.patience > 0
    supervised = _config('deep_sxt', 'supervised')
    supervised.model.heads = config.model.heads
    assert supervised == config


def test_the_published_fibsem_experiment():
    config = _config('fibsem', '')
    model = build_model({**config.model, 'n_labels': 2})
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 1)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes['params'])) == 37_429_188
    assert config.batch_size == 5
    assert config.epochs * config.data.steps_per_epoch == 5000
    assert make_sampling(config).n_composed(5) == 4
    assert (config.data.patch, config.data.min_foreground) == ((1, 512, 512), 100)
    assert config.augmentation.flip_axes == 'yx'
    assert dict(config.loss) == {'cross_entropy': 0.0, 'dice': 0.0, 'dice_squared': 1.0}
    optimizer = config.optimizer
    assert (optimizer.name, optimizer.learning_rate, optimizer.epsilon) == ('adam', 1e-4, 1e-7)
    assert optimizer.schedule == 'constant'
    assert config.inference.blend == 'cosine'
    assert _config('fibsem', 'context').data.binning == (1, 4, 4)
    for variant in ('transunet', 'setr'):  # but for the network, they are the same
        other = _config('fibsem', variant)
        assert other.model.name == variant
        other.model = config.model
        assert other.to_json() == config.to_json()


def test_the_published_cascade():
    config = _config('cascade', '')
    assert config.stages.order == ('coarse', 'fine')
    coarse, fine = (stage_config(config, name) for name in config.stages.order)
    assert (coarse.data.binning, fine.data.binning) == ((2, 2, 2), (1, 1, 1))
    for stage in (coarse, fine):
        model = build_model({**stage.model, 'n_labels': 3})
        shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 16, 1)))
        assert sum(leaf.size for leaf in jax.tree.leaves(shapes['params'])) == 1_355_427
        assert (model.norm, model.up, len(model.filters)) == ('instance', 'transposed', 3)
        assert stage.data.patch == (32, 32, 32)
        assert stage.data.intensity == 'none'
        assert dict(stage.loss) == {'cross_entropy': 1.0, 'dice': 1.0, 'dice_squared': 0.0}
    refined = _config('cascade', 'refine')
    assert refined.stages.order[-1] == 'surface'
    assert stage_config(refined, 'surface').stage.where == 'surface'


def test_stages_take_the_fields_of_the_whole_but_for_their_own():
    config = _config('cascade', 'smoke')
    config.epochs, config.stages.fine.epochs = 7, 9
    config.stages.coarse.inference.batch_size = 3
    config.stages.coarse.data.working_shape = (None,)  # as the command line gives None
    coarse, fine = (stage_config(config, name) for name in ('coarse', 'fine'))
    assert (coarse.epochs, fine.epochs) == (7, 9)
    assert (coarse.inference.batch_size, fine.inference.batch_size) == (3, None)
    assert coarse.data.working_shape is None
    assert coarse.model == config.model
    with pytest.raises(AttributeError):
        config.stages.coarse.model.filter = (1, 2)


@pytest.mark.parametrize(
    ('fields', 'named'),
    [
        ({'stages.order': ('fine', 'middle')}, r'config\.stages\.order.*coarse, fine'),
        ({'stages.order': ()}, r'config\.stages\.order'),
        ({'stages.coarse.where': 'surface'}, r'stage coarse: where.*nothing was found'),
        ({'stages.fine.where': 'inside'}, r'stage fine: where.*everywhere, surface'),
        ({'stages.fine.where': 'surface'}, r'stage fine: .*foreground_probability.* surfaces'),
        ({'stages.fine.data.patch': (5, 5, 5)}, r'stage fine: config\.data\.patch'),
        ({'stages.coarse.data.working_shape': (32, 32, 32)}, r'stage coarse: .*binning'),
        ({'out_of_fold.folds': 1}, r'config\.out_of_fold\.folds'),
        ({'flows.kind': 'heat'}, r'stage coarse: config\.model.*with flows'),
    ],
)  # fmt: skip
def test_what_makes_no_cascade_is_told(fields, named):
    config = _config('cascade', 'smoke')
    config.data.train = 'DATA'
    config.update_from_flattened_dict(fields)
    with pytest.raises(InputError, match=named):
        check_cascade(config)


def test_unknown_variants_are_refused():
    with pytest.raises(ValueError, match='expected one of'):
        _config('acseg', 'nonsense')
