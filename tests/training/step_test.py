from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sxt_jax.core.devices import make_device_mesh, split_batch
from sxt_jax.core.errors import InputError
from sxt_jax.data.augment import Augmentation
from sxt_jax.models import build_model
from sxt_jax.training.objectives import (
    Objective,
    make_segmentation_loss,
    parameter_path,
    steps_per_round,
    trainable_mask,
    turn_of_step,
)
from sxt_jax.training.state import TrainState, create_state, start_from
from sxt_jax.training.step import make_train_step
from tests.training.nets import TinyNet, ball_stream, image_loss

KEY = jax.random.key(0)


def _supervised(**fields):
    return Objective(
        **{
            'name': 'supervised',
            'stream': ball_stream(),
            'loss': make_segmentation_loss({'cross_entropy': 1.0, 'dice': 0.5}),
            'optimizer': optax.sgd(0.1, 0.9, nesterov=True),
            **fields,
        }
    )


def _unsupervised(**fields):
    return Objective(
        **{
            'name': 'unsupervised',
            'stream': ball_stream(seed=5),
            'loss': image_loss,
            'optimizer': optax.adam(1e-2),
            'frozen': ('^labels/',),
            **fields,
        }
    )


def _run(objectives, n_steps, *, devices=None, n_accumulate=1, model=None):
    """State and last metrics after some steps on some devices."""
    device_mesh = make_device_mesh(devices)
    model = model or TinyNet()
    state = create_state(
        KEY, model, objectives, input_shape=(1, 8, 8, 8, 1), device_mesh=device_mesh
    )
    steps = [
        make_train_step(model, o, device_mesh=device_mesh, n_accumulate=n_accumulate)
        for o in objectives
    ]
    metrics = {}
    for step in range(n_steps):
        turn = turn_of_step(objectives, step)
        batch = objectives[turn.objective].stream.batch(turn.step)
        batch = jax.device_put(batch, split_batch(device_mesh))
        state, metrics = steps[turn.objective](state, batch, KEY)
    return jax.device_get(state), jax.device_get(metrics)


def _assert_close(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


def test_the_loss_falls_and_the_step_is_counted():
    objective = _supervised()
    _, first = _run([objective], 1)
    state, last = _run([objective], 30)
    assert state.step == 30
    assert last['loss'] < 0.5 * first['loss']
    assert last['accuracy'] > 0.9
    assert set(last) == {
        'loss', 'gradient_norm', 'cross_entropy_loss', 'dice_loss', 'accuracy'
    }  # fmt: skip


def test_eight_devices_make_the_step_of_one():
    """Same global batch, augmentation included; float32 sums are added in another order."""
    augmentation = Augmentation(flip_axes='zyx', swap_axes=True, noise=0.1)
    objective = _supervised(augmentation=augmentation)
    one, one_metrics = _run([objective], 3, devices=jax.devices()[:1])
    eight, eight_metrics = _run([objective], 3, devices=jax.devices())
    _assert_close(one.params, eight.params, rtol=1e-4, atol=1e-5)
    _assert_close(one.batch_stats, eight.batch_stats, rtol=1e-4, atol=1e-5)
    _assert_close(one_metrics, eight_metrics, rtol=1e-4, atol=1e-5)


def test_accumulation_has_the_gradient_of_the_whole_batch():
    """Exact only where no statistics couple the patches, hence the second objective's net."""

    class Plain(TinyNet):
        def __call__(self, x, *, train=False):
            return super().__call__(x, train=False)

    objective = _supervised(loss=make_segmentation_loss({'cross_entropy': 1.0}))
    whole, whole_metrics = _run([objective], 2, model=Plain(), devices=jax.devices()[:2])
    parts, parts_metrics = _run(
        [objective], 2, model=Plain(), devices=jax.devices()[:2], n_accumulate=4
    )
    _assert_close(whole.params, parts.params, rtol=1e-4, atol=1e-6)
    _assert_close(whole_metrics, parts_metrics, rtol=1e-4, atol=1e-6)


def test_objectives_take_turns_and_frozen_parts_stay():
    supervised, unsupervised = _supervised(turns=2), _unsupervised()
    assert steps_per_round([supervised, unsupervised]) == 3 * 6
    turns = [turn_of_step([supervised, unsupervised], s) for s in range(36)]
    assert [t.objective for t in turns] == ([0] * 12 + [1] * 6) * 2
    assert [t.step for t in turns if t.objective == 1] == list(range(12))
    before, _ = _run([supervised, unsupervised], 12)
    after, metrics = _run([supervised, unsupervised], 18)
    _assert_close(before.params['labels'], after.params['labels'], rtol=0)
    moved = jax.tree.leaves(jax.tree.map(np.array_equal, before.batch_stats, after.batch_stats))
    assert not any(moved)
    assert np.any(before.params['encoder']['kernel'] != after.params['encoder']['kernel'])
    assert np.any(before.params['image']['kernel'] != after.params['image']['kernel'])
    assert set(metrics) == {'loss', 'gradient_norm'}


def test_frozen_normalisation_runs_on_its_statistics_and_keeps_them():
    objective = _supervised(frozen=('^norm',))
    before, _ = _run([objective], 0)
    state = jax.device_put(before)
    batch = objective.stream.batch(0)
    apply = partial(TinyNet().apply, state.variables, batch['image'])
    expected, _ = objective.loss(apply(train=False), batch)
    after, metrics = _run([objective], 1)
    _assert_close(before.batch_stats, after.batch_stats, rtol=0)
    _assert_close(before.params['norm'], after.params['norm'], rtol=0)
    np.testing.assert_allclose(metrics['loss'], np.mean(expected), rtol=1e-5)
    free, _ = objective.loss(apply(train=True, mutable=['batch_stats'])[0], batch)
    assert abs(np.mean(free) - np.mean(expected)) > 1e-3


def test_dropout_draws_anew_each_step_and_never_in_inference():
    class Dropping(TinyNet):
        @nn.compact
        def __call__(self, x, *, train=False):
            seen = nn.Dropout(0.5, deterministic=not train)(jnp.ones_like(x))
            return {'image': nn.Dense(1, use_bias=False, name='image')(x), 'seen': seen}

    def share(outputs, batch):
        return image_loss(outputs, batch)[0], {'share': outputs['seen'].mean((1, 2, 3, 4))}

    objective = Objective('o', ball_stream(), share, optax.sgd(0.0))
    shares = [_run([objective], n, model=Dropping())[1]['share'] for n in (1, 1, 2)]
    assert shares[0] == shares[1] != shares[2]
    parts = _run([objective], 1, model=Dropping(), devices=jax.devices()[:2], n_accumulate=2)
    assert parts[1]['share'] != shares[0]


def test_no_optimizer_state_is_kept_of_frozen_parameters():
    params = {'labels': {'kernel': jnp.ones((7, 7))}, 'encoder': {'kernel': jnp.ones((3,))}}
    mask = trainable_mask(params, ('^labels/',))
    assert mask == {'labels': {'kernel': False}, 'encoder': {'kernel': True}}
    state, _ = _run([_unsupervised()], 1)
    sizes = [leaf.size for leaf in jax.tree.leaves(state.optimizer_states)]
    n_trained = sum(
        leaf.size
        for name, part in state.params.items()
        if name != 'labels'
        for leaf in jax.tree.leaves(part)
    )
    assert sum(sizes) <= 2 * n_trained + 2


def test_bad_expressions_are_told():
    params = {'a': {'kernel': jnp.ones(3)}}
    with pytest.raises(InputError, match=r"\['decoder'\] find no parameter"):
        trainable_mask(params, ('decoder',))
    with pytest.raises(InputError, match='every parameter is frozen'):
        trainable_mask(params, ('a',))


def test_ignored_voxels_do_not_teach():
    batch = ball_stream().batch(0)
    loss = make_segmentation_loss({'cross_entropy': 1.0, 'dice': 1.0})
    labels = np.full_like(batch['labels'], -1)
    logits = jnp.asarray(np.random.default_rng(0).standard_normal((*labels.shape, 2)))
    value, grads = jax.value_and_grad(
        lambda x: loss({'logits': x}, {**batch, 'labels': jnp.asarray(labels)})[0].sum()
    )(logits)
    assert np.isfinite(value)
    np.testing.assert_array_equal(grads, 0)


@pytest.mark.parametrize(
    ('n_labels', 'n_channels', 'left'),
    [
        (2, 1, set()),
        (4, 1, {'head/bias', 'head/kernel'}),
        (2, 3, {'encoder_0/conv_1/kernel'}),
        (4, 3, {'head/bias', 'head/kernel', 'encoder_0/conv_1/kernel'}),
    ],
)
def test_weights_of_another_task_are_taken_where_shapes_match(caplog, n_labels, n_channels, left):
    """Another number of classes leaves the last convolution, other input channels the first."""

    def variables(n_labels, n_channels, value):
        model = build_model({'name': 'unet3d', 'filters': (4, 8), 'n_labels': n_labels})
        image = jnp.zeros((1, 4, 4, 4, n_channels))
        shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), image, train=False))
        return jax.tree.map(lambda leaf: jnp.full(leaf.shape, value), shapes)

    fresh = variables(n_labels, n_channels, 0.0)
    state = TrainState(jnp.zeros((), jnp.int32), fresh['params'], fresh['batch_stats'], {})
    with caplog.at_level('INFO'):
        found = start_from(state, variables(2, 1, 1.0), scope='matching')
    flat = jax.tree_util.tree_leaves_with_path((found.params, found.batch_stats))
    untouched = {parameter_path(path[1:]) for path, leaf in flat if not leaf.any()}
    assert untouched == left
    assert all(leaf.all() for path, leaf in flat if parameter_path(path[1:]) not in left)
    assert f'Taken: {len(flat) - len(left)} of {len(flat)} arrays' in caplog.text
    assert ('Left as initialised' in caplog.text) == bool(left)
    for name in left:
        assert f'{name} (' in caplog.text
    if n_channels > 1:
        told = 'encoder_0/conv_1/kernel (3, 3, 3, 3, 4) (there: shape (3, 3, 3, 1, 4))'
        assert told in caplog.text


def test_weights_are_taken_by_scope():
    objective = _supervised()
    device_mesh = make_device_mesh()
    shape = (1, 8, 8, 8, 1)

    def fresh(n_labels, seed):
        return create_state(
            jax.random.key(seed),
            TinyNet(n_labels),
            [objective],
            input_shape=shape,
            device_mesh=device_mesh,
        )

    state, other = fresh(2, 0), fresh(2, 1)
    _assert_close(start_from(state, other.variables, scope='all').params, other.params, rtol=0)
    encoder = start_from(state, other.variables, scope='encoder').params
    _assert_close(encoder['encoder'], other.params['encoder'], rtol=0)
    _assert_close(encoder['labels'], state.params['labels'], rtol=0)
    wider = fresh(3, 1)
    with pytest.raises(InputError, match='labels/bias'):
        start_from(state, wider.variables, scope='all')
    matching = start_from(state, wider.variables, scope='matching').params
    _assert_close(matching['image'], wider.params['image'], rtol=0)
    _assert_close(matching['labels'], state.params['labels'], rtol=0)
    with pytest.raises(InputError, match='none taken'):
        start_from(state, {'params': {'x': jnp.ones(2)}}, scope='matching')
